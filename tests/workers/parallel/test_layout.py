"""A layout that can't be is refused; layers may be computed twice and give the same."""

import sys
from copy import deepcopy

import pytest
import torch

from workers.contract.model_spec import MlpModel
from workers.contract.outcome import ConfigFailure
from workers.contract.training_spec import TrainingSpec
from workers.models.catalog import build_net
from workers.models.layered import Layer, Layered, seeded
from workers.parallel.layout import lay_out
from workers.parallel.mesh import Seat

ALONE = Seat(0, 1, torch.device("cpu"))


class Counting(Layer):
    """Counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))
        self.num_passes = 0

    def forward(self, x_BV: torch.Tensor) -> torch.Tensor:
        self.num_passes += 1
        return (x_BV * self.weight).tanh()


def test_more_micro_batches_than_samples_of_a_worker_are_refused() -> None:
    net, training = Layered([], torch.nn.Identity()), TrainingSpec(batch_size=8, accumulate=5)
    lay_out(net, training, ALONE)
    with pytest.raises(ConfigFailure, match=r"4 samples of a worker .* raise training.batch_size"):
        lay_out(net, training, Seat(0, 2, torch.device("cpu")))


def test_what_can_not_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, training = Layered([], torch.nn.Identity()), TrainingSpec(compile=True)
    monkeypatch.setenv("CXX", "a-compiler-that-is-not-there")
    with pytest.raises(ConfigFailure, match=r"training\.compile: .* C\+\+ compiler"):
        lay_out(net, training, ALONE)
    monkeypatch.setenv("CXX", sys.executable)
    lay_out(net, training, ALONE)


@pytest.mark.parametrize(("keeps", "num_passes"), [(True, 1), (False, 2)])
def test_a_layer_whose_values_are_not_kept_is_computed_again(keeps: bool, num_passes: int) -> None:
    layer = Counting()
    net = Layered([layer], torch.nn.Identity())
    lay_out(net, TrainingSpec(activation_checkpointing=not keeps), ALONE)
    net(torch.tensor([[0.5]])).sum().backward()
    assert layer.num_passes == num_passes
    assert layer.weight.grad is not None
    assert layer.weight.grad.item() == pytest.approx(0.5 * (1 - 0.76159416**2))
    assert list(net.state_dict()) == ["layers.hidden-01.weight"]


@pytest.mark.parametrize("is_compiled", [False, True])
def test_running_statistics_move_once_where_values_are_not_kept(is_compiled: bool) -> None:
    model = MlpModel(kind="mlp", hidden=(5, 4), normalization="batch")
    kept = build_net(model, (6,), 3, seeded(0))
    recomputed = deepcopy(kept)
    lay_out(recomputed, TrainingSpec(activation_checkpointing=True), ALONE)
    x = torch.randn(8, 6, generator=seeded(1))
    for net in (kept, recomputed):
        net.train()
        forward = torch.compile(net, backend="aot_eager") if is_compiled else net
        for _ in range(2):
            forward(x).square().mean().backward()
    before, after = kept.state_dict(), recomputed.state_dict()
    assert before["layers.hidden-01.normalization.num_batches_tracked"] == 2
    for name in before:
        torch.testing.assert_close(after[name], before[name])
    for one, other in zip(kept.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)
