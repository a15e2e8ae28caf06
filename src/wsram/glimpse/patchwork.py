"""Large black images on which small squares lie: nothing is drawn but what is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wsram.glimpse.pyramid import average_pool


@dataclass(frozen=True)
class Patchwork:
    """A batch of such images; of it, a `wsram.glimpse.sensor.Sensor` cuts the glimpses that it would cut of `render`.

    squares: (batch, count, side, side) floating point, each image's, in the order in which they are laid: a later one
        hides all that it covers, its black included.
    corners: (batch, count, 2) int64, row and column of each square's first pixel; all of it lies on the image.
    canvas: side of the images, in pixels.
    factors: (scales,) int64, a sensor's scales; see `at`.
    """

    squares: Tensor
    corners: Tensor
    canvas: int
    factors: Tensor

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.squares)

    def __getitem__(self, number: int) -> Tensor:
        """One of the images, (1, canvas, canvas), drawn whole: for pictures of it."""
        if not 0 <= number < len(self):
            raise IndexError(f"image {number} of {len(self)}")
        return self.select(torch.tensor([number], device=self.device)).render()[0]

    @property
    def channels(self) -> int:
        """Of the images: grey."""
        return 1

    @property
    def device(self) -> torch.device:
        """Where the squares are."""
        return self.squares.device

    @property
    def reach(self) -> Tensor:
        """(batch, 2) half the way from the centre of the first column and row to that of the last."""
        return torch.full((len(self), 2), (self.canvas - 1) / 2, device=self.device)

    def at(self, scales: Sequence[int]) -> Patchwork:
        """The same, for a sensor of these scales."""
        return replace(self, factors=torch.tensor(scales, device=self.device))

    def select(self, index: Tensor) -> Patchwork:
        """The images numbered `index` (images,) int64."""
        return replace(self, squares=self.squares[index], corners=self.corners[index])

    def render(self) -> Tensor:
        """The whole images, (batch, 1, canvas, canvas)."""
        place = torch.zeros(len(self), dtype=torch.int64, device=self.device)
        return self._drawn(torch.arange(len(self), device=self.device), place, place, self.canvas).unsqueeze(1)

    def view(self, side: int) -> Tensor:
        """The images averaged down to (batch, 1, side, side), of parts as `F.adaptive_avg_pool2d` has them."""
        seen, size, canvas = self._visible(), self.squares.shape[-1], self.canvas
        pixel = self.corners.unsqueeze(-1) + torch.arange(size, device=self.device)  # batch, count, axis, pixel
        # No square reaches into more parts than these; the first of them may only touch it.
        part = (self.corners * side // canvas).unsqueeze(-1) - 1
        part = part + torch.arange(2 + -(-size * side // canvas) + 1, device=self.device)
        first, end = part * canvas // side, -(-(part + 1) * canvas // side)
        inside = (pixel.unsqueeze(-2) >= first.unsqueeze(-1)) & (pixel.unsqueeze(-2) < end.unsqueeze(-1))
        weights = inside.to(seen.dtype) / (end - first).unsqueeze(-1)
        with torch.autocast(self.device.type, enabled=False):  # products of half precision would round the pixels
            means = weights[:, :, 0] @ seen @ weights[:, :, 1].mT
        # One part more on each side takes what is none of the image's: nothing but zeros.
        at = part.clamp(-1, side) + 1
        at = at[:, :, 0].unsqueeze(-1) * (side + 2) + at[:, :, 1].unsqueeze(-2)
        view = seen.new_zeros(len(self), (side + 2) ** 2)
        view.scatter_add_(1, at.flatten(1), means.flatten(1))
        return view.view(-1, 1, side + 2, side + 2)[..., 1:-1, 1:-1]

    def windows(self, scale: Tensor, column: Tensor, row: Tensor, side: int) -> Tensor:
        """Windows (..., batch, 1, side, side) of averages of k by k pixels, black outside.

        Args:
            scale: (..., batch) int64, indices of scales.
            column, row: (..., batch, 1) int64, the first cell of each window.
            side: of the window, in cells.
        """
        factor = self.factors[scale].flatten()
        image = torch.arange(len(self), device=self.device).expand(scale.shape).flatten()
        row, column = row.flatten() * factor, column.flatten() * factor
        found = self.squares.new_zeros(len(image), side, side)
        for k in self.factors.unique().tolist():
            # Without a look at which scales were chosen, an accelerator would not have to wait; but it would draw all.
            of = (factor == k).nonzero().squeeze(-1)
            if len(of):
                found[of] = average_pool(self._drawn(image[of], row[of], column[of], side * k), k)
        return found.view(*scale.shape, 1, side, side)

    def _drawn(self, image: Tensor, row: Tensor, column: Tensor, side: int) -> Tensor:
        """(windows, side, side) pixels of images numbered `image` (windows,) from (row, column) (windows,) on."""
        size = self.squares.shape[-1]
        offset = self.corners[image] - torch.stack([row, column], -1).unsqueeze(-2)  # windows, count, axis
        touched = ((offset > -size) & (offset < side)).all(-1)
        rank = touched.cumsum(-1)  # of a window's squares that are touched, which one it is
        wide = side + 2 * size  # so that a square that is touched lies in it whole
        drawn = self.squares.new_zeros(len(image), wide * wide)
        span = torch.arange(size, device=self.device)
        for n in range(1, 1 + (int(rank.max()) if rank.numel() else 0)):
            window, square = (touched & (rank == n)).nonzero(as_tuple=True)
            top, left = (offset[window, square] + size).unbind(-1)
            at = (top[:, None, None] + span[:, None]) * wide + left[:, None, None] + span
            drawn[window[:, None, None], at] = self.squares[image[window], square]
        return drawn.view(-1, wide, wide)[:, size:-size, size:-size]

    def _visible(self) -> Tensor:
        """The squares with what later ones hide of them set to black."""
        size = self.squares.shape[-1]
        apart = self.corners.unsqueeze(1) - self.corners.unsqueeze(2)  # batch, below, above, axis
        above = torch.ones(apart.shape[1:3], dtype=torch.bool, device=self.device).triu(1)
        image, below, over = ((apart.abs() < size).all(-1) & above).nonzero(as_tuple=True)
        shift = apart[image, below, over].unsqueeze(-1)
        span = torch.arange(size, device=self.device)
        rows, columns = ((span >= shift) & (span < shift + size)).unbind(-2)
        hidden = (rows.unsqueeze(-1) & columns.unsqueeze(-2)).to(self.squares.dtype)
        partly, which = torch.unique(image * self.squares.shape[1] + below, return_inverse=True)
        covers = hidden.new_zeros(len(partly), size, size).index_add_(0, which, hidden)
        seen = self.squares.clone().flatten(0, 1)
        seen[partly] *= covers == 0
        return seen.view_as(self.squares)


def patchwork(squares: Tensor, corners: Tensor, canvas: int) -> Patchwork:
    """Images of side `canvas` with squares (batch, count, side, side) at corners (batch, count, 2), as `Patchwork`."""
    return Patchwork(squares, corners, canvas, torch.ones(1, dtype=torch.int64, device=squares.device))
