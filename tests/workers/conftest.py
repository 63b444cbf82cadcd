"""One Ray for all the tests that need a real one, and floats as others expect them."""

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
def _floats_stay_whole() -> Iterator[None]:
    """Training flushes denormal numbers in its process; here that is the process of all tests."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
