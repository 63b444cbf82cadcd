"""A log's chunks, read in order, are the log."""

from pathlib import Path

import pytest

from tests.workers.gang.launches import JOB
from workers.contract.paths import log_folder
from workers.gang import log_chunks
from workers.gang.log_chunks import LINE_CHARS_MAX, LogChunks


def read(storage: Path) -> str:
    folder = storage / log_folder(JOB, 1, "rank-0")
    return "".join(path.read_text() for path in sorted(folder.iterdir()))


def test_chunks_in_order_are_the_log(tmp_path: Path) -> None:
    chunks = LogChunks(str(tmp_path), JOB, 1, "rank-0")
    for n in range(12):
        chunks.write(f"line {n}\n")
        chunks.flush()
    chunks.write("the end")
    chunks.close()
    assert read(tmp_path) == "".join(f"line {n}\n" for n in range(12)) + "the end"


def test_a_line_that_is_too_long_is_cut(tmp_path: Path) -> None:
    chunks = LogChunks(str(tmp_path), JOB, 1, "rank-0")
    chunks.write("x" * (LINE_CHARS_MAX + 1000) + "\nnext\n")
    chunks.close()
    first, second, _ = read(tmp_path).split("\n")
    assert len(first) < LINE_CHARS_MAX + 10
    assert second == "next"


def test_a_log_that_is_too_large_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_chunks, "LOG_BYTES_MAX", 100)
    chunks = LogChunks(str(tmp_path), JOB, 1, "rank-0")
    for n in range(50):
        chunks.write(f"line {n}\n")
        chunks.flush()
    chunks.close()
    text = read(tmp_path)
    assert len(text) < 300
    assert text.endswith("[this log ends here: it passed 100 bytes]\n")
