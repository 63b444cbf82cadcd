"""A rank trains on the GPU that it was given, and on none that it only sees."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

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


def test_a_rank_with_a_gpu_takes_the_one_that_it_sees_and_computes_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(dist, "init_process_group", lambda **words: groups.append(words))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        seat = join(1, 2, "tcp://here:1", gpus=1)
        assert torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" in os.environ
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert (seat.rank, seat.device) == (1, torch.device("cuda", 0))
    assert groups[0]["backend"] == "cpu:gloo,cuda:nccl"


def test_a_gpu_that_torch_can_not_use_is_no_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigFailure, match=r"gpus_per_worker: .* torch \(.*\) sees none"):
        join(0, 1, f"file://{tmp_path}/meeting", gpus=1)


def test_a_worker_uses_one_gpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure, match=r"gpus_per_worker: .* one GPU, not on 2"):
        join(0, 1, f"file://{tmp_path}/meeting", gpus=2)
