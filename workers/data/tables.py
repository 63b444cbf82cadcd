"""Reads tables of .csv or .parquet: columns of numbers, and one of classes.

All files of a folder are one table, in the order of their names.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.contract.data_spec import TableData
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data.sources import Array, Places, Stored

if TYPE_CHECKING:
    import pyarrow as pa

FILES_MAX = 10_000


def read_table(spec: TableData, places: Places) -> Stored:
    """Read a table whole.

    Raises:
        ConfigFailure: it is missing, damaged, or its columns are not what the recipe says.
        StorageFailure: storage can't be read.
    """
    url = places.url(spec.path)
    table = _whole(spec, url)
    names = table.column_names
    if spec.label not in names:
        raise ConfigFailure(
            f"data.label: {url} has no column {spec.label}; it has {_listed(names)}"
        )
    wanted = spec.features or tuple(name for name in names if name != spec.label)
    for name in wanted:
        if name not in names:
            raise ConfigFailure(f"data.features: {url} has no column {name}")
    if not wanted:
        raise ConfigFailure(f"data.features: {url} has no column beside {spec.label}")
    x = np.stack([_numbers(table.column(name), name, url) for name in wanted], axis=1)
    return Stored(x=x, y=_classes(table.column(spec.label), spec.label, url))


def _whole(spec: TableData, url: str) -> "pa.Table":
    import pyarrow as pa

    with _told(url):
        tables = [_one(spec.source, stream) for stream in _streams(spec, url)]
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise ConfigFailure(
            f"data.path: the files of {url} have not the same columns: {error}"
        ) from error


def _streams(spec: TableData, url: str) -> Iterator[Any]:
    """The files, opened one after the other."""
    import fsspec

    system, root = fsspec.core.url_to_fs(url)
    files = [root] if system.isfile(root) else sorted(system.glob(f"{root}/*.{spec.source}"))
    if not files or len(files) > FILES_MAX:
        raise ConfigFailure(
            f"data.path: {url} is no file, and a folder of {len(files)} .{spec.source} files; give "
            f"1 to {FILES_MAX}"
        )
    for file in files:
        with system.open(file, "rb") as stream:
            yield stream


def _one(source: str, stream: Any) -> "pa.Table":
    if source == "parquet":
        from pyarrow import parquet

        return parquet.read_table(stream)
    from pyarrow import csv

    return csv.read_csv(stream)


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as error:
        raise ConfigFailure(f"data.path: there is no {url}; check the path") from error
    except (ImportError, ValueError) as error:
        # Arrow's errors of a damaged file are ValueErrors; so is an unknown protocol.
        raise ConfigFailure(f"data.path: {url} can't be read as a table: {error}") from error
    except pa.ArrowException as error:
        raise ConfigFailure(f"data.path: {url} can't be read as a table: {error}") from error
    except OSError as error:
        raise StorageFailure(f"{url} can't be read: {error}") from error


def _numbers(column: "pa.ChunkedArray", name: str, url: str) -> Array:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ConfigFailure(
            f"data.features: the column {name} of {url} holds {kind}, not numbers; name the "
            "columns of numbers under data.features"
        )
    _check_whole(column, name, url)
    numbers: Array = column.to_numpy().astype(np.float32)
    return numbers


def _classes(column: "pa.ChunkedArray", name: str, url: str) -> Array:
    """Whole numbers as they are; names as their places in the order of all names."""
    import pyarrow as pa

    _check_whole(column, name, url)
    if pa.types.is_integer(column.type):
        numbers: Array = column.to_numpy()
        return numbers
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ConfigFailure(
            f"data.label: the column {name} of {url} holds {column.type}; classes are whole "
            "numbers or names"
        )
    _, places = np.unique(np.asarray(column.to_pylist()), return_inverse=True)
    return places


def _check_whole(column: "pa.ChunkedArray", name: str, url: str) -> None:
    if column.null_count:
        row = next(k for k, value in enumerate(column) if not value.is_valid)
        raise ConfigFailure(
            f"data.path: row {row + 1} of {url} has no value in the column {name}; fill it in, or "
            "remove the row"
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown
