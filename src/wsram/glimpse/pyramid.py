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
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse.source import Source, averaged_down

Pixels = Tensor | Sequence[Tensor]
"""Images of one size, (batch, channels, height, width), or of several, each (channels, height, width)."""
Images = Pixels | Sequence[Tensor | Source]
"""The same, or images whose pixels need not be in memory."""


def in_memory(images: Images | Sequence[Tensor | None]) -> TypeGuard[Pixels]:
    """Whether images are tensors, all of them."""
    return isinstance(images, Tensor) or all(isinstance(image, Tensor) for image in images)


@dataclass(frozen=True)
class Layout:
    """Where everything lies in a pyramid's buffer: tables, the same for all batches of the same sizes; int64 but one.

    sizes: (batch, 2) width and height of each image, in pixels.
    reach: (batch, 2) float32, half the way from the centre of the first column and row to that of the last.
    bases: (batch,) where an image begins.
    strides: (batch,) how many numbers a channel of an image takes.
    channels: (batch, channels, 1) where a channel begins.
    levels: (batch, scales, 3) of a level, where its first pixel lies in its channel, its height and width.
    factors: (scales,) the scales.
    images: (batch,) the number of each image.
    span: (margin,) the whole numbers from 0.
    """

    sizes: Tensor
    reach: Tensor
    bases: Tensor
    strides: Tensor
    channels: Tensor
    levels: Tensor
    factors: Tensor
    images: Tensor
    span: Tensor


@dataclass(frozen=True)
class Pyramid:
    """Every level of a batch of images in one flat buffer, so that one gather of rows serves all of it at once.

    pixels: the images one after the other; of an image its channels, of a channel its levels. A level is its rows, with
        a row of zeros above and below and `margin` zeros after each row, which also stand before the next one.
    images: what it was made of.
    channels: of the images.
    margin: zeros that part two rows, no fewer than a glimpse is wide.
    layout: where they lie.
    """

    pixels: Tensor
    images: Pixels
    channels: int
    margin: int
    layout: Layout

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.layout.images)

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    @property
    def reach(self) -> Tensor:
        """See `wsram.glimpse.source.Glimpsable`."""
        return self.layout.reach

    @property
    def factors(self) -> Tensor:
        """(scales,) int64, source pixels under a pixel of each level, along each axis."""
        return self.layout.factors

    def view(self, side: int) -> Tensor:
        """The low-resolution view of every image, (batch, channels, side, side), averaged down from the whole of it."""
        if isinstance(self.images, Tensor):
            return averaged_down(self.images, side)
        return torch.stack([averaged_down(image, side) for image in self.images])

    def windows(self, scale: Tensor, column: Tensor, row: Tensor, side: int) -> Tensor:
        """See `wsram.glimpse.source.Glimpsable.windows`; one gather for all of them."""
        layout = self.layout
        start, height, width = layout.levels[layout.images, scale].unsqueeze(-1).unbind(-2)
        # A window is `side` stretches of `side` pixels that lie side by side in memory. One that begins left or right
        # of its row reads the margin's zeros, one above or below the level its rows of zeros: index -1 and height.
        column = torch.minimum(column.clamp(min=-side), width)
        row = torch.minimum((row + layout.span[:side]).clamp(min=-1), height)
        stretch = torch.addcmul(start + column, row, width + self.margin)
        stretch = layout.channels + stretch.unsqueeze(-2)
        return self.pixels.unfold(0, side, 1).index_select(0, stretch.flatten()).view(*stretch.shape, side)

    def select(self, index: Tensor) -> Pyramid:
        """The images numbered `index` (images,) int64, whose pixels stay where they are."""
        layout = self.layout
        of_images = ("sizes", "reach", "bases", "strides", "channels", "levels")
        chosen = {name: getattr(layout, name)[index] for name in of_images}
        images = self.images[index] if isinstance(self.images, Tensor) else [self.images[n] for n in index.tolist()]
        layout = replace(layout, images=layout.images[: len(index)], **chosen)
        return replace(self, images=images, layout=layout)


def pyramid_of(images: Pixels, scales: Sequence[int], margin: int) -> Pyramid:
    """Average-pool images into one level for each scale.

    Args:
        images: floating point; of several sizes, they share their channels, precision and device.
        scales: source pixels under one pixel of a level, along each axis.
        margin: zeros between two rows, at least as many as a glimpse reads side by side.

    Raises:
        UserError: not floating point, or not of that shape.
    """
    groups = check_images(images)
    channels, scales = groups[0].shape[1], tuple(scales)
    shapes = tuple((len(group), *group.shape[-2:]) for group in groups)
    # Tables of sizes that are only known to a compiler are made anew.
    tables = _tables.__wrapped__ if torch.compiler.is_compiling() else _tables
    layout, ends, length = tables(shapes, channels, scales, margin, groups[0].device)
    pixels = groups[0].new_zeros(length)
    at = 0
    for group, levels in zip(groups, ends, strict=True):
        numbers = levels[-1].start * channels * len(group)
        whole = pixels[at : at + numbers].view(len(group), channels, levels[-1].start)
        for k, level in zip(scales, levels, strict=False):
            rows = whole[..., level.start : level.start + (level.height + 2) * (level.width + margin)]
            rows = rows.unflatten(-1, (level.height + 2, level.width + margin))
            rows[..., 1:-1, : level.width] = average_pool(group, k)
        at += numbers
    return Pyramid(pixels, images, channels, margin, layout)


class _Level(NamedTuple):
    """Where a level begins in its channel, in zeros that stand before its first row, and its size."""

    start: int
    height: int
    width: int


@lru_cache(maxsize=64)
def _tables(
    shapes: tuple[tuple[int, ...], ...], channels: int, scales: tuple[int, ...], margin: int, device: torch.device
) -> tuple[Layout, list[list[_Level]], int]:
    """The layout of images of some shapes (count, height, width); the levels of each shape and their end; the length.

    Kept, since they are many small tensors, and the next batch mostly has the same shape.
    """
    ends: list[list[_Level]] = []
    for _, height, width in shapes:
        cells = [(-(-height // k), -(-width // k)) for k in scales]
        starts = accumulate(((h + 2) * (w + margin) for h, w in cells), initial=margin)
        # The last one begins where the channel ends.
        ends.append([_Level(start, *each) for start, each in zip(starts, [*cells, (0, 0)], strict=True)])
    levels = [[(start + w + margin, h, w) for start, h, w in each[:-1]] for each in ends]
    shape_of = [n for n, (count, _, _) in enumerate(shapes) for _ in range(count)]
    strides = [ends[n][-1].start for n in shape_of]
    *bases, length = accumulate((channels * stride for stride in strides), initial=0)
    # Kept tensors must serve training too, whatever they are first asked for by.
    with torch.inference_mode(False):
        rows = torch.tensor(shape_of)
        sizes = torch.tensor([(width, height) for _, height, width in shapes])[rows]
        begin, stride = torch.tensor(bases), torch.tensor(strides)
        first = begin.view(-1, 1, 1) + torch.arange(channels).view(-1, 1) * stride.view(-1, 1, 1)
        numbers, span = torch.arange(len(rows)), torch.arange(margin)
        of_levels, factors = torch.tensor(levels)[rows], torch.tensor(scales)
        parts = (sizes, (sizes - 1) / 2, begin, stride, first, of_levels, factors, numbers, span)
        layout = Layout(*(part.to(device) for part in parts))
    return layout, ends, length


def check_images(images: Pixels) -> list[Tensor]:
    """The images as batches of one size each, in order; `UserError` if they are no images."""
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
    views, one axis after the other: for small images on the CPU several times faster than `F.avg_pool2d`.

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
