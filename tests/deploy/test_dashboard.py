"""The dashboard asks only for what a server exports, and says what each panel is for."""

import json
import re
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from fastapi.testclient import TestClient

from deploy.grafana.dashboard import OUTPUT, ROWS, build, queries, text
from deploy.grafana.panels import LONG_POLLS
from service.bootstrap import Service
from service.bootstrap import build as build_service
from service.settings import read_settings

DOCS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
NO_REDIS_URL = "redis://127.0.0.1:1/0"  # nobody listens; its metrics say so
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
WITHOUT_UNIT = {
    "Loss": "each stage's is another",
    "Gradient norm": "a number of no dimension",
    "Gradient norm by layer": "the same",
}
HOW_MANY = {"strata_train_samples_total", "strata_train_nonfinite_steps_total"}  # not how fast
PANELS = [panel for panels in ROWS.values() for panel in panels]


@pytest.fixture(scope="module")
def service(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with everything switched on, and the leader."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(sqlite_template, home / "strata.db")
    (home / "storage").mkdir()
    made = build_service(
        read_settings(
            {
                "STRATA_HOME": str(home),
                "STRATA_REDIS_URL": NO_REDIS_URL,
                "STRATA_METRICS_LAYERS": "4",
            }
        )
    )
    made.loop.turn()
    yield made
    made.close()


@pytest.fixture(scope="module")
def exported(service: Service) -> dict[str, str]:
    """The kind of each metric that the server exports."""
    with TestClient(service.app) as http:
        answer = http.get("/metrics")
    assert answer.status_code == 200
    found = dict(re.findall(r"^# TYPE (\w+) (\w+)$", answer.text, re.MULTILINE))
    # The client library adds the birth of each counter; nobody asks for it.
    return {name: kind for name, kind in found.items() if not name.endswith("_created")}


def parsed(expression: str) -> promql_parser.Expr:
    """The query as Prometheus would get it from Grafana."""
    return promql_parser.parse(expression.replace("$__rate_interval", "1m").replace("$job", "0190"))


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)

    promql_parser.walk(parsed(expression), visit)
    assert found, f"no metric in {expression}"
    return found


def placed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text())["panels"]
    return found


def test_the_chart_has_the_dashboard_that_the_code_makes() -> None:
    assert OUTPUT.read_text(encoding="utf-8") == text(), "run python deploy/grafana/dashboard.py"


def test_the_dashboard_is_the_same_each_time() -> None:
    assert build().uid == "strata"
    assert text() == text()
    assert text().endswith("}\n")


@pytest.mark.parametrize("query", queries(), ids=lambda query: query[0])
def test_a_query_asks_for_what_the_server_exports(
    query: tuple[str, str], exported: dict[str, str]
) -> None:
    known = {name + end for name, kind in exported.items() for end in SUFFIXES[kind]}
    assert {selector.name for selector in selectors(query[1])} <= known


@pytest.mark.parametrize("query", queries(), ids=lambda query: query[0])
def test_a_query_asks_the_chosen_service_alone(query: tuple[str, str]) -> None:
    for selector in selectors(query[1]):
        asked = [(one.name, one.op, one.value) for one in selector.matchers.matchers]
        assert ("job", promql_parser.MatchOp.Equal, "$service") in asked


def test_a_variable_offers_what_the_chosen_service_has() -> None:
    variables = {one["name"]: one.get("query") for one in json.loads(text())["templating"]["list"]}
    assert list(variables) == ["datasource", "service", "name", "job"]
    for name in ("name", "job"):
        assert 'job="$service"' in variables[name]


def test_counters_are_asked_for_their_growth_alone(exported: dict[str, str]) -> None:
    for title, expression in queries():
        grows = re.search(r"\b(rate|increase)\(", expression) is not None
        names = {selector.name or "" for selector in selectors(expression)} - HOW_MANY
        counts = any(name.endswith(("_total", "_bucket")) for name in names)
        assert counts == grows, title


def test_every_label_of_a_legend_is_one_that_its_query_keeps() -> None:
    for panel in PANELS:
        for legend, expression in panel.queries.items():
            kept = {
                label.strip()
                for labels in re.findall(r"\bby \(([^)]*)\)", expression)
                for label in labels.split(",")
            }
            assert set(re.findall(r"{{(\w+)}}", legend)) <= kept, panel.title


def test_the_routes_that_wait_on_purpose_are_left_out_of_the_answer_times(
    service: Service,
) -> None:
    paths = service.app.openapi()["paths"]
    waits = {
        path
        for path, methods in paths.items()
        for method in methods.values()
        if any(asked["name"] == "wait_seconds" for asked in method.get("parameters", ()))
    }
    waits.add("/v1/agents/{name}/sync")  # it waits without being asked to
    assert {path for path in paths if re.fullmatch(LONG_POLLS, path)} == waits


def test_every_metric_is_documented(exported: dict[str, str]) -> None:
    """`strata_train_loss`, `_epoch` in one row means strata_train_epoch too."""
    documented: set[str] = set()
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        words = re.findall(r"`(\w+)(?:{[\w,]*})?`", line)
        full = [word for word in words if word.startswith("strata_")]
        stems = {"_".join(word.split("_")[:k]) for word in full for k in range(2, 9)}
        documented |= {*full, *(stem + word for stem in stems for word in words if word[0] == "_")}
    assert set(exported) - documented == set()


def test_no_two_panels_overlap() -> None:
    boxes = [(panel["title"], panel["gridPos"]) for panel in placed()]
    for title, box in boxes:
        assert 0 <= box["x"] < box["x"] + box["w"] <= 24, title
    for (one, a), (other, b) in combinations(boxes, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (one, other)


def test_every_panel_has_a_number_of_its_own() -> None:
    numbers = [panel["id"] for panel in placed()]
    assert len(set(numbers)) == len(numbers)
    assert len({panel.title for panel in PANELS}) == len(PANELS)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_says_what_it_shows_and_in_what_unit(panel: Any) -> None:
    assert panel.title
    assert panel.description.endswith(".")
    assert len(panel.description) > len(panel.title)
    assert panel.unit
    assert (panel.unit == "none") == (panel.title in WITHOUT_UNIT)
    levels = [level for level, _ in panel.steps]
    assert levels == sorted(levels)


def test_every_panel_asks_the_chosen_prometheus() -> None:
    shown = [panel for panel in placed() if panel["type"] != "row"]
    assert len(shown) == len(PANELS)
    for panel in shown:
        for asks in (panel, *panel["targets"]):
            assert asks["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
