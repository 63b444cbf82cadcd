"""Published nets once more, for tests: functions over their published names, none of our modules.

He et al. (2015), table 1; Szegedy et al. (2015), figures 5 to 7 and 10, as they were published with
weights: the stride of a bottleneck in its 3 x 3 convolution, zeros counted in the pools' means.

torchvision itself can't be installed beside every torch that we run on. When they were last
compared by hand, its 0.29.1 (torch 2.14) and our nets gave the same logits to the bit: resnet 18 to
152 and both heads of inception_v3 in eval mode, resnet 50 and inception_v3 in training, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, linear, max_pool2d, relu

RESNET_EPS, INCEPTION_EPS = 1e-5, 1e-3


@dataclass(frozen=True)
class Net:
    """A state by published names, and what all of its normalizations add to the variance."""

    state: Mapping[str, Tensor]
    eps: float

    def normed(self, x: Tensor, conv: str, norm: str, stride: int, padded: bool) -> Tensor:
        w = self.state[f"{conv}.weight"]
        padding = (w.shape[2] // 2, w.shape[3] // 2) if padded else (0, 0)
        mean, var, gain, bias = (
            self.state[f"{norm}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return batch_norm(
            conv2d(x, w, stride=stride, padding=padding), mean, var, gain, bias, eps=self.eps
        )

    def units(self, x: Tensor, *names: str, stride: int = 1, padded: bool = True) -> Tensor:
        """Convolutions of inception in a row; a stride is the last one's."""
        for name in names:
            is_last = name == names[-1]
            x = relu(
                self.normed(
                    *(x, f"{name}.conv", f"{name}.bn"),
                    stride if is_last else 1,
                    padded if is_last else True,
                )
            )
        return x

    def fc(self, h: Tensor, name: str = "fc") -> Tensor:
        return linear(h.mean((2, 3)), self.state[f"{name}.weight"], self.state[f"{name}.bias"])


def resnet(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The logits of a resnet in eval mode; its depth is what the names say."""
    net = Net(state, RESNET_EPS)
    h = max_pool2d(relu(net.normed(x, "conv1", "bn1", 2, padded=True)), 3, 2, 1)
    for group in (1, 2, 3, 4):
        k = 0
        while f"layer{group}.{k}.conv1.weight" in state:
            h = _block(net, h, f"layer{group}.{k}", 2 if k == 0 and group > 1 else 1)
            k += 1
    return net.fc(h)


def _block(net: Net, x: Tensor, name: str, stride: int) -> Tensor:
    is_bottleneck = f"{name}.conv3.weight" in net.state
    strides = (1, stride, 1) if is_bottleneck else (stride, 1)
    h = x
    for c, of_this in enumerate(strides, start=1):
        h = net.normed(h, f"{name}.conv{c}", f"{name}.bn{c}", of_this, padded=True)
        h = relu(h) if c < len(strides) else h
    if f"{name}.downsample.0.weight" in net.state:
        x = net.normed(x, f"{name}.downsample.0", f"{name}.downsample.1", stride, padded=True)
    return relu(h + x)


def inception_v3(state: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of both heads in eval mode, of images of 299 pixels."""
    net = Net(state, INCEPTION_EPS)
    h = net.units(x, "Conv2d_1a_3x3", stride=2, padded=False)
    h = net.units(h, "Conv2d_2a_3x3", padded=False)
    h = max_pool2d(net.units(h, "Conv2d_2b_3x3"), 3, 2)
    h = net.units(h, "Conv2d_3b_1x1")
    h = max_pool2d(net.units(h, "Conv2d_4a_3x3", padded=False), 3, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        h = _joined(net, h, name, ("branch5x5", 2), ("branch3x3dbl", 3))
    row = [f"Mixed_6a.branch3x3dbl_{k}" for k in (1, 2, 3)]
    h = torch.cat(
        [
            net.units(h, "Mixed_6a.branch3x3", stride=2, padded=False),
            net.units(h, *row, stride=2, padded=False),
            max_pool2d(h, 3, 2),
        ],
        1,
    )
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        h = _joined(net, h, name, ("branch7x7", 3), ("branch7x7dbl", 5))
    above = net.units(avg_pool2d(h, 5, 3), "AuxLogits.conv0")
    auxiliary = net.fc(net.units(above, "AuxLogits.conv1", padded=False), "AuxLogits.fc")
    left, right = (
        net.units(h, *(f"Mixed_7a.{name}_{k}" for k in range(1, n)), stride=2, padded=False)
        for name, n in (("branch3x3", 3), ("branch7x7x3", 5))
    )
    h = torch.cat([left, right, max_pool2d(h, 3, 2)], 1)
    for name in ("Mixed_7b", "Mixed_7c"):
        h = _widened(net, h, name)
    return net.fc(h), auxiliary


def _joined(net: Net, x: Tensor, name: str, *rows: tuple[str, int]) -> Tensor:
    between = [net.units(x, *(f"{name}.{row}_{k}" for k in range(1, n + 1))) for row, n in rows]
    return torch.cat([net.units(x, f"{name}.branch1x1"), *between, _pooled(net, x, name)], 1)


def _widened(net: Net, x: Tensor, name: str) -> Tensor:
    one = net.units(x, f"{name}.branch3x3_1")
    two = net.units(x, f"{name}.branch3x3dbl_1", f"{name}.branch3x3dbl_2")
    return torch.cat(
        [
            net.units(x, f"{name}.branch1x1"),
            *(net.units(one, f"{name}.branch3x3_2{side}") for side in "ab"),
            *(net.units(two, f"{name}.branch3x3dbl_3{side}") for side in "ab"),
            _pooled(net, x, name),
        ],
        1,
    )


def _pooled(net: Net, x: Tensor, name: str) -> Tensor:
    return net.units(avg_pool2d(x, 3, 1, 1), f"{name}.branch_pool")
