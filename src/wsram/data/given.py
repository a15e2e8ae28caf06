"""Images as people have them: files, what Pillow opened, arrays and tensors, made into what a network looks at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsram.data.images import as_pillow, read_image, read_square, size_of
from wsram.data.tiled import is_zarr, open_tiles, shrunk, tiled_array
from wsram.errors import UserError, printable
from wsram.glimpse.source import Held, Source, in_unit
from wsram.glimpse.tiles import Tiled

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""A file's path; an image of Pillow; an array (height, width) or (height, width, 3); a tensor (height, width) or
(channels, height, width). Arrays and tensors hold bytes, or floating-point values in [0, 1]."""
PICTURE = 1024
"""Pixels on the longer side of what is drawn of an image in tiles."""
ROUNDING = 1e-4
"""How far beyond [0, 1] values may lie and still be taken for rounding."""


@dataclass(frozen=True)
class Given:
    """An image, ready to be looked at.

    source: its pixels, uint8 or float32 in [0, 1]: in memory, or in tiles that are read when they are looked at.
    height, width: of the image as it was given, upright, in pixels.
    name: what it is called where something is said of it; empty where it has no name.
    """

    source: Source
    height: int
    width: int
    name: str

    @property
    def pixels(self) -> Tensor:
        """All of an image in memory, (channels, height, width); of one in tiles a small picture, for people to see."""
        held = self.source.in_memory
        return shrunk(self.source, min(PICTURE, max(self.size))) if held is None else held

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as the network sees it, in pixels."""
        return self.source.height, self.source.width

    @property
    def title(self) -> str:
        """The file's name on one line, without what would command a terminal; empty where there is none."""
        return printable(" ".join(Path(self.name).name.split("\n")))

    @property
    def ratio(self) -> tuple[float, float]:
        """Pixels of the image as given for one that the network sees, across and down; above 1 where it was shrunk."""
        return self.width / self.source.width, self.height / self.source.height

    @property
    def held(self) -> int:
        """How many of its pixels are in memory."""
        held = self.source.in_memory
        return 0 if held is None else held[0].numel()

    def unit(self) -> Tensor:
        """`pixels` as float32 in [0, 1]."""
        return in_unit(self.pixels)

    def on(self, device: torch.device) -> Source:
        """The source, on a device where it is in memory."""
        held = self.source.in_memory
        return self.source if held is None else Held(held.to(device))


def given(image: ImageLike, channels: int, longest: int | None = None) -> Given:
    """An image with the channels, and no larger, than a network looks at.

    Arrays and tensors that fit are taken as they are; those that must be converted or shrunk become bytes first, as in
    a file.

    Args:
        image: see `ImageLike`.
        channels: 1 for grey, 3 for colour.
        longest: shrink to so many pixels on the longer side, if it is longer.

    Raises:
        UserError: a file that cannot be read, or an array of another shape, type or range.
    """
    if isinstance(image, np.memmap):
        return _in_tiles(tiled_array(image, channels, "the array"), longest, "")
    if not isinstance(image, np.ndarray | Tensor):
        source = _source(image)
        name = str(image) if isinstance(image, str | Path) else ""
        tiles = open_tiles(source, channels) if isinstance(source, Path) else None
        if tiles is not None:
            return _in_tiles(tiles, longest, name)
        pixels = read_image(source, channels, longest)
        height, width = pixels.shape[-2:] if longest is None else size_of(source)[:2]
        return Given(Held(pixels), height, width, name)
    pixels = _planes(image)
    height, width = pixels.shape[-2:]
    if pixels.shape[0] != channels or (longest is not None and max(height, width) > longest):
        pixels = read_image(as_pillow(pixels), channels, longest)
    return Given(Held(pixels), height, width, "")


def _in_tiles(tiles: Tiled, longest: int | None, name: str) -> Given:
    """An image in tiles, to be looked at as it lies, or shrunk where the network was made for smaller ones."""
    source: Source = tiles
    if longest is not None and max(tiles.height, tiles.width) > longest:
        source = Held(shrunk(tiles, longest))
    return Given(source, tiles.height, tiles.width, name)


def given_square(image: ImageLike, side: int) -> Given:
    """An image squashed to (3, side, side) bytes; see `wsram.data.images.read_square`; raises as `given` does."""
    source = as_pillow(_planes(image)) if isinstance(image, np.ndarray | Tensor) else _source(image)
    height, width, _ = size_of(source)
    return Given(Held(read_square(source, side)), height, width, str(image) if isinstance(image, str | Path) else "")


def as_png(image: Image.Image | np.ndarray | Tensor) -> Image.Image:
    """What `given` takes that is no file, as an image that can be written as PNG; raises as it does."""
    if isinstance(image, Image.Image):
        return as_pillow(read_image(image, 3 if size_of(image)[2] else 1))
    return as_pillow(_planes(image))


def _source(image: str | Path | Image.Image) -> Path | Image.Image:
    if isinstance(image, Image.Image):
        return image
    path = Path(os.path.expanduser(image))
    if os.path.isdir(path) and not is_zarr(path):  # which, unlike a path's own, takes any name
        raise UserError(f"expected an image file, got the folder {printable(str(path))}; name the files in it")
    return path


def _planes(image: np.ndarray | Tensor) -> Tensor:
    """An array's own numbers, (channels, height, width) uint8 or float32 in [0, 1]; never shared with it."""
    if isinstance(image, Tensor):
        found = image.detach().cpu()
        planes = found.unsqueeze(0) if found.ndim == 2 else found
    else:
        if image.dtype.kind not in "uf" or image.dtype.itemsize > 8:
            raise UserError(_unlike(image))
        found = torch.from_numpy(np.array(image, dtype=image.dtype.newbyteorder("="), order="C"))
        planes = found.unsqueeze(0) if found.ndim == 2 else found.movedim(-1, 0)
    if planes.ndim != 3 or planes.shape[0] not in (1, 3) or 0 in planes.shape:
        raise UserError(_unlike(image))
    if planes.dtype == torch.uint8:
        return planes.clone(memory_format=torch.contiguous_format)
    if not planes.is_floating_point():
        raise UserError(_unlike(image))
    low, high = (float(value) for value in torch.aminmax(planes))
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also where they are no numbers
        raise UserError(
            f"expected an image with values from 0 to 1, or bytes, got values from {low:.4g} to {high:.4g}; divide "
            "them by the largest there can be, 255 mostly"
        )
    return planes.float().clamp(0, 1).clone(memory_format=torch.contiguous_format)


def _unlike(image: np.ndarray | Tensor) -> str:
    kind, wanted = ("a tensor", "(height, width) or (1 or 3, height, width)")
    if isinstance(image, np.ndarray):
        kind, wanted = ("an array", "(height, width) or (height, width, 3)")
    return (
        f"expected an image as {kind} {wanted} of uint8 or floating-point numbers, got {image.dtype} "
        f"{tuple(image.shape)}; convert it"
    )
