"""The chart: what it renders is valid and hardened, and holds no secret."""

import json
import re
from pathlib import Path

import kubernetes_validate
import pytest

from tests.deploy.chart import (
    CHART,
    CI,
    ELSEWHERE,
    FILES,
    RELEASE,
    REPOSITORY,
    RESTRICTED,
    Manifest,
    helm,
    of_kind,
    pod_templates,
    render,
)
from tests.deploy.command_line import parse

pytestmark = pytest.mark.tools

KUBERNETES = "1.34"
CUSTOM = {"RayCluster", "ServiceMonitor"}  # of operators; Kubernetes itself knows no schema
SERVER_ENDS_SECONDS = 30  # after SIGTERM
READERS = ("service/settings.py", "service/cli/agent.py")
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


def test_with_another_ray_every_manifest_is_valid_too() -> None:
    manifests = render(CI / "minimal.yaml", *ELSEWHERE)
    assert not {one["kind"] for one in manifests} & CUSTOM
    for one in manifests:
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


@each_file
def test_no_secret_is_rendered_and_no_variable_holds_one(file: Path) -> None:
    manifests = render(file)
    assert "Secret" not in {one["kind"] for one in manifests}
    with_password = re.compile(r"://[^/\s\"]*:[^/\s\"]*@")
    assert not [one for one in manifests if with_password.search(json.dumps(one))]
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
        assert spec["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        for volume in spec.get("volumes", []):
            if volume["name"] != "ca":
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


def test_certificates_of_private_authorities_lie_in_every_pod() -> None:
    for name, pod in pod_templates(render(CI / "production.yaml")):
        if not name.startswith("Pod"):  # that of `helm test` asks by plain HTTP
            assert {"name": "ca", "secret": {"secretName": "strata-ca"}} in pod["spec"]["volumes"]
            [container] = pod["spec"]["containers"]
            places = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
            assert places["ca"] == "/etc/strata/ca", name


def test_an_identity_of_the_cloud_is_on_the_accounts_of_servers_and_workers() -> None:
    manifests = render(CI / "minimal.yaml", "storage.serviceAccountAnnotations.role=trainer")
    accounts = [one for one in manifests if one["kind"] == "ServiceAccount"]
    assert len(accounts) == 2
    for account in accounts:
        assert account["metadata"]["annotations"] == {"role": "trainer"}
    used = {pod["spec"].get("serviceAccountName") for _, pod in pod_templates(manifests)}
    assert {one["metadata"]["name"] for one in accounts} <= used


def test_a_server_has_the_time_that_it_needs_to_end() -> None:
    server = of_kind(render(CI / "minimal.yaml"), "Deployment", "-server")
    spec = server["spec"]["template"]["spec"]
    pause = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= pause + SERVER_ENDS_SECONDS
    assert server["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_without_hooks_each_revision_and_image_migrates_by_a_job_of_its_own() -> None:
    hook = _migration()
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    policy = of_kind(render(CI / "minimal.yaml"), "NetworkPolicy", "-migration")
    weights = [int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in (policy, hook)]
    assert weights[0] < weights[1], "it is there before whom it lets out"
    plain = _migration("migrations.useHelmHooks=false")
    assert "annotations" not in plain["metadata"]
    assert plain["metadata"]["name"].startswith("strata-migration-1-")
    newer = _migration("migrations.useHelmHooks=false", "images.service.tag=0.2.0")
    assert newer["metadata"]["name"] != plain["metadata"]["name"]
    assert "ttlSecondsAfterFinished" not in plain["spec"], "Argo CD would make it again"


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


@each_file
def test_the_notes_say_what_strata_understands(file: Path, tmp_path: Path) -> None:
    done = helm("install", RELEASE, str(CHART), "--values", str(file), "--dry-run=client")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("\nNOTES:\n")[2]
    (tmp_path / "job.yaml").touch()
    lines = re.findall(r"^.*?\bstrata ((?:tokens|nodes|submit)\b[^)\n]*)", notes, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        parse(line.replace("$USER", "eva").replace("job.yaml", f"{tmp_path}/job.yaml").split())
