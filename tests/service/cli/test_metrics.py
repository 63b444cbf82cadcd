"""What `strata metrics` shows and writes; the job is made up."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.cli import metrics as module
from service.cli.door import CURVE_LINES
from service.domain.errors import BadInput, NotFound
from tests.event_files import scalars_in

STAGES = [{"index": 0, "name": "pretrain-01"}, {"index": 1, "name": "finetune"}]


def line(number: int, step: int, loss: float | None, **changes: Any) -> dict[str, Any]:
    progress: dict[str, Any] = {
        "stage_index": 1,
        "step": step,
        "loss": loss,
        "lr": 0.1,
        "samples_per_second": 100.0,
        "step_seconds": 0.01,
        "data_wait_seconds": 0.001,
        "memory_bytes": 2**30,
        "mfu": None,
        "metrics": {},
    }
    progress |= changes
    at = "2026-11-01T00:00:00Z"
    return {"id": number, "attempt": changes.get("attempt", 1), "at": at, "progress": progress}


class MadeUp:
    """A door to one job whose lines are given."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines

    def status(self, ref: str) -> dict[str, Any]:
        return {"job": {"id": "id-1", "spec": {"name": "deep"}}, "stages": STAGES}

    def curves(self, ref: str, before: int | None = None) -> list[dict[str, Any]]:
        return [one for one in self.lines if before is None or one["id"] < before][-CURVE_LINES:]


LINES = [
    line(1, 10, 9.0, stage_index=0),
    line(2, 20, 3.0, metrics={"grad_norm": 1.0, "grad_norm.hidden-01": "Infinity"}),
    line(3, 30, 2.0, metrics={"grad_norm.hidden-01": 0.5}),
    line(4, 25, 2.5, attempt=2),
    line(5, 40, 1.0, attempt=2, metrics={"validation_error": 4.0}),
]


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*words: str, lines: list[dict[str, Any]] = LINES) -> Result:
        monkeypatch.setattr(module, "open_door", lambda _settings: MadeUp(lines))
        return CliRunner().invoke(module.metrics, ["@latest", *words])

    return run


def rows(result: Result) -> list[list[str]]:
    assert result.exception is None, result.exception
    return [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()][1:]


def test_without_names_it_lists_what_there_is(show: Any) -> None:
    listed = {row[0]: row[1:] for row in rows(show())}
    assert listed["loss"] == ["2: pretrain-01 to finetune", "4", "1"]
    assert listed["validation_error"] == ["finetune", "1", "4"]
    assert "grad_norm.hidden-01" not in listed  # once infinite, once overtaken by an attempt


def test_a_figure_of_many_layers_is_one_row_of_the_list(show: Any) -> None:
    layers = {f"grad_norm.hidden-{k:02d}": float(k) for k in (1, 2, 3)}
    lines = [line(1, 10, 1.0, metrics=layers), line(2, 20, 1.0, metrics=layers)]
    listed = {row[0]: row[1:] for row in rows(show(lines=lines))}
    assert listed["grad_norm.*"] == ["finetune", "6", "1 to 3, of 3 layers"]
    assert not any(name.startswith("grad_norm.hidden") for name in listed)


def test_a_name_shows_a_curve_for_each_stage_with_its_extremes(show: Any) -> None:
    first, second = rows(show("loss"))
    assert first[:2] == ["loss", "pretrain-01"]
    assert second[:2] == ["loss", "finetune"]
    assert second[3:] == ["3", "1", "1", "3"]
    assert (second[2][0], second[2][-1]) == ("█", "▁")


def test_an_attempt_shows_what_it_told_though_it_was_repeated(show: Any) -> None:
    told = json.loads(show("*.hidden-01", "--attempt", "1", "-o", "json").stdout)
    assert told["series"][0]["points"] == [[30, 0.5]]


def test_a_stage_is_chosen_by_its_name_or_its_number(show: Any) -> None:
    by_name = show("loss", "--stage", "finetune", "-o", "json").stdout
    assert by_name == show("loss", "--stage", "2", "-o", "json").stdout
    [series] = json.loads(by_name)["series"]
    assert series["points"] == [[20, 3.0], [25, 2.5], [40, 1.0]]
    assert (series["last"], series["lowest"], series["highest"]) == (1.0, 1.0, 3.0)


def test_machines_get_a_list_without_points_where_nothing_is_named(show: Any) -> None:
    series = json.loads(show("-o", "json").stdout)["series"]
    assert all("points" not in one for one in series)
    assert {one["name"] for one in series} >= {"loss", "lr", "grad_norm", "validation_error"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "is called nothing"),
        (["loss", "--layer", "x"], "is called loss of layer x"),
        (["--stage", "pretrain-09"], "there is no stage 'pretrain-09'"),
        (["--attempt", "9"], "nothing was measured"),
    ],
)
def test_what_is_not_there_is_not_found(show: Any, words: list[str], said: str) -> None:
    error = show(*words).exception
    assert isinstance(error, NotFound)
    assert said in str(error)


def test_a_long_job_is_read_page_by_page_to_its_beginning(show: Any) -> None:
    lines = [line(n, n, 1.0) for n in range(1, CURVE_LINES + 11)]
    [row] = rows(show("loss", lines=lines))
    assert row[:2] == ["loss", "finetune"]
    [series] = json.loads(show("loss", "-o", "json", lines=lines).stdout)["series"]
    assert (series["num_points"], series["points"][0][0]) == (CURVE_LINES + 10, 1)


def test_curves_are_drawn_as_a_picture_or_a_page(show: Any, tmp_path: Path) -> None:
    for name in ("curves.png", "curves.html"):
        assert show("loss", "lr", "--plot", str(tmp_path / name)).exception is None
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "curves.html").read_text()
    assert "<svg" in page
    assert "<td>pretrain-01</td>" in page
    error = show("loss", "--plot", "curves.pdf").exception
    assert isinstance(error, BadInput)


def test_layers_share_a_field_whose_scale_shows_a_vanishing_gradient(
    show: Any, tmp_path: Path
) -> None:
    layers = {f"grad_norm.hidden-{k:02d}": 10.0**-k for k in range(40)}
    lines = [line(n, n, 1.0, metrics=layers) for n in (1, 2)]
    page = tmp_path / "layers.html"
    assert show("grad_norm.*", "--plot", str(page), lines=lines).exception is None
    svg = page.read_text().partition("<svg")[2]
    assert svg.count("<!-- hidden-") <= 13  # not all forty are named
    assert "<!-- hidden-39 -->" in svg
    assert svg.count('id="axes_') == 1
    assert "mathdefault{10^" in svg  # powers of ten along the axis


def test_curves_are_written_for_tensorboard_and_a_later_export_replaces_them(
    show: Any, tmp_path: Path
) -> None:
    assert show("--tensorboard", str(tmp_path)).exception is None
    assert show("loss", "--tensorboard", str(tmp_path)).exception is None
    [file] = (tmp_path / "deep-id-1").iterdir()
    assert "tfevents" in file.name
    assert [(one.tag, one.step, one.value) for one in scalars_in(file.read_bytes())] == [
        ("pretrain-01/loss", 10, 9.0),
        ("finetune/loss", 20, 3.0),
        ("finetune/loss", 25, 2.5),
        ("finetune/loss", 40, 1.0),
    ]
    (tmp_path / "file").write_text("in the way")
    error = show("--tensorboard", str(tmp_path / "file" / "below")).exception
    assert isinstance(error, BadInput)
