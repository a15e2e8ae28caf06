"""Image features made once: a cache folder that is whole or absent, and says what it was made of.

A cache holds features.npy, float16 (images, cells, channels), and features.json. It is filled in a folder of another
name (.partial), which is renamed when complete; if that work is stopped, it goes on from there the next time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.lib import format as npy
from torch import Tensor

from wsram.data.images import read_square
from wsram.errors import UserError
from wsram.runtime import keep_freed_memory
from wsram.strict_json import loads
from wsram.terminal import Screen

BATCH = 8
"""Images encoded at a time: on a CPU as fast as more, since their maps stay in its caches; a GPU wants more."""
_ARRAY, _SIDECAR = "features.npy", "features.json"
_DTYPE = np.dtype("<f2")


@runtime_checkable
class ImageBackbone(Protocol):
    """What makes features: uint8 images (batch, 3, resolution, resolution) to floats (batch, grid × grid, channels)."""

    name: str
    grid: int
    channels: int
    resolution: int

    @property
    def device(self) -> torch.device:
        """Where images must be."""

    def __call__(self, images: Tensor) -> Tensor:
        """The features of images."""


@dataclass(frozen=True)
class CacheKey:
    """What a cache was made of; a cache serves only the very same.

    backbone: its name.
    grid: cells along each side of an image.
    images: hash of the images' file names and sizes, in whatever order; see `image_set`.
    count: how many images.
    """

    backbone: str
    grid: int
    images: str
    count: int

    def __str__(self) -> str:
        """For messages."""
        return f"{self.backbone} with a grid of {self.grid} on {self.count} images ({self.images})"


@dataclass(frozen=True)
class Features:
    """A cache opened for reading; what is not asked for stays on the disk.

    key: what it was made of.
    rows: which row an image has, by its file's name.
    array: float16 (images, cells, channels), memory-mapped.
    """

    key: CacheKey
    rows: dict[str, int]
    array: np.ndarray

    def index(self, paths: Iterable[Path]) -> Tensor:
        """Rows of images, int64 (images,); `UserError` for one that is not among the cache's images."""
        try:
            return torch.tensor([self.rows[path.name] for path in paths], dtype=torch.int64)
        except KeyError as error:
            raise UserError(f"expected an image of the feature cache, got {error}; extract features again") from error

    def take(self, index: Tensor) -> Tensor:
        """(batch, cells, channels) float32, features of the images in these rows, int64 (batch,)."""
        return torch.from_numpy(self.array[index.cpu().numpy()]).float()


def image_set(paths: Iterable[Path]) -> str:
    """A short hash of a set of images: their files' names and sizes in bytes, whatever their order and folder."""
    try:
        entries = sorted((path.name, path.stat().st_size) for path in paths)
    except OSError as error:
        raise UserError(f"expected an image at {error.filename}, got: {error.strerror}; restore it") from error
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]


def cache_key(backbone: str, grid: int, paths: Iterable[Path]) -> CacheKey:
    """What a cache of these images must be made of; `UserError` if there is none, or two have the same file name."""
    paths = sorted(paths, key=lambda path: path.name)
    if not paths:
        raise UserError("expected images to make features of, got none; give at least one")
    twice = next((b for a, b in pairwise(paths) if a.name == b.name), None)
    if twice is not None:
        raise UserError(f"expected images with different file names, got {twice.name} twice; rename one")
    return CacheKey(backbone, grid, image_set(paths), len(paths))


def open_features(folder: Path, key: CacheKey) -> Features:
    """A complete cache.

    Raises:
        UserError: there is none in that folder, it is damaged, or it was made of something else.
    """
    if not folder.exists():
        raise UserError(f"expected a feature cache at {folder}, found none; extract the features first")
    names, channels = _sidecar(folder, key)
    path = folder / _ARRAY
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: expected a whole array, got: {error}; delete {folder} to make it again") from error
    expected = (key.count, key.grid**2, channels)
    if array.shape != expected or array.dtype != _DTYPE:
        raise UserError(
            f"{path}: expected float16 {expected}, got {array.dtype} {array.shape}; delete {folder} to make it again"
        )
    if _content(folder / _SIDECAR).get("sha256", found := _digest(folder)) != found:  # older caches have none
        raise UserError(f"{folder} is not as it was written; delete it to make it again")
    return Features(key, {name: row for row, name in enumerate(names)}, array)


def extract_features(
    folder: Path, paths: Sequence[Path], backbone: ImageBackbone, screen: Screen, *, batch: int = BATCH
) -> Features:
    """The features of images, from the cache in that folder, or made now and kept there.

    If it is stopped, whatever was done stays in `folder`.partial, and the next call goes on with it.

    Args:
        folder: the cache; it is made, or has been made of the same backbone, grid and images.
        paths: image files, of different names; rows are in the order of names.
        backbone: such as `build_backbone` makes, on the device it is to run on.
        screen: where the progress bar goes.
        batch: images encoded at a time.

    Raises:
        UserError: an image cannot be read, the folder holds something else, or the disk is full.
    """
    key = cache_key(backbone.name, backbone.grid, paths)
    if (folder / _SIDECAR).exists():
        return open_features(folder, key)
    keep_freed_memory()  # three times as fast with large images on a CPU
    ordered = sorted(paths, key=lambda path: path.name)
    partial = folder.with_name(folder.name + ".partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock"), blocking=False):
            if folder.exists() and any(folder.iterdir()):
                raise UserError(f"expected a feature cache at {folder}, found other files; choose another folder")
            _fill(partial, key, ordered, backbone, screen, batch)
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
    except Timeout as error:
        raise UserError(
            f"another process is making the features in {folder}; wait for it, or choose another"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write the feature cache {partial} ({error.strerror or error}); "
            "make room or choose another folder, then start again: what is done is kept"
        ) from error
    return open_features(folder, key)


def _fill(
    partial: Path, key: CacheKey, paths: Sequence[Path], backbone: ImageBackbone, screen: Screen, batch: int
) -> None:
    """Write what is missing of a cache. Only whole batches count as done, so a resumed cache is like any other."""
    shape = (key.count, backbone.grid**2, backbone.channels)
    partial.mkdir(parents=True, exist_ok=True)
    if (partial / _SIDECAR).exists():
        _sidecar(partial, key)
    else:
        sidecar = asdict(key) | {"channels": backbone.channels, "names": [path.name for path in paths]}
        _write(partial / _SIDECAR, sidecar)
    header = _header(shape)
    # Written rather than mapped: a full disk is then an error to tell, not a signal that ends the process.
    with (partial / _ARRAY).open("ab") as file, screen.progress() as progress:
        if file.tell() < len(header):
            file.truncate(0)
            file.write(header)
        row = _DTYPE.itemsize * shape[1] * shape[2]
        done = (file.tell() - len(header)) // row
        done = key.count if done >= key.count else done // batch * batch
        file.truncate(len(header) + done * row)
        task = progress.add_task("image features", total=key.count, completed=done)
        for at in range(done, key.count, batch):
            images = torch.stack([read_square(path, backbone.resolution) for path in paths[at : at + batch]])
            features = backbone(images.to(backbone.device)).cpu()
            file.write(features.numpy().astype(_DTYPE).tobytes())
            progress.advance(task, len(images))
        file.flush()
        os.fsync(file.fileno())
    _write(partial / _SIDECAR, _content(partial / _SIDECAR) | {"sha256": _digest(partial)})


def _write(path: Path, content: dict[str, Any]) -> None:
    written = path.with_name(path.name + ".partial")
    written.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    written.replace(path)


def _digest(folder: Path) -> str:
    """A hash of the features and of the names that say whose they are."""
    whole = hashlib.sha256(json.dumps(_content(folder / _SIDECAR)["names"]).encode())
    with (folder / _ARRAY).open("rb") as file:
        while part := file.read(1 << 24):
            whole.update(part)
    return whole.hexdigest()


def _header(shape: tuple[int, ...]) -> bytes:
    """What an .npy file begins with."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": _DTYPE.str, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _sidecar(folder: Path, key: CacheKey) -> tuple[list[str], int]:
    """Names of the images in order, and channels, of a cache that was made of `key`."""
    content = _content(folder / _SIDECAR)
    made_of = CacheKey(**{name: content[name] for name in ("backbone", "grid", "images", "count")})
    names, channels = content["names"], content["channels"]
    if made_of != key:
        raise UserError(
            f"{folder} holds features of {made_of}, expected those of {key}; delete it or choose another folder"
        )
    return names, channels


def _content(path: Path) -> dict[str, Any]:
    """What a cache's sidecar says, each part of its own type."""
    try:
        content = loads(path.read_text(encoding="utf-8"))
        for name, kind in (("backbone", str), ("grid", int), ("images", str), ("count", int), ("channels", int)):
            if type(content[name]) is not kind:
                raise ValueError(f"{name} cannot be {content[name]!r:.80}")
        if not isinstance(content["names"], list) or not all(isinstance(name, str) for name in content["names"]):
            raise ValueError("names that are no text")
        return dict(content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: expected what a feature cache was made of, got {type(error).__name__}: {error}; "
            f"delete {path.parent} to make it again"
        ) from error
