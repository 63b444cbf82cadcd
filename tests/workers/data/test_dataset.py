"""Data from every source, scaled and divided; and what is said when it is not as it should be."""

import gzip
import struct
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn.datasets import load_digits

from tests.workers.data.looking import features, labels
from workers.contract.data_spec import DataSpec
from workers.contract.outcome import ConfigFailure
from workers.data.dataset import Dataset, load_dataset
from workers.data.sources import Places, read_source
from workers.data.split import stratified


def _load(storage: Path | str, roots: tuple[str, ...] = (), **spec: Any) -> Dataset:
    parsed: Any = TypeAdapter(DataSpec).validate_python(spec)
    return load_dataset(parsed, Places(str(storage), roots))


def _idx(array: np.ndarray[Any, Any]) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def _write_mnist(folder: Path, packed: bool) -> np.ndarray[Any, Any]:
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4))
    for part, count in (("train", 30), ("t10k", 12)):
        for name, array in (
            (f"{part}-images-idx3-ubyte", images[:count]),
            (f"{part}-labels-idx1-ubyte", np.arange(count) % 3),
        ):
            content = _idx(array)
            file = folder / (f"{name}.gz" if packed else name)
            file.write_bytes(gzip.compress(content) if packed else content)
    return images


def test_digits_are_those_of_scikit_learn() -> None:
    spec: Any = TypeAdapter(DataSpec).validate_python({"source": "digits"})
    stored = read_source(spec, Places("/nowhere"))
    x, y = load_digits(return_X_y=True)
    assert np.array_equal(stored.x, x)
    assert np.array_equal(stored.y, y)


def test_digits_are_images_where_that_is_asked_for() -> None:
    vectors = features(_load("/nowhere", source="digits").train)
    images = _load("/nowhere", source="digits", image=True)
    assert images.shape == (1, 8, 8)
    assert torch.equal(features(images.train).flatten(1), vectors)


def test_digits_are_divided_by_class_and_scaled_to_the_unit() -> None:
    data = _load("/nowhere", source="digits", test_fraction=0.2, validation_fraction=0.1)
    assert data.test is not None
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (1293, 144, 360)
    assert (data.shape, data.num_classes) == ((64,), 10)
    assert float(features(data.train).max()) == 1.0
    parts = [labels(part).bincount() for part in (data.train, data.validation, data.test)]
    shares = sum(parts) * (360 / 1797)
    assert float((parts[2] - shares).abs().max()) < 1.0


def test_a_split_follows_its_seed_and_loses_no_sample() -> None:
    labels = np.arange(101) % 7
    kept, held = stratified(labels, 0.3, seed=1, part="test")
    again, other = stratified(labels, 0.3, 1, "test"), stratified(labels, 0.3, 2, "test")
    assert sorted([*kept, *held]) == list(range(101))
    assert len(held) == 31
    assert np.array_equal(held, again[1])
    assert not np.array_equal(held, other[1])


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_plain_and_packed(packed: bool, tmp_path: Path) -> None:
    images = _write_mnist(tmp_path / "mnist", packed)
    data = _load(tmp_path, source="idx", path="mnist")
    assert data.test is not None
    expected = torch.from_numpy(images.reshape(30, 1, 4, 4) / 255.0).float()
    torch.testing.assert_close(features(data.train), expected)
    assert labels(data.train).tolist() == [k % 3 for k in range(30)]
    assert len(data.test) == 12


def test_npz_comes_from_any_url_below_a_data_root() -> None:
    with fsspec.open("memory://lake/set.npz", "wb") as stream:
        np.savez(stream, a=np.arange(40.0).reshape(10, 2, 2), b=np.arange(10) % 2)
    data = _load(
        "memory://runs",
        ("memory://lake",),
        source="npz",
        path="memory://lake/set.npz",
        x="a",
        y="b",
        scale="standardize",
    )
    assert data.shape == (1, 2, 2)
    data = data.flat()
    assert data.shape == (4,)
    assert len(data.train) == 8
    torch.testing.assert_close(features(data.train).mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(features(data.train).std(0, correction=0), torch.ones(4))


def test_npz_may_bring_its_own_test_part(tmp_path: Path) -> None:
    x, y = np.full((6, 2), 3.0), np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "set.npz", x=x, y=y, x_test=x[:2] + 1, y_test=y[:2])
    data = _load(
        tmp_path, source="npz", path="set.npz", x_test="x_test", y_test="y_test", scale="none"
    )
    assert data.test is not None
    assert len(data.train) == 6
    assert features(data.test).tolist() == [[4.0, 4.0], [4.0, 4.0]]


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "labels of another length": ({"x": np.ones((4, 2)), "y": np.zeros(3, int)}, "data.y"),
    "labels that are fractions": ({"x": np.ones((4, 2)), "y": np.zeros(4)}, "data.y"),
    "labels below zero": ({"x": np.ones((4, 2)), "y": -np.ones(4, int)}, "data.y"),
    "features that are NaN": ({"x": np.full((4, 2), np.nan), "y": np.zeros(4, int)}, "data.x"),
    "features that are text": ({"x": np.array(["a"] * 4), "y": np.zeros(4, int)}, "data.x"),
    "an array that is not there": ({"z": np.ones(3)}, "it has z"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_wrong_arrays_are_refused_with_their_place(case: str, tmp_path: Path) -> None:
    arrays, place = BAD_ARRAYS[case]
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ConfigFailure, match=place):
        _load(tmp_path, source="npz", path="set.npz")


@pytest.mark.parametrize("path", ["../set.npz", "/etc/passwd", "memory://elsewhere/set.npz"])
def test_data_outside_of_the_roots_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure, match=r"data\.path: .* lies outside"):
        _load(tmp_path / "storage", source="npz", path=path)


def test_missing_and_damaged_files_are_told_apart_from_storage_trouble(tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure, match="there is no file"):
        _load(tmp_path, source="npz", path="absent.npz")
    (tmp_path / "not.npz").write_bytes(b"hello")
    with pytest.raises(ConfigFailure, match=r"is not a \.npz"):
        _load(tmp_path, source="npz", path="not.npz")
    with pytest.raises(ConfigFailure, match="neither train-images-idx3-ubyte nor"):
        _load(tmp_path, source="idx", path=".")
    _write_mnist(tmp_path / "mnist", packed=False)
    cut = tmp_path / "mnist" / "train-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:-5])
    with pytest.raises(ConfigFailure, match="its header says"):
        _load(tmp_path, source="idx", path="mnist")
