"""Glimpses of images that are too large to be averaged whole: each window is read and averaged when it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse.pyramid import average_pool
from wsram.glimpse.source import Source, in_unit

THREADS = 4
"""Windows read at a time, of images that are not in memory."""
OVERHEAD = 14_000
"""Pixels that could be averaged in the time that one window takes to be found, read and put away, on a processor."""


@dataclass(frozen=True)
class Windows:
    """A batch of images whose windows are read one by one; see `wsram.glimpse.source.Glimpsable`.

    sources: the images.
    factors: (scales,) int64, source pixels under a cell, along each axis.
    reach: see `Glimpsable`.
    views: those made already, by their side: one pass over a large image is enough.
    together: (images, channels, height, width) where the images lie in memory as one tensor, whose windows are cut
        together, and (batch,) int64, which of them these are.
    """

    sources: tuple[Source, ...]
    factors: Tensor
    reach: Tensor
    views: dict[int, Tensor] = field(default_factory=dict, repr=False)
    together: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.sources)

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.sources[0].channels

    @property
    def device(self) -> torch.device:
        """Where glimpses are made."""
        return self.factors.device

    def view(self, side: int) -> Tensor:
        """The low-resolution view of every image, (batch, channels, side, side)."""
        if side not in self.views:
            self.views[side] = torch.stack([source.view(side).to(self.device) for source in self.sources])
        return self.views[side]

    def windows(self, scale: Tensor, column: Tensor, row: Tensor, side: int) -> Tensor:
        """See `Glimpsable.windows`; the same numbers as a whole pyramid's, bit for bit."""
        if self.together is not None:
            found = self._cut(*self.together, scale.flatten(), column.flatten(), row.flatten(), side)
            return found.view(*scale.shape, self.channels, side, side)
        places = torch.stack([self.factors[scale], row.squeeze(-1), column.squeeze(-1)], -1).flatten(0, -2).tolist()
        sources = [self.sources[n % len(self)] for n in range(len(places))]
        boxes = [_clipped(source, place, side) for source, place in zip(sources, places, strict=True)]
        # What is read from a disk waits for it: several threads wait together.
        apart = any(source.in_memory is None for source in sources) and len(sources) > 1
        read = list((_pool().map if apart else map)(_read, sources, boxes))
        cells = [
            _averaged(pixels.to(self.device), place, box, side)
            for pixels, place, box in zip(read, places, boxes, strict=True)
        ]
        return torch.stack(cells).view(*scale.shape, self.channels, side, side)

    def _cut(self, images: Tensor, number: Tensor, scale: Tensor, column: Tensor, row: Tensor, side: int) -> Tensor:
        """(windows, channels, side, side), those of each scale at once."""
        found = images.new_empty(len(scale), self.channels, side, side)
        number = number.repeat(len(scale) // len(number))
        for n, k in enumerate(self.factors.tolist()):
            of = (scale == n).nonzero().squeeze(-1)
            if len(of):
                found[of] = average_pool(_gathered(images, number[of], k * row[of], k * column[of], k * side), k)
        return found

    def select(self, index: Tensor) -> Windows:
        """The images numbered `index`."""
        sources = tuple(self.sources[n] for n in index.tolist())
        views = {side: view[index] for side, view in self.views.items()}
        together = None if self.together is None else (self.together[0], self.together[1][index])
        return Windows(sources, self.factors, self.reach[index], views, together)


def windows_of(
    sources: Sequence[Source],
    scales: Sequence[int],
    images: Tensor | None = None,
    device: torch.device | None = None,
) -> Windows:
    """Images of which glimpses are cut one by one.

    Args:
        sources: the images.
        scales: source pixels under a cell, along each axis.
        images: the same as one tensor (batch, channels, height, width), floating point, if they are one.
        device: where glimpses are made; by default where the first image is, on the processor if not in memory.

    Raises:
        UserError: no images, or of different numbers of channels.
    """
    if not sources or len({source.channels for source in sources}) > 1:
        raise UserError(f"expected images of one number of channels, got {sorted({s.channels for s in sources})}")
    if device is None:
        held = sources[0].in_memory
        device = torch.device("cpu") if held is None else held.device
    sizes = torch.tensor([(source.width, source.height) for source in sources], device=device)
    together = None if images is None else (images, torch.arange(len(images), device=device))
    return Windows(tuple(sources), torch.tensor(scales, device=device), (sizes - 1) / 2, together=together)


def windows_are_cheaper(pixels: float, looks: int, side: int, scales: Sequence[int]) -> bool:
    """Whether `looks` windows of an image cost less than averaging all of it, on a processor; both counted in pixels.

    Args:
        pixels: of the image.
        looks: glimpses that will be taken of it.
        side: of a glimpse, in cells.
        scales: that it may be taken at; each is as likely as another.

    Example:
        >>> windows_are_cheaper(100 * 100, 4, 17, (1, 2, 3)), windows_are_cheaper(800 * 800, 4, 17, (1, 2, 3))
        (False, True)
    """
    window = sum((side * k) ** 2 for k in scales) / len(scales)
    return looks * (window + OVERHEAD) < pixels * len(scales)


Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels; the last two 0 where nothing is left."""


def _clipped(source: Source, place: Sequence[int], side: int) -> Box:
    """What lies in the image of a window, which begins at a place: factor, row and column."""
    k, row, column = place
    top, left = max(row * k, 0), max(column * k, 0)
    bottom, right = min((row + side) * k, source.height), min((column + side) * k, source.width)
    return (top, left, bottom - top, right - left) if top < bottom and left < right else (0, 0, 0, 0)


def _read(source: Source, box: Box) -> Tensor:
    return source.read(*box)


def _averaged(pixels: Tensor, place: Sequence[int], box: Box, side: int) -> Tensor:
    """Cells (channels, side, side) of a window, of what lies of it in the image."""
    (k, row, column), (top, left, height, width) = place, box
    if not height:
        kind = pixels.dtype if pixels.is_floating_point() else torch.float32
        return pixels.new_zeros(pixels.shape[0], side, side, dtype=kind)
    above, before = top - row * k, left - column * k
    pixels = in_unit(pixels)
    if (height, width) != (side * k, side * k):
        pixels = F.pad(pixels, (before, side * k - before - width, above, side * k - above - height))
    return average_pool(pixels, k)


def _gathered(images: Tensor, number: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """(windows, channels, side, side) pixels of images (batch, channels, height, width), black outside.

    Args:
        images: what they are of.
        number, top, left: (windows,) int64, the image, first row and first column of each.
        side: in pixels.
    """
    channels, height, width = images.shape[1:]
    span = torch.arange(side, device=images.device)
    rows, columns = top.unsqueeze(-1) + span, left.unsqueeze(-1) + span
    inside = ((rows >= 0) & (rows < height)).unsqueeze(-1) & ((columns >= 0) & (columns < width)).unsqueeze(-2)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    # A window is rows that lie side by side in memory. One that reaches over an edge reads what lies there.
    channel = number.unsqueeze(-1) * channels + torch.arange(channels, device=images.device)
    first = (channel.unsqueeze(-1) * height + rows.unsqueeze(1)) * width + left.view(-1, 1, 1)
    flat, last = images.reshape(-1), images.numel() - side
    beyond = ((first < 0) | (first > last)).flatten(1).any(-1)  # of all the images: there is nothing to read
    if last < 0 or beyond.all():
        pixels = images.new_empty(len(number), channels, side, side)
    else:
        pixels = flat.unfold(0, side, 1).index_select(0, first.clamp(0, last).flatten()).view(*first.shape, side)
    if beyond.any():
        at = number[beyond, None, None], rows[beyond].unsqueeze(-1), columns[beyond].unsqueeze(-2)
        pixels[beyond] = images.movedim(1, -1)[at].movedim(-1, 1)
    return pixels if inside.all() else pixels.masked_fill_(~inside.unsqueeze(1), 0.0)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "wsram-windows")
