"""One house for each test."""

from pathlib import Path

import pytest

from tests.service.control.house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    storage = tmp_path / "storage"
    storage.mkdir()
    return House(storage)
