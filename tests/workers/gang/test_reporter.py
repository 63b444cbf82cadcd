"""Facts reach the service in order and once, whatever becomes of it meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.gang.launches import fact, launch, progress
from tests.workers.service_standin import StandIn, service_standin
from workers.contract.outcome import StopReason
from workers.contract.reports import Noticed
from workers.gang import reporter as reporter_module
from workers.gang.reporter import Reporter

PATIENCE_SECONDS = 20.0


@pytest.fixture
def service() -> Iterator[StandIn]:
    with service_standin() as standin:
        yield standin


@pytest.fixture
def reporter(service: StandIn, tmp_path: Path) -> Iterator[Reporter]:
    made = Reporter(launch(tmp_path), [service.url], "token")
    yield made
    with service.changed:
        service.is_away, service.is_closed = False, True
    made.wait_held(1 << 40, PATIENCE_SECONDS)
    assert made.is_closed


def notice(seq: int) -> Noticed:
    return Noticed(code=f"n{seq}", sentence="N.")


def test_facts_arrive_in_order(service: StandIn, reporter: Reporter) -> None:
    for seq in range(1, 1201):  # more than fit into one report
        reporter.submit(fact(seq, notice(seq)))
    assert reporter.wait_held(1200, PATIENCE_SECONDS)
    assert [one["seq"] for one in service.facts] == list(range(1, 1201))


def test_nothing_is_lost_while_the_service_is_away(service: StandIn, reporter: Reporter) -> None:
    service.is_away = True
    for seq in range(1, 11):
        reporter.submit(fact(seq, notice(seq)))
    service.wait(lambda: service.refused >= 2, "the reporter tries again")
    assert service.facts == []
    service.is_away = False
    assert reporter.wait_held(10, PATIENCE_SECONDS)
    assert [one["seq"] for one in service.facts] == list(range(1, 11))


def test_of_a_long_absence_the_oldest_progress_goes_and_no_other_fact(
    service: StandIn, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter_module, "PROGRESS_MAX", 5)
    service.is_away = True
    service.wait(lambda: service.refused >= 1, "the service is away")
    reporter.submit(fact(1, notice(1)))
    for seq in range(2, 11):
        reporter.submit(fact(seq, progress(seq)))
    service.is_away = False
    assert reporter.wait_held(10, PATIENCE_SECONDS)
    assert [one["seq"] for one in service.facts] == [1, 7, 8, 9, 10]


def test_it_says_that_it_lives_when_nothing_happens(service: StandIn, reporter: Reporter) -> None:
    service.wait(lambda: service.requests >= 3, "three heartbeats")
    assert service.facts == []
    assert not reporter.is_closed


def test_an_order_to_stop_comes_with_an_answer(service: StandIn, reporter: Reporter) -> None:
    service.stop = {"reason": "hold", "grace_seconds": 60.0}
    reporter.submit(fact(1, notice(1)))
    assert reporter.wait_held(1, PATIENCE_SECONDS)
    before = service.requests
    service.wait(lambda: service.requests > before + 1, "another heartbeat")
    assert reporter.stop_order is not None
    assert reporter.stop_order.reason is StopReason.HOLD


def test_a_closed_attempt_is_not_told_again(service: StandIn, reporter: Reporter) -> None:
    service.is_closed = True
    reporter.submit(fact(1, notice(1)))
    assert not reporter.wait_held(1, PATIENCE_SECONDS)
    assert reporter.is_closed
    assert service.facts == []


def test_facts_that_are_answered_and_not_held_are_not_told_in_a_rush(
    service: StandIn, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter_module, "BACKOFF_SECONDS", 0.2)
    service.is_forgetful = True
    before = service.requests
    reporter.submit(fact(1, notice(1)))
    service.wait(lambda: service.requests >= before + 3, "it tries again")
    assert service.requests < before + 10
    service.is_forgetful = False
    assert reporter.wait_held(1, PATIENCE_SECONDS)
