"""Random changes of training images, on the device and in batches, each a pure function of (seed, epoch, index)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.data.dataset import Batch, Dataset, Spec
from wsram.data.scenes import uniform_hash
from wsram.errors import UserError
from wsram.glimpse.patchwork import Patchwork
from wsram.glimpse.pyramid import in_memory
from wsram.image_settings import AugmentConfig

DRAWS = 16
"""Uniform numbers that one image's changes take; each change has its own, so that none depends on the others."""
STREAM = 0x5EED0A06
"""Sets these numbers apart from those that place scenes."""
BANK = 1 << 21
"""Numbers of the normal distribution that every image's noise is a stretch of."""


@dataclass(frozen=True)
class Augmented:
    """A data set whose training images are changed at random; see `wsram.data.dataset.Dataset`.

    base: the images.
    settings: what is changed and how much.
    seed: of the changes.
    bank: (BANK,) normal numbers on the images' device.
    """

    base: Dataset
    settings: AugmentConfig
    seed: int
    bank: Tensor

    @property
    def spec(self) -> Spec:
        """The base's."""
        return self.base.spec

    @property
    def title(self) -> str:
        """The base's."""
        return self.base.title

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.base)

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """The base's batch; in training, changed."""
        batch = self.base.batch(index, epoch)
        if epoch is None:
            return batch
        if isinstance(batch.images, Patchwork) or not in_memory(batch.images):
            raise UserError("images that are read window by window cannot be changed at random; leave augmentation out")
        index = index if batch.there is None else index[batch.there.to(index.device)]
        uniform = uniform_hash(self.seed ^ STREAM, epoch, index.to(self.bank.device), DRAWS).float()
        return replace(batch, images=augment(batch.images, uniform, self.settings, self.bank))

    def to(self, device: torch.device) -> Augmented:
        """The same on another device."""
        return Augmented(self.base.to(device), self.settings, self.seed, self.bank.to(device))

    def fingerprint(self) -> str:
        """The base's: what is made of the examples belongs to the settings."""
        return self.base.fingerprint()


def augmented(base: Dataset, settings: AugmentConfig, seed: int) -> Dataset:
    """The data set with its training images changed, or itself if nothing is to be changed."""
    if settings == AugmentConfig():
        return base
    return Augmented(base, settings, seed, torch.randn(BANK, generator=torch.Generator().manual_seed(seed)))


def augment(
    images: Tensor | Sequence[Tensor], uniform: Tensor, settings: AugmentConfig, bank: Tensor
) -> Tensor | list[Tensor]:
    """Images flipped, turned, zoomed, shifted, blurred, dimmed, laid on grey, inverted and made noisy.

    Args:
        images: (batch, channels, height, width) in [0, 1], or each (channels, height, width).
        uniform: (batch, DRAWS) numbers in [0, 1), an image's own.
        settings: what is changed and how much.
        bank: normal numbers, the same for every image.

    Returns:
        Images of the same sizes in [0, 1].
    """
    if isinstance(images, Tensor):
        return _augment(images, uniform, settings, bank)
    return [
        _augment(image.unsqueeze(0), u.unsqueeze(0), settings, bank)[0]
        for image, u in zip(images, uniform, strict=True)
    ]


def _augment(images: Tensor, u: Tensor, settings: AugmentConfig, bank: Tensor) -> Tensor:
    images = _move(images, u[:, :7], settings)
    if settings.blur:
        images = _blur(images, u[:, 7] * settings.blur, settings.blur)
    low, high = settings.brightness
    # Half of the images keep what they are, in each respect: training must not forget the plain ones.
    factor = torch.where(u[:, 8] < 0.5, 1.0, low + (high - low) * u[:, 9])
    level = torch.where(u[:, 10] < 0.5, 0.0, settings.background * u[:, 11])
    factor, level = (value.view(-1, 1, 1, 1) for value in (factor, level))
    images = level + (1 - level) * (images * factor)
    inverted = (u[:, 12] < settings.invert).view(-1, 1, 1, 1)
    images = torch.where(inverted, 1 - images.clamp(0, 1), images)
    if settings.noise:
        count = images[0].numel()
        if count > len(bank) // 2:  # a large image has the numbers again
            bank = bank.repeat(2 * count // len(bank) + 1)
        first = (u[:, 13] * (len(bank) - count)).long()
        stretch = bank.unfold(0, count, 1)[first].view_as(images)
        sigma = torch.where(u[:, 14] < 0.5, 0.0, settings.noise * u[:, 15])
        images = images + sigma.view(-1, 1, 1, 1) * stretch
    return images.clamp(0, 1)


def _move(images: Tensor, u: Tensor, settings: AugmentConfig) -> Tensor:
    """Flipped, turned, zoomed and shifted; what comes in from outside repeats the edge."""
    if not (settings.flip != "none" or settings.rotate or settings.zoom or settings.shift):
        return images
    ones = torch.ones_like(u[:, 0])
    flip_x = torch.where(u[:, 0] < 0.5, -ones, ones) if settings.flip != "none" else ones
    flip_y = torch.where(u[:, 1] < 0.5, -ones, ones) if settings.flip == "both" else ones
    angle = math.radians(settings.rotate) * (2 * u[:, 2] - 1)
    zoom = torch.exp(settings.zoom * (2 * u[:, 3] - 1))
    shift = settings.shift * (2 * (2 * u[:, 4:6] - 1))
    aspect = images.shape[-1] / images.shape[-2]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    rows = [
        torch.stack([cos * flip_x, -sin / aspect * flip_y, shift[:, 0]], -1),
        torch.stack([sin * aspect * flip_x, cos * flip_y, shift[:, 1]], -1),
    ]
    grid = F.affine_grid(torch.stack(rows, -2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)


def _blur(images: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Gaussian blur of each image by its own standard deviation, in pixels, of at most so many."""
    reach = max(1, math.ceil(2 * most))  # not by the batch's largest: what else is in a batch changes no image
    at = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-0.5 * (at / sigma.clamp(min=1e-3).unsqueeze(-1)) ** 2)
    weights = weights / weights.sum(-1, keepdim=True)
    channels = images.shape[1]
    flat = F.pad(images.flatten(0, 1).unsqueeze(0), (reach,) * 4, mode="replicate")
    kernel = weights.repeat_interleave(channels, 0)
    groups = len(kernel)
    flat = F.conv2d(flat, kernel.view(groups, 1, -1, 1), groups=groups)
    flat = F.conv2d(flat, kernel.view(groups, 1, 1, -1), groups=groups)
    return flat[0].view_as(images)
