"""The example jobs reach the published figures, through queue, database, Ray and checkpoints."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.home import Home, homes

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"

BANDS = {  # test error in %: seed 0, two workers, wide margins around the published means
    "digits-shallow": (0.0, 6.0),
    "digits-deep-stuck": (80.0, 100.0),
    "digits-pretrained-rbm": (0.0, 8.0),
    "digits-pretrained-pcd": (0.0, 8.0),
    "digits-pretrained-dae": (0.0, 8.0),
    "digits-pretrained-greedy": (0.0, 8.0),
    "digits-resnet-greedy": (0.0, 8.0),
}
PRETRAINED = {name: 10 for name in BANDS if "pretrained" in name} | {"digits-resnet-greedy": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    yield from homes(tmp_path_factory.mktemp("examples"))


def test_every_digits_example_has_a_band() -> None:
    assert {path.stem for path in EXAMPLES.glob("digits-*.yaml")} == set(BANDS)


@pytest.mark.parametrize("name", sorted(BANDS))
def test_an_example_ends_inside_its_band(home: Home, name: str) -> None:
    low, high = BANDS[name]
    answer = home.json("run", str(EXAMPLES / f"{name}.yaml"))
    assert answer["state"] == "succeeded"
    assert answer["attempts"] == 1
    assert low <= answer["metrics"]["test_error"] <= high
    kinds = [stage["kind"] for stage in answer["stages"]]
    assert kinds[-1] == "finetune"
    assert len(kinds) == PRETRAINED.get(name, 0) + 1
    assert all(stage["seconds"] > 0 for stage in answer["stages"])
    verified = home.json("checkpoints", "verify", answer["id"])
    assert [v["damage"] for v in verified["verified"]] == [None]
