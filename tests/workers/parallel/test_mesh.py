"""A rank trains on the GPU that it was given, and on none that it only sees."""

from pathlib import Path

import pytest
import torch

from workers.contract.outcome import ConfigFailure
from workers.parallel.mesh import join, leave


def test_a_rank_without_a_gpu_takes_none_of_those_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        assert join(0, 1, f"file://{tmp_path}/meeting").device == torch.device("cpu")
    finally:
        leave()


def test_a_gpu_that_torch_can_not_use_is_no_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigFailure, match=r"gpus_per_worker: .* torch \(.*\) sees none"):
        join(0, 1, f"file://{tmp_path}/meeting", gpus=1)


def test_a_worker_uses_one_gpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure, match=r"gpus_per_worker: .* one GPU, not on 2"):
        join(0, 1, f"file://{tmp_path}/meeting", gpus=2)
