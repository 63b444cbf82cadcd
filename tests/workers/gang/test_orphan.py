"""A rank ends itself when nobody has called it for long."""

import threading

import pytest

from workers.gang import orphan
from workers.gang.orphan import OrphanWatch

PATIENCE_SECONDS = 20.0


def test_a_rank_that_nobody_calls_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphan, "LOOKS_MAX", 3)
    ended = threading.Event()
    OrphanWatch(ended.set, look_seconds=0.01)
    assert ended.wait(PATIENCE_SECONDS)


def test_a_rank_that_is_called_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphan, "LOOKS_MAX", 10)
    ended = threading.Event()
    watch = OrphanWatch(ended.set, look_seconds=0.05)
    pause = threading.Event()
    for _ in range(200):  # 1 s of calls, against 0.5 s of patience
        watch.called()
        pause.wait(0.005)
    assert not ended.is_set()
    assert ended.wait(PATIENCE_SECONDS)  # and then nobody calls any more
