"""Storage to save to, the two ranks, and one small checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from tests.workers.checkpoint.ranks import TwoRanks, two_ranks


@pytest.fixture(params=["file", "path", "memory"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        url = f"memory://{uuid4().hex}"
        yield url
        files, root = fsspec.url_to_fs(url)
        if files.exists(root):
            files.rm(root, recursive=True)
    else:
        yield str(tmp_path) if request.param == "path" else f"file://{tmp_path}"


@pytest.fixture(scope="module")
def ranks() -> Iterator[TwoRanks]:
    with two_ranks() as both:
        yield both
