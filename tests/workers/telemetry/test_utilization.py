"""Memory and MFU: the arithmetic on any machine; GPUs themselves are named, not touched."""

import psutil
import pytest
import torch

from tests.workers.training.attempts import recipe
from workers.contract.recipe import Recipe
from workers.models.catalog import build_net
from workers.parallel.mesh import Seat
from workers.telemetry.utilization import (
    TERA,
    Utilization,
    flops_per_sample,
    memory_bytes,
    peak_flops,
)

CPU = torch.device("cpu")
LEAST_BYTES = 50_000_000  # of a process that has loaded torch


def net_of(spec: Recipe, shape: tuple[int, ...]) -> torch.nn.Module:
    return build_net(spec.model, shape, 10, torch.Generator().manual_seed(0))


def test_a_step_costs_six_operations_for_each_weight_of_a_dense_net() -> None:
    spec = recipe(model={"kind": "mlp", "hidden": [100, 50]}, training={"epochs": 1})
    weights = 64 * 100 + 100 * 50 + 50 * 10
    assert flops_per_sample(net_of(spec, (64,)), (64,), CPU) == 6 * weights


def test_counting_leaves_the_net_and_the_generator_as_they_were() -> None:
    model = {"kind": "mlp", "hidden": [8], "normalization": "batch", "dropout": 0.5}
    net = net_of(recipe(model=model, training={"epochs": 1}), (64,))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(0)
    flops_per_sample(net, (64,), CPU)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "fp16", 756.0),
        ("Tesla V100-SXM2-16GB", "fp16", 125.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40S", "bf16", 362.0),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str, precision: str, peak: float) -> None:
    assert peak_flops(name, precision) == peak * TERA


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA GeForce RTX 4090", "NVIDIA H1000"])
def test_no_peak_is_guessed(name: str) -> None:
    assert peak_flops(name, "bf16") is None


def test_mfu_is_of_all_gpus_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA A100-SXM4-40GB")
    monkeypatch.setattr(
        "workers.telemetry.utilization.flops_per_sample", lambda *_words: 3_120_000_000
    )
    spec = recipe(model={"kind": "mlp", "hidden": [8]}, training={"epochs": 1, "precision": "bf16"})
    seat = Seat(0, 4, torch.device("cuda", 0))
    used = Utilization(net_of(spec, (64,)), (64,), spec.training, seat)
    assert used.mfu(200_000.0) == pytest.approx(0.5)


def test_on_a_cpu_there_is_memory_and_no_mfu() -> None:
    spec = recipe(model={"kind": "mlp", "hidden": [8]}, training={"epochs": 1})
    used = Utilization(net_of(spec, (64,)), (64,), spec.training, Seat(0, 1, CPU))
    assert used.mfu(1000.0) is None
    assert LEAST_BYTES < memory_bytes(CPU) < psutil.virtual_memory().total
