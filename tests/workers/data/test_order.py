"""The order of the data is the same for any number of workers."""

import pytest
import torch

from workers.data.order import epoch_order, rank_part
from workers.data.seeds import derived_seed


def test_an_epoch_sees_every_sample_once_in_an_order_of_its_own() -> None:
    order = epoch_order(100, seed=0, stage_index=1, epoch=2)
    assert sorted(order.tolist()) == list(range(100))
    assert torch.equal(order, epoch_order(100, 0, 1, 2))
    for other in (epoch_order(100, 1, 1, 2), epoch_order(100, 0, 2, 2), epoch_order(100, 0, 1, 3)):
        assert not torch.equal(order, other)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_the_ranks_parts_make_up_the_batch_and_differ_by_one_at_the_most(world_size: int) -> None:
    parts = [rank_part(101, rank, world_size) for rank in range(world_size)]
    assert [k for part in parts for k in range(101)[part]] == list(range(101))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_words_in_another_order_give_another_seed() -> None:
    assert derived_seed(0, "order", 1, 2) != derived_seed(0, "order", 2, 1)
    assert 0 <= derived_seed(2**32 - 1, "net") < 2**63
