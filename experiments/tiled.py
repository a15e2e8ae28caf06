"""Images that are made of square tiles, of which a few decide what is asked: mosaics of photos, modules of cells."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from wsram.data.dataset import Dataset
from wsram.data.mosaic import Photos


class Placed(Protocol):
    """What an image that is made of tiles is: see `wsram.data.mosaic.Drawn`."""

    @property
    def places(self) -> Tensor:
        """(rows, columns) int64, which tile lies where."""

    @property
    def answer(self) -> int:
        """What is asked of the image."""

    @property
    def decides(self) -> Tensor:
        """(rows, columns) bool, the tiles that decide."""


class Tiled(Dataset, Protocol):
    """Images that are made of square tiles, read as `wsram.data.mosaic.Mosaic`."""

    @property
    def photos(self) -> Photos:
        """The tiles."""

    @property
    def seed(self) -> int:
        """Of training images."""

    def draw(self, number: int, epoch: int | None = None) -> Placed:
        """What lies where in an image."""
