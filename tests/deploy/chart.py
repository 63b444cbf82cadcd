"""The chart as Helm renders it."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "helm" / "strata"
CI = CHART / "ci"
FILES = sorted(CI.glob("*.yaml"))
TOOLS = REPOSITORY / ".tools" / "bin"
HELM_SECONDS = 60
RELEASE = "strata"

# What no file of `ci/` says: a Ray of another's, a claim of its own, no hooks, outside clients.
ELSEWHERE = (
    "ray.enabled=false",
    "ray.address=ray.other.svc:6379",
    "networkPolicy.rayPeers[0].namespaceSelector.matchLabels.team=ray",
    "networkPolicy.clients[0].ipBlock.cidr=10.0.0.0/8",
    "service.type=LoadBalancer",
    "storage.existingClaim=",
    "storage.claim.size=500Gi",
    "storage.serviceAccountAnnotations.role=trainer",
    "migrations.useHelmHooks=false",
)

RESTRICTED = {  # what Kubernetes' restricted standard asks of a container, and a read-only root
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

Manifest = dict[str, Any]


def tool(name: str) -> str:
    """The path of a fetched tool; the test fails with a sentence where it is missing."""
    path = TOOLS / name
    if not path.exists():
        pytest.fail(f"{name} is missing; run `make tools`", pytrace=False)
    return str(path)


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run helm."""
    return subprocess.run(
        [tool("helm"), *words], capture_output=True, text=True, timeout=HELM_SECONDS, check=False
    )


def rendered(*words: str) -> str:
    """The manifests as text; `words` are options such as `--values FILE` and `--set a=b`."""
    done = helm("template", RELEASE, str(CHART), "--namespace", "training", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(values_file: Path, *sets: str) -> list[Manifest]:
    """All manifests of a values file, with single values set as in `--set`."""
    options = [word for one in sets for word in ("--set", one)]
    text = rendered("--values", str(values_file), *options)
    return [one for one in yaml.safe_load_all(text) if one]


def of_kind(manifests: Sequence[Manifest], kind: str, ending: str = "") -> Manifest:
    """The one manifest of a kind whose name ends so."""
    [found] = [
        one for one in manifests if one["kind"] == kind and one["metadata"]["name"].endswith(ending)
    ]
    return found


def pod_templates(manifests: Sequence[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that the manifests make, as (what makes it, {metadata, spec})."""
    for one in manifests:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield name, one
        elif one["kind"] in ("Deployment", "Job"):
            yield name, one["spec"]["template"]
        elif one["kind"] == "RayCluster":
            yield f"{name} head", one["spec"]["headGroupSpec"]["template"]
            for group in one["spec"]["workerGroupSpecs"]:
                yield f"{name} {group['groupName']}", group["template"]


def worker_group(number: int = 0, **changes: object) -> list[str]:
    """The default group whole, changed, for `render`: to set one value of a list replaces it."""
    default = yaml.safe_load((CHART / "values.yaml").read_text())["ray"]["workerGroups"][0]
    simple = {key: value for key, value in default.items() if value and key != "gpuResource"}
    return [
        f"ray.workerGroups[{number}].{key}={value}"
        for key, value in {"gpus": 0, **simple, **changes}.items()
    ]
