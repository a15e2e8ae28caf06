"""Images that no memory holds: tiles that are read when they are looked at, and the last of them kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from wsram.errors import UserError, reason_of
from wsram.glimpse.source import in_unit, view_of

KEPT = 64 << 20
"""Bytes of tiles that are kept, of all images together."""
WHOLE = 1 << 24
"""Pixels up to which an image is passed over as it is; beyond, a smaller copy that the file holds is."""
LEAST = 200
"""Pixels on the shorter side that such a copy must have: eight for each cell of a view of 25."""
BLOCK = 1 << 22
"""Pixels that a pass over an image reads at a time, about."""
TRIES = 2
"""Of reading a tile."""
THREADS = 4
"""Tiles read at a time."""
PROBES = ((0.21, 0.34), (0.5, 0.5), (0.73, 0.18), (0.12, 0.77), (0.86, 0.62), (0.4, 0.05), (0.61, 0.93), (0.05, 0.5))
"""Where a smaller copy is compared with the image, in shares of its height and width."""
PROBE, ALIKE = 8, 2 / 255
"""Pixels of a copy on each side of such a place, and the mean difference up to which it is taken for averages."""


class TileCache:
    """The tiles that were read last, up to so many bytes; several threads may ask, and each tile is read once.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.size, self.used = size, 0
        self._lock = Lock()
        self._tiles: OrderedDict[object, Future[np.ndarray]] = OrderedDict()

    def get(self, key: object, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The tile of that name, read if it is not there; what reading raises is raised, and not kept."""
        with self._lock:
            found = self._tiles.get(key)
            if found is not None:
                self._tiles.move_to_end(key)
            else:
                mine: Future[np.ndarray] = Future()
                self._tiles[key] = mine
        if found is not None:
            return found.result()
        try:
            tile = read()
        except BaseException as error:
            with self._lock:
                del self._tiles[key]
            mine.set_exception(error)
            raise
        mine.set_result(tile)
        with self._lock:
            self.used += tile.nbytes
            for other in [name for name, future in self._tiles.items() if future.done()]:
                if self.used <= self.size:
                    break
                self.used -= self._tiles.pop(other).result().nbytes
        return tile


SHARED = TileCache(KEPT)
"""The one that images use if they are given no other."""


@dataclass(frozen=True, eq=False)
class Level:
    """An image at one resolution, in tiles.

    height, width: in pixels.
    tile: rows and columns of a tile; those at the lower and right edge may be smaller.
    load: reads the tile in a row and a column of tiles, (channels, rows, columns) uint8, or floating point in [0, 1];
        raises whatever is wrong with it.
    """

    height: int
    width: int
    tile: tuple[int, int]
    load: Callable[[int, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class Tiled:
    """An image in tiles, wherever they are, as a `wsram.glimpse.source.Source`.

    Windows are read from the finest level, so that they are those of the image in memory to the last bit. A pass over
    all of it, as a view needs, reads the image itself up to `WHOLE` pixels. Of a larger one it reads the finest level
    of no more than that, or else the smallest of the larger ones, if there is one that holds averages of f by f pixels,
    f a whole number, where it is compared.
    The view is then the image's own up to the rounding of that level, if f divides its sides and its cells' edges.

    name: what it is called where something is said of it.
    channels: of every tile.
    levels: the finest first.
    cache: keeps tiles.
    """

    name: str
    channels: int
    levels: tuple[Level, ...]
    cache: TileCache = SHARED
    in_memory: None = None

    @property
    def height(self) -> int:
        """In pixels."""
        return self.levels[0].height

    @property
    def width(self) -> int:
        """In pixels."""
        return self.levels[0].width

    @property
    def block(self) -> tuple[int, int]:
        """Whole tiles, about `BLOCK` pixels of them."""
        rows, columns = self.levels[0].tile
        if columns < self.width:
            columns *= max(1, int(BLOCK**0.5) // columns)
        return rows * max(1, BLOCK // (rows * min(columns, self.width))), columns

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The pixels of a rectangle of the finest level, put together from the tiles that it touches.

        Raises:
            UserError: a tile cannot be read, also when it is tried again; or the image has changed.
        """
        rows, columns = self.levels[0].tile
        places = [
            (row, column)
            for row in range(top // rows, -(-(top + height) // rows))
            for column in range(left // columns, -(-(left + width) // columns))
        ]
        tiles = (_pool().map if len(places) > THREADS else map)(self._tile, places)
        found: np.ndarray | None = None
        for (row, column), tile in zip(places, tiles, strict=True):
            if found is None:
                found = np.empty((self.channels, height, width), tile.dtype)
            y, x = row * rows, column * columns
            low, high = max(top, y), min(top + height, y + rows)
            first, end = max(left, x), min(left + width, x + columns)
            found[:, low - top : high - top, first - left : end - left] = tile[
                :, low - y : high - y, first - x : end - x
            ]
        return torch.zeros(self.channels, 0, 0) if found is None else torch.from_numpy(found)

    def overview(self) -> Tiled:
        """Itself, or one of its coarser levels: see above."""
        return self._overview

    def view(self, side: int) -> Tensor:
        """Its overview averaged down."""
        return view_of(self, side)

    @cached_property
    def _overview(self) -> Tiled:
        if self.height * self.width <= WHOLE:
            return self
        coarser = [replace(self, levels=(level,)) for level in self.levels[1:]]
        fit = [copy for copy in coarser if min(copy.height, copy.width) >= LEAST]
        small = [copy for copy in fit if copy.height * copy.width <= WHOLE]
        larger = [copy for copy in reversed(fit) if copy not in small]
        return next(
            (copy for copy in (*small, *larger) if self._is_averaged_in(copy)), replace(self, levels=self.levels[:1])
        )

    def _is_averaged_in(self, copy: Tiled) -> bool:
        """Whether another level holds averages of this one, as far as a few places tell."""
        f = round(self.height / copy.height)
        ends = [(self.height, copy.height), (self.width, copy.width)]
        if f < 2 or any(not (length // f <= short <= -(-length // f)) for length, short in ends):
            return False
        apart = []
        for down, across in PROBES:
            height, width = (min(2 * PROBE, length // f) for length in (self.height, self.width))
            row = int(down * (self.height // f - height))
            column = int(across * (self.width // f - width))
            cells = in_unit(copy.read(row, column, height, width))
            fine = in_unit(self.read(row * f, column * f, height * f, width * f))
            means = fine.unflatten(-2, (height, f)).unflatten(-1, (width, f)).mean((-3, -1))
            apart.append((means - cells).abs().mean())
        return bool(torch.stack(apart).mean() <= ALIKE)

    def _tile(self, place: tuple[int, int]) -> np.ndarray:
        level = self.levels[0]
        return self.cache.get((level, place), lambda: self._load(level, place))

    def _load(self, level: Level, place: tuple[int, int]) -> np.ndarray:
        reason = ""
        for _ in range(TRIES):
            try:
                return level.load(*place)
            except UserError:
                raise
            except Exception as error:  # whatever a disk, or a decoder led by malformed bytes, raises
                reason = reason_of(error)
        row, column = place
        raise UserError(
            f"cannot read the tile in row {row}, column {column} of {self.name}, at {level.width}×{level.height} "
            f"pixels ({reason}); copy it again, or leave it out of the data"
        )


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "wsram-tiles")
