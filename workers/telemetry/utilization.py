"""How much of its device a training uses: of the memory, and of a GPU's arithmetic."""

import psutil
import torch
from torch import nn

from workers.contract.training_spec import TrainingSpec
from workers.parallel.mesh import Seat

BACKWARD = 2  # forward passes that a backward pass costs: gradients of inputs, and of weights
TERA = 1e12
PEAKS = {  # FLOP/s without sparsity: of fp32, of bf16 and fp16; from the vendor's data sheets
    "Tesla V100": (15.7 * TERA, 125.0 * TERA),
    "Tesla T4": (8.1 * TERA, 65.0 * TERA),
    "NVIDIA A10": (31.2 * TERA, 125.0 * TERA),
    "NVIDIA A100": (19.5 * TERA, 312.0 * TERA),
    "NVIDIA L4": (30.3 * TERA, 121.0 * TERA),
    "NVIDIA L40S": (91.6 * TERA, 362.0 * TERA),
    "NVIDIA H100": (66.9 * TERA, 989.4 * TERA),
    "NVIDIA H100 PCIe": (51.2 * TERA, 756.0 * TERA),
    "NVIDIA H200": (66.9 * TERA, 989.4 * TERA),
}


def memory_bytes(device: torch.device) -> int:
    """The most that was allocated on the GPU since the last call; elsewhere the process's own."""
    if device.type != "cuda":
        return int(psutil.Process().memory_info().rss)
    most = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return most


def flops_per_sample(net: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """Count the multiplications and additions of one sample's forward and backward pass.

    Those of matrix products, attention and convolutions, as is the custom; for that a forward pass
    runs, without effects.
    """
    from torch.utils.flop_counter import FlopCounterMode

    was_training = net.training
    net.eval()  # no running statistics move, and no random number is drawn
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *shape, device=device))
    net.train(was_training)
    forward: int = counter.get_total_flops()
    return (1 + BACKWARD) * forward


def peak_flops(device_name: str, precision: str) -> float | None:
    """What a GPU of this name can do at the most, in FLOP/s; None where it is not known."""
    names = [name for name in PEAKS if f"{device_name} ".startswith((f"{name} ", f"{name}-"))]
    if not names:
        return None
    return PEAKS[max(names, key=len)][0 if precision == "fp32" else 1]


class Utilization:
    """The model's FLOP/s as a share of what the GPUs can do: MFU (Chowdhery et al., 2022).

    Args:
        net: whole on this rank.
        shape: of one sample.
        training: its precision decides the peak.
        seat: on a device that is no GPU, or an unknown one, there is no MFU.
    """

    def __init__(
        self, net: nn.Module, shape: tuple[int, ...], training: TrainingSpec, seat: Seat
    ) -> None:
        self._flops_per_sample, self._peak = 0, None
        if seat.device.type == "cuda":
            self._peak = peak_flops(torch.cuda.get_device_name(seat.device), training.precision)
        if self._peak is not None:
            self._peak *= seat.world_size
            self._flops_per_sample = flops_per_sample(net, shape, seat.device)

    def mfu(self, samples_per_second: float) -> float | None:
        """The share, at this throughput of all workers together."""
        if self._peak is None:
            return None
        return self._flops_per_sample * samples_per_second / self._peak
