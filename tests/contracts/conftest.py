"""The store that the contract tests run on: on SQLite, and again on PostgreSQL."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from service.store.engine import open_engine
from service.store.store import Store
from tests.clock import ManualClock
from tests.contracts.lives import Lives


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(database_url: str, clock: ManualClock) -> Iterator[Engine]:
    engine = open_engine(database_url, clock.now)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.fixture
def lives(store: Store) -> Lives:
    return Lives(store)
