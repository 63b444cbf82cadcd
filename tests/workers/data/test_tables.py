"""Tables: columns of numbers and one of classes; what is wrong is said with its row and column."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

from tests.workers.data.looking import features, labels, loaded
from workers.contract.outcome import ConfigFailure

Array = npt.NDArray[Any]
NUM = 30
X = np.random.default_rng(0).normal(3.0, 2.0, (NUM, 4)).astype(np.float32)
Y = np.arange(NUM) % 3
SPECIES = np.array(["setosa", "versicolor", "virginica"])


def _table(y: Array = Y) -> pa.Table:
    return pa.table({**{f"f{k}": X[:, k] for k in range(4)}, "species": pa.array(y.tolist())})


def _write_csv(path: Path, table: pa.Table) -> None:
    csv.write_csv(table, path)


def _write_parquet(path: Path, table: pa.Table) -> None:
    parquet.write_table(table, path)


@pytest.mark.parametrize("source", ["csv", "parquet"])
def test_a_table_is_standardized_and_its_named_classes_are_numbered(
    source: str, tmp_path: Path
) -> None:
    write: Callable[..., None] = _write_csv if source == "csv" else _write_parquet
    write(tmp_path / f"iris.{source}", _table(SPECIES[Y]))
    data = loaded(tmp_path, source=source, path=f"iris.{source}", label="species")
    assert (data.shape, data.num_classes, len(data.train)) == ((4,), 3, 24)
    torch.testing.assert_close(features(data.train).mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert labels(data.train).bincount().tolist() == [8, 8, 8]


def test_the_files_of_a_folder_are_one_table_and_columns_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    table = _table()
    for k in range(3):
        _write_parquet(tmp_path / "parts" / f"{k}.parquet", table.slice(10 * k, 10))
    data = loaded(
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


def test_fractions_in_one_file_and_whole_numbers_in_another_are_one_column(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/0.csv").write_text("f,species\n1,0\n2,1\n")
    (tmp_path / "parts/1.csv").write_text("f,species\n2.5,1\n")
    data = loaded(
        tmp_path, source="csv", path="parts", label="species", scale="none", test_fraction=0.0
    )
    assert features(data.train).flatten().tolist() == [1.0, 2.0, 2.5]
    (tmp_path / "parts/1.csv").write_text("f,species\nred,1\n")
    with pytest.raises(ConfigFailure, match="have not the same columns") as caught:
        loaded(tmp_path, source="csv", path="parts", label="species")
    assert "\n" not in str(caught.value)


def test_categories_as_pandas_writes_them_are_names(tmp_path: Path) -> None:
    table = _table(SPECIES[Y])
    table = table.set_column(4, "species", table.column("species").dictionary_encode())
    _write_parquet(tmp_path / "t.parquet", table)
    data = loaded(tmp_path, source="parquet", path="t.parquet", label="species", test_fraction=0.0)
    assert labels(data.train).tolist() == Y.tolist()


BAD_TABLES = {
    "no value": ("f0,species\n1.5,0\n,1\n", r"row 2 .* no value in the column f0"),
    "NaN": ("f0,species\n1.5,0\nnan,1\n", r"row 2 .* no value in the column f0"),
    "infinity": ("f0,species\n1.5,0\ninf,1\n", r"row 2 .* has inf in the column f0"),
    "no class": ("f0,species\n1.5,\n2,1\n", r"row 1 .* no value in the column species"),
    "text": ("f0,species\nred,0\nblue,1\n", "holds string, not numbers"),
    "a number to be learned": ("f0,species\n1,0.5\n2,1\n", "classes are whole numbers or names"),
    "a class below zero": ("f0,species\n1,-1\n2,1\n", r"t\.csv: the labels must lie in 0"),
    "ragged rows": ("f0,species\n1,2,3\n", "can't be read as a table"),
    "two columns of a name": ("f0,f0,species\n1,2,0\n", r"t\.csv has more than one column f0"),
    "no rows": ("f0,species\n", "has no row"),
    "nothing": ("", "can't be read as a table"),
    "labels alone": ("species\n0\n1\n", r"data\.features: .* no column beside species"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_what_is_wrong_in_a_table_is_said_with_its_place(case: str, tmp_path: Path) -> None:
    text, sentence = BAD_TABLES[case]
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigFailure, match=sentence) as caught:
        loaded(tmp_path, source="csv", path="t.csv", label="species")
    assert "\n" not in str(caught.value)


def test_columns_and_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    _write_csv(tmp_path / "t.csv", _table())
    table = {"source": "csv", "path": "t.csv", "label": "species"}
    with pytest.raises(ConfigFailure, match=r"data\.label: .* no column kind; it has f0, f1"):
        loaded(tmp_path, **{**table, "label": "kind"})
    with pytest.raises(ConfigFailure, match=r"data\.features: .* no column f9"):
        loaded(tmp_path, **table, features=["f9"])
    with pytest.raises(ConfigFailure, match="is no file, and a folder of 0"):
        loaded(tmp_path, **{**table, "path": "not-there.csv"})
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    with pytest.raises(ConfigFailure, match=r"t\.parquet can't be read as a table"):
        loaded(tmp_path, source="parquet", path="t.parquet", label="species")
