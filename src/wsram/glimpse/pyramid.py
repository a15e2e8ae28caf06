"""What can be glimpsed at: an average-pooled pyramid of images in memory, each of its own size if need be.

Conventions, written down once:

- A location is (x, y); x is the column. (-1, -1) is the *centre* of the image's top-left pixel and (1, 1) the centre
  of its bottom-right pixel, whatever the scale: source column = (x + 1) / 2 * (width - 1).
- Scale k: one glimpse pixel is the average of k by k source pixels. A glimpse of P pixels spans P * k source pixels,
  centred on the location.
- Outside the image everything is black (zero). A location may lie anywhere, also beyond [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.errors import UserError

Images = Tensor | Sequence[Tensor]
"""Images of one size, (batch, channels, height, width), or of several, each (channels, height, width)."""


@dataclass(frozen=True)
class Pyramid:
    """Every level of a batch of images in one flat buffer, so that one gather of rows serves all of it at once.

    pixels: the images one after the other; of an image its channels, of a channel its levels. A level is its rows, with
        a row of zeros above and below and `margin` zeros after each row, which also stand before the next one.
    images: what it was made of.
    channels: of the images.
    margin: zeros that part two rows, no fewer than a glimpse is wide.
    sizes: (batch, 2) int64, width and height of each image, in pixels.
    bases: (batch,) int64, where an image begins.
    strides: (batch,) int64, how many numbers a channel of an image takes.
    starts, heights, widths: (batch, scales) int64, where a level's first pixel lies in its channel, and its size.
    """

    pixels: Tensor
    images: Images
    channels: int
    margin: int
    sizes: Tensor
    bases: Tensor
    strides: Tensor
    starts: Tensor
    heights: Tensor
    widths: Tensor

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.bases)

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    def view(self, side: int) -> Tensor:
        """The low-resolution view of every image, (batch, channels, side, side), averaged down from the whole of it."""
        if isinstance(self.images, Tensor):
            return F.adaptive_avg_pool2d(self.images, side)
        return torch.stack([F.adaptive_avg_pool2d(image, side) for image in self.images])


def pyramid_of(images: Images, scales: Sequence[int], margin: int) -> Pyramid:
    """Average-pool images into one level for each scale.

    Args:
        images: floating point; of several sizes, they share their channels, precision and device.
        scales: source pixels under one pixel of a level, along each axis.
        margin: zeros between two rows, at least as many as a glimpse reads side by side.

    Raises:
        UserError: not floating point, or not of that shape.
    """
    groups = _checked(images)
    batch, channels = sum(len(group) for group in groups), groups[0].shape[1]
    layouts = [_layout(group.shape[-2], group.shape[-1], scales, margin) for group in groups]
    lengths = [layout.length * channels for layout, group in zip(layouts, groups, strict=True) for _ in group]
    bases = list(accumulate(lengths, initial=0))
    pixels = groups[0].new_zeros(bases[-1])
    at = 0
    for group, layout in zip(groups, layouts, strict=True):
        whole = pixels[bases[at] : bases[at + len(group)]].view(len(group), channels, layout.length)
        for k, (h, w), start in zip(scales, layout.sizes, layout.ends, strict=False):
            rows = whole[..., start : start + (h + 2) * (w + margin)].unflatten(-1, (h + 2, w + margin))
            rows[..., 1:-1, :w] = average_pool(group, k)
        at += len(group)

    def each(values: Sequence[Sequence[int] | int]) -> Tensor:
        """A row for each image from one for each group."""
        table = torch.tensor(values, device=pixels.device)
        if len(groups) == 1:
            return table.expand(batch, *table.shape[1:])
        return table.repeat_interleave(torch.tensor([len(group) for group in groups], device=pixels.device), 0)

    firsts = [[end + w + margin for end, (_, w) in zip(lay.ends, lay.sizes, strict=False)] for lay in layouts]
    return Pyramid(
        pixels=pixels,
        images=images,
        channels=channels,
        margin=margin,
        sizes=each([(group.shape[-1], group.shape[-2]) for group in groups]),
        bases=torch.tensor(bases[:-1], device=pixels.device),
        strides=each([layout.length for layout in layouts]),
        starts=each(firsts),
        heights=each([[h for h, _ in layout.sizes] for layout in layouts]),
        widths=each([[w for _, w in layout.sizes] for layout in layouts]),
    )


@dataclass(frozen=True)
class _Layout:
    """Where a channel's levels lie: their (height, width), where each begins and the last ends."""

    sizes: list[tuple[int, int]]
    ends: list[int]

    @property
    def length(self) -> int:
        return self.ends[-1]


def _layout(height: int, width: int, scales: Sequence[int], margin: int) -> _Layout:
    sizes = [(-(-height // k), -(-width // k)) for k in scales]
    return _Layout(sizes, list(accumulate(((h + 2) * (w + margin) for h, w in sizes), initial=margin)))


def _checked(images: Images) -> list[Tensor]:
    """The images as batches of one size each, in order."""
    groups = [images] if isinstance(images, Tensor) else [image.unsqueeze(0) for image in images]
    for group in groups:
        if group.ndim != 4 or not group.is_floating_point():
            raise UserError(
                "images must be a floating-point tensor (batch, channels, height, width), or a list of them "
                f"(channels, height, width), got {group.dtype} of shape {tuple(group.shape)}"
            )
    if not groups or len({group.shape[1] for group in groups}) > 1:
        raise UserError(f"expected images of one number of channels, got {sorted({g.shape[1] for g in groups})}")
    return groups


def average_pool(images: Tensor, k: int) -> Tensor:
    """Means of k by k pixels, (..., ceil(height / k), ceil(width / k)) from images (..., height, width).

    A last, partial cell is completed with the black outside, so its centre is where every cell's is. Sums of strided
    views, one axis after the other: on the CPU several times faster than `F.avg_pool2d`, whose kernel is slower there.

    Example:
        >>> average_pool(torch.ones(3, 2), 2)
        tensor([[1.0000],
                [0.5000]])
    """
    if k == 1:
        return images
    return _sum_of_every(_sum_of_every(images, k, -2), k, -1) / k**2


def _sum_of_every(values: Tensor, k: int, axis: int) -> Tensor:
    """Sums of k neighbours along an axis, -2 or -1, fewer in the last if they run out."""
    views = [values[..., i::k, :] if axis == -2 else values[..., i::k] for i in range(min(k, values.shape[axis]))]
    whole = [view for view in views if view.shape == views[0].shape]
    total = whole[0] + whole[1] if len(whole) > 1 else whole[0].clone()
    for view in whole[2:]:
        total += view
    for view in views[len(whole) :]:  # without padding: it would copy the whole image first
        total.narrow(axis, 0, view.shape[axis]).add_(view)
    return total
