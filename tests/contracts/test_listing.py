"""The quick list of jobs is the same JSON as the records'."""

from pathlib import Path

import pytest

from service.domain.asks import JobFilter, Why
from service.domain.job import JobMove
from service.domain.records import Reason
from service.http.shapes import to_json
from service.store import schema
from service.store.engine import open_engine
from service.store.listing import listed_jobs
from service.store.store import Store
from tests.contracts.lives import new_job


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "strata.db"


def test_the_quick_list_is_the_records_json(database: Path) -> None:
    engine = open_engine(f"sqlite:///{database}")
    schema.upgrade(engine)
    store = Store(engine)
    with store.write() as tx:
        added = [tx.add_job(new_job(n, queue=f"q{n % 2}")) for n in range(1, 5)]
        why = Why("user:eva", Reason.OWNER, "cancelled")
        tx.move_job(added[0], JobMove.CANCEL, why, metrics={"test_error": 2.5, "x": float("inf")})
    assert listed_jobs(database) == to_json(store.jobs(JobFilter()))
    assert [job["seq"] for job in listed_jobs(database, limit=2)] == [4, 3]
    assert [job["seq"] for job in listed_jobs(database, queue="q1")] == [3, 1]
    assert [job["seq"] for job in listed_jobs(database, states=["cancelled"])] == [1]
    assert [job["seq"] for job in listed_jobs(database, before=3)] == [2, 1]
    assert listed_jobs(database, name="nobody") == []
    engine.dispose()


def test_a_database_without_a_schema_lists_no_jobs(database: Path) -> None:
    database.touch()
    assert listed_jobs(database) == []
