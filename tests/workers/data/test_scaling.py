"""A scaling is fitted to the training part, whole or in pieces."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.data.looking import features, loaded
from workers.data.scaling import Scaling


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=6), st.sampled_from(["unit", "standardize"])
)
@settings(deadline=None)
def test_a_scaling_fitted_to_pieces_is_that_of_the_whole(sizes: list[int], scale: Any) -> None:
    x = np.random.default_rng(len(sizes)).normal(5.0, 3.0, (sum(sizes), 3)).astype(np.float32)
    whole = Scaling.fitted(x, scale, None)
    pieces = Scaling.fitted_to_pieces(np.split(x, np.cumsum(sizes)[:-1]), scale, None)
    np.testing.assert_allclose(pieces.applied(x), whole.applied(x), atol=1e-4)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 123.456, -1e6])
def test_a_constant_feature_becomes_zero_and_no_rounding_is_blown_up(value: float) -> None:
    for num in range(2, 400, 7):
        x = np.full((num, 2), value)  # float64, as .npy files often are
        whole = Scaling.fitted(x.astype(np.float32), "standardize", None)
        pieces = Scaling.fitted_to_pieces(np.array_split(x, 2), "standardize", None)
        for scaling in (whole, pieces):
            assert scaling.divisor.tolist() == [1.0, 1.0]
            assert abs(scaling.applied(x)).max() < 0.1  # -1e6 is rounded to 1/16
    assert Scaling.fitted(np.zeros((3, 1), np.float32), "unit", None).divisor.tolist() == [1.0]


@pytest.mark.parametrize("source", ["npz", "npy"])
def test_only_the_training_part_decides(source: str, tmp_path: Path) -> None:
    x, y = np.zeros((40, 1)), np.arange(40) % 2
    x[::3] = 2.0
    x_test = np.full((4, 1), 1000.0)
    arrays = {"x": x, "y": y, "x_test": x_test, "y_test": y[:4]}
    np.savez(tmp_path / "set.npz", allow_pickle=False, **arrays)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    named: dict[str, Any] = {name: f"{name}.npy" for name in arrays}
    if source == "npz":
        named = {"path": "set.npz", "x_test": "x_test", "y_test": "y_test"}
    for scale, low, high in (("unit", 0.0, 1.0), ("standardize", -0.7338, 1.3628)):
        data = loaded(tmp_path, source=source, scale=scale, **named)
        values = features(data.train)
        assert [float(values.min()), float(values.max())] == pytest.approx([low, high], abs=1e-4)
        assert data.test is not None
        assert float(features(data.test).min()) > 100
