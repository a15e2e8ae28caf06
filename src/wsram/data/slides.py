"""Slides of microscopes, as OpenSlide reads them: whatever the scanner's make, one image at several resolutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsram.data.pieces import TILE, planes_of, unchanged
from wsram.errors import UserError, printable, reason_of
from wsram.glimpse.tiles import Level, Tiled

BACKGROUND = "ffffff"
"""Where a slide holds no pixels and does not say what is seen there."""


def open_slide(path: Path, channels: int) -> Tiled:
    """A slide; nothing but its description is read before a tile is looked at. OpenSlide keeps the file open.

    What the scanner left out shows the colour that the slide names for it, or white.

    Args:
        path: of the file.
        channels: 1 for grey, 3 for colour.

    Raises:
        UserError: it is no slide that OpenSlide knows, or what reads it is not installed.
    """
    name = printable(str(path))
    try:
        import openslide
    except ImportError as error:
        raise UserError(f'{name} is a slide; install what reads it: pip install "wsram[slides]"') from error
    try:
        slide = openslide.OpenSlide(path)
        colour = "#" + slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, BACKGROUND)
        sizes, steps = slide.level_dimensions, slide.level_downsamples
    except (openslide.OpenSlideError, OSError) as error:
        raise UserError(f"expected a slide in {name}, got: {reason_of(error)}; copy it again") from error
    check, planes = unchanged(path), planes_of(np.dtype(np.uint8), channels, name)

    def level(n: int) -> Level:
        width, height = sizes[n]

        def load(row: int, column: int) -> np.ndarray:
            check()
            size = min(TILE, width - column * TILE), min(TILE, height - row * TILE)
            # Places are counted in the finest level's pixels.
            place = round(column * TILE * steps[n]), round(row * TILE * steps[n])
            return planes(_over(slide.read_region(place, n, size), colour))

        return Level(height, width, (TILE, TILE), load)

    return Tiled(name, channels, tuple(level(n) for n in range(len(sizes))))


def _over(region: Image.Image, colour: str) -> np.ndarray:
    """The region's colours (rows, columns, 3), over a background where it is transparent."""
    whole = Image.new("RGB", region.size, colour)
    whole.paste(region, mask=region.getchannel("A"))
    return np.asarray(whole)
