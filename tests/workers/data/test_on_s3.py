"""Every source is read from a server that speaks S3, once for a node."""

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import csv, parquet

from tests.s3_server import forget_connections
from tests.workers.data.looking import features, labels, loaded
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.data.node_folder import VARIABLE
from workers.data.shards import write_shards

NUM = 12
X = np.random.default_rng(0).integers(0, 256, (NUM, 1, 4, 4), np.uint8)
Y = np.arange(NUM) % 3
WHOLE = {"test_fraction": 0.0}


@pytest.fixture(autouse=True)
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))


def _put(url: str, content: bytes) -> None:
    with fsspec.open(url, "wb") as stream:
        stream.write(content)


def _npy(array: Any) -> bytes:
    into = io.BytesIO()
    np.save(into, array)
    return into.getvalue()


def _idx(array: Any) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def _put_idx(bucket: str) -> dict[str, Any]:
    for part in ("train", "t10k"):
        _put(f"{bucket}/mnist/{part}-images-idx3-ubyte.gz", _idx(X[:, 0]))
        _put(f"{bucket}/mnist/{part}-labels-idx1-ubyte.gz", _idx(Y))
    return {"path": f"{bucket}/mnist"}


def _put_npz(bucket: str) -> dict[str, Any]:
    into = io.BytesIO()
    np.savez(into, x=X, y=Y)
    _put(f"{bucket}/set.npz", into.getvalue())
    return {"path": f"{bucket}/set.npz", "scale": "unit", **WHOLE}


def _put_npy(bucket: str) -> dict[str, Any]:
    for name, array in (("x", X), ("y", Y)):
        _put(f"{bucket}/{name}.npy", _npy(array))
    return {"x": f"{bucket}/x.npy", "y": f"{bucket}/y.npy", "scale": "unit", **WHOLE}


def _table() -> pa.Table:
    columns = X.reshape(NUM, -1).T / 255
    return pa.table({**{f"f{k}": column for k, column in enumerate(columns)}, "kind": Y})


def _put_parquet(bucket: str) -> dict[str, Any]:
    for k in range(2):
        into = io.BytesIO()
        parquet.write_table(_table().slice(6 * k, 6), into)
        _put(f"{bucket}/table/{k}.parquet", into.getvalue())
    return {"path": f"{bucket}/table", "label": "kind", "scale": "none", **WHOLE}


def _put_csv(bucket: str) -> dict[str, Any]:
    into = io.BytesIO()
    csv.write_csv(_table(), into)
    _put(f"{bucket}/table.csv", into.getvalue())
    return {"path": f"{bucket}/table.csv", "label": "kind", "scale": "none", **WHOLE}


def _put_image_folder(bucket: str) -> dict[str, Any]:
    for k in np.argsort(Y, kind="stable"):
        into = io.BytesIO()
        Image.fromarray(X[k, 0]).save(into, "PNG")
        _put(f"{bucket}/pictures/{Y[k]}/{k:02}.png", into.getvalue())
    return {"path": f"{bucket}/pictures", "size": 4, "channels": 1, **WHOLE}


def _put_stream(bucket: str) -> dict[str, Any]:
    write_shards([(X, Y)], f"{bucket}/stream/train", shard_bytes=5 * 16)
    return {"path": f"{bucket}/stream"}


SOURCES = {
    "idx": _put_idx,
    "npz": _put_npz,
    "npy": _put_npy,
    "parquet": _put_parquet,
    "csv": _put_csv,
    "image_folder": _put_image_folder,
    "stream": _put_stream,
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_read_from_there(source: str, bucket: str, tmp_path: Path) -> None:
    spec = SOURCES[source](bucket)
    train = loaded(tmp_path, root=bucket, source=source, **spec).train
    order = np.argsort(Y, kind="stable") if source == "image_folder" else np.arange(NUM)
    expected = torch.from_numpy(X[order]).flatten(1) / 255
    torch.testing.assert_close(features(train).flatten(1), expected)
    assert labels(train).tolist() == Y[order].tolist()
    copies = {copy: copy.stat().st_ino for copy in (tmp_path / "node").glob("files/*.file")}
    assert bool(copies) == (source != "image_folder")
    again = loaded(tmp_path, root=bucket, source=source, **spec).train
    assert torch.equal(features(again), features(train))
    assert again.digest() == train.digest()
    assert {copy: copy.stat().st_ino for copy in (tmp_path / "node").glob("files/*.file")} == copies


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_not_there_is_told_apart_from_a_server_that_is_away(
    source: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SOURCES[source](bucket)
    elsewhere = {
        key: value.replace(bucket, f"{bucket}/elsewhere") if key in ("path", "x", "y") else value
        for key, value in spec.items()
    }
    with pytest.raises(ConfigFailure, match="elsewhere"):
        loaded(tmp_path, root=bucket, source=source, **elsewhere)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_connections()
    with pytest.raises(StorageFailure, match=bucket):
        loaded(tmp_path, root=bucket, source=source, **spec)
