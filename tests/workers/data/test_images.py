"""Pictures in class folders: listed once, decoded when asked for, refused where damaged."""

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from workers.contract.data_spec import DataSpec
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data.dataset import Dataset, load_dataset
from workers.data.sources import Places

CLASSES = ("cat", "dog", "eel")


def _load(storage: Path | str, **spec: Any) -> Dataset:
    parsed: Any = TypeAdapter(DataSpec).validate_python(
        {"source": "image_folder", "path": "set", "size": 4, **spec}
    )
    return load_dataset(parsed, Places(str(storage)))


def _write(file: Path, pixels: Any, mode: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(file)


def _write_classes(folder: Path, num: int = 10, classes: tuple[str, ...] = CLASSES) -> None:
    """Pictures of one colour, which says what they are: (class, number, 0)."""
    for label, name in enumerate(classes):
        for k in range(num):
            _write(folder / name / f"{k:02}.png", np.full((6, 8, 3), (10 * label, k, 0)))


def test_classes_are_numbered_by_name_and_divided_by_the_fractions(tmp_path: Path) -> None:
    _write_classes(tmp_path / "set")
    data = _load(tmp_path, test_fraction=0.2, validation_fraction=0.25)
    assert data.validation is not None
    assert data.test is not None
    assert (data.shape, data.num_classes) == ((3, 4, 4), 3)
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [18, 6, 6]
    seen = set()
    for part in parts:
        rows = torch.arange(len(part))
        x, y = part.rows(rows, 0), part.labels(rows)
        assert y.bincount().tolist() == [len(part) // 3] * 3
        assert torch.equal((x[:, 0] * 255).round(), 10.0 * y[:, None, None].expand(-1, 4, 4))
        seen |= {
            (int(label), int(k)) for label, k in zip(y, (x[:, 1, 0, 0] * 255).round(), strict=True)
        }
    assert len(seen) == 30
    assert torch.equal(torch.cat(list(data.train.passes())), data.train.rows(torch.arange(18), 3))


def test_folders_that_are_divided_stay_so(tmp_path: Path) -> None:
    _write_classes(tmp_path / "set/train", 6)
    _write_classes(tmp_path / "set/validation", 2)
    _write_classes(tmp_path / "set/test", 3, CLASSES[1:])
    data = _load(tmp_path, validation_fraction=0.5)
    assert data.validation is not None
    assert data.test is not None
    assert [len(part) for part in (data.train, data.validation, data.test)] == [18, 6, 6]
    assert data.test.labels(torch.arange(6)).tolist() == [1, 1, 1, 2, 2, 2]
    _write_classes(tmp_path / "set/test", 1, ("ant",))
    with pytest.raises(ConfigFailure, match=r"test/ant/00\.png is of the class ant"):
        _load(tmp_path)


def test_a_picture_is_scaled_by_its_shorter_side_and_its_middle_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 5:19] = 200  # the scaling looks a little over the edges of the middle
    _write(tmp_path / "set/a/wide.png", wide)
    data = _load(tmp_path, channels=1, test_fraction=0.0)
    assert data.shape == (1, 4, 4)
    x = data.train.rows(torch.tensor([0]), 0)
    torch.testing.assert_close(x, torch.full((1, 1, 4, 4), 200 / 255))


def test_jpegs_and_other_modes_are_shown_in_the_channels_asked_for(tmp_path: Path) -> None:
    _write(tmp_path / "set/a/grey.JPG", np.full((5, 5), 100))
    _write(tmp_path / "set/a/see_through.png", np.full((5, 5, 4), (100, 100, 100, 7)))
    Image.new("P", (9, 5), 0).save(tmp_path / "set/a/palette.png")
    (tmp_path / "set/a/notes.txt").write_text("not a picture")
    train = _load(tmp_path, test_fraction=0.0).train
    x = train.rows(torch.arange(3), 0)
    assert x.shape == (3, 3, 4, 4)
    torch.testing.assert_close(x[[0, 2]], torch.full((2, 3, 4, 4), 100 / 255))
    assert not x[1].any()


def test_a_folder_may_stand_at_any_url() -> None:
    for k in range(4):
        with fsspec.open(f"memory://pictures/set/a/{k}[0].png", "wb") as stream:
            Image.fromarray(np.full((4, 4, 3), 50 * k, np.uint8)).save(stream, "PNG")
    train = _load("memory://pictures", test_fraction=0.0).train
    torch.testing.assert_close(
        train.rows(torch.tensor([3, 0, 1]), 0)[:, 0, 0, 0], torch.tensor([150.0, 0, 50]) / 255
    )


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    _write_classes(tmp_path / "set", 2)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    for name in ("cut.jpg", "cut.png"):
        file = tmp_path / "set/dog" / name
        _write(file, noise)
        file.write_bytes(file.read_bytes()[:3000])
    (tmp_path / "set/dog/text.png").write_bytes(b"hello")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "set/dog/deep.png")
    train = _load(tmp_path, test_fraction=0.0).train
    bad = {"cut.jpg": 4, "cut.png": 5, "deep.png": 6, "text.png": 7}
    for name, index in bad.items():
        with pytest.raises(ConfigFailure, match=f"set/dog/{name} can't be decoded"):
            train.rows(torch.tensor([0, index]), 0)
    (tmp_path / "set/cat/00.png").unlink()
    with pytest.raises(StorageFailure, match=r"set/cat/00\.png can't be read"):
        train.rows(torch.tensor([0]), 0)


def test_a_folder_without_pictures_in_class_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure, match="has 0 class folders"):
        _load(tmp_path)
    _write(tmp_path / "set/alone.png", np.zeros((4, 4)))
    with pytest.raises(ConfigFailure, match="has 0 class folders"):
        _load(tmp_path)


def test_the_digest_follows_the_files_and_how_they_are_shown(tmp_path: Path) -> None:
    _write_classes(tmp_path / "set", 3)
    first = _load(tmp_path)
    digests = {first.train.digest(), _load(tmp_path, size=5).train.digest()}
    assert _load(tmp_path).train.digest() == first.train.digest()
    _write(tmp_path / "set/cat/00.png", np.zeros((50, 50)))
    digests.add(_load(tmp_path).train.digest())
    assert len(digests) == 3
