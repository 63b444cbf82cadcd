"""Who reaches whom in the chart: what selects pods finds some, and no policy allows too much."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import CI, ELSEWHERE, FILES, Manifest, of_kind, pod_templates, render

pytestmark = pytest.mark.tools

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


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
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in ports
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "training/strata"}]


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


def test_the_agent_and_another_ray_reach_each_other_and_the_servers() -> None:
    manifests = render(CI / "minimal.yaml", *ELSEWHERE)
    peer = {"namespaceSelector": {"matchLabels": {"team": "ray"}}}
    workers = of_kind(manifests, "NetworkPolicy", "-workers")["spec"]
    assert [rule for rule in workers["egress"] if peer in rule.get("to", []) and len(rule) == 1]
    assert peer in workers["ingress"][0]["from"]
    assert peer in of_kind(manifests, "NetworkPolicy", "-server")["spec"]["ingress"][0]["from"]
    [container] = of_kind(manifests, "Deployment", "-agent")["spec"]["template"]["spec"][
        "containers"
    ]
    assert "--url=http://strata.training.svc:8080" in container["args"], "known there, too"


def test_helm_test_may_ask_the_servers_whoever_else_may() -> None:
    manifests = render(CI / "production.yaml")
    pod = of_kind(manifests, "Pod", "-test")
    [rule] = of_kind(manifests, "NetworkPolicy", "-server")["spec"]["ingress"]
    peers = [peer["podSelector"] for peer in rule["from"] if "podSelector" in peer]
    assert any(_matches(peer, pod["metadata"]["labels"]) for peer in peers)
