"""Convolutional layers that were pretrained one by one leave a net that learns, on two ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.training.attempts import Run, launch, recipe, run_alone, run_gang, saved_tensors
from workers.contract.outcome import Result
from workers.contract.recipe import Recipe
from workers.contract.reports import Noticed, StageEnded

GREEDY: dict[str, Any] = {"method": "greedy_supervised", "aux_head_depth": 2}
DENOISING: dict[str, Any] = {
    "method": "denoising_autoencoder",
    "tied_weights": False,
    "reconstruction_loss": "mse",
}
STEPS_PER_EPOCH = 14  # 1,437 samples in batches of 101, which two ranks can't share evenly


def _recipe(pretraining: dict[str, Any], stage_epochs: int, epochs: int) -> Recipe:
    return recipe(
        data={"source": "digits", "image": True, "test_fraction": 0.2},
        model={"kind": "resnet", "depth": 20, "width": 8},
        pretraining={"layers": 2, "epochs": stage_epochs, "batch_size": 101, **pretraining},
        training={"epochs": epochs, "batch_size": 101, "schedule": {"name": "cosine"}},
    )


def test_two_ranks_pretrain_blocks_in_either_way_and_the_net_learns(tmp_path: Path) -> None:
    greedy, denoising = (_recipe(method, 6, 6) for method in (GREEDY, DENOISING))
    attempts = run_gang(
        [
            Run(launch(greedy, tmp_path / "greedy", world_size=2)),
            Run(launch(denoising, tmp_path / "denoising", world_size=2)),
        ],
        tmp_path,
    )
    for attempt in attempts:
        assert attempt.outcome.metrics["test_error"] < 15.0
        stem, block, _ = attempt.recorder.of(StageEnded)
        assert [stage.steps for stage in (stem, block)] == [6 * STEPS_PER_EPOCH] * 2
        assert stem.loss_last < 0.9 * stem.loss_first
        assert block.loss_last < 0.5 * block.loss_first
        assert min(stem.metrics["code_sd"], block.metrics["code_sd"]) > 0.1
        assert attempt.recorder.of(Noticed) == []


@pytest.mark.parametrize(
    "pretraining",
    [GREEDY, GREEDY | {"parallel": True, "epochs": 3}, DENOISING],
    ids=["greedy", "parallel", "denoising"],
)
@pytest.mark.parametrize("moment", [STEPS_PER_EPOCH + 5, 2 * STEPS_PER_EPOCH + 3])
def test_an_interrupted_stage_of_images_goes_on_to_the_same_bits(
    pretraining: dict[str, Any], moment: int, tmp_path: Path
) -> None:
    """Heads, decoders and running statistics are in the checkpoint."""
    told = _recipe(pretraining, 2, 1)
    whole = run_alone(launch(told, tmp_path / "whole"))
    stopped = run_alone(launch(told, tmp_path / "cut"), stop_at=moment)
    assert stopped.outcome.result is Result.STOPPED
    torch.manual_seed(1)  # the second attempt must not live on what the first left behind
    again = run_alone(launch(told, tmp_path / "cut", 2, stopped.recorder.refs))
    assert again.outcome.metrics == whole.outcome.metrics
    expected = saved_tensors(tmp_path / "whole", whole.recorder.refs[0])
    found = saved_tensors(tmp_path / "cut", again.recorder.refs[0])
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
