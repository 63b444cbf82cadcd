"""Samples in .npy files are mapped, never read whole, and are those of an array in memory."""

import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from tests.workers.data.looking import features, labels, loaded
from workers.contract.outcome import ConfigFailure
from workers.data.node_folder import VARIABLE
from workers.data.processes import prefetched
from workers.data.rows import ByRow, Mapped

NUM = 30
X = np.random.default_rng(0).normal(3.0, 2.0, (NUM, 4)).astype(np.float32)
Y = np.arange(NUM) % 3


def test_npy_files_are_mapped_and_divided_as_arrays_in_memory_are(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "both.npz", x=X, y=Y)
    more = {"validation_fraction": 0.2, "scale": "standardize"}
    mapped = loaded(tmp_path, source="npy", x="x.npy", y="y.npy", **more)
    known = loaded(tmp_path, source="npz", path="both.npz", **more)
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


def test_samples_without_labels_are_read_for_pretraining(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X)
    np.savetxt(tmp_path / "x.csv", X, delimiter=",", header="a,b,c,d", comments="")
    for spec in (
        {"source": "npy", "x": "x.npy", "y": None},
        {"source": "npz", "path": "x.npz", "y": None},
        {"source": "csv", "path": "x.csv", "label": None, "scale": "none"},
    ):
        data = loaded(tmp_path, **spec, test_fraction=0.0)
        torch.testing.assert_close(features(data.train), torch.from_numpy(X))
    with pytest.raises(ConfigFailure, match=r"data\.y: .* has no array y; it has x; .* y: null"):
        loaded(tmp_path, source="npz", path="x.npz")


def test_a_file_much_larger_than_what_is_asked_for_is_not_read(tmp_path: Path) -> None:
    """Most of it is a hole in the file, of more bytes than a machine has memory."""
    rows, width = 2**20, 2**15
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, width))
    np.save(tmp_path / "y.npy", np.arange(rows, dtype=np.uint8) % 2)
    data = loaded(tmp_path, source="npy", x="x.npy", y="y.npy")
    assert data.train.rows(torch.tensor([0, 700_000]), 0).shape == (2, width)
    assert len(pickle.dumps(data.train)) < 2**25  # the numbers of its rows, and their labels


def test_other_content_of_a_npy_file_has_another_digest(tmp_path: Path) -> None:
    digests = set()
    for k in range(2):
        np.save(tmp_path / f"x{k}.npy", X + k)
        np.save(tmp_path / "y.npy", Y)
        digests.add(loaded(tmp_path, source="npy", x=f"x{k}.npy", y="y.npy").train.digest())
    assert len(digests) == 2


def test_a_far_file_keeps_its_digest_whoever_else_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))
    lake = f"memory://{tmp_path.name}"
    for name, array in (("x", X), ("y", Y)):
        with fsspec.open(f"{lake}/{name}.npy", "wb") as stream:
            np.save(stream, array)
    urls: dict[str, Any] = {"source": "npy", "x": f"{lake}/x.npy", "y": f"{lake}/y.npy"}
    first = loaded(lake, **urls).train
    assert loaded(lake, **urls).train.digest() == first.digest()
    again = pickle.loads(pickle.dumps(first))
    assert torch.equal(features(again), features(first))


def test_a_file_that_changed_since_is_not_read_on_by_another_process(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    travelled = pickle.loads(pickle.dumps(Mapped(str(tmp_path / "x.npy"))))
    np.save(tmp_path / "x.npy", X[:20])
    with pytest.raises(ConfigFailure, match=r"x\.npy changed while it was read"):
        travelled[np.array([0])]


def test_sequences_keep_their_shape_and_grey_images_get_a_channel(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((NUM, 5, 6), np.uint8))
    np.save(tmp_path / "y.npy", Y)
    files = {"source": "npy", "x": "x.npy", "y": "y.npy"}
    assert loaded(tmp_path, **files).shape == (1, 5, 6)
    assert loaded(tmp_path, **files, sequences=True).shape == (5, 6)


def test_npy_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y[:-1])
    with pytest.raises(
        ConfigFailure, match=r"x\.npy: the labels must be integers of shape \(30,\)"
    ):
        loaded(tmp_path, source="npy", x="x.npy", y="y.npy")
    (tmp_path / "y.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigFailure, match=r"is no \.npy file"):
        loaded(tmp_path, source="npy", x="x.npy", y="y.npy")
    with pytest.raises(ConfigFailure, match="there is no file"):
        loaded(tmp_path, source="npy", x="x.npy", y="z.npy")


def test_a_header_with_a_flipped_byte_is_refused_in_a_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    whole = (tmp_path / "x.npy").read_bytes()
    num_refused = 0
    for place in range(80):  # what follows is filling
        content = bytearray(whole)
        content[place] ^= 0xFF
        (tmp_path / "x.npy").write_bytes(content)
        try:
            loaded(tmp_path, source="npy", x="x.npy", y="y.npy")
        except ConfigFailure:  # and nothing else
            num_refused += 1
    assert num_refused > 70
    np.savez(tmp_path / "x.npz", X)
    with pytest.raises(ConfigFailure, match=r"x\.npz is no \.npy file of one array"):
        loaded(tmp_path, source="npy", x="x.npz", y="y.npy")


BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "pickled objects": ({"x": np.array([{}, 1] * 15)}, r"x\.npy is no \.npy file of numbers"),
    "text": ({"x": np.array([["a"]] * NUM)}, r"x\.npy: the features must be numbers"),
    "nothing": ({"x": X[:0]}, r"x\.npy: the features must be numbers"),
    "text in the test part": (
        {"x_test": np.array([["a"] * 4] * 2), "y_test": Y[:2]},
        r"x_test\.npy: the features must be numbers",
    ),
    "other samples in the test part": ({"x_test": X[:2, :3], "y_test": Y[:2]}, "must agree"),
    "a number to be learned": ({"y": Y + 0.5}, r"x\.npy: the labels must be integers"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_what_is_wrong_with_an_array_is_said_before_training(case: str, tmp_path: Path) -> None:
    arrays, sentence = BAD_ROWS[case]
    arrays = {"x": X, "y": Y, **arrays}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(ConfigFailure, match=sentence):
        loaded(tmp_path, source="npy", **{name: f"{name}.npy" for name in arrays})


def test_a_sample_that_is_no_number_is_named_when_it_is_read(tmp_path: Path) -> None:
    x = X.copy()
    x[17, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", Y)
    files: dict[str, Any] = {"source": "npy", "x": "x.npy", "y": "y.npy", "test_fraction": 0.0}
    train = loaded(tmp_path, **files).train
    assert isinstance(train, ByRow)
    assert train.rows(torch.arange(17), 0).isfinite().all()
    with pytest.raises(ConfigFailure, match=r"x\.npy: sample 17, counted from 0, holds NaN"):
        train.rows(torch.tensor([3, 17]), 0)
    with pytest.raises(ConfigFailure, match="sample 17"):
        loaded(tmp_path, **files, scale="standardize")
