"""`strata data shard` as a process: it writes what a job then reads, and overwrites nothing."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.service.cli.test_commands import strata
from workers.contract.data_spec import StreamData
from workers.data.dataset import load_dataset
from workers.data.sources import Places


def test_arrays_become_a_stream_that_jobs_read(tmp_path: Path) -> None:
    x, y = np.arange(600, dtype=np.float32).reshape(200, 3), np.arange(200) % 5
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    words = ("data", "shard", str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "rows")

    done = strata(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("rows/train: 200 samples of the shape [3] in 1 shard, 5 classes\n")
    spec = StreamData(source="stream", path="rows")
    data = load_dataset(spec, Places(str(tmp_path / "storage")))
    assert (len(data.train), data.shape, data.num_classes) == (200, (3,), 5)

    refused = strata(tmp_path, *words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "rows/train has a stream already" in refused.stderr
    told = json.loads(strata(tmp_path, *words, "--part", "test", "-o", "json").stdout)
    assert told == {
        "path": "rows/test",
        "samples": 200,
        "shape": [3],
        "dtype": "float32",
        "shards": 1,
        "classes": 5,
    }


def test_on_a_terminal_it_shows_how_far_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4096, 1024), np.uint8))
    np.save(tmp_path / "y.npy", np.arange(4096) % 2)
    words = ("data", "shard", str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "rows")
    terminal, ours = os.openpty()
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "service.cli", *words, "--shard-megabytes", "1"],
        env={**os.environ, "STRATA_HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=ours,
    ) as process:
        os.close(ours)
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
            while piece := os.read(terminal, 4096):
                shown += piece
    os.close(terminal)
    assert process.returncode == 0
    for count in (1024, 2048, 3072, 4096):
        assert f"{count}/4096".encode() in shown


def test_what_can_not_become_one_is_refused_in_a_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    np.save(tmp_path / "y.npy", np.array([0, 1, 2]))
    files = (str(tmp_path / "x.npy"), str(tmp_path / "y.npy"))
    refused = strata(tmp_path, "data", "shard", *files, "rows")
    assert refused.returncode == 2
    assert "y.npy: the labels must be integers of shape (4,), not int64 (3,)" in refused.stderr
    outside = strata(tmp_path, "data", "shard", files[0], files[0], "/elsewhere")
    assert outside.returncode == 2
    assert "lies outside of what may be read" in outside.stderr
    assert "Traceback" not in outside.stderr
