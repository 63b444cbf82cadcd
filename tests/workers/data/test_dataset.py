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

from tests.workers.data.looking import features, labels, loaded
from workers.contract.data_spec import DataSpec
from workers.contract.outcome import ConfigFailure
from workers.data.sources import Places, read_source
from workers.data.split import stratified


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
    vectors = features(loaded("/nowhere", source="digits").train)
    images = loaded("/nowhere", source="digits", image=True)
    assert images.shape == (1, 8, 8)
    assert torch.equal(features(images.train).flatten(1), vectors)


def test_digits_are_divided_by_class_and_scaled_to_the_unit() -> None:
    data = loaded("/nowhere", source="digits", test_fraction=0.2, validation_fraction=0.1)
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
    data = loaded(tmp_path, source="idx", path="mnist")
    assert data.test is not None
    expected = torch.from_numpy(images.reshape(30, 1, 4, 4) / 255.0).float()
    torch.testing.assert_close(features(data.train), expected)
    assert labels(data.train).tolist() == [k % 3 for k in range(30)]
    assert len(data.test) == 12


def test_npz_comes_from_any_url_below_a_data_root() -> None:
    with fsspec.open("memory://lake/set.npz", "wb") as stream:
        np.savez(stream, a=np.arange(40.0).reshape(10, 2, 2), b=np.arange(10) % 2)
    data = loaded(
        "memory://runs",
        root="memory://lake",
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
    data = loaded(
        tmp_path, source="npz", path="set.npz", x_test="x_test", y_test="y_test", scale="none"
    )
    assert data.test is not None
    assert len(data.train) == 6
    assert features(data.test).tolist() == [[4.0, 4.0], [4.0, 4.0]]


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "labels of another length": ({"x": np.ones((4, 2)), "y": np.zeros(3, int)}, "the labels must"),
    "labels that are fractions": ({"x": np.ones((4, 2)), "y": np.zeros(4)}, "the labels must"),
    "labels below zero": ({"x": np.ones((4, 2)), "y": -np.ones(4, int)}, "the labels must lie in"),
    "features that are NaN": ({"x": np.full((4, 2), np.nan), "y": np.zeros(4, int)}, "sample 0"),
    "features that are text": ({"x": np.array(["a"] * 4), "y": np.zeros(4, int)}, "the features"),
    "pickled objects": ({"x": np.array([{}, 1]), "y": np.zeros(2, int)}, "Object arrays"),
    "no samples": ({"x": np.ones((0, 2)), "y": np.zeros(0, int)}, "the features must be"),
    "an array that is not there": ({"z": np.ones(3)}, "it has z"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_wrong_arrays_are_refused_with_their_place(case: str, tmp_path: Path) -> None:
    arrays, sentence = BAD_ARRAYS[case]
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ConfigFailure, match=rf"set\.npz.*{sentence}"):
        loaded(tmp_path, source="npz", path="set.npz")


def test_an_npz_of_sequences_keeps_their_shape(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.zeros((6, 5, 4)), y=np.arange(6) % 2)
    spec: dict[str, Any] = {"source": "npz", "path": "set.npz"}
    assert loaded(tmp_path, **spec).shape == (1, 5, 4)
    assert loaded(tmp_path, **spec, sequences=True).shape == (5, 4)


def test_a_class_of_the_test_part_alone_has_its_place_in_the_net(tmp_path: Path) -> None:
    x, y = np.ones((6, 2)), np.array([0, 1, 0, 1, 0, 1])
    np.savez(tmp_path / "set.npz", x=x, y=y, x_test=x[:2], y_test=np.array([1, 4]))
    spec = {"source": "npz", "path": "set.npz", "x_test": "x_test", "y_test": "y_test"}
    assert loaded(tmp_path, **spec).num_classes == 5


@pytest.mark.parametrize("path", ["../set.npz", "/etc/passwd", "memory://elsewhere/set.npz"])
def test_data_outside_of_the_roots_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure, match=r"data\.path: .* lies outside"):
        loaded(tmp_path / "storage", source="npz", path=path)


def test_missing_files_and_what_is_no_npz_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure, match="there is no file"):
        loaded(tmp_path, source="npz", path="absent.npz")
    (tmp_path / "not.npz").write_bytes(b"hello")
    np.save(tmp_path / "x.npy", np.ones(3))
    for name in ("not.npz", "x.npy"):
        with pytest.raises(ConfigFailure, match=r"is not a \.npz file"):
            loaded(tmp_path, source="npz", path=name)
    with pytest.raises(ConfigFailure, match="neither train-images-idx3-ubyte nor"):
        loaded(tmp_path, source="idx", path=".")


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_with_a_flipped_byte_is_refused_in_a_sentence(
    compressed: bool, tmp_path: Path
) -> None:
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "set.npz", x=np.random.default_rng(0).random((50, 1)), y=np.arange(50) % 3)
    whole = (tmp_path / "set.npz").read_bytes()
    num_refused = 0
    for place in range(0, len(whole), 29):
        content = bytearray(whole)
        content[place] ^= 0xFF
        (tmp_path / "set.npz").write_bytes(content)
        try:
            loaded(tmp_path, source="npz", path="set.npz")
        except ConfigFailure:  # and nothing else
            num_refused += 1
    assert num_refused > 15  # some bytes, such as those of a time, do not matter


BAD_IDX: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not an idx file"),
    "another magic number": (b"\x89PNG\r\n", "is not an idx file"),
    "an unknown type": (b"\0\0\x07\x01\0\0\0\x01a", "is not an idx file"),
    "half a header": (b"\0\0\x08\x03\0\0\0", "ends within its header"),
    "fewer bytes than it says": (_idx(np.zeros((30, 4, 4)))[:-5], "its header says 496"),
    "more than any machine has": (b"\0\0\x08\x03" + b"\xff" * 12, "its header says 7922"),
    "no dimension": (b"\0\0\x08\x00a", "the features must be numbers"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", BAD_IDX)
def test_a_damaged_idx_file_is_named(case: str, packed: bool, tmp_path: Path) -> None:
    content, sentence = BAD_IDX[case]
    _write_mnist(tmp_path / "mnist", packed)
    file = tmp_path / "mnist" / f"train-images-idx3-ubyte{'.gz' * packed}"
    file.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ConfigFailure, match=rf"mnist.*{sentence}"):
        loaded(tmp_path, source="idx", path="mnist")


@pytest.mark.parametrize("place", [0, 12, 14, -1, None])
def test_a_damaged_gz_is_named(place: int | None, tmp_path: Path) -> None:
    _write_mnist(tmp_path / "mnist", packed=True)
    file = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    content = bytearray(file.read_bytes())
    if place is None:
        del content[-20:]
    else:
        content[place] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ConfigFailure, match=r"t10k-images-idx3-ubyte\.gz is damaged: .*copy it"):
        loaded(tmp_path, source="idx", path="mnist")
