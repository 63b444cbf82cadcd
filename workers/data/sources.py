"""Reads what a recipe's `data` names, as it is stored: digits, MNIST's idx files, or one .npz.

Paths are any fsspec URL below the storage root or a data root. What is missing, outside or of the
wrong shape is a ConfigFailure that names its place; storage that can't be read is a StorageFailure.
"""

import gzip
import importlib.util
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from workers.contract.data_spec import DigitsData, IdxData, NpzData
from workers.contract.outcome import ConfigFailure
from workers.contract.paths import join, resolve_data
from workers.data.node_cache import open_copy

Array = npt.NDArray[Any]

CLASSES_MAX = 65_536  # more is a mistaken label column; the head would eat the memory
DIGITS_LEVELS = 16.0  # digits are counts of set pixels in 4 x 4 fields
DIGITS_PIXELS = 8
BYTE_LEVELS = 255.0
IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True)
class Stored:
    """Features (N, ...) of any number type and integer labels (N,), as they stand in the source."""

    place: str  # the file, as messages name it
    x: Array
    y: Array
    x_test: Array | None = None
    y_test: Array | None = None
    largest: float | None = None  # the top of the source's range from 0, where it is known


@dataclass(frozen=True)
class Places:
    """Where data may be read from."""

    storage_url: str
    data_roots: tuple[str, ...] = ()

    def url(self, path: str) -> str:
        """Return the URL of a spec's path; raise ConfigFailure if it lies outside."""
        url = resolve_data(path, self.storage_url, self.data_roots)
        if url is None:
            roots = ", ".join((self.storage_url, *self.data_roots))
            raise ConfigFailure(
                f"data.path: {path} lies outside of what may be read ({roots}); move the data "
                "there, or have its folder added to the data roots"
            )
        return url


def read_source(spec: DigitsData | IdxData | NpzData, places: Places) -> Stored:
    """Read a source whole.

    Raises:
        ConfigFailure: it is missing, outside of the roots, or not what the recipe says.
        StorageFailure: storage can't be read at all.
    """
    if isinstance(spec, DigitsData):
        return _digits(spec.image)
    if isinstance(spec, IdxData):
        return _idx(places.url(spec.path))
    return _npz(places.url(spec.path), spec)


def _digits(as_images: bool) -> Stored:
    # The file that scikit-learn ships is read directly: importing sklearn.datasets takes longer
    # than a whole epoch, and the first optimizer step waits for it. A test holds the two equal.
    found = importlib.util.find_spec("sklearn")
    file = Path(str(found.origin)).parent / "datasets/data/digits.csv.gz" if found else None
    if file is None or not file.exists():
        raise ConfigFailure("data.source: digits needs scikit-learn on the workers; install it")
    with gzip.open(file, "rt") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    x = table[:, :-1]
    if as_images:
        x = x.reshape(-1, DIGITS_PIXELS, DIGITS_PIXELS)
    return Stored("the digits", x=x, y=table[:, -1].astype(np.int64), largest=DIGITS_LEVELS)


def _idx(folder: str) -> Stored:
    x, y, x_test, y_test = (
        _idx_file(folder, name)
        for name in (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        )
    )
    largest = BYTE_LEVELS if x.dtype == np.uint8 else None
    return Stored(folder, x, y, x_test, y_test, largest)


def _idx_file(folder: str, name: str) -> Array:
    plain = open_copy(join(folder, name))
    if plain is not None:
        with plain:
            return _parse_idx(plain.read(), f"{folder}/{name}")
    packed = open_copy(join(folder, f"{name}.gz"))
    if packed is None:
        raise ConfigFailure(
            f"data.path: {folder} has neither {name} nor {name}.gz; put MNIST's four files there"
        )
    with packed:
        try:
            content = gzip.decompress(packed.read())
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ConfigFailure(
                f"data.path: {folder}/{name}.gz is damaged: {error}; copy it again"
            ) from error
    return _parse_idx(content, f"{folder}/{name}.gz")


def _parse_idx(content: bytes, place: str) -> Array:
    """Two zero bytes, a type, the number of dimensions, their big-endian sizes, the values."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_DTYPES:
        raise ConfigFailure(f"data.path: {place} is not an idx file; check what was put there")
    header_bytes = 4 + 4 * content[3]
    if len(content) < header_bytes:
        raise ConfigFailure(f"data.path: {place} ends within its header; copy it again")
    shape = struct.unpack(f">{content[3]}I", content[4:header_bytes])
    dtype = np.dtype(IDX_DTYPES[content[2]])
    expected = header_bytes + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ConfigFailure(
            f"data.path: {place} has {len(content)} bytes, but its header says {expected}; "
            "copy it again"
        )
    return np.frombuffer(content, dtype=dtype, offset=header_bytes).reshape(shape)


def _npz(url: str, spec: NpzData) -> Stored:
    stream = open_copy(url)
    if stream is None:
        raise ConfigFailure(f"data.path: there is no file {url}; check the path")
    with stream:
        if not zipfile.is_zipfile(stream):
            raise ConfigFailure(
                f"data.path: {url} is not a .npz file, as np.savez writes it; `source: npy` reads "
                "files of one array"
            )
        stream.seek(0)
        try:
            return _unpacked(stream, spec, url)
        except ConfigFailure:
            raise
        except Exception as error:  # a damaged file may raise nearly anything
            raise ConfigFailure(
                f"data.path: {url} is not a .npz of numbers: {error}; write it anew"
            ) from error


def _unpacked(stream: BinaryIO, spec: NpzData, url: str) -> Stored:
    with np.load(stream, allow_pickle=False) as arrays:
        x = _array(arrays, spec.x, "x", url)
        y = no_labels(x.shape) if spec.y is None else _array(arrays, spec.y, "y", url)
        x_test = y_test = None
        if spec.x_test is not None and spec.y_test is not None:
            x_test = _array(arrays, spec.x_test, "x_test", url)
            y_test = _array(arrays, spec.y_test, "y_test", url)
    return Stored(url, x, y, x_test, y_test, BYTE_LEVELS if x.dtype == np.uint8 else None)


def _array(arrays: Any, name: str, key: str, url: str) -> Array:
    if name not in arrays:
        has = ", ".join(sorted(arrays))
        hint = "; where there are no labels, pretraining.data says y: null" if key == "y" else ""
        raise ConfigFailure(f"data.{key}: {url} has no array {name}; it has {has}{hint}")
    array: Array = arrays[name]
    return array


def no_labels(shape: tuple[int, ...]) -> Array:
    """Return what stands for the labels of samples (n, ...) without any; nobody looks at it."""
    return np.zeros(shape[:1], np.int64)


def map_npy(path: Path, place: str) -> Array:
    """Return the array of a .npy file by memory map.

    Args:
        path: of the file.
        place: what messages call it.

    Raises:
        ConfigFailure: it is damaged, or no such file.
        OSError: it can't be opened.
    """
    try:
        found: Array | None = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged header may raise nearly anything
        raise ConfigFailure(
            f"{place} is no .npy file of numbers: {error}; write it anew with np.save"
        ) from error
    if not isinstance(found, np.ndarray):
        raise ConfigFailure(f"{place} is no .npy file of one array; `source: npz` reads .npz files")
    return found
