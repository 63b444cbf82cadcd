"""The chart's RayCluster: guarded by a token, and made anew when its pods change, and only then."""

import pytest

from tests.deploy.chart import CI, pod_templates, render, worker_group

pytestmark = pytest.mark.tools


def test_ray_asks_for_a_token_and_its_head_carries_no_work() -> None:
    [ray] = [one for one in render(CI / "minimal.yaml") if one["kind"] == "RayCluster"]
    assert ray["spec"]["authOptions"] == {"mode": "token", "secretName": "strata-ray"}
    assert ray["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in ray["spec"]["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        asked = container["resources"]["requests"]["cpu"]
        assert group["rayStartParams"]["num-cpus"] == asked
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert probe in container, "or KubeRay puts its own there, which ask what is not here"


def test_gpus_are_asked_for_as_ray_offers_them() -> None:
    [ray] = [one for one in render(CI / "production.yaml") if one["kind"] == "RayCluster"]
    [group] = ray["spec"]["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert group["rayStartParams"]["num-gpus"] == "8"


def test_ranks_share_as_much_memory_as_their_pod_has() -> None:
    for name, pod in pod_templates(render(CI / "production.yaml")):
        if name.startswith("RayCluster"):
            [container] = pod["spec"]["containers"]
            places = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
            assert places["shm"] == "/dev/shm"
            assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod["spec"]["volumes"]


def test_what_ray_pods_are_made_of_names_the_cluster_and_their_number_does_not() -> None:
    def name(*sets: str) -> str:
        manifests = render(CI / "minimal.yaml", *sets)
        [ray] = [one for one in manifests if one["kind"] == "RayCluster"]
        [agent] = [pod for title, pod in pod_templates(manifests) if title.endswith("strata-agent")]
        address = f"--address={ray['metadata']['name']}-head-svc:6379"
        assert address in agent["spec"]["containers"][0]["args"]
        return str(ray["metadata"]["name"])

    same = [
        (name(*worker_group()), name(*worker_group(replicas=5))),
        (name(), name("images.service.tag=0.2.0")),
    ]
    assert all(one == other for one, other in same)
    assert name() != name("images.worker.tag=0.2.0")
    assert name() != name("imagePullSecrets[0].name=registry")
    assert name(*worker_group()) != name(*worker_group(memory="16Gi"))


def test_no_version_is_among_the_labels_of_rays_pods() -> None:
    """Or a new release of the chart would end what trains, though its images are the same."""
    for name, pod in pod_templates(render(CI / "production.yaml")):
        if name.startswith("RayCluster"):
            assert set(pod["metadata"]["labels"]) == {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
            }
