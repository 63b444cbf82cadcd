"""What `strata compare` prints and draws; the jobs themselves are made up."""

import builtins
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from service.cli.compare import SPARK_WIDTH, ids_of_matrix, show_comparison, sparks
from service.cli.live_matrix import found_jobs
from service.cli.plot import draw
from service.control.compare import Ran, compare
from service.domain.errors import BadInput, NotFound


class MadeUp:
    """A door to jobs that were never run, a page of two at a time."""

    def __init__(self, jobs: list[dict[str, Any]]) -> None:
        self._jobs = jobs  # oldest first

    def jobs(self, **filters: Any) -> list[dict[str, Any]]:
        before = filters.get("before") or len(self._jobs) + 1
        return [job for job in reversed(self._jobs) if job["seq"] < before][:2]

    def status(self, ref: str) -> dict[str, Any]:
        job = next(job for job in self._jobs if job["id"] == ref)
        stages = [
            {"index": 0, "kind": "rbm", "epochs": 40},
            {"index": 1, "kind": "finetune", "epochs": 100},
        ]
        return {"job": job, "stages": stages}

    def curves(self, ref: str) -> list[dict[str, Any]]:
        lines = [(0, 5, 9.9), (1, 10, 2.0), (1, 20, None), (1, 30, 0.5)]
        return [
            {"progress": {"stage_index": index, "stage_step": step, "loss": loss}}
            for index, step, loss in lines
        ]


def job(seq: int, name: str, seed: int, error: float, matrix: str = "m") -> dict[str, Any]:
    arm = name.partition("-seed")[0]
    return {
        "id": f"id-{seq}",
        "seq": seq,
        "state": "succeeded",
        "attempt": 1,
        "started_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:00:42Z",
        "metrics": {"test_error": error},
        "spec": {
            "name": name,
            "seed": seed,
            "labels": {"matrix": matrix, "arm": arm},
            "model": {"hidden": [100] * (10 if arm == "deep" else 1)},
        },
    }


JOBS = [
    job(1, "deep-seed-0", 0, 50.0),
    job(2, "shallow-seed-0", 0, 3.0),
    job(3, "shallow-seed-1", 1, 4.0),
    job(4, "other", 0, 1.0, matrix="n"),
    job(5, "deep-seed-0", 0, 90.0),  # again: the newest of a name counts
]

DOOR: Any = MadeUp(JOBS)  # for reading


def test_a_matrix_is_the_newest_job_of_each_name_whatever_page_it_is_on() -> None:
    assert ids_of_matrix(DOOR, "m") == ["id-2", "id-3", "id-5"]


def test_a_matrix_that_nobody_submitted_is_not_found() -> None:
    with pytest.raises(NotFound, match="no job is of a matrix 'x'"):
        ids_of_matrix(DOOR, "x")


def test_members_are_found_among_many_jobs_in_their_own_order() -> None:
    found = found_jobs(DOOR, ["id-1", "id-4", "id-2"])
    assert [one["id"] for one in found] == ["id-1", "id-4", "id-2"]


def test_the_tables_show_differences_figures_and_curves(capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(DOOR, ["id-5", "id-2", "id-3"], "table")
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[:4]] == [
        "recipe differs in",
        "(most) model.hidden 10 x 100",
        "deep -",
        "shallow model.hidden 100",
    ]
    results = [line.split() for line in lines if "42s" in line]
    assert results[0][:3] == ["deep", "1", "90"]
    assert results[1][:5] == ["shallow", "2", "3.5", "±", "0.71"]
    curves = lines[-2:]
    assert all(line.split()[-2:] == ["2", "0.5"] for line in curves)


def test_columns_that_tell_nothing_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(DOOR, ["id-2", "id-3"], "table")
    several = next(line for line in capsys.readouterr().out.splitlines() if "result" in line)
    assert several.split()[:3] == ["result", "seeds", "test_error"]
    show_comparison(DOOR, ["id-5"], "table")
    one = next(line for line in capsys.readouterr().out.splitlines() if "result" in line)
    assert not {"seeds", "attempts", "test_accuracy"} & set(one.split())


def test_machines_get_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(DOOR, ["id-2", "id-3"], "json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["paths"] == []
    assert answer["arms"][0]["metrics"]["test_error"]["mean"] == 3.5
    assert answer["arms"][0]["seeds"] == [0, 1]
    assert answer["arms"][0]["curve"] == [[10, 2.0], [30, 0.5]]


def test_a_curve_in_blocks_falls_where_the_loss_falls() -> None:
    row = sparks([(0, 2.0), (50, 2.0), (100, 0.0)], 2.0)
    assert len(row) == SPARK_WIDTH
    assert row[0] == "█"
    assert row[-1] == "▁"
    assert row == "".join(sorted(row, reverse=True))


def test_a_curve_that_is_flat_at_zero_is_drawn_low() -> None:
    assert set(sparks([(0, 0.0), (1, 0.0)], 0.0)) == {"▁"}


def _compared() -> Any:
    fields: dict[str, Any] = {"state": "succeeded", "attempts": 1, "seconds": 1.0, "epochs": ()}
    return compare(
        [
            Ran(
                id=name,
                name=name,
                spec={"name": name, "model": {"hidden": [width]}},
                metrics={"test_error": 3.0},
                curve=((1, 2.3), (9, 0.1)),
                **fields,
            )
            for name, width in [("narrow", 10), ("<wide>", 99)]
        ]
    )


def test_curves_are_drawn_as_png(tmp_path: Path) -> None:
    draw(_compared(), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_holds_curves_and_table_and_escapes_names(tmp_path: Path) -> None:
    draw(_compared(), tmp_path / "curves.html")
    page = (tmp_path / "curves.html").read_text()
    assert "<svg" in page
    assert "<td>&lt;wide&gt;</td><td>99</td>" in page
    assert "<wide>" not in page


def test_without_the_library_one_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> ModuleType:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r"pip install 'strata\[plot\]'"):
        draw(_compared(), tmp_path / "curves.png")


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="can't be written: No such file"):
        draw(_compared(), tmp_path / "nowhere" / "curves.png")
