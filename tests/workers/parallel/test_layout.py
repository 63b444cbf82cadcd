"""A layout that can't be is refused; layers may be computed twice and give the same."""

import sys

import pytest
import torch

from workers.contract.outcome import ConfigFailure
from workers.contract.training_spec import TrainingSpec
from workers.models.layered import Layer, Layered
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
