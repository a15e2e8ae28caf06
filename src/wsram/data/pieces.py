"""What images that are read piece by piece have in common: what a piece becomes, and a file that must stay as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from wsram.data.images import as_mode
from wsram.errors import UserError, printable

TILE = 256
"""Rows and columns that arrays without tiles of their own are read by."""
ROUNDING = 1e-4
"""How far beyond [0, 1] values may lie and still be taken for rounding."""
SAVE = "save it as grey or colour, of 8 or 16 bits or floating point in [0, 1]"
"""What to do with a file of another kind."""


def planes_of(
    dtype: np.dtype, channels: int, name: str, *, multiplied: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """What makes a piece (rows, columns) or (rows, columns, samples) into (channels, rows, columns).

    Args:
        dtype: of the piece.
        channels: 1 for grey, 3 for colour.
        name: what the image is called.
        multiplied: whether of four samples the colours were multiplied by the fourth, their opacity.

    Raises:
        UserError: another type; and what is returned, values beyond [0, 1].
    """
    if dtype.kind not in "buf" or (dtype.kind == "u" and dtype.itemsize > 2):
        raise UserError(f"{name} holds values of type {dtype}; {SAVE}")

    def planes(piece: np.ndarray) -> np.ndarray:
        piece = piece[..., None] if piece.ndim == 2 else piece
        if piece.dtype.kind == "f":
            low, high = float(piece.min()), float(piece.max())
            if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also where they are no numbers
                raise UserError(f"{name} holds values from {low:.4g} to {high:.4g}; {SAVE}")
            if piece.shape[-1] == channels:
                return np.moveaxis(piece.astype(np.float32).clip(0, 1), -1, 0)
            piece = np.rint(piece * 255.0)
        elif piece.dtype.kind == "b":
            piece = piece * 255
        elif piece.dtype.itemsize == 2:
            piece = np.rint(piece / 257.0)
        piece = np.ascontiguousarray(piece, np.uint8)
        if piece.shape[-1] != channels:
            image = Image.fromarray(piece[..., 0] if piece.shape[-1] == 1 else piece)
            if multiplied:
                image = Image.frombytes("RGBa", image.size, piece.tobytes())
            piece = np.asarray(as_mode(image, channels)).reshape(*piece.shape[:2], channels)
        return np.ascontiguousarray(np.moveaxis(piece, -1, 0))

    return planes


def unchanged(path: Path) -> Callable[[], None]:
    """Raises, from now on, once the file is another than it is now."""
    name = printable(str(path))

    def mark() -> tuple[int, int]:
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {name} ({error.strerror}); is it still there?") from error
        return found.st_size, found.st_mtime_ns

    before = mark()

    def check() -> None:
        if mark() != before:
            raise UserError(f"{name} was changed while it was read; read it again once it is whole")

    return check
