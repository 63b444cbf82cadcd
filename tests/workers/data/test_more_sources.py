"""Tables, .npy files, samples of one's own and made ones: read, divided, scaled, refused."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import TypeAdapter

from tests.workers.data.looking import features, labels
from workers.contract.data_spec import DataSpec
from workers.contract.outcome import ConfigFailure
from workers.data.dataset import Dataset, load_dataset
from workers.data.processes import prefetched
from workers.data.scaling import Scaling
from workers.data.sources import Places

Array = npt.NDArray[Any]
NUM = 30
X = np.random.default_rng(0).normal(3.0, 2.0, (NUM, 4)).astype(np.float32)
Y = np.arange(NUM) % 3
SPECIES = np.array(["setosa", "versicolor", "virginica"])


def _load(folder: Path, **spec: Any) -> Dataset:
    parsed: Any = TypeAdapter(DataSpec).validate_python(spec)
    return load_dataset(parsed, Places(str(folder)))


def _table(y: Array = Y) -> pa.Table:
    return pa.table({**{f"f{k}": X[:, k] for k in range(4)}, "species": pa.array(y.tolist())})


def _write_csv(path: Path, table: pa.Table) -> None:
    from pyarrow import csv

    csv.write_csv(table, path)


@pytest.mark.parametrize("source", ["csv", "parquet"])
def test_a_table_is_standardized_and_its_named_classes_are_numbered(
    source: str, tmp_path: Path
) -> None:
    write: Callable[..., None] = _write_csv if source == "csv" else _write_parquet
    write(tmp_path / f"iris.{source}", _table(SPECIES[Y]))
    data = _load(tmp_path, source=source, path=f"iris.{source}", label="species")
    assert (data.shape, data.num_classes, len(data.train)) == ((4,), 3, 24)
    torch.testing.assert_close(features(data.train).mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert labels(data.train).bincount().tolist() == [8, 8, 8]


def _write_parquet(path: Path, table: pa.Table) -> None:
    parquet.write_table(table, path)


def test_the_files_of_a_folder_are_one_table_and_columns_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    table = _table()
    for k in range(3):
        _write_parquet(tmp_path / "parts" / f"{k}.parquet", table.slice(10 * k, 10))
    data = _load(
        tmp_path,
        source="parquet",
        path="parts",
        label="species",
        features=["f2", "f0"],
        scale="none",
        test_fraction=0.0,
    )
    torch.testing.assert_close(features(data.train), torch.from_numpy(X[:, [2, 0]]))
    assert labels(data.train).tolist() == Y.tolist()


def test_what_is_wrong_with_a_table_is_said_with_its_place(tmp_path: Path) -> None:
    _write_csv(tmp_path / "t.csv", _table())
    table = {"source": "csv", "path": "t.csv", "label": "species"}
    with pytest.raises(ConfigFailure, match=r"data\.label: .* no column kind; it has f0, f1"):
        _load(tmp_path, **{**table, "label": "kind"})
    with pytest.raises(ConfigFailure, match=r"data\.features: .* no column f9"):
        _load(tmp_path, **table, features=["f9"])
    (tmp_path / "t.csv").write_text("f0,species\n1.5,0\n,1\n")
    with pytest.raises(ConfigFailure, match=r"row 2 .* no value in the column f0"):
        _load(tmp_path, **table)
    (tmp_path / "t.csv").write_text("f0,species\nred,0\nblue,1\n")
    with pytest.raises(ConfigFailure, match="holds string, not numbers"):
        _load(tmp_path, **table)
    (tmp_path / "t.csv").write_text("f0,species\n1,2,3\n")
    with pytest.raises(ConfigFailure, match="can't be read as a table"):
        _load(tmp_path, **table)
    with pytest.raises(ConfigFailure, match="is no file, and a folder of 0"):
        _load(tmp_path, **{**table, "path": "not-there.csv"})


def test_npy_files_are_mapped_and_divided_as_arrays_in_memory_are(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "both.npz", x=X, y=Y)
    more = {"validation_fraction": 0.2, "scale": "standardize"}
    mapped = _load(tmp_path, source="npy", x="x.npy", y="y.npy", **more)
    known = _load(tmp_path, source="npz", path="both.npz", **more)
    for part in ("train", "validation", "test"):
        found, expected = getattr(mapped, part), getattr(known, part)
        torch.testing.assert_close(features(found), features(expected), atol=1e-5, rtol=1e-5)
        assert labels(found).tolist() == labels(expected).tolist()
    order = mapped.train.order(0, 0, 0)
    assert torch.equal(order, known.train.order(0, 0, 0))
    ahead = prefetched(mapped.train, 1)
    ahead.expect(iter([order]), 0)
    assert torch.equal(ahead.rows(order, 0), mapped.train.rows(order, 0))
    ahead.close()


def test_other_content_of_a_npy_file_has_another_digest(tmp_path: Path) -> None:
    digests = set()
    for k in range(2):
        np.save(tmp_path / f"x{k}.npy", X + k)
        np.save(tmp_path / "y.npy", Y)
        digests.add(_load(tmp_path, source="npy", x=f"x{k}.npy", y="y.npy").train.digest())
    assert len(digests) == 2


def test_sequences_keep_their_shape_and_grey_images_get_a_channel(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((NUM, 5, 6), np.uint8))
    np.save(tmp_path / "y.npy", Y)
    files = {"source": "npy", "x": "x.npy", "y": "y.npy"}
    assert _load(tmp_path, **files).shape == (1, 5, 6)
    assert _load(tmp_path, **files, sequences=True).shape == (5, 6)


def test_npy_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y[:-1])
    with pytest.raises(ConfigFailure, match=r"data\.y: labels must be integers of shape \(30,\)"):
        _load(tmp_path, source="npy", x="x.npy", y="y.npy")
    (tmp_path / "y.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigFailure, match=r"is no \.npy file"):
        _load(tmp_path, source="npy", x="x.npy", y="y.npy")
    with pytest.raises(ConfigFailure, match="there is no file"):
        _load(tmp_path, source="npy", x="x.npy", y="z.npy")


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
    near = _load(tmp_path, **custom, **{"import": "own_samples:near"}, options={"shift": 1.0})
    torch.testing.assert_close(features(near.train), torch.from_numpy(X + 1))
    by_row = _load(tmp_path, **custom, **{"import": "own_samples:far"})
    assert far.most_at_once == 0  # nothing is read before it is asked for
    torch.testing.assert_close(features(by_row.train), torch.from_numpy(X))
    with_test = _load(tmp_path, **custom, **{"import": "own_samples:divided"}).test
    assert with_test is not None
    torch.testing.assert_close(features(with_test), torch.from_numpy(X[:9] + 1))


def test_what_is_wrong_with_samples_of_ones_own_is_said(
    own: types.ModuleType, tmp_path: Path
) -> None:
    own.none = lambda: None  # type: ignore[attr-defined]
    custom = {"source": "custom"}
    with pytest.raises(ConfigFailure, match=r"must return \(x, y\)"):
        _load(tmp_path, **custom, **{"import": "own_samples:none"})
    with pytest.raises(ConfigFailure, match=r"data\.import: .* can't be imported"):
        _load(tmp_path, **custom, **{"import": "own_samples:nobody"})
    with pytest.raises(ConfigFailure, match=r"can't be called .* options colour"):
        _load(tmp_path, **custom, **{"import": "own_samples:none"}, options={"colour": 1})


def test_made_samples_follow_from_their_numbers_and_take_no_room(tmp_path: Path) -> None:
    made = {"source": "synthetic", "shape": [3, 8, 8], "classes": 4, "samples": 10**8}
    data = _load(tmp_path, **made, validation_samples=5)
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


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=6), st.sampled_from(["unit", "standardize"])
)
def test_a_scaling_fitted_to_pieces_is_that_of_the_whole(sizes: list[int], scale: Any) -> None:
    x = np.random.default_rng(len(sizes)).normal(5.0, 3.0, (sum(sizes), 3)).astype(np.float32)
    whole = Scaling.fitted(x, scale, None)
    pieces = Scaling.fitted_to_pieces(np.split(x, np.cumsum(sizes)[:-1]), scale, None)
    np.testing.assert_allclose(pieces.applied(x), whole.applied(x), atol=1e-4)
