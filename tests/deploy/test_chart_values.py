"""The chart's values: each has its line in the README, and a wrong one is refused by its name."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.deploy.chart import CHART, CI, REPOSITORY, helm, render, worker_group

pytestmark = pytest.mark.tools

OF_KUBERNETES = {
    "affinity",
    "extraEnv",
    "nodeSelector",
    "podAnnotations",
    "priorityClassName",
    "resources",
    "tolerations",
}


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
        ("agent.tokenKey=a/b", "/agent/tokenKey"),
        ("networkPolicy.serverPorts={http}", "/networkPolicy/serverPorts/0"),
        ("metrics.serviceMonitor.interval=15", "/metrics/serviceMonitor/interval"),
        ("metrics.layers=1000", "/metrics/layers"),
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
        ("storage.url=file:///data,storage.existingClaim=", "storage.url: is a place that each"),
        ("service.type=NodePort", "networkPolicy.clients: is empty"),
        ("ray.enabled=false,ray.address=ray:6379", "networkPolicy.rayPeers: is missing"),
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


def test_two_groups_of_one_name_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"ray\.workerGroups: two of them are called cpu"):
        render(CI / "minimal.yaml", *worker_group(0), *worker_group(1))


def test_the_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == project["version"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    constraints = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert f"ray=={values['ray']['version']}" in constraints


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
