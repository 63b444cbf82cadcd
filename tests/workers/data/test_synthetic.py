"""Made samples follow from their numbers."""

from pathlib import Path

import torch

from tests.workers.data.looking import loaded


def test_made_samples_follow_from_their_numbers_and_take_no_room(tmp_path: Path) -> None:
    made = {"source": "synthetic", "shape": [3, 8, 8], "classes": 4, "samples": 10**8}
    data = loaded(tmp_path, **made, validation_samples=5)
    assert (len(data.train), data.num_classes, data.shape) == (10**8, 4, (3, 8, 8))
    numbers = torch.tensor([99_999_999, 0, 7])
    rows = data.train.rows(numbers, 0)
    assert torch.equal(rows.flip(0), data.train.rows(numbers.flip(0), 3))
    assert rows.min() >= 0.0
    assert rows.max() <= 1.0
    assert data.train.labels(numbers).tolist() == [3, 0, 3]
    assert data.test is not None
    assert not torch.equal(data.test.rows(numbers[1:2], 0), rows[1:2])
    of_one_class = data.train.rows(torch.tensor([0, 4]), 0)
    assert not torch.equal(of_one_class[0], of_one_class[1])
