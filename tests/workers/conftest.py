"""One Ray for all the tests that need a real one, and torch as tests want it."""

import sys
from collections.abc import Iterator

import pytest

from tests.workers.ray_house import RayHouse
from tests.workers.service_standin import service_standin
from workers.agent.local_ray import end_local_ray


@pytest.fixture(scope="session")
def ray_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHouse]:
    with service_standin() as service:
        house = RayHouse(tmp_path_factory.mktemp("ray"), service)
        house.home.mkdir()
        house.storage.mkdir()
        try:
            house.start_agent()
            yield house
        finally:
            house.close()
            end_local_ray(house.home)


@pytest.fixture
def house(ray_house: RayHouse) -> Iterator[RayHouse]:
    """The house with nothing in it, before and after."""
    yield ray_house
    ray_house.tidy()


@pytest.fixture(autouse=True)
def _torch_as_tests_want_it() -> Iterator[None]:
    """One thread: on tiny tensors several wait for each other, on a busy machine ten times as long.

    Training flushes denormal numbers in its process; here that is the process of all tests.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
