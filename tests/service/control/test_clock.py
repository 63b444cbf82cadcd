"""Ids are UUIDv7, in order inside a process whatever its clock and its threads do."""

import threading
import uuid

import pytest

from service.control.clock import JobIds, SystemClock


def test_an_id_is_a_uuid_of_version_7_and_the_rfcs_variant() -> None:
    made = uuid.UUID(JobIds()())
    assert made.version == 7
    assert made.variant == uuid.RFC_4122


def test_ids_grow_while_the_clock_stands_still_or_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = JobIds()
    made = []
    for now_ns in (5_000_000_000, 5_000_000_000, 1_000_000_000, 6_000_000_000):
        monkeypatch.setattr("service.control.clock.time.time_ns", lambda now_ns=now_ns: now_ns)
        made += [ids() for _ in range(100)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_threads_never_share_an_id() -> None:
    ids, made = JobIds(), set()
    lock = threading.Lock()

    def make() -> None:
        mine = {ids() for _ in range(500)}
        with lock:
            made.update(mine)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2000


def test_the_clock_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
