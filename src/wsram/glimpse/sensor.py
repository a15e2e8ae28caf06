"""The sensor: cut small patches at a location and a scale out of an average-pooled pyramid."""

from __future__ import annotations

import torch
from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse.actions import at_least_float32
from wsram.glimpse.contrast import in_contrast
from wsram.glimpse.pyramid import Images, Pyramid, pyramid_of

MODES = ("bilinear", "nearest")


class Sensor:
    """Cuts glimpses: batched, without a loop over the batch and without a copy of the image for each sample.

    Args:
        patch_size: side of the square glimpse, in glimpse pixels.
        scales: source pixels under one glimpse pixel, along each axis; whole numbers, one for each pyramid level.
        mode: "bilinear" interpolates between the level's pixels; "nearest" takes the nearest ones (half rounds up).
        contrast: look at images as `in_contrast` has them.

    Raises:
        UserError: a patch size or scale below 1, no scale, an unknown mode; at `pyramid`, a tensor that is
            not floating point (batch, channels, height, width).

    Example:
        >>> sensor = Sensor(patch_size=3, scales=(1, 2))
        >>> image = torch.arange(25.0).view(1, 1, 5, 5)
        >>> sensor(sensor.pyramid(image), torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))[0, 0]
        tensor([[ 6.,  7.,  8.],
                [11., 12., 13.],
                [16., 17., 18.]])
    """

    def __init__(
        self, patch_size: int, scales: tuple[int, ...], mode: str = "bilinear", *, contrast: bool = False
    ) -> None:
        if patch_size < 1:
            raise UserError(f"patch size must be at least 1 pixel, got {patch_size}")
        if not scales or min(scales) < 1 or any(int(k) != k for k in scales):
            raise UserError(f"scales must be one or more whole numbers >= 1, got {tuple(scales)}")
        if mode not in MODES:
            raise UserError(f"unknown sensor mode {mode!r}; choose one of {', '.join(MODES)}")
        self.patch_size = patch_size
        self.scales = tuple(int(k) for k in scales)
        self.mode = mode
        self.contrast = contrast

    def check(self, height: int, width: int) -> None:
        """Raise `UserError` unless one patch at the finest scale fits into an image of this size, in pixels."""
        smallest = self.patch_size * min(self.scales)
        if smallest > min(height, width):
            raise UserError(
                f"a patch of {self.patch_size} pixels at scale {min(self.scales)} spans {smallest} pixels, more than "
                f"the {height}x{width} image; use a smaller patch or scale, or larger images"
            )

    def pyramid(self, images: Images) -> Pyramid:
        """One level for each scale, of images (batch, channels, height, width) or each (channels, height, width)."""
        if self.contrast:
            images = in_contrast(images)
        return pyramid_of(images, self.scales, self.patch_size + 1)  # bilinear interpolation reads one pixel more

    def __call__(self, pyramid: Pyramid, location: Tensor, scale: Tensor) -> Tensor:
        """Glimpses (..., batch, channels, patch, patch) at `location` (..., batch, 2), `scale` (..., batch) int64."""
        location, layout = at_least_float32(location), pyramid.layout
        side = self.patch_size + (self.mode == "bilinear")
        start, height, width, k = layout.levels[layout.images, scale].unsqueeze(-1).unbind(-2)
        source = (location + 1) * layout.reach
        # Level cell j covers source pixels jk .. jk + k - 1 and has its centre at jk + (k - 1) / 2.
        corner = (source - (k - 1) / 2) / k - (self.patch_size - 1) / 2
        # Far outside there are zeros alone to see; the clamp keeps float-to-integer conversion defined.
        corner = corner.clamp(-(2.0**20), 2.0**20)
        first = torch.floor(corner if self.mode == "bilinear" else corner + 0.5)
        column, row = first.long().split(1, -1)
        # A glimpse is `side` stretches of `side` pixels that lie side by side in memory. One that begins left or right
        # of its row reads the margin's zeros, one above or below the level its rows of zeros: index -1 and height.
        column = torch.minimum(column.clamp(min=-side), width)
        row = torch.minimum((row + layout.span[:side]).clamp(min=-1), height)
        stretch = start + row * (width + pyramid.margin) + column
        stretch = layout.channels + stretch.unsqueeze(-2)
        patch = pyramid.pixels.unfold(0, side, 1).index_select(0, stretch.flatten()).view(*stretch.shape, side)
        if self.mode == "nearest":
            return patch
        # The fraction is the same for every pixel of a patch, so bilinear interpolation is two lerps of shifted views.
        fx, fy = (corner - first).to(patch.dtype)[..., None, None, None].unbind(-4)
        patch = torch.lerp(patch[..., :-1], patch[..., 1:], fx)
        return torch.lerp(patch[..., :-1, :], patch[..., 1:, :], fy)
