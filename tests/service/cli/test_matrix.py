"""The jobs of a matrix are submitted under keys of their own, and watched together."""

from pathlib import Path
from typing import Any

import pytest

from service.cli.live_matrix import MatrixWatch
from service.cli.run import read_file, submit_all
from service.domain.errors import Conflict, Forbidden
from service.settings import read_settings

FILE = """\
name: m
data: {source: digits}
model: {kind: mlp, hidden: [10]}
matrix: {seed: [0, 1, 2]}
"""


class MadeUp:
    """A server that keeps what is posted; it refuses the job of one key, or a whole act."""

    def __init__(self, refused: str = "", looks: list[Any] | None = None) -> None:
        self.client = self
        self.posts: list[tuple[str, Any]] = []
        self.puts: list[str] = []
        self._refused = refused
        self._looks = looks or []

    def job(self, ref: str) -> str:
        return f"/v1/jobs/{ref}"

    def post(self, path: str, body: Any = None) -> Any:
        self.posts.append((path, body))
        if body is not None and self._refused and body["key"].endswith(self._refused):
            raise Forbidden("anna submits to project a only", remedy="mend it")
        if path.endswith("/ended/hold"):
            raise Conflict("job ended is succeeded already")
        return {"job": body, "created": True}

    def put(self, path: str, content: bytes) -> None:
        self.puts.append(path)

    def status(self, ref: str) -> Any:
        progress = {"stage_index": 1, "epoch": 7, "loss": 0.5}
        stage = {"index": 1, "count": 11, "name": "pretrain-02", "epochs": 40}
        return {"latest": {"progress": progress}, "stages": [stage]}

    def jobs(self, **filters: Any) -> Any:
        look = self._looks.pop(0)
        if isinstance(look, BaseException):
            raise look
        return look


def written(folder: Path, text: str = FILE) -> Path:
    path = folder / "m.yaml"
    path.write_text(text)
    return path


def test_every_member_has_a_key_of_its_own_and_a_repeat_the_same_ones(tmp_path: Path) -> None:
    specs = read_file(written(tmp_path)).specs
    door: Any = MadeUp()
    for _ in range(2):
        submit_all(door, specs, "k", tmp_path)
    keys = [body["key"] for _, body in door.posts]
    assert keys == ["k/m-seed-0", "k/m-seed-1", "k/m-seed-2"] * 2
    assert [body["spec"]["seed"] for _, body in door.posts[:3]] == [0, 1, 2]


def test_a_single_job_keeps_the_key_that_was_given(tmp_path: Path) -> None:
    door: Any = MadeUp()
    submit_all(door, read_file(written(tmp_path, FILE.partition("matrix")[0])).specs, "k", tmp_path)
    assert [body["key"] for _, body in door.posts] == ["k"]


def test_a_refusal_in_the_middle_says_how_to_go_on(tmp_path: Path) -> None:
    door: Any = MadeUp(refused="seed-2")
    with pytest.raises(Forbidden, match=r"mend it; 2 of 3 jobs were submitted; go on: --key k$"):
        submit_all(door, read_file(written(tmp_path)).specs, "k", tmp_path)


def test_code_is_packed_once_for_all_members(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "net.py").write_text("WIDTH = 3\n")
    door: Any = MadeUp()
    submit_all(door, read_file(written(tmp_path, FILE + "code: mine\n")).specs, "k", tmp_path)
    assert len(door.puts) == 1
    assert len({body["spec"]["code"] for _, body in door.posts}) == 1
    assert door.posts[0][1]["spec"]["code"] != "mine"


def _job(job_id: str, state: str, **metrics: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "seq": 1,
        "state": state,
        "spec": {"name": f"name-of-{job_id}"},
        "metrics": metrics,
    }


def test_members_are_watched_until_the_last_has_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    looks = [
        [_job("b", "queued"), _job("a", "running")],
        [_job("b", "running"), _job("a", "succeeded", test_error=2.5)],
        [_job("b", "failed"), _job("a", "succeeded", test_error=2.5)],
    ]
    watch = MatrixWatch(read_settings({}), MadeUp(looks=looks), ["a", "b"], holds=True)  # type: ignore[arg-type]  # as much of a door as is used
    assert [job["state"] for job in watch.run()] == ["succeeded", "failed"]
    assert capsys.readouterr().err.splitlines() == [
        "0/2 name-of-a a running",
        "1/2 name-of-a a succeeded, test error 2.50 %",
        "1/2 name-of-b b running",
        "2/2 name-of-b b failed",
    ]


def test_an_interrupt_holds_all_members_and_the_last_first() -> None:
    looks = [KeyboardInterrupt(), [_job("ended", "succeeded"), _job("a", "held")]]
    door: Any = MadeUp(looks=looks)
    watch = MatrixWatch(read_settings({}), door, ["ended", "a"], holds=True)
    jobs = watch.run()
    assert [path for path, _ in door.posts] == ["/v1/jobs/a/hold", "/v1/jobs/ended/hold"]
    assert watch.was_interrupted
    assert watch.farewell(jobs) == "1 of 2 jobs are held; go on with: strata release a"


def test_an_interrupt_of_a_mere_view_touches_no_job() -> None:
    door: Any = MadeUp(looks=[KeyboardInterrupt(), [_job("a", "running")]])
    watch = MatrixWatch(read_settings({}), door, ["a"], holds=False)
    assert "go on" in watch.farewell(watch.run())
    assert door.posts == []


def test_a_terminal_shows_a_line_for_each_member_with_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    jobs = [_job("a", "running"), _job("b", "queued"), _job("c", "succeeded", test_error=2.5)]
    door: Any = MadeUp(looks=[KeyboardInterrupt(), jobs])
    MatrixWatch(read_settings({}), door, ["a", "b", "c"], holds=False).run()
    shown = capsys.readouterr().err
    for word in ("2/11", "pretrain-02", "7/40", "name-of-...", "2.50 %"):
        assert word in shown


def test_a_narrow_terminal_cuts_names_and_no_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    ids = ["first-" + "long-" * 12 + "end", "second"]
    jobs = [_job(ids[0], "running"), _job(ids[1], "succeeded", test_error=2.5)]
    door: Any = MadeUp(looks=[KeyboardInterrupt(), jobs])
    MatrixWatch(read_settings({}), door, ids, holds=False).run()
    shown = capsys.readouterr().err
    for word in ("first-long-l", "2/11 pretrain-02", "7/40", "succeeded", "2.50 %"):
        assert word in shown
    assert "…" in shown


def test_a_low_terminal_shows_the_members_that_move(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("LINES", "6")
    ids = [f"{number}" for number in range(50)]
    jobs = [_job(one, "running" if one == "40" else "queued") for one in ids]
    door: Any = MadeUp(looks=[KeyboardInterrupt(), jobs])
    MatrixWatch(read_settings({}), door, ids, holds=False).run()
    shown = capsys.readouterr().err
    assert "\n40 " in shown
    assert "\n39 " not in shown
    assert "0 of 50 have ended" in shown
