"""A leader's process is frozen for longer than its lease; when it wakes up, it writes nothing."""

import signal
import subprocess
import sys
import time

import pytest

from service.domain.asks import Leadership, Why
from service.domain.job import AttemptState
from service.domain.records import Reason
from service.store import schema
from service.store.engine import open_engine
from service.store.store import LEADER, Store
from tests.contracts.lives import RANKS, Lives, job_id

DEADLINE_SECONDS = 60.0
LEASE_SECONDS = 1.0
OURS = Why("heir", Reason.RESERVED)
LEADS = f"""
import sys
from service.domain.asks import Why
from service.domain.errors import NotLeader, Stale, Unreachable
from service.domain.records import Reason
from service.store import engine
from service.store.store import LEADER, Store
from tests.contracts.lives import RANKS, job_id

engine.IDLE_TRANSACTION_SECONDS = 1
store = Store(engine.open_engine(sys.argv[1]))
job = store.job(job_id(1))
term = store.take_lead(LEADER, "frozen", {LEASE_SECONDS})


def grant(pause):
    try:
        with store.write(term) as tx:
            pause()
            tx.reserve(job, "a", RANKS, Why("frozen", Reason.RESERVED))
    except (NotLeader, Stale, Unreachable) as refusal:
        return type(refusal).__name__
    return "granted"


def freeze():
    print("here", flush=True)
    sys.stdin.readline()


if sys.argv[2] == "before":
    freeze()
    print(grant(lambda: None))
else:
    print(grant(freeze))
    print(grant(lambda: None))
"""


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("before", ["NotLeader"]),
        ("within", ["Unreachable", "NotLeader"]),  # the database has cut it off, to free its locks
    ],
)
def test_who_was_frozen_before_or_within_a_transaction_writes_nothing(
    postgres_url: str, where: str, says: list[str]
) -> None:
    engine = open_engine(postgres_url)
    schema.upgrade(engine)
    store = Store(engine)
    job = Lives(store).queued()
    assert job.id == job_id(1)
    with subprocess.Popen(
        [sys.executable, "-c", LEADS, postgres_url, where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as leader:
        assert leader.stdout is not None
        try:
            assert leader.stdout.readline() == "here\n"
            leader.send_signal(signal.SIGSTOP)
            heir = succeed(store)
            with store.write(heir) as tx:
                tx.reserve(job, "b", RANKS, OURS)
        finally:
            leader.send_signal(signal.SIGCONT)
        told, _ = leader.communicate("wake up\n", DEADLINE_SECONDS)
    assert told.split() == says
    [attempt] = store.attempts(job.id)
    assert (attempt.agent, attempt.state) == ("b", AttemptState.RESERVED)
    moves = [(event.actor, event.move) for event in store.events(job.id, 0, 10)]
    assert moves[1:] == [("heir", "reserve")] * 2
    engine.dispose()


def succeed(store: Store) -> Leadership:
    """Lead as soon as the lease is over; the frozen one may still hold the row."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        term = store.take_lead(LEADER, "heir", DEADLINE_SECONDS)
        if term is not None:
            assert term.epoch == 2
            return term
        assert time.monotonic() < deadline
