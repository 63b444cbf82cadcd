"""Shows the training images otherwise in each epoch, by a chance that follows from their numbers.

Letters: B images at once, C channels, H and W pixels.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract.data_spec import Augment, Normalize
from workers.contract.outcome import ConfigFailure
from workers.data.chance import Draws
from workers.data.part import Around, Part
from workers.data.seeds import derived_seed

IMAGE_DIMENSIONS = 3  # (C, H, W)


@dataclass(frozen=True)
class Augmented(Around):
    """The images of a part, changed anew in each epoch."""

    spec: Augment
    seed: int
    is_unit: bool  # the images lie in [0, 1], and shall after the noise

    @property
    def changes(self) -> bool:
        """Always."""
        return True

    def digest(self) -> str:
        """Return that of the images as they are stored, which `passes` gives."""
        return self.part.digest()

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some images as they look in an epoch, (B, C, H, W)."""
        x_BCHW = self.part.rows(indices_B, epoch)
        draws = Draws(indices_B.to(x_BCHW.device), epoch, self.seed)
        spec = self.spec
        if spec.crop_padding > 0:
            x_BCHW = _cropped(x_BCHW, spec.crop_padding, draws)
        if spec.flip > 0.0:
            is_flipped_B = draws.uniform("flip") < spec.flip
            x_BCHW = torch.where(is_flipped_B[:, None, None, None], x_BCHW.flip(3), x_BCHW)
        if spec.noise > 0.0:
            x_BCHW = x_BCHW + spec.noise * draws.normal("noise", x_BCHW.shape[1:])
            x_BCHW = x_BCHW.clamp(0.0, 1.0) if self.is_unit else x_BCHW
        if spec.cutout > 0:
            x_BCHW = _cut_out(x_BCHW, spec.cutout, draws)
        return x_BCHW

    def passes(self) -> Iterator[Tensor]:
        """Yield all images in order as they are stored."""
        return self.part.passes()


@dataclass(frozen=True)
class Normalized(Around):
    """(x - mean) / std of a part's images."""

    mean_C11: Tensor
    std_C11: Tensor

    def digest(self) -> str:
        """Return another hash than the part has."""
        values = [*self.mean_C11.flatten().tolist(), *self.std_C11.flatten().tolist()]
        return hashlib.sha256(f"normalized {values} {self.part.digest()}".encode()).hexdigest()

    def rows(self, indices_B: Tensor, epoch: int) -> Tensor:
        """Return some images, (B, C, H, W)."""
        return self._normalized(self.part.rows(indices_B, epoch))

    def passes(self) -> Iterator[Tensor]:
        """Yield all images in order, some at a time."""
        for x_BCHW in self.part.passes():
            yield self._normalized(x_BCHW)

    def _normalized(self, x_BCHW: Tensor) -> Tensor:
        device = x_BCHW.device
        return (x_BCHW - self.mean_C11.to(device)) / self.std_C11.to(device)


def augmented(part: Part, spec: Augment, seed: int, is_unit: bool) -> Augmented:
    """Return the training part with its images changed by chance.

    Args:
        part: the images.
        spec: how.
        seed: the job's.
        is_unit: whether they lie in [0, 1].

    Raises:
        ConfigFailure: its samples are no images.
    """
    _check_images(part, "augment")
    return Augmented(part, spec, derived_seed(seed, "augment"), is_unit)


def normalized(part: Part, spec: Normalize) -> Normalized:
    """Return a part with its images shifted and scaled.

    Raises:
        ConfigFailure: its samples are no images, or have another number of channels.
    """
    _check_images(part, "normalize")
    channels = part.shape[0]
    if len(spec.mean) not in (1, channels):
        raise ConfigFailure(
            f"data.normalize: gives {len(spec.mean)} values, but the images have {channels} "
            "channels; give as many, or one"
        )
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return Normalized(part, mean, std)


def _check_images(part: Part, key: str) -> None:
    if len(part.shape) != IMAGE_DIMENSIONS:
        raise ConfigFailure(
            f"data.{key}: is for images (channels, height, width), but a sample has the shape "
            f"{part.shape}; remove it"
        )


def _cropped(x_BCHW: Tensor, padding: int, draws: Draws) -> Tensor:
    """Pad with zeros on each side, and cut the old size out anywhere."""
    num, channels, height, width = x_BCHW.shape
    padded: Tensor = torch.nn.functional.pad(x_BCHW, (padding,) * 4)
    device = x_BCHW.device
    top_B, left_B = (draws.below(f"crop {side}", 2 * padding + 1) for side in ("top", "left"))
    rows_BH = top_B[:, None] + torch.arange(height, device=device)
    columns_BW = left_B[:, None] + torch.arange(width, device=device)
    return padded[
        torch.arange(num, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows_BH[:, None, :, None],
        columns_BW[:, None, None, :],
    ]


def _cut_out(x_BCHW: Tensor, side: int, draws: Draws) -> Tensor:
    """Set a square to zero, which may stand over the edge (DeVries and Taylor, 2017)."""
    height, width = x_BCHW.shape[2:]
    is_cut_BH = _in_window(height, side, draws.below("cutout row", height))
    is_cut_BW = _in_window(width, side, draws.below("cutout column", width))
    return x_BCHW.masked_fill((is_cut_BH[:, :, None] & is_cut_BW[:, None, :])[:, None], 0.0)


def _in_window(length: int, side: int, middles_B: Tensor) -> Tensor:
    """Whether each place of a line lies in a window of `side` places, (B, length)."""
    starts_B1 = (middles_B - side // 2)[:, None]
    places = torch.arange(length, device=middles_B.device)
    return (places >= starts_B1) & (places < starts_B1 + side)
