"""Reads tables of .csv or .parquet: columns of numbers, and one of classes.

All files of a folder are one table, in the order of their names.
"""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from workers.contract.data_spec import TableData
from workers.contract.outcome import ConfigFailure
from workers.contract.paths import join
from workers.data.node_cache import listed, open_copy
from workers.data.sources import Array, Places, Stored, no_labels

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
    if table.num_rows == 0:
        raise ConfigFailure(f"data.path: {url} has no row; give some samples")
    if spec.label is not None and spec.label not in names:
        raise ConfigFailure(f"data.label: {url} has no column {spec.label}; it has {_shown(names)}")
    wanted = spec.features or tuple(name for name in names if name != spec.label)
    for name in wanted:
        if name not in names:
            raise ConfigFailure(f"data.features: {url} has no column {name}")
    if not wanted:
        raise ConfigFailure(f"data.features: {url} has no column beside {spec.label}")
    x = np.stack([_numbers(table.column(name), name, url) for name in wanted], axis=1)
    if spec.label is None:
        return Stored(url, x, no_labels(x.shape))
    return Stored(url, x, _classes(table.column(spec.label), spec.label, url))


def _whole(spec: TableData, url: str) -> "pa.Table":
    import pyarrow as pa

    tables = [_one(spec.source, file) for file in _files(spec, url)]
    try:
        # What is whole numbers in one file and fractions in another is fractions.
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ConfigFailure(
            f"data.path: the files of {url} have not the same columns: {_in_one_line(error)}"
        ) from error


def _files(spec: TableData, url: str) -> list[str]:
    """The URLs of the files."""
    found = listed(url, depth=1)
    if "" in found:
        return [url]
    files = [file for file in found if file.endswith(f".{spec.source}")]
    if not files or len(files) > FILES_MAX:
        raise ConfigFailure(
            f"data.path: {url} is no file, and a folder of {len(files)} .{spec.source} files; give "
            f"1 to {FILES_MAX}"
        )
    return [join(url, file) for file in files]


def _one(source: str, url: str) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv, parquet

    stream = open_copy(url)
    if stream is None:
        raise ConfigFailure(f"data.path: there is no file {url}; check the path")
    with stream:
        try:
            table = parquet.read_table(stream) if source == "parquet" else csv.read_csv(stream)
        except (pa.ArrowException, OSError) as error:  # to Arrow damage is either, too
            raise ConfigFailure(
                f"data.path: {url} can't be read as a table: {_in_one_line(error)}; write it anew"
            ) from error
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise ConfigFailure(f"data.path: {url} has more than one column {twice[0]}; rename them")
    return table


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
    if not np.isfinite(numbers).all():
        row = int(np.argmin(np.isfinite(numbers)))
        raise ConfigFailure(
            f"data.path: row {row + 1} of {url} has {numbers[row]} in the column {name}; mend or "
            "remove the row"
        )
    return numbers


def _classes(column: "pa.ChunkedArray", name: str, url: str) -> Array:
    """Whole numbers as they are; names as their places in the order of all names."""
    import pyarrow as pa

    _check_whole(column, name, url)
    if pa.types.is_dictionary(column.type):  # as pandas writes what it calls categories
        column = column.cast(column.type.value_type)
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
        row = column.is_null().index(True).as_py()
        raise ConfigFailure(
            f"data.path: row {row + 1} of {url} has no value in the column {name}; fill it in, or "
            "remove the row"
        )


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown
