"""Light, and which of figure and ground is the darker: taken out of an image before it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wsram.glimpse.source import Held, Source, blocks, in_unit, view_of

STRIDE = 2
"""Of the pixels that the background is found from, along each axis."""
SHADES = 1 << 16
"""That the background of an image on a disk is found among."""
FAINTEST = 0.1
"""Difference from the background below which nothing is drawn out further: an empty image stays empty."""


def in_contrast(images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Every image as its difference from its background, the greatest difference being 1.

    The background is each channel's median. So an image, its negative, the same on grey and the same in dimmer light
    look alike; what is lost is whether the figure was lighter or darker than its ground.

    Args:
        images: (batch, channels, height, width), or each (channels, height, width); floating point in [0, 1].

    Returns:
        Images of the same sizes in [0, 1].

    Example:
        >>> import torch
        >>> image = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.5]).view(1, 1, 3, 3)
        >>> torch.equal(in_contrast(image), in_contrast(1 - image))
        True
    """
    if not isinstance(images, Tensor):
        return [_apart(image) for image in images]
    return _apart(images)


def background_of(pixels: Tensor) -> Tensor:
    """The median (..., 1, 1) of pixels (..., pixels), the lower one of an even number."""
    if torch.compiler.is_exporting():  # to formats that know no median
        return pixels.sort(-1).values[..., (pixels.shape[-1] - 1) // 2, None, None]
    return pixels.median(-1).values[..., None, None]


def source_in_contrast(source: Source) -> Source:
    """An image as a source, seen as `in_contrast` has it.

    Of one that is not in memory, what its overview shows stands for the whole of it, to a 65,535th.
    """
    if source.in_memory is not None:
        return Held(_apart(in_unit(source.in_memory)))
    counts = torch.zeros(source.channels, SHADES, dtype=torch.long)
    low, high = torch.ones(source.channels), torch.zeros(source.channels)
    for top, left, pixels in blocks(source.overview()):
        unit = in_unit(pixels).flatten(1)
        low, high = torch.minimum(low, unit.amin(-1)), torch.maximum(high, unit.amax(-1))
        every = in_unit(pixels[:, top % STRIDE :: STRIDE, left % STRIDE :: STRIDE]).flatten(1)
        for n, values in enumerate((every * (SHADES - 1)).round().long()):
            counts[n] += values.bincount(minlength=SHADES)
    # The lower median, as torch has it.
    reached = counts.cumsum(-1) > (counts.sum(-1, keepdim=True) - 1) // 2
    background = reached.int().argmax(-1) / (SHADES - 1)
    greatest = torch.maximum(high - background, background - low).amax().clamp(min=FAINTEST)
    return _Apart(source, background.view(-1, 1, 1), greatest)


@dataclass(frozen=True)
class _Apart:
    """An image that is read piece by piece, as its difference from its background."""

    source: Source
    background: Tensor
    greatest: Tensor
    in_memory: None = None

    @property
    def channels(self) -> int:
        return self.source.channels

    @property
    def height(self) -> int:
        return self.source.height

    @property
    def width(self) -> int:
        return self.source.width

    @property
    def block(self) -> tuple[int, int]:
        return self.source.block

    def overview(self) -> Source:
        return replace(self, source=self.source.overview())

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        pixels = in_unit(self.source.read(top, left, height, width))
        return (pixels - self.background).abs() / self.greatest

    def view(self, side: int) -> Tensor:
        return view_of(self, side)


def _apart(image: Tensor) -> Tensor:
    # A copy whatever the size, or an exported graph would hold for some sizes alone.
    sparse = image[..., ::STRIDE, ::STRIDE].clone(memory_format=torch.contiguous_format).flatten(-2)
    apart = (image - background_of(sparse)).abs()
    return apart / apart.amax((-3, -2, -1), keepdim=True).clamp(min=FAINTEST)
