"""Images that are read in tiles: tiled TIFF files, arrays that are memory-mapped, and zarr."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsram.data.images import LARGEST, as_pillow, as_tensor
from wsram.data.pieces import SAVE, TILE, planes_of, unchanged
from wsram.errors import UserError, printable, reason_of
from wsram.glimpse.source import Source
from wsram.glimpse.tiles import WHOLE, Level, Tiled

JPEG = (6, 7, 34892, 33007)
"""Compressions of TIFF files out of which YCbCr comes as red, green and blue."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF and BigTIFF files begin."""
ZARR = ("zarr.json", ".zarray", ".zgroup")
"""What a folder of zarr's holds, one of them."""
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
"""How files of slide scanners are called, which are read by OpenSlide."""
_INSTALL = 'install what reads it: pip install "wsram[tiles]"'


def open_tiles(path: Path, channels: int) -> Tiled | None:
    """A file or folder that is read in tiles; None where it is a file to be read whole.

    That is: `.npy`, a slide scanner's file by its name (`SLIDES`), a zarr array or group of levels, and a TIFF file
    that lies in tiles or has more pixels than are read whole. Nothing but the description is read before a tile is
    looked at; no file but a slide stays open.

    Args:
        path: of a file or, of zarr, a folder.
        channels: 1 for grey, 3 for colour; tiles of the other kind are converted.

    Raises:
        UserError: it cannot be read, is of a kind that is not known, or what reads it is not installed.
    """
    if os.path.isdir(path):  # which, unlike a path's own, takes any name
        return _zarr(path, channels) if is_zarr(path) else None
    if path.suffix.lower() == ".npy":
        return _npy(path, channels)
    if path.suffix.lower() in SLIDES:
        from wsram.data.slides import open_slide

        return open_slide(path, channels)
    return _tiff(path, channels) if _is_large_tiff(path) else None


def is_zarr(folder: Path) -> bool:
    """Whether a folder is an array or a group of zarr's."""
    return any((folder / name).exists() for name in ZARR)


def tiled_array(array: Any, channels: int, name: str, check: Callable[[], None] = lambda: None) -> Tiled:
    """Anything that has a shape and is sliced as arrays are, (height, width) or (height, width, samples).

    Args:
        array: of numpy, memory-mapped or not, of zarr, or alike.
        channels: 1 for grey, 3 for colour.
        name: what it is called.
        check: raises if it is not what it was when it was opened.

    Raises:
        UserError: another shape or type.
    """
    return Tiled(name, channels, (_array_level(array, channels, name, check),))


def shrunk(image: Source, longest: int) -> Tensor:
    """All of an image as (channels, height, width) uint8, `longest` pixels on its longer side, strip by strip.

    As `wsram.data.images.read_image` shrinks, to the last bit but for ties in rounding, where the image itself is
    passed over; see `wsram.glimpse.tiles.Tiled`.
    """
    seen = image.overview()
    if max(seen.height, seen.width) < 2 * longest:
        seen = image
    ratio = longest / max(image.height, image.width)
    height, width = (max(1, round(length * ratio)) for length in (image.height, image.width))
    if ratio >= 0.5:
        whole = as_pillow(seen.read(0, 0, seen.height, seen.width))
        return as_tensor(whole.resize((width, height), Image.Resampling.BICUBIC))
    found = torch.empty(seen.channels, height, width, dtype=torch.uint8)
    step = max(1, height * seen.block[0] // seen.height)
    for first in range(0, height, step):
        end = min(first + step, height)
        start, stop = (edge * seen.height / height for edge in (first, end))
        top, bottom = int(start), min(seen.height, -int(-stop // 1))
        strip = as_pillow(seen.read(top, 0, bottom - top, seen.width))
        box = (0.0, start - top, float(seen.width), min(stop - top, float(bottom - top)))
        found[:, first:end] = as_tensor(strip.resize((width, end - first), Image.Resampling.BOX, box=box))
    return found


def _is_large_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if file.read(4) not in TIFF:
                return False
        with Image.open(path, formats=["TIFF"]) as image:
            return 322 in image.tag_v2 or image.width * image.height > WHOLE  # type: ignore[attr-defined]  # TileWidth
    except OSError:
        return False  # whoever reads it whole says what is wrong
    except Exception:
        return True  # a kind that Pillow does not know


def _npy(path: Path, channels: int) -> Tiled:
    name, check = printable(str(path)), unchanged(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"expected a whole array in {name}, got: {reason_of(error)}; save it again") from error
    return tiled_array(array, channels, name, check)


def _zarr(path: Path, channels: int) -> Tiled:
    try:
        import zarr
    except ImportError as error:
        raise UserError(f"{printable(str(path))} is of zarr; {_INSTALL}") from error
    name = printable(str(path))
    try:
        found = zarr.open(path, mode="r")
        if isinstance(found, zarr.Group):
            notes: Any = found.attrs.asdict()
            described = notes.get("ome", notes).get("multiscales")  # OME-Zarr names its levels
            keys = [each["path"] for each in described[0]["datasets"]] if described else list(found.array_keys())
            arrays: list[Any] = [found[key] for key in keys]
            arrays.sort(key=lambda array: -array.size)
        else:
            arrays = [found]
    except Exception as error:  # whatever zarr, or a codec, raises
        raise UserError(f"expected arrays in {name}, got: {reason_of(error)}; write it again") from error
    if not arrays:
        raise UserError(f"expected arrays in {name}, got none; write it again")
    check = unchanged(next(path / mark for mark in ZARR if (path / mark).exists()))
    return Tiled(name, channels, tuple(_array_level(array, channels, name, check) for array in arrays))


def _array_level(array: Any, channels: int, name: str, check: Callable[[], None]) -> Level:
    shape = tuple(int(length) for length in array.shape)
    first = len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3, 4)  # (channels, height, width)
    size = shape[1:] if first else shape[:2]
    if len(shape) not in (2, 3) or (len(shape) == 3 and not first and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise UserError(f"expected an image (height, width) or (height, width, 1, 3 or 4) in {name}, got {shape}")
    planes = planes_of(np.dtype(array.dtype), channels, name)
    chunks = getattr(array, "chunks", None)
    rows, columns = (chunks[1:] if first else chunks[:2]) if chunks else (TILE, TILE)

    def load(row: int, column: int) -> np.ndarray:
        check()
        down, across = slice(row * rows, (row + 1) * rows), slice(column * columns, (column + 1) * columns)
        piece = np.asarray(array[:, down, across] if first else array[down, across])
        return planes(np.moveaxis(piece, 0, -1) if first else piece)

    return Level(size[0], size[1], (int(rows), int(columns)), load)


def _tiff(path: Path, channels: int) -> Tiled | None:
    try:
        import tifffile
    except ImportError as error:
        raise UserError(f"{printable(str(path))} is a TIFF file in tiles or very large; {_INSTALL}") from error
    name, check = printable(str(path)), unchanged(path)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said once, and by us
    try:
        with tifffile.TiffFile(path) as file:
            pages = [level.keyframe for level in file.series[0].levels]
            declared = 1 + len(pages[0].subifds or ())
            if len(pages) < declared:
                raise UserError(
                    f"expected {declared} levels in {name}, of which {len(pages)} can be read; write it again"
                )
            return Tiled(name, channels, tuple(_page(page, path, name, channels, check) for page in pages))
    except UserError:
        raise
    except Exception as error:  # whatever tifffile is led to by malformed bytes
        raise UserError(f"expected a whole image in {name}, got: {reason_of(error)}; copy it again") from error


def _page(page: Any, path: Path, name: str, channels: int, check: Callable[[], None]) -> Level:
    """One resolution of a TIFF file, whose tiles are found without opening the file again."""
    height, width, samples = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    photometric = int(page.photometric)
    # White is zero, black is zero, red green blue, and what comes out of JPEG as that.
    known = photometric in (0, 1, 2) or (photometric == 6 and page.compression in JPEG)
    if not known or page.dtype is None or samples not in (1, 3, 4):
        raise UserError(f"{name} holds {samples} sample(s) of a kind that is not read in tiles ({photometric}); {SAVE}")
    if (turned := page.tags.valueof(274, 1)) != 1:
        raise UserError(f"{name} is turned (orientation {turned}), which tiles cannot be; save it upright")
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
    if rows * columns > LARGEST:
        raise UserError(f"{name} is one piece of {columns}×{rows} pixels; save it in tiles of 256 or 512")
    # A fourth sample means nothing, 0, or is the opacity of colours that were multiplied by it, 1, or were not, 2.
    fourth = page.extrasamples if samples == 4 else ()
    planes = planes_of(page.dtype, channels, name, multiplied=fourth == (1,))
    decode, tables = page.decode, page.jpegtables
    offsets, counts = np.asarray(page.dataoffsets), np.asarray(page.databytecounts)
    across = -(-width // columns)
    each = across * -(-height // rows)  # tiles of one sample, where samples lie apart
    apart = int(page.planarconfig) == 2
    if len(offsets) != each * (samples if apart else 1) or len(counts) != len(offsets):
        raise UserError(
            f"expected {each} tiles of {name} at {width}×{height} pixels, got {len(offsets)}; write it again"
        )
    _require_decoder(decode, page, name)

    def part(number: int) -> np.ndarray:
        offset, count = int(offsets[number]), int(counts[number])
        if count == 0:  # left out by who wrote it
            return np.zeros((rows, columns, 1 if apart else samples), page.dtype)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, count, offset)
        finally:
            os.close(descriptor)
        if len(data) < count:
            raise OSError(f"truncated: expected {count:,} bytes, got {len(data):,}")
        segment, _, _ = decode(data, number, jpegtables=tables)
        return np.asarray(segment)[0]

    def load(row: int, column: int) -> np.ndarray:
        check()
        number = row * across + column
        numbers = [number + n * each for n in range(samples)] if apart else [number]
        piece = np.concatenate([part(n) for n in numbers], -1)
        if photometric == 0:
            piece = piece.max(initial=1) - piece if piece.dtype.kind == "f" else ~piece
        return planes(piece[..., :3] if fourth == (0,) else piece)

    return Level(height, width, (int(rows), int(columns)), load)


def _require_decoder(decode: Callable[..., Any], page: Any, name: str) -> None:
    """`UserError` if this machine cannot decompress the file."""
    kind = getattr(page.compression, "name", str(page.compression))
    try:
        import tifffile

        _ = int(page.compression) == 1 or tifffile.TIFF.DECOMPRESSORS[page.compression]
        decode(None, 0, jpegtables=page.jpegtables)
    except Exception as error:
        raise UserError(
            f"{name} is compressed as {kind}, which is not known here; pip install imagecodecs, or save it with deflate"
        ) from error
