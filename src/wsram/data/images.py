"""The one reader of image files: whatever a camera, scanner or scientist wrote, as upright bytes of grey or colour."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin, WebPImagePlugin  # noqa: F401  see below
from torch import Tensor

from wsram.errors import UserError, printable, reason_of

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""Formats that are opened, whatever a file is called; others can start programs or are no photographs."""
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pnm"))
"""Names of files that are taken for images in a folder."""
# Pillow knows a format once its module is there. It would load them when first needed, which several threads at once
# do not survive.
Image.preinit()
LARGEST = 200_000_000
"""Pixels of the largest image that is unpacked: as many as two minutes and 600 MB allow."""


@dataclass(frozen=True)
class Stored:
    """An image file's content that lies in something else than a file of its own.

    name: what it is called where something is said of it.
    read_bytes: gives the content.
    """

    name: str
    read_bytes: Callable[[], bytes]

    def __str__(self) -> str:
        """Its name."""
        return self.name


Source = Path | Stored | BinaryIO | Image.Image
"""Where an image comes from."""
_AGAIN = "copy it again, or leave it out of the data"


def read_image(file: Source, channels: int = 3, longest: int | None = None) -> Tensor:
    """An image as bytes, upright, in the colours that are asked for.

    Palettes and printers' colours are converted, what is transparent is white, a camera's note of orientation is
    heeded where it can be read, and 16-bit or floating-point values are brought to 0..255 by what their range says.

    Args:
        file: a path, an open file, or an image that Pillow has opened.
        channels: 1 for grey, 3 for red, green and blue.
        longest: shrink to so many pixels on the longer side, if it is longer; aspects stay.

    Returns:
        (channels, height, width) uint8.

    Raises:
        UserError: it cannot be read as an image, or is too large to be unpacked.
    """
    image = _opened(file, "L" if channels == 1 else "RGB", longest)
    if longest is not None and max(image.size) > longest:
        ratio = longest / max(image.size)
        size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
        image = image.resize(size, Image.Resampling.BOX if ratio < 0.5 else Image.Resampling.BICUBIC)
    return as_tensor(image)


def read_square(file: Source, side: int) -> Tensor:
    """An image as (3, side, side) uint8, squashed to a square, so that all of it is seen; see `read_image`."""
    return as_tensor(_opened(file, "RGB", None).resize((side, side), Image.Resampling.BICUBIC))


def size_of(file: Source) -> tuple[int, int, bool]:
    """Height, width and whether it has colour, of an image, upright, from a file's first bytes; see `read_image`."""
    with _told(file), _image(file) as image:
        _check_size(image)
        width, height = image.size
        if _orientation(image) in (5, 6, 7, 8):
            if isinstance(image, TiffImagePlugin.TiffImageFile):  # of which some Pillows say the upright size already
                width, height = (image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
            width, height = height, width
        return height, width, image.mode not in ("1", "L", "LA", "F") and not image.mode.startswith("I")


def _image(file: Source) -> AbstractContextManager[Image.Image]:
    if isinstance(file, Image.Image):
        return nullcontext(file)
    return Image.open(io.BytesIO(file.read_bytes()) if isinstance(file, Stored) else file, formats=FORMATS)


def _opened(file: Source, mode: str, longest: int | None) -> Image.Image:
    with _told(file), _image(file) as image:
        _check_size(image)
        if longest is not None and image.format == "JPEG" and image is not file:  # which stays its owner's
            image.draft(None, (longest, longest))  # unpacks fewer pixels where the file allows it
        return _in_mode(_upright(image), mode)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        image = Image.fromarray(_as_bytes(np.asarray(image), wide=image.mode.startswith("I;")))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode) if image.mode != mode else image.copy()


def as_mode(image: Image.Image, channels: int) -> Image.Image:
    """An image in grey, 1, or colour, 3, as `read_image` makes it."""
    return _in_mode(image, "L" if channels == 1 else "RGB")


def _as_bytes(values: np.ndarray, *, wide: bool) -> np.ndarray:
    """Values as 0..255, by what their range says; `wide` if they have 16 bits by their format."""
    if not np.isfinite(values).all():
        raise ValueError("its values are not finite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its values lie between {low:g} and {high:g}, expected 0..1, 0..255 or 0..65535")
    if values.dtype.kind == "f" and high <= 1:
        values = values * 255.0
    elif wide or high > 255:
        values = values / 257.0
    return np.rint(values).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image


def _orientation(image: Image.Image) -> int:
    """The camera's note of which side is up; 1, upright, where it cannot be read: no photo is lost by its notes."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow raises whatever the malformed bytes lead it to
        return 1


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > LARGEST:
        raise ValueError(f"{image.width}×{image.height} pixels, more than {LARGEST:,}")


def as_tensor(image: Image.Image) -> Tensor:
    """What Pillow holds, grey or colour, as (channels, height, width) uint8."""
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def as_pillow(pixels: Tensor) -> Image.Image:
    """Pixels (1 or 3, height, width), bytes or in [0, 1], as Pillow holds them."""
    values = pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)
    array = values.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(np.moveaxis(array, 0, -1)))


class _told:
    """Within it, whatever goes wrong with a file is a `UserError` that names the file."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> None:
        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.simplefilter("ignore")  # of odd but readable files; sizes are checked here

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.caught.__exit__(None, None, None)
        if error is None or isinstance(error, UserError) or not isinstance(error, Exception):
            return
        name = printable(str(self.file if isinstance(self.file, Path) else getattr(self.file, "name", "the image")))
        raise UserError(f"expected a whole image in {name}, got: {reason_of(error)}; {_AGAIN}") from error
