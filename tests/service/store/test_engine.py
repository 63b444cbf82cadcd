"""The database's settings, its transactions, and what becomes of its errors."""

import socket
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.exc import IntegrityError

from service.domain.errors import BadInput, Unreachable
from service.store.engine import database_now, open_engine, reading, writing
from service.store.store import Store
from service.store.tables import metadata, schema_release
from tests.clock import ManualClock
from tests.contracts.lives import TOLD_AT, new_job, wrote

DEADLINE_SECONDS = 30.0


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    "url", ["", "strata.db", "mysql://host/name", "no-such-thing://x", "postgresql"]
)
def test_a_url_that_is_no_database_of_ours_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(BadInput, match=r"STRATA_DATABASE_URL.*write sqlite:///"):
        open_engine(url)


def test_a_url_that_is_refused_is_not_shown() -> None:
    url = "postgresql://eva:one@host:secret/strata"  # an @ that is not URL-encoded
    with pytest.raises(BadInput) as caught:
        open_engine(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_an_acknowledged_write_on_sqlite_survives_power_loss_and_readers_do_not_wait(
    sqlite_url: str,
) -> None:
    with reading(open_engine(sqlite_url)) as connection:
        settings = {
            name: connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


def test_an_acknowledged_write_on_postgres_survives_power_loss_and_a_frozen_server_is_cut_off(
    postgres_url: str,
) -> None:
    with reading(open_engine(postgres_url)) as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"
        assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "5s"


def test_a_frozen_transaction_is_ended_so_that_its_heir_gets_the_lock(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    metadata.create_all(engine)
    with writing(engine) as connection:
        connection.execute(insert(schema_release).values(number=1))
    lock = select(schema_release).with_for_update()

    def inherit() -> int:
        with writing(engine) as connection:
            return len(connection.execute(lock).all())

    def freeze(pool: ThreadPoolExecutor) -> None:
        with writing(engine) as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))
            connection.execute(lock)
            assert pool.submit(inherit).result(DEADLINE_SECONDS) == 1
            connection.execute(lock)

    with ThreadPoolExecutor(1) as pool, pytest.raises(Unreachable):
        freeze(pool)


def test_a_block_is_committed_whole_or_not_at_all(engine: Engine) -> None:
    def fail() -> None:
        with writing(engine) as connection:
            connection.execute(insert(schema_release).values(number=77))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    with reading(engine) as connection:
        assert 77 not in connection.scalars(select(schema_release.c.number)).all()
    with writing(engine) as connection:
        connection.execute(insert(schema_release).values(number=78))
    with reading(engine) as connection:
        assert 78 in connection.scalars(select(schema_release.c.number)).all()


def test_a_reader_sees_no_write_that_is_not_committed_and_does_not_wait_for_it(
    engine: Engine,
) -> None:
    with writing(engine) as writer:
        writer.execute(insert(schema_release).values(number=77))
        with reading(engine) as reader:
            assert 77 not in reader.scalars(select(schema_release.c.number)).all()


def test_a_foreign_key_is_kept(engine: Engine) -> None:
    store = Store(engine)
    with pytest.raises(IntegrityError) as caught, store.write() as tx:
        tx.notice(new_job().id, None, "gang", "of_no_job", "a secret")
    assert "secret" not in str(caught.value), "it would come into the log"


def test_a_value_that_does_not_fit_is_bad_input_and_not_a_failure_of_ours(
    postgres_url: str,
) -> None:
    engine = open_engine(postgres_url)
    metadata.create_all(engine)
    store = Store(engine)
    with pytest.raises(BadInput, match="too long"), store.write() as tx:
        tx.add_job(new_job(key="k" * 300))


def test_a_number_beyond_the_databases_is_bad_input(engine: Engine) -> None:
    with pytest.raises(BadInput, match="can't hold a value"), Store(engine).write() as tx:
        tx.add_checkpoint(new_job().id, wrote(new_job(), 2**63), TOLD_AT)


def test_a_database_without_a_schema_says_what_to_run(empty_database_url: str) -> None:
    with pytest.raises(Unreachable, match="strata db upgrade"):
        Store(open_engine(empty_database_url)).job(new_job().id)


def test_postgres_that_does_not_answer_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # bound, but nobody listens
        store = Store(open_engine(f"postgresql://eva:secret@127.0.0.1:{port}/strata"))
        with pytest.raises(Unreachable, match="does not answer") as refusal:
            store.now()
    assert "secret" not in str(refusal.value)


def test_a_sqlite_file_that_can_not_be_opened_is_unreachable(tmp_path: Path) -> None:
    store = Store(open_engine(f"sqlite:///{tmp_path}/no/such/folder/strata.db"))
    with pytest.raises(Unreachable, match="unable to open"):
        store.now()


def test_a_connection_that_broke_is_unreachable_once_and_then_replaced(postgres_url: str) -> None:
    engine = open_engine(postgres_url)

    def be_cut_off() -> None:
        with writing(engine) as connection:
            own = connection.scalar(text("SELECT pg_backend_pid()"))
            with reading(engine) as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": own})
            connection.execute(text("SELECT 1"))

    with pytest.raises(Unreachable):
        be_cut_off()
    assert Store(engine).now() > datetime(2020, 1, 1, tzinfo=UTC)


def test_a_connection_that_broke_while_it_was_idle_is_not_noticed(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with reading(engine) as connection:
        own = connection.scalar(text("SELECT pg_backend_pid()"))
    other = open_engine(postgres_url)
    with reading(other) as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": own})
    assert Store(engine).now() > datetime(2020, 1, 1, tzinfo=UTC)


def test_the_clock_of_sqlite_is_the_one_that_it_was_given(sqlite_url: str) -> None:
    clock = ManualClock()
    store = Store(open_engine(sqlite_url, clock.now))
    began_at = clock.now()
    assert store.now() == began_at
    clock.advance(1.5)
    assert store.now() == began_at + timedelta(seconds=1.5)


def test_the_clock_of_postgres_is_the_servers_and_goes_on_within_a_transaction(
    postgres_url: str,
) -> None:
    engine = open_engine(postgres_url, ManualClock().now)
    with reading(engine) as connection:
        first = database_now(connection)
        connection.execute(text("SELECT pg_sleep(0.002)"))
        second = database_now(connection)
    assert second - first >= timedelta(milliseconds=2)
    assert abs(datetime.now(UTC) - first) < timedelta(minutes=5)


def test_a_database_in_memory_serves_many_threads() -> None:
    engine = open_engine("sqlite://")
    metadata.create_all(engine)
    store = Store(engine)
    barrier = threading.Barrier(4)

    def work(thread: int) -> None:
        barrier.wait(DEADLINE_SECONDS)
        for number in range(25):
            with store.write() as tx:
                job = tx.add_job(new_job(100 * thread + number))
            assert store.job(job.id) == job

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4), timeout=DEADLINE_SECONDS))
    assert sum(store.count_jobs().values()) == 100
