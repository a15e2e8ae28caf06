"""What can be glimpsed at, wherever its pixels are: one image read a rectangle at a time, and a batch of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

STREAMED = 1 << 19
"""Pixels from which on an image is averaged down strip by strip, which takes one pass; below it torch's is faster."""


@runtime_checkable
class Source(Protocol):
    """One image, read a rectangle at a time.

    Pixels are bytes, or floating-point values in [0, 1]; `in_unit` makes the former into the latter.
    """

    @property
    def channels(self) -> int:
        """1 or 3, mostly."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def width(self) -> int:
        """In pixels."""

    @property
    def in_memory(self) -> Tensor | None:
        """All of its pixels (channels, height, width), where they are at hand; None where they must be read."""

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of the rectangles that a pass over all of it reads best."""

    def overview(self) -> Source:
        """What a pass over all of it reads: itself, or a smaller copy that is kept beside it."""

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The pixels (channels, height, width) of a rectangle that lies within the image.

        Raises:
            UserError: they cannot be read.
        """

    def view(self, side: int) -> Tensor:
        """All of it averaged down to (channels, side, side), floating point; see `averaged_down`."""


@runtime_checkable
class Glimpsable(Protocol):
    """A batch of images that a `wsram.glimpse.sensor.Sensor` cuts glimpses of."""

    @property
    def channels(self) -> int:
        """Of the images."""

    @property
    def device(self) -> torch.device:
        """Where glimpses are made."""

    @property
    def reach(self) -> Tensor:
        """(batch, 2) float32, half the way from the centre of the first column and row to that of the last."""

    @property
    def factors(self) -> Tensor:
        """(scales,) int64, the sensor's scales."""

    def __len__(self) -> int:
        """How many images there are."""

    def view(self, side: int) -> Tensor:
        """The low-resolution view of every image, (batch, channels, side, side), averaged down from the whole of it."""

    def windows(self, scale: Tensor, column: Tensor, row: Tensor, side: int) -> Tensor:
        """Cells of averages of k by k pixels, k the factor of the scale, black outside the image.

        Args:
            scale: (..., batch) int64, indices of scales.
            column, row: (..., batch, 1) int64, the first cell of each window, which may lie outside.
            side: cells along each axis.

        Returns:
            (..., batch, channels, side, side).
        """

    def select(self, index: Tensor) -> Glimpsable:
        """The images numbered `index` (images,) int64, in that order."""


@dataclass(frozen=True)
class Held:
    """An image in memory as a `Source`.

    pixels: (channels, height, width) uint8, or floating point in [0, 1].
    """

    pixels: Tensor

    @property
    def channels(self) -> int:
        """Of the image."""
        return self.pixels.shape[0]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        """In pixels."""
        return self.pixels.shape[2]

    @property
    def in_memory(self) -> Tensor:
        """The pixels."""
        return self.pixels

    @property
    def block(self) -> tuple[int, int]:
        """All of it."""
        return self.height, self.width

    def overview(self) -> Held:
        """Itself."""
        return self

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """A part of the pixels."""
        return self.pixels[:, top : top + height, left : left + width]

    def view(self, side: int) -> Tensor:
        """Averaged down from all of it."""
        return averaged_down(self.pixels, side)


def blocks(source: Source) -> Iterator[tuple[int, int, Tensor]]:
    """Top, left and pixels of rectangles that cover an image, in order."""
    rows, columns = source.block
    for top in range(0, source.height, rows):
        for left in range(0, source.width, columns):
            yield top, left, source.read(top, left, min(rows, source.height - top), min(columns, source.width - left))


def in_unit(pixels: Tensor) -> Tensor:
    """Pixels as floating-point values in [0, 1], of bytes and of such values."""
    return pixels if pixels.is_floating_point() else pixels.float() / 255


def averaged_down(images: Tensor, side: int) -> Tensor:
    """Images (..., height, width) as the means of side by side equal parts, floating point.

    Cell i of an axis is the mean of pixels floor(i n / side) to ceil((i + 1) n / side) - 1, as `F.adaptive_avg_pool2d`
    has it; a large image is read once, at the speed of memory.

    Example:
        >>> averaged_down(torch.arange(16.0).view(1, 4, 4), 2)
        tensor([[[ 2.5000,  4.5000],
                 [10.5000, 12.5000]]])
    """
    height, width = images.shape[-2:]
    if height * width < STREAMED or torch.compiler.is_compiling():
        return F.adaptive_avg_pool2d(in_unit(images), side)
    sums = _RowSums(images.shape[:-2], height, width, side, images)
    sums.add(images, 0, 0)
    return sums.view()


def view_of(source: Source, side: int) -> Tensor:
    """An image's overview averaged down to (channels, side, side), read block by block; see `averaged_down`."""
    seen = source.overview()
    sums = None
    for top, left, pixels in blocks(seen):
        if sums is None:
            sums = _RowSums(pixels.shape[:1], seen.height, seen.width, side, pixels)
        sums.add(pixels, top, left)
    assert sums is not None
    return sums.view()


class _RowSums:
    """An image averaged down from blocks of it, in whatever order they come.

    Args:
        lead: axes before height and width.
        height, width: of the image.
        side: cells along each axis.
        like: where blocks lie, and whether they are bytes.
    """

    def __init__(self, lead: Sequence[int], height: int, width: int, side: int, like: Tensor) -> None:
        self.height = height
        self.rows, self.columns = edges(height, side), edges(width, side)
        self.divisor = 1.0 if like.is_floating_point() else 255.0
        # Sums of bytes are whole numbers that float32 holds exactly; half precision holds no sum of many.
        self.dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        self.result = like.dtype if like.is_floating_point() else torch.float32
        self.sums = torch.zeros(*lead, side, width, dtype=self.dtype, device=like.device)

    def add(self, block: Tensor, top: int, left: int) -> None:
        """Take in a block (..., rows, columns) whose first pixel is at (top, left)."""
        height, width = block.shape[-2:]
        for n, (first, end) in enumerate(self.rows):
            low, high = max(first - top, 0), min(end - top, height)
            if low < high:
                part = block[..., low:high, :].sum(-2, dtype=self.dtype)
                self.sums[..., n, left : left + width] += part

    def view(self) -> Tensor:
        """The means (..., side, side)."""
        part, side = torch.arange(len(self.rows), device=self.sums.device), len(self.rows)
        tall = ((part + 1) * self.height + side - 1) // side - part * self.height // side  # as `edges` has it
        means = self.sums / (tall.unsqueeze(-1) * self.divisor)
        return torch.stack([means[..., first:end].mean(-1) for first, end in self.columns], -1).to(self.result)


def edges(length: int, parts: int) -> list[tuple[int, int]]:
    """Where equal parts of an axis begin and end, in whole pixels that overlap where they must."""
    return [(i * length // parts, -(-(i + 1) * length // parts)) for i in range(parts)]
