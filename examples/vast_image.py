"""Write a TIFF file of 100,000 by 100,000 pixels, with levels down to 3,125, for `wsram predict vast.tif`.

It shows a one, twelve thousand pixels wide. Tiles that are black are left out, so that ten thousand million pixels are
some five megabytes; programs that read TIFF files see them as black. Needs `pip install "wsram[tiles]"`.

    python examples/vast_image.py vast.tif
    wsram predict vast.tif
"""

import sys
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import tifffile

SIDE, TILE, LEVELS = 100_000, 512, 6
DIGIT = 47_000, 27_000, 12_000, 46_000
"""Left, top, width and height of the one."""


@cache
def compressed(down: bytes, across: bytes) -> bytes:
    """A tile of which so much of each row and of each column is covered."""
    rows, columns = np.frombuffer(down), np.frombuffer(across)
    return zlib.compress(np.rint(255 * np.outer(rows, columns)).astype(np.uint8), 1)


def tiles(factor: int) -> Iterator[bytes]:
    """The compressed tiles of the level that averages so many pixels, row by row; empty where all is black."""
    side = -(-SIDE // factor)
    left, top, width, height = (length / factor for length in DIGIT)

    def covered(low: float, high: float) -> list[bytes]:
        """For each tile along an axis, how much of each of its pixels lies between two edges; empty for nothing."""
        edge = np.arange(0, -(-side // TILE) * TILE, dtype=float).reshape(-1, TILE)
        shares = (np.minimum(edge + 1, high) - np.maximum(edge, low)).clip(0, 1)
        return [share.tobytes() if share.any() else b"" for share in shares]

    columns = covered(left, left + width)
    for down in covered(top, top + height):
        for across in columns:
            yield compressed(down, across) if down and across else b""


def main() -> None:
    """Write the file that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/vast_image.py FILE.tif")
    if Path(sys.argv[1]).exists():
        sys.exit(f"{sys.argv[1]} is there already; name another")
    with tifffile.TiffWriter(sys.argv[1], bigtiff=True) as file:
        for level in range(LEVELS):
            side = -(-SIDE // 2**level)
            file.write(
                tiles(2**level),
                shape=(side, side),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="minisblack",
                compression="deflate",
                subifds=LEVELS - 1 if level == 0 else None,
                subfiletype=int(level > 0),
            )


if __name__ == "__main__":
    main()
