"""One worker needs no process group; what ranks agree on reads the same on each of them."""

import pytest
import torch
from torch import Tensor, nn

from workers.contract.outcome import ConfigFailure, StopReason
from workers.parallel.collectives import from_first, summed
from workers.parallel.mesh import Seat
from workers.parallel.replicas import Replicas
from workers.parallel.signals import Agreed, Signals

ALONE = Seat(0, 1, torch.device("cpu"))


class Quadratic(nn.Module):
    """The mean squared distance of a point from the rows of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(3))

    def forward(self, x_BV: Tensor, y_B: Tensor) -> Tensor:
        return (self.point - x_BV).square().sum(1).mean()


def test_gradients_are_fresh_at_every_step() -> None:
    module, x = Quadratic(), torch.randn(8, 3)
    replicas = Replicas(module, ALONE, fills_gradients=False)
    for _ in range(2):  # a gradient that was added to would double
        loss = replicas.gradients(x, torch.zeros(8), 1.0, Signals())
        assert module.point.grad is not None
        torch.testing.assert_close(module.point.grad, -2 * x.mean(0))
    torch.testing.assert_close(loss, x.square().sum(1).mean())
    assert not loss.requires_grad
    replicas.release()
    assert module.point.grad is None


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_parameter_that_gets_no_gradient_is_named(is_frozen: bool) -> None:
    module = Quadratic()
    if is_frozen:
        module.point.requires_grad = False
        module.moved = nn.Parameter(torch.zeros(1))
        module.register_forward_hook(lambda _m, _x, loss: loss + module.moved.sum())
    else:
        module.unused = nn.Parameter(torch.zeros(1))
    replicas = Replicas(module, ALONE, fills_gradients=False)
    named = "point" if is_frozen else "unused"
    with pytest.raises(ConfigFailure, match=rf"does not depend on {named}, or they are frozen"):
        replicas.gradients(torch.randn(8, 3), torch.zeros(8), 1.0, Signals())


def test_the_sum_of_all_marks_says_why_to_stop() -> None:
    mine, other = Signals(), Signals()
    mine.raise_marks(None, report=True, save=False)
    other.raise_marks(StopReason.TIME_LIMIT, report=False, save=True)
    assert mine.read() == Agreed(None, is_report_due=True, is_save_due=False)
    mine.marks += other.marks
    assert mine.read() == Agreed(StopReason.TIME_LIMIT, is_report_due=True, is_save_due=True)
    mine.raise_marks(None, report=False, save=False)
    assert mine.read() == Agreed(None, is_report_due=False, is_save_due=False)


def test_a_sum_over_ranks_leaves_its_argument_as_it_is() -> None:
    mine = torch.ones(2)
    summed(mine, ALONE).add_(1.0)
    assert mine.tolist() == [1.0, 1.0]
    assert from_first(lambda: 7, ALONE) == 7
