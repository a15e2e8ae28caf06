"""The sensor: cut small patches at a location and a scale out of an average-pooled pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse.actions import at_least_float32
from wsram.glimpse.contrast import in_contrast, source_in_contrast
from wsram.glimpse.patchwork import Patchwork
from wsram.glimpse.pyramid import Images, Pixels, check_images, in_memory, pyramid_of
from wsram.glimpse.source import Glimpsable, Held, in_unit
from wsram.glimpse.windows import windows_are_cheaper, windows_of

MODES = ("bilinear", "nearest")
LARGEST_SCALE = 1 << 20
"""Pixels along a side that no image has."""


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
        if not scales or not 1 <= min(scales) <= max(scales) <= LARGEST_SCALE or any(int(k) != k for k in scales):
            raise UserError(f"scales must be one or more whole numbers from 1 to {LARGEST_SCALE}, got {tuple(scales)}")
        if len(set(scales)) < len(scales):
            raise UserError(f"scales must differ from one another, got {tuple(scales)}")
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

    def pyramid(
        self, images: Images | Glimpsable, looks: int | None = None, device: torch.device | None = None
    ) -> Glimpsable:
        """What glimpses of these images are cut from: all of them averaged for each scale, or each window by itself.

        The numbers are the same; what `wsram.glimpse.windows.windows_are_cheaper` counts decides. Accelerators average
        whole images faster than they start on a window, and what lies on a disk is never read whole.

        Args:
            images: (batch, channels, height, width), or each (channels, height, width), floating point; or sources; or
                what came of this method already, which is given back.
            looks: glimpses that will be taken of each image, if that is known.
            device: where glimpses of sources are made whose windows are read one by one; by default where the first
                of them is, on the processor if it is not in memory.

        Raises:
            UserError: not floating point, another shape, or images of different numbers of channels.
        """
        if isinstance(images, Patchwork):
            if self.contrast:
                raise UserError("contrast is found in whole images, and these are drawn where they are looked at")
            return images.at(self.scales)
        if not isinstance(images, Tensor | Sequence):
            return images
        if in_memory(images):
            check_images(images)
            whole = in_contrast(images) if self.contrast else images
            if self._apart(images, looks):
                at_once = whole if isinstance(whole, Tensor) else None
                return windows_of([Held(image) for image in whole], self.scales, at_once)
        else:
            sources = [Held(image) if isinstance(image, Tensor) else image for image in images]
            if self.contrast:
                sources = [source_in_contrast(source) for source in sources]
            held = [source.in_memory for source in sources]
            if not in_memory(held) or self._apart(held, looks):
                return windows_of(sources, self.scales, device=device)
            units = [in_unit(image) for image in held]
            whole = torch.stack(units) if len({image.shape for image in units}) == 1 else units
        return pyramid_of(whole, self.scales, self.patch_size + 1)  # bilinear interpolation reads one pixel more

    def _apart(self, images: Pixels, looks: int | None) -> bool:
        """Whether windows of images in memory are to be averaged one by one."""
        if looks is None or torch.compiler.is_compiling() or images[0].device.type != "cpu":
            return False
        pixels = [image.shape[-2] * image.shape[-1] for image in (images[:1] if isinstance(images, Tensor) else images)]
        return windows_are_cheaper(sum(pixels) / len(pixels), looks, self.patch_size + 1, self.scales)

    def corner(self, location: Tensor, reach: Tensor, k: Tensor) -> Tensor:
        """Where a glimpse's first pixel lies among the cells of k by k pixels, (..., 2), mostly between two of them.

        Args:
            location: (..., 2) of the glimpse.
            reach: (..., 2) half the way from the centre of the image's first column and row to that of the last.
            k: (..., 1) source pixels under a cell, along each axis.
        """
        # Pixels from the image's edge, where cell 0 begins, of k pixels. A glimpse lies evenly about its location.
        return torch.addcmul(reach + 0.5, location, reach) / k - self.patch_size / 2

    def __call__(self, pyramid: Glimpsable, location: Tensor, scale: Tensor) -> Tensor:
        """Glimpses (..., batch, channels, patch, patch) at `location` (..., batch, 2), `scale` (..., batch) int64."""
        location = at_least_float32(location)
        side = self.patch_size + (self.mode == "bilinear")
        k = pyramid.factors[scale].unsqueeze(-1)
        corner = self.corner(location, pyramid.reach, k)
        # Far outside there are zeros alone to see; the clamp keeps float-to-integer conversion defined.
        corner = corner.clamp(-(2.0**20), 2.0**20)
        first = torch.floor(corner if self.mode == "bilinear" else corner + 0.5)
        column, row = first.long().split(1, -1)
        patch = pyramid.windows(scale, column, row, side)
        if self.mode == "nearest":
            return patch
        # The fraction is the same for every pixel of a patch, so bilinear interpolation is two lerps of shifted views.
        fx, fy = (corner - first).to(patch.dtype)[..., None, None, None].unbind(-4)
        patch = torch.lerp(patch[..., :-1], patch[..., 1:], fx)
        return torch.lerp(patch[..., :-1, :], patch[..., 1:, :], fy)


def edges_of(location: Tensor, side: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """First and last edges (..., 2), (x, y) in pixels, of squares in images whose own edges are at 0 and their sizes.

    Args:
        location: (..., 2) of the squares' centres, (x, y) in [-1, 1].
        side: (...) of the squares, in pixels.
        sizes: (..., 2) width and height of the images, in pixels.

    Example:
        >>> edges_of(torch.zeros(2), torch.tensor(4), torch.tensor([10, 20]))
        (tensor([3., 8.]), tensor([ 7., 12.]))
    """
    middle, half = (location + 1) / 2 * (sizes - 1) + 0.5, side.unsqueeze(-1) / 2
    return middle - half, middle + half
