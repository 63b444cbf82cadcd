"""What `strata profile` says of a trace that is there, is lost or never comes; a made-up job."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.cli import profile as module
from service.domain.errors import Conflict

OLD = {"id": 7, "reason": "profiled", "message": "an earlier one"}
Answer = dict[str, Any]


class MadeUp:
    """A server with one job; after the order its attempt says `then`, and is in `state`."""

    def __init__(self, then: list[Answer], state: str, attempt: int) -> None:
        self.client = self
        self.asked: list[tuple[str, Answer]] = []
        self._then, self._state, self._attempt = then, state, attempt

    def job(self, ref: str) -> str:
        return f"/v1/jobs/{ref}"

    def status(self, ref: str) -> Answer:
        if self.asked:
            return {"job": {"id": "id-1", "state": self._state, "attempt": self._attempt}}
        return {"job": {"id": "id-1", "state": "running", "attempt": 1}}

    def post(self, path: str, body: Answer) -> None:
        self.asked.append((path, body))

    def events(self, ref: str, after: int, wait_seconds: float = 0.0) -> list[Answer]:
        known = [OLD, *(self._then if self.asked else [])]
        return [event for event in known if event["id"] > after]


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, MadeUp]]:
    def run(
        *then: Answer, words: tuple[str, ...] = (), state: str = "running", attempt: int = 1
    ) -> tuple[Result, MadeUp]:
        door = MadeUp(list(then), state, attempt)
        monkeypatch.setattr(module, "server_door", lambda _settings: door)
        return CliRunner().invoke(module.profile, ["@latest", *words]), door

    return run


def said(code: str, message: str) -> Answer:
    return {"id": 9, "reason": code, "message": message}


def test_the_new_trace_is_told_not_an_earlier_one(trace: Any) -> None:
    asked = {"id": 8, "reason": "profile_asked", "message": "the next 3 steps"}
    result, door = trace(asked, said("profiled", "there"), words=("--steps", "3", "-o", "json"))
    assert json.loads(result.stdout) == {"job_id": "id-1", "message": "there"}
    assert door.asked == [("/v1/jobs/id-1/profile", {"steps": 3})]


def test_a_lost_trace_is_an_error(trace: Any) -> None:
    result, _ = trace(said("profile_failed", "The trace is lost: disk full"))
    assert isinstance(result.exception, Conflict)
    assert "disk full" in str(result.exception)


@pytest.mark.parametrize(("state", "attempt"), [("succeeded", 1), ("held", 1), ("running", 2)])
def test_an_attempt_that_ended_before_is_not_waited_for(
    trace: Any, state: str, attempt: int
) -> None:
    result, _ = trace(state=state, attempt=attempt)
    assert isinstance(result.exception, Conflict)
    assert "ended before there was a trace" in str(result.exception)


@pytest.mark.parametrize("steps", ["0", "1001", "x"])
def test_a_number_of_steps_has_limits(trace: Any, steps: str) -> None:
    result, door = trace(words=("--steps", steps))
    assert result.exit_code == 2
    assert door.asked == []
