"""The sensor: cut small patches at a location and a scale out of an average-pooled pyramid of the image.

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
from torch import Tensor

from wsram.errors import UserError

MODES = ("bilinear", "integer")


@dataclass(frozen=True)
class Pyramid:
    """Every level of a batch of images in one flat buffer, so that one gather of rows serves all levels at once.

    pixels: (batch * channels * cells) one after the other; a channel's levels follow one another. A level is its rows,
        with a row of zeros above and below and `margin` zeros after each row, which also stand before the next one.
    size: (height, width) of the source images, in pixels.
    batch, channels: of the images.
    margin: zeros that part two rows, no fewer than a glimpse is wide.
    starts, heights, widths: (scales,) int64, where a level's first pixel lies among its channel's cells, and its size.
    """

    pixels: Tensor
    size: tuple[int, int]
    batch: int
    channels: int
    margin: int
    starts: Tensor
    heights: Tensor
    widths: Tensor


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


class Sensor:
    """Cuts glimpses: batched, without a loop over the batch and without a copy of the image for each sample.

    Args:
        patch_size: side of the square glimpse, in glimpse pixels.
        scales: source pixels under one glimpse pixel, along each axis; whole numbers, one for each pyramid level.
        mode: "bilinear" interpolates between the level's pixels; "integer" takes the nearest ones (half rounds up).

    Raises:
        UserError: a patch size or scale below 1, no scale, an unknown mode; at `pyramid`, images smaller than one
            patch at the finest scale, or a tensor that is not floating point (batch, channels, height, width).

    Example:
        >>> sensor = Sensor(patch_size=3, scales=(1, 2))
        >>> image = torch.arange(25.0).view(1, 1, 5, 5)
        >>> sensor(sensor.pyramid(image), torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))[0, 0]
        tensor([[ 6.,  7.,  8.],
                [11., 12., 13.],
                [16., 17., 18.]])
    """

    def __init__(self, patch_size: int, scales: tuple[int, ...], mode: str = "bilinear") -> None:
        if patch_size < 1:
            raise UserError(f"patch size must be at least 1 pixel, got {patch_size}")
        if not scales or min(scales) < 1 or any(int(k) != k for k in scales):
            raise UserError(f"scales must be one or more whole numbers >= 1, got {tuple(scales)}")
        if mode not in MODES:
            raise UserError(f"unknown sensor mode {mode!r}; choose one of {', '.join(MODES)}")
        self.patch_size = patch_size
        self.scales = tuple(int(k) for k in scales)
        self.mode = mode

    def check(self, height: int, width: int) -> None:
        """Raise `UserError` unless one patch at the finest scale fits into an image of this size, in pixels."""
        smallest = self.patch_size * min(self.scales)
        if smallest > min(height, width):
            raise UserError(
                f"a patch of {self.patch_size} pixels at scale {min(self.scales)} spans {smallest} pixels, more than "
                f"the {height}x{width} image; use a smaller patch or scale, or larger images"
            )

    def pyramid(self, images: Tensor) -> Pyramid:
        """Average-pool images (batch, channels, height, width), floating point, into one level for each scale."""
        if images.ndim != 4 or not images.is_floating_point():
            raise UserError(
                "images must be a floating-point tensor (batch, channels, height, width), "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        batch, channels, height, width = images.shape
        self.check(height, width)
        margin = self.patch_size + 1  # bilinear interpolation reads one pixel more
        sizes = [(-(-height // k), -(-width // k)) for k in self.scales]
        ends = list(accumulate(((h + 2) * (w + margin) for h, w in sizes), initial=margin))
        pixels = images.new_zeros(batch, channels, ends[-1])
        for k, (h, w), start, end in zip(self.scales, sizes, ends[:-1], ends[1:], strict=True):
            pixels[..., start:end].unflatten(-1, (h + 2, w + margin))[..., 1:-1, :w] = average_pool(images, k)

        def on_device(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, device=images.device)

        heights, widths = zip(*sizes, strict=True)
        return Pyramid(
            pixels.flatten(),
            (height, width),
            batch,
            channels,
            margin,
            on_device([start + w + margin for start, w in zip(ends, widths, strict=False)]),
            on_device(heights),
            on_device(widths),
        )

    def __call__(self, pyramid: Pyramid, location: Tensor, scale: Tensor) -> Tensor:
        """Glimpses (..., batch, channels, patch, patch) at `location` (..., batch, 2), `scale` (..., batch) int64."""
        height, width = pyramid.size
        side = self.patch_size + (self.mode == "bilinear")
        k = torch.tensor(self.scales, device=scale.device, dtype=location.dtype)[scale]
        source = (location + 1) * 0.5 * torch.tensor([width - 1, height - 1], device=scale.device)
        # Level cell j covers source pixels jk .. jk + k - 1 and has its centre at jk + (k - 1) / 2.
        corner = (source - (k.unsqueeze(-1) - 1) / 2) / k.unsqueeze(-1) - (self.patch_size - 1) / 2
        # Far outside there are zeros alone to see; the clamp keeps float-to-integer conversion defined.
        corner = corner.clamp(-(2.0**20), 2.0**20)
        first = torch.floor(corner if self.mode == "bilinear" else corner + 0.5)
        # A glimpse is `side` stretches of `side` pixels that lie side by side in memory. One that begins left or right
        # of its row reads the margin's zeros, one above or below the level its rows of zeros: index -1 and height.
        level_width = pyramid.widths[scale].unsqueeze(-1)
        column = torch.minimum(first[..., 0:1].long().clamp(min=-side), level_width)
        row = first[..., 1:2].long() + torch.arange(side, device=scale.device)
        row = torch.minimum(row.clamp(min=-1), pyramid.heights[scale].unsqueeze(-1))
        stretch = pyramid.starts[scale].unsqueeze(-1) + row * (level_width + pyramid.margin) + column
        channel = torch.arange(pyramid.batch * pyramid.channels, device=scale.device)
        channel = channel.view(pyramid.batch, pyramid.channels, 1) * (len(pyramid.pixels) // len(channel))
        stretch = channel + stretch.unsqueeze(-2)
        patch = pyramid.pixels.unfold(0, side, 1).index_select(0, stretch.flatten()).view(*stretch.shape, side)
        if self.mode == "integer":
            return patch
        # The fraction is the same for every pixel of a patch, so bilinear interpolation is two lerps of shifted views.
        fx, fy = (corner - first).to(patch.dtype)[..., None, None, None].unbind(-4)
        patch = torch.lerp(patch[..., :-1], patch[..., 1:], fx)
        return torch.lerp(patch[..., :-1, :], patch[..., 1:, :], fy)
