"""Sums of losses: how often somebody looks changes no bit, and what is left out is not counted."""

import math
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.parallel.mesh import Seat
from workers.training import tally as module
from workers.training.tally import Tally

ALONE = Seat(0, 1, torch.device("cpu"))
LOSSES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40)


def told(losses: Iterable[float], *, leaves_out: bool = False, looks: Iterable[int] = ()) -> Tally:
    tally = Tally(ALONE, leaves_out=leaves_out)
    after = set(looks)
    for k, loss in enumerate(losses):
        tally.add(torch.tensor(loss))
        if k in after:
            tally.close_while()
    return tally


@given(LOSSES, st.sets(st.integers(0, 40)))
def test_looks_in_between_change_no_bit_of_the_epoch(losses: list[float], looks: set[int]) -> None:
    seldom, often = told(losses), told(losses, looks=looks)
    assert torch.equal(seldom.own_sum(), often.own_sum())
    assert seldom.close_epoch(len(losses)) == often.close_epoch(len(losses))


def test_more_losses_than_may_wait_are_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTED_MAX", 3)
    tally = told([1.0, 2.0, 3.0, 4.0])
    assert tally.close_while() == 2.5
    assert tally.epoch_sum() == 10.0


def test_one_loss_that_is_no_number_shows_in_the_mean() -> None:
    assert math.isnan(told([1.0, math.nan]).close_while())
    assert told([1.0, math.inf]).close_epoch(2) == math.inf


def test_what_is_left_out_counts_as_not_made() -> None:
    tally = told([1.0, math.nan, 3.0, math.inf], leaves_out=True)
    assert tally.close_while() == 2.0
    assert tally.close_epoch(4) == 2.0
    assert math.isnan(told([math.nan], leaves_out=True).close_while())


def test_an_epoch_goes_on_from_what_was_kept() -> None:
    before, after = told([1.0, 2.0]), told([9.0])
    after.restore(before.own_sum())
    after.add(torch.tensor(6.0))
    assert after.close_while() == 6.0
    assert after.close_epoch(3) == 3.0
