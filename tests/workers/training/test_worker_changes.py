"""A job goes on with 4 workers instead of 2, and then with 1: the same batches, the same losses.

The same losses to the rounding of sums in another order, as long as no worker draws random numbers
or takes a statistic of its own part of a batch: see the last test.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest

from tests.workers.training.attempts import Attempt, launch, recipe, run_gang
from tests.workers.training.noting import Noting, Seen, global_batches
from workers.contract.outcome import Result
from workers.contract.recipe import Recipe
from workers.contract.reports import Progress

STEPS_PER_EPOCH = 12  # 1,293 samples in batches of 101, which divide by neither 2 nor 4
STEPS = 5 * STEPS_PER_EPOCH
CHANGES = ((2, 17), (4, 39), (1, STEPS))  # so many workers, and after which step they stop
SAME = 1e-5  # relative
ALIKE = 0.2  # the same, where workers draw numbers
MODEL = {"kind": "mlp", "hidden": [12, 9], "activation": "tanh", "init": "xavier"}
TRAINING = {
    "epochs": 3,
    "batch_size": 101,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "clip_norm": 1.0,
}
WAYS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"training": {"parallel": "fsdp"}},
    "micro-batches": {"training": {"accumulate": 3}},
    "shards and micro-batches": {"training": {"parallel": "fsdp", "accumulate": 3}},
    "batch normalization": {"model": {"normalization": "batch"}},
}


def _recipe(model: dict[str, Any], training: dict[str, Any]) -> Recipe:
    """One pretrained layer, 2 epochs, and 3 epochs of fine-tuning."""
    return recipe(
        data={
            "source": "digits",
            "image": True,
            "validation_fraction": 0.1,
            "augment": {"crop_padding": 1, "noise": 0.1},
        },
        model={**MODEL, **model},
        pretraining={"method": "greedy_supervised", "layers": 1, "epochs": 2, "batch_size": 101},
        training={**TRAINING, **training},
    )


@dataclass
class Way:
    """The attempts of one job, and the global batch of every step that each of them took."""

    attempts: list[Attempt]
    batches: list[list[list[Seen]]]

    def losses(self) -> list[float]:
        """The loss of every step, over all attempts."""
        told = [one for attempt in self.attempts for one in attempt.recorder.of(Progress)]
        return [one.loss for one in told]


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Way, Way]]:
    """Each way of training: undisturbed with 2 workers, and with changes."""
    folder = tmp_path_factory.mktemp("changes")
    recipes = {
        way: _recipe(parts.get("model", {}), parts.get("training", {}))
        for way, parts in WAYS.items()
    }
    wholes = {way: Way([], []) for way in WAYS}
    changed = {way: Way([], []) for way in WAYS}
    for k, (world_size, stop_at) in enumerate(CHANGES):
        runs, ends = [], []
        for n, way in enumerate(WAYS):
            refs = changed[way].attempts[-1].recorder.refs if k else []
            storage, notes = folder / f"changed-{n}", folder / f"notes-{n}-{k}"
            spec = launch(recipes[way], storage, k + 1, refs, world_size)
            stops = stop_at if stop_at < STEPS else None
            runs.append(Noting(spec, stops, notes=notes))
            ends.append((changed[way], notes))
            if k == 0:
                notes = folder / f"notes-{n}-whole"
                spec = launch(recipes[way], folder / f"whole-{n}", world_size=world_size)
                runs.append(Noting(spec, notes=notes))
                ends.append((wholes[way], notes))
        attempts = run_gang(runs, folder, world_size, tells_every_step=True)
        for attempt, (way_of, notes) in zip(attempts, ends, strict=True):
            way_of.attempts.append(attempt)
            way_of.batches.append(global_batches(notes, world_size))
    return {way: (wholes[way], changed[way]) for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
def test_every_step_sees_the_batch_that_it_would_have_seen(
    way: str, ways: dict[str, tuple[Way, Way]]
) -> None:
    whole, changed = ways[way]
    assert [len(batches) for batches in changed.batches] == [17, 39 - 17, STEPS - 39]
    assert changed.attempts[-1].outcome.result is Result.SUCCEEDED
    (expected,) = whole.batches
    assert list(chain(*changed.batches)) == expected
    for start in range(0, STEPS, STEPS_PER_EPOCH):
        seen = [index for index, _ in chain(*expected[start : start + STEPS_PER_EPOCH])]
        assert len(set(seen)) == len(seen) == STEPS_PER_EPOCH * 101


@pytest.mark.parametrize("way", [way for way in WAYS if way != "batch normalization"])
def test_the_loss_curve_is_the_same(way: str, ways: dict[str, tuple[Way, Way]]) -> None:
    whole, changed = ways[way]
    expected = whole.losses()
    assert len(expected) == STEPS
    assert expected[-1] < 0.8 * expected[2 * STEPS_PER_EPOCH]  # it learns
    assert changed.losses() == pytest.approx(expected, rel=SAME)


def test_statistics_of_a_workers_own_part_make_it_another_but_not_a_worse_one(
    ways: dict[str, tuple[Way, Way]],
) -> None:
    whole, changed = (way.losses() for way in ways["batch normalization"])
    assert changed[:17] == whole[:17]
    assert changed[17:] != pytest.approx(whole[17:], rel=SAME)
    assert changed[17:] == pytest.approx(whole[17:], rel=ALIKE)
