"""Samples of one's own: arrays, or read row by row; what is no such thing is refused."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.workers.data.looking import features, loaded
from workers.contract.outcome import ConfigFailure

Array = npt.NDArray[Any]
NUM = 30
X = np.random.default_rng(0).normal(3.0, 2.0, (NUM, 4)).astype(np.float32)
Y = np.arange(NUM) % 3


class _FarAway:
    """Rows that are read some at a time; it counts them."""

    shape = (NUM, 4)

    def __init__(self) -> None:
        self.most_at_once = 0

    def __getitem__(self, numbers: Array) -> Array:
        self.most_at_once = max(self.most_at_once, len(numbers))
        return X[numbers]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of the user's, that a recipe may import."""
    module = types.ModuleType("own_samples")
    monkeypatch.setitem(sys.modules, "own_samples", module)
    return module


def test_samples_of_ones_own_are_arrays_or_are_read_row_by_row(
    own: types.ModuleType, tmp_path: Path
) -> None:
    far = _FarAway()
    own.near = lambda shift: (X + shift, Y.tolist())  # type: ignore[attr-defined]
    own.far = lambda: (far, Y)  # type: ignore[attr-defined]
    own.divided = lambda: (X, Y, X[:9] + 1, Y[:9])  # type: ignore[attr-defined]
    custom = {"source": "custom", "test_fraction": 0.0}
    near = loaded(tmp_path, **custom, **{"import": "own_samples:near"}, options={"shift": 1.0})
    torch.testing.assert_close(features(near.train), torch.from_numpy(X + 1))
    by_row = loaded(tmp_path, **custom, **{"import": "own_samples:far"})
    assert far.most_at_once == 0  # nothing is read before it is asked for
    torch.testing.assert_close(features(by_row.train), torch.from_numpy(X))
    with_test = loaded(tmp_path, **custom, **{"import": "own_samples:divided"}).test
    assert with_test is not None
    torch.testing.assert_close(features(with_test), torch.from_numpy(X[:9] + 1))


def test_what_is_wrong_with_samples_of_ones_own_is_said(
    own: types.ModuleType, tmp_path: Path
) -> None:
    own.none = lambda: None  # type: ignore[attr-defined]
    custom = {"source": "custom"}
    with pytest.raises(ConfigFailure, match=r"must return \(x, y\)"):
        loaded(tmp_path, **custom, **{"import": "own_samples:none"})
    own.ragged = lambda: ([[1.0], [1.0, 2.0]], [0, 1])  # type: ignore[attr-defined]
    with pytest.raises(ConfigFailure, match=r"own_samples:ragged returns what is no array"):
        loaded(tmp_path, **custom, **{"import": "own_samples:ragged"})
    with pytest.raises(ConfigFailure, match=r"data\.import: .* can't be imported"):
        loaded(tmp_path, **custom, **{"import": "own_samples:nobody"})
    with pytest.raises(ConfigFailure, match=r"can't be called .* options colour"):
        loaded(tmp_path, **custom, **{"import": "own_samples:none"}, options={"colour": 1})
