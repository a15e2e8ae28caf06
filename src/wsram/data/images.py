"""The one reader of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from wsram.errors import UserError


def read_square(path: Path, side: int) -> Tensor:
    """An image file as (3, side, side) uint8: red, green and blue, squashed to a square, so that all of it is seen.

    Grey, CMYK and palette images are converted; what is transparent is white; a camera's note of orientation is heeded.

    Raises:
        UserError: it cannot be read as an image.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits of grey, which a plain conversion would cut off at 255
                image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    # Pillow lets several kinds through from broken files.
    except (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(
            f"expected a whole image in {path}, got: {reason}; copy it again, or leave it out of the data"
        ) from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
