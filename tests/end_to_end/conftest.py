"""The home that all may share who end their jobs and kill no servers: Ray starts once for them."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.home import Home, homes


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    yield from homes(tmp_path_factory.mktemp("home"))
