"""Reads pictures from class folders, and decodes them when they are asked for.

    <class>/a.png, <class>/more/b.jpg          divided by the recipe's fractions
    train/<class>/..., validation/..., test/...    as they are divided; only train must be there

Classes are numbered in the order of their names. The files are listed once; names and labels stay
in memory, pictures don't. Letters: N pictures, B of a batch, C channels, H and W pixels.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.contract.data_spec import ImageFolderData
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data.node_cache import file_system, listed
from workers.data.order import epoch_order
from workers.data.part import rows_at_once
from workers.data.sources import BYTE_LEVELS, CLASSES_MAX, Places
from workers.data.split import stratified

SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG")
DEEP_MODES = ("I", "F")  # 16 bits and more for a pixel, which Pillow would cut to the lowest 8
PARTS = ("train", "validation", "test")
FILES_MAX = 5_000_000  # their names take half a gigabyte in every rank


class Divided(NamedTuple):
    """The parts of a folder, and how many classes it has."""

    train: "ImageFolder"
    validation: "ImageFolder | None"
    test: "ImageFolder | None"
    num_classes: int


@dataclass(frozen=True)
class ImageFolder:
    """Pictures in files, decoded whenever they are asked for; in [0, 1]."""

    url: str
    files: tuple[str, ...]  # below the URL
    y_N: Tensor  # int64
    side: int
    channels: int
    stamp: str  # a hash of all that storage says of the files: another one where they changed
    device: torch.device
    changes = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture, (C, H, W)."""
        return (self.channels, self.side, self.side)

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """Return a hash of the names, sizes and times of the files, and of the shape."""
        hashed = hashlib.sha256(f"{self.url} {self.stamp} {self.shape}".encode())
        for file in self.files:
            hashed.update(f"\n{file}".encode())
        return hashed.hexdigest()

    def order(self, seed: int, stage_index: int, epoch: int) -> Tensor:
        """Return one permutation."""
        return epoch_order(len(self), seed, stage_index, epoch).to(self.device)

    def expect(self, batches: Iterator[Tensor], epoch: int) -> None:
        """Do nothing: `data.workers` reads ahead."""

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some pictures, (B, C, H, W).

        Raises:
            ConfigFailure: a file is damaged, or not what its name says.
            StorageFailure: a file can't be read.
        """
        files = [self.files[index] for index in indices_B.tolist()]
        x_BHWC = np.empty((len(files), self.side, self.side, self.channels), np.uint8)
        for k, content in enumerate(_contents(self.url, files)):
            x_BHWC[k] = self._decoded(content, files[k])
        x_BCHW = torch.from_numpy(x_BHWC).to(self.device).permute(0, 3, 1, 2).contiguous()
        return x_BCHW.float().div_(BYTE_LEVELS)

    def labels(self, indices_B: Tensor) -> Tensor:
        """Return their labels, (B,)."""
        return self.y_N.index_select(0, indices_B)

    def passes(self) -> Iterator[Tensor]:
        """Yield all pictures in order, some at a time."""
        for indices_B in torch.split(torch.arange(len(self)), rows_at_once(self.shape)):
            yield self.rows(indices_B, 0)

    def to(self, device: torch.device) -> "ImageFolder":
        """Return the part with its pictures on a device, from when they are decoded."""
        return replace(self, y_N=self.y_N.to(device), device=device)

    def close(self) -> None:
        """Do nothing: there are no processes."""

    def _decoded(self, content: bytes, file: str) -> npt.NDArray[np.uint8]:
        """The middle square of a picture in the size that is asked for, (H, W, C)."""
        from PIL import Image, ImageOps

        try:
            stored = Image.open(io.BytesIO(content), formats=FORMATS)
            if stored.mode.startswith(DEEP_MODES):
                raise ValueError(f"it has more than 8 bits a channel (mode {stored.mode})")
            image = stored.convert("L" if self.channels == 1 else "RGB")
            image = ImageOps.fit(image, (self.side, self.side), Image.Resampling.BILINEAR)
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise ConfigFailure(
                f"data.path: {self.url}/{file} can't be decoded: {error}; mend or remove it"
            ) from error
        return np.asarray(image, np.uint8).reshape(self.side, self.side, self.channels)


def load_images(spec: ImageFolderData, places: Places) -> Divided:
    """List the files of a folder, and divide them; the same on every rank.

    Raises:
        ConfigFailure: there are no pictures in class folders, or a part has a class of its own.
        StorageFailure: storage can't be read.
    """
    url = places.url(spec.path)
    found = _pictures(url)
    stamp = hashlib.sha256(repr(found).encode()).hexdigest()
    parts = _by_part(list(found))
    classes = sorted({name for name, _ in parts["train"]})
    if not classes or len(classes) > CLASSES_MAX:
        raise ConfigFailure(
            f"data.path: {url} has {len(classes)} class folders with pictures "
            f"({', '.join(SUFFIXES)}); give 1 to {CLASSES_MAX}, below train/ or at the top"
        )

    def part(files: Sequence[str], labels: npt.NDArray[np.int64]) -> ImageFolder | None:
        y_N = torch.from_numpy(np.ascontiguousarray(labels))
        shown = ImageFolder(url, tuple(files), y_N, spec.size, spec.channels, stamp, y_N.device)
        return shown if files else None

    files, labels = _numbered(parts["train"], classes)
    divided: dict[str, ImageFolder | None] = {}
    for name, fraction in (("test", spec.test_fraction), ("validation", spec.validation_fraction)):
        if parts[name]:
            divided[name] = part(*_numbered(parts[name], classes))
            continue
        kept, held = stratified(labels, fraction, spec.split_seed, name)
        divided[name] = part([files[k] for k in held], labels[held])
        files, labels = [files[k] for k in kept], labels[kept]
    train = part(files, labels)
    if train is None:
        raise ConfigFailure("data: no picture is left to train on; lower the fractions held out")
    return Divided(train, divided["validation"], divided["test"], len(classes))


def _by_part(files: list[str]) -> dict[str, list[tuple[str, str]]]:
    """(class, file) of each part; all are `train` where the folder is not divided."""
    parts: dict[str, list[tuple[str, str]]] = {name: [] for name in PARTS}
    is_divided = any(file.startswith("train/") for file in files)
    for file in files:
        part, _, below = file.partition("/") if is_divided else ("train", "", file)
        name, _, rest = below.partition("/")
        if part in parts and rest:
            parts[part].append((name, file))
    return parts


def _numbered(
    named: list[tuple[str, str]], classes: list[str]
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Files, and the numbers of their classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    for name, file in named:
        if name not in numbers:
            raise ConfigFailure(
                f"data.path: {file} is of the class {name}, of which there is nothing to train on"
            )
    labels = np.array([numbers[name] for name, _ in named], np.int64)
    return [file for _, file in named], labels


def _pictures(url: str) -> dict[str, str]:
    """All pictures below a URL in the order of their names, with what storage says of each."""
    found = listed(url)
    names = [name for name in found if name.lower().endswith(SUFFIXES)]
    if len(names) > FILES_MAX:
        raise ConfigFailure(
            f"data.path: {url} has {len(names)} pictures, and {FILES_MAX} are the most; "
            "pack them into shards"
        )
    return {name: repr(sorted(found[name].items())) for name in names}


def _contents(url: str, files: list[str]) -> Iterator[bytes]:
    """The content of each file; asked for all at once, so that a far storage is waited for once."""
    system, root = file_system(url)
    paths = [f"{root}/{file}" for file in files]
    try:
        answers = system.cat_ranges(paths, [None] * len(paths), [None] * len(paths))
    except Exception as error:  # object stores' libraries have errors of their own
        raise StorageFailure(f"{url} can't be read: {error}") from error
    for path, answer in zip(paths, answers, strict=True):
        if isinstance(answer, Exception):
            raise StorageFailure(f"{path} can't be read: {answer}") from answer
        yield answer
