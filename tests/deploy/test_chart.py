"""The chart: what it renders is valid and hardened, and what it can't mean it refuses."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.chart import (
    CHART,
    CI,
    REPOSITORY,
    Manifest,
    helm,
    of_kind,
    pod_templates,
    render,
)

pytestmark = pytest.mark.tools

KUBERNETES = "1.34"
CUSTOM = {"RayCluster", "ServiceMonitor"}  # of operators; Kubernetes itself knows no schema
SERVER_ENDS_SECONDS = 30  # after SIGTERM
FILES = sorted(CI.glob("*.yaml"))
READERS = ("service/settings.py", "service/cli/agent.py")
OF_KUBERNETES = {
    "affinity",
    "extraEnv",
    "nodeSelector",
    "podAnnotations",
    "priorityClassName",
    "resources",
    "tolerations",
}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
OF_RAY = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@each_file
def test_helm_lints_it(file: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(file))
    assert done.returncode == 0, done.stdout


def test_helm_lints_the_defaults() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


@each_file
def test_every_manifest_is_valid_for_kubernetes(file: Path) -> None:
    manifests = render(file)
    assert {one["kind"] for one in manifests} & CUSTOM
    for one in manifests:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_a_manifest_with_an_unknown_key_would_be_found() -> None:
    budget = of_kind(render(CI / "minimal.yaml"), "PodDisruptionBudget")
    budget["spec"]["maxUnavailble"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="maxUnavailble"):
        kubernetes_validate.validate(budget, KUBERNETES, strict=True)


@each_file
def test_names_are_unique(file: Path) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in render(file)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("server.replicas=0", "/server/replicas"),
        ("server.replicas=two", "/server/replicas"),
        ("server.replica=2", "replica"),
        ("database.existingSecret=Not_A_Name", "/database/existingSecret"),
        ("database.password=hunter2", "password"),
        ("storage.claim.size=much", "/storage/claim/size"),
        ("storage.url=s3://key:secret@bucket/x", "/storage/url"),
        ("service.port=80800", "/service/port"),
        ("service.type=Internet", "/service/type"),
        ("images.service.tag=a b", "/images/service/tag"),
        ("images.worker.pullPolicy=Sometimes", "/images/worker/pullPolicy"),
        ("ingress.enabled=maybe", "/ingress/enabled"),
        ("ray.version=2", "/ray/version"),
        ("ray.address=10.0.0.1", "/ray/address"),
        ("ray.workerGroups[0].cpus=0.5", "/ray/workerGroups/0"),
        ("ray.autoscaling.idleTimeoutSeconds=1", "/ray/autoscaling/idleTimeoutSeconds"),
        ("agent.tokenKey=a/b", "/agent/tokenKey"),
        ("networkPolicy.serverPorts={http}", "/networkPolicy/serverPorts/0"),
        ("metrics.serviceMonitor.interval=15", "/metrics/serviceMonitor/interval"),
        ("surprise=1", "surprise"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(setting: str, named: str) -> None:
    done = helm(
        *("template", "strata", str(CHART), "--values", str(CI / "minimal.yaml")),
        *("--set", setting),
    )
    assert done.returncode != 0
    place = named.strip("/").replace("/", ".")
    assert named in done.stderr or place in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("database.existingSecret=", "database.existingSecret: is missing; name a Secret"),
        ("storage.existingClaim=", "storage: set exactly one of"),
        ("storage.url=s3://bucket/x", "storage: set exactly one of"),
        ("agent.tokenSecret=", "strata tokens create NAME --agent"),
        ("ray.authSecret=", "ray.authSecret: is missing"),
        ("ray.enabled=false", "ray.address: is missing"),
        ("ray.workerGroups=null", "ray.workerGroups"),
        ("ingress.enabled=true", "ingress.host: is missing"),
    ],
)
def test_what_contradicts_itself_is_refused_with_what_to_do(setting: str, said: str) -> None:
    done = helm(
        *("template", "strata", str(CHART), "--values", str(CI / "minimal.yaml")),
        *("--set", setting),
    )
    assert done.returncode != 0
    assert said in done.stderr


@each_file
def test_no_secret_is_rendered_and_no_variable_holds_one(file: Path) -> None:
    manifests = render(file)
    assert "Secret" not in {one["kind"] for one in manifests}
    secret = re.compile("TOKEN|PASSWORD|SECRET|DATABASE_URL|REDIS_URL|KEY")
    for name, pod in pod_templates(manifests):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                if secret.search(variable["name"]):
                    assert "secretKeyRef" in variable.get("valueFrom", {}), (name, variable)


@each_file
def test_every_pod_is_a_restricted_one(file: Path) -> None:
    pods = list(pod_templates(render(file)))
    assert len(pods) >= 6
    for name, pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["enableServiceLinks"] is False, name
        if "head" not in name or file.stem != "production":  # the autoscaler asks Kubernetes
            assert spec["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim"}, name
        for container in spec["containers"]:
            assert container["securityContext"] == RESTRICTED, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"], name


@each_file
def test_every_variable_is_one_that_is_read(file: Path) -> None:
    read = {
        name
        for path in READERS
        for name in re.findall(r"STRATA_[A-Z_]+", (REPOSITORY / path).read_text())
    }
    for name, pod in pod_templates(render(file)):
        for container in pod["spec"]["containers"]:
            told = {variable["name"] for variable in container.get("env", [])}
            assert told <= read | OF_RAY, name


@each_file
def test_what_selects_pods_finds_some(file: Path) -> None:
    manifests = render(file)
    labels = [pod["metadata"].get("labels", {}) for _, pod in pod_templates(manifests)]
    selectors = [_selector(one) for one in manifests]
    assert sum(selector is not None for selector in selectors) >= 7
    for one, selector in zip(manifests, selectors, strict=True):
        if selector is not None:
            assert any(_matches(selector, of_pod) for of_pod in labels), one["metadata"]["name"]


def _selector(one: Manifest) -> Mapping[str, Any] | None:
    spec = one.get("spec", {})
    match one["kind"]:
        case "Service":
            return {"matchLabels": spec["selector"]}
        case "NetworkPolicy":
            return dict(spec["podSelector"])
        case "Deployment" | "PodDisruptionBudget":
            return dict(spec["selector"])
        case _:
            return None


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


def test_the_service_monitor_selects_the_service_that_has_the_port() -> None:
    manifests = render(CI / "production.yaml")
    [monitor] = [one for one in manifests if one["kind"] == "ServiceMonitor"]
    [service] = [one for one in manifests if one["kind"] == "Service"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {one["port"] for one in monitor["spec"]["endpoints"]} <= ports


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


def test_the_autoscaler_is_as_restricted_and_reaches_kubernetes() -> None:
    manifests = render(CI / "production.yaml")
    options = of_kind(manifests, "RayCluster")["spec"]["autoscalerOptions"]
    assert options["securityContext"] == RESTRICTED
    egress = of_kind(manifests, "NetworkPolicy", "-autoscaler")["spec"]["egress"]
    assert 6443 in [port["port"] for rule in egress for port in rule["ports"]]
    names = [one["metadata"]["name"] for one in render(CI / "minimal.yaml")]
    assert "strata-autoscaler" not in names


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

    assert name(*_group()) == name(*_group(replicas=5))
    assert name() != name("images.worker.tag=0.2.0")
    assert name(*_group()) != name(*_group(memory="16Gi"))


def _group(**changes: object) -> list[str]:
    """The default group whole, changed: to set one value of a list replaces the list."""
    default = yaml.safe_load((CHART / "values.yaml").read_text())["ray"]["workerGroups"][0]
    simple = {key: value for key, value in default.items() if value and key != "gpuResource"}
    return [
        f"ray.workerGroups[0].{key}={value}"
        for key, value in {"minReplicas": 0, "gpus": 0, **simple, **changes}.items()
    ]


def test_the_workers_reach_the_servers_and_not_what_is_behind_them() -> None:
    manifests = render(CI / "minimal.yaml")
    policies = {
        one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"
    }
    open_to_all = [
        port["port"]
        for rule in policies["strata-workers"]["egress"]
        if "to" not in rule
        for port in rule["ports"]
    ]
    assert 5432 not in open_to_all
    assert 6379 not in open_to_all
    assert 5432 in [
        port["port"] for rule in policies["strata-server"]["egress"] for port in rule["ports"]
    ]


def test_helm_test_may_ask_the_servers_whoever_else_may() -> None:
    manifests = render(CI / "production.yaml")
    pod = of_kind(manifests, "Pod", "-test")
    [rule] = of_kind(manifests, "NetworkPolicy", "-server")["spec"]["ingress"]
    peers = [peer["podSelector"] for peer in rule["from"] if "podSelector" in peer]
    assert any(_matches(peer, pod["metadata"]["labels"]) for peer in peers)


def test_a_server_has_the_time_that_it_needs_to_end() -> None:
    server = of_kind(render(CI / "minimal.yaml"), "Deployment", "-server")
    spec = server["spec"]["template"]["spec"]
    pause = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= pause + SERVER_ENDS_SECONDS
    assert server["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_without_hooks_each_revision_and_image_migrates_by_a_job_of_its_own() -> None:
    hook = _migration()
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    plain = _migration("migrations.useHelmHooks=false")
    assert "annotations" not in plain["metadata"]
    assert plain["metadata"]["name"].startswith("strata-migration-1-")
    newer = _migration("migrations.useHelmHooks=false", "images.service.tag=0.2.0")
    assert newer["metadata"]["name"] != plain["metadata"]["name"]


def _migration(*sets: str) -> Manifest:
    return of_kind(render(CI / "minimal.yaml", *sets), "Job")


def test_a_claim_of_its_own_survives_an_uninstall() -> None:
    sets = ("storage.existingClaim=", "storage.claim.size=500Gi")
    manifests = render(CI / "minimal.yaml", *sets)
    [claim] = [one for one in manifests if one["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    mounted = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, pod in pod_templates(manifests)
        for volume in pod["spec"].get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    assert mounted == {claim["metadata"]["name"]}


def test_the_readme_has_every_value() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", (CHART / "README.md").read_text(), re.MULTILINE)
    told = [name for row in rows for name in re.findall("`([^`]+)`", row)]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert sorted(told) == sorted(_leaves(values))


def _leaves(values: Mapping[str, Any], path: str = "") -> list[str]:
    """Every value that can be set, as a path; without those that are Kubernetes' own."""
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in ("labels", *OF_KUBERNETES):
            found += _leaves(value, f"{path}{key}.")
        elif key not in OF_KUBERNETES:
            found.append(f"{path}{key}")
    return found
