"""Images of one's own as a data set: unpacked when first seen, of whatever sizes they are."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import torch
from torch import Tensor

from wsram.data.balance import balanced
from wsram.data.dataset import Batch, Dataset, Spec, Splits
from wsram.data.hub import read_hub
from wsram.data.images import Stored, read_image, size_of
from wsram.data.listing import EXAMPLES, Item, read_folder, read_table, split
from wsram.data.pieces import unchanged
from wsram.errors import UserError
from wsram.glimpse.tiles import TRIES
from wsram.image_settings import CELLS, ImageData, is_hub

CACHE = 2 << 30
"""Bytes of unpacked images that are kept; beyond them files are read again each time."""
THREADS = 4
"""Files read at a time."""


@dataclass(frozen=True)
class ImageFiles:
    """Images in files; see `wsram.data.dataset.Dataset`.

    paths: of the files, or where their content is stored instead.
    answers: (count,) int64 classes, (count, labels) floating point, or (count,) floating point numbers in the spec's
        unit.
    described: what they are.
    title: of the part.
    hashes: of the files' content.
    checks: of each file, raises once it is another than it was when it was listed.
    cache: unpacked images by their number, shared by all copies of this part.
    device: where batches are made.
    """

    paths: tuple[Path | Stored, ...]
    answers: Tensor
    described: Spec
    title: str
    hashes: tuple[str, ...]
    checks: tuple[Callable[[], None], ...]
    cache: dict[int, Tensor]
    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable

    @property
    def spec(self) -> Spec:
        """What they are."""
        return self.described

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.paths)

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """Images in [0, 1], one tensor if all have one size and else a list, and answers.

        In training, files that have changed or become unreadable since it began are left out, as long as there is
        another one; a figure is of all the examples it names, or there is none.

        Raises:
            UserError: a file cannot be read in an evaluation, or none of a batch; each is tried twice.
        """
        numbers = index.tolist()
        missing = [n for n in numbers if n not in self.cache]
        read = dict(zip(missing, self._read(missing), strict=True))
        lost = [error for error in read.values() if isinstance(error, UserError)]
        if lost and (epoch is None or len(lost) == len(set(numbers))):
            raise lost[0]
        found = {n: image for n, image in read.items() if isinstance(image, Tensor)}
        room = CACHE - sum(image.numel() for image in self.cache.values()) if missing else 0
        for n, image in found.items():
            if (room := room - image.numel()) > 0:
                self.cache[n] = image
        images = [found[n] if n in found else self.cache.get(n) for n in numbers]
        there = torch.tensor([place for place, image in enumerate(images) if image is not None])
        ready = [image.to(self.device).float() / 255 for image in images if image is not None]
        answers = self.answers[index.cpu()[there]].to(self.device)
        same = len({image.shape for image in ready}) == 1
        whole = torch.stack(ready) if same else ready
        return Batch(whole, answers, there if lost else None, tuple(str(error) for error in lost))

    def _read(self, numbers: Sequence[int]) -> list[Tensor | UserError]:
        """Each image, or why it cannot be had."""

        def read(number: int) -> Tensor | UserError:
            for _ in range(TRIES):
                try:
                    self.checks[number]()
                    return read_image(self.paths[number], self.described.channels, self.described.longest)
                except UserError as error:
                    reason = error
            return reason

        if len(numbers) < 2:
            return [read(number) for number in numbers]
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(read, numbers))

    def to(self, device: torch.device) -> ImageFiles:
        """The same with batches on another device."""
        return replace(self, device=device)

    def fingerprint(self) -> str:
        """Of the files' content and answers, in their order."""
        whole = hashlib.sha256("\n".join(self.hashes).encode())
        whole.update(self.answers.numpy().tobytes())
        return whole.hexdigest()[:16]


def open_folder(data: ImageData) -> Splits:
    """The images that these settings name, in parts.

    Raises:
        UserError: nothing there, fewer than two classes, or a part without images.
    """
    items, notes, held_by = _listed(data)
    kind = data.answer or _kind_of(items, Path(data.source).expanduser())
    if kind == "number":  # a table's are words, of which each would be a class to share out
        items = [replace(item, answer=_number(item)) for item in items]
    items, hashes, sizes, checks, problems = _usable(items)
    notes += problems
    parts, more = split(items, hashes, held_by)
    notes += more
    names, unit = _names(items, parts["train"], kind)
    colour = any(size[2] for size in sizes) if data.colour is None else data.colour
    longer = [max(size[:2]) for size in sizes]
    longest = data.longest if data.longest is not None and max(longer) > data.longest else None
    ratio = min(1.0, longest / median(longer)) if longest else 1.0
    typical = [max(1, round(ratio * median(size[axis] for size in sizes))) for axis in (0, 1)]
    spec = Spec(3 if colour else 1, kind, names, (typical[0], typical[1]), unit, longest)
    told = _summary(items, parts, kind, sizes, spec)

    def part(name: str) -> ImageFiles:
        chosen = parts[name]
        if not chosen:
            raise UserError(f"{data.source} holds no {name} images; add some")
        return ImageFiles(
            tuple(items[n].path for n in chosen),
            _encoded([items[n] for n in chosen], spec),
            spec,
            f"{name} images",
            tuple(hashes[n] for n in chosen),
            tuple(checks[n] for n in chosen),
            {},
        )

    train: Dataset = part("train")
    if data.balance:
        if kind != "class":
            raise UserError(f"--balance is for classes, and the answers are {kind}; leave it out")
        train = balanced(train, part("train").answers)
    return Splits(train, part("validation"), lambda: part("test"), (*told, *notes))


def _listed(data: ImageData) -> tuple[list[Item], list[str], str]:
    """The images that are there, what else was found, and what holds a part: a folder, or rows."""
    if is_hub(data.source):
        return *read_hub(data.source, download=data.download), "rows"
    source = Path(data.source).expanduser()
    return (*read_table(source), "rows") if source.is_file() else (*read_folder(source), "folder")


def _kind_of(items: Sequence[Item], source: Path) -> str:
    """The kind of answer that the labels look like."""
    answers = [item.answer for item in items]
    if any(isinstance(answer, tuple) for answer in answers):
        return "labels"
    if source.suffix.lower() in CELLS and source.is_file():
        return "number" if _measured(answers) else "class"
    return "number" if all(isinstance(answer, float) for answer in answers) else "class"


def _measured(cells: Sequence[Any]) -> bool:
    """Whether all are numbers, and one has a decimal point or an exponent: whole ones may well name classes."""
    try:
        for cell in cells:
            float(cell)
    except ValueError:
        return False
    return any(set(".eE") & set(cell) for cell in cells)


def _usable(
    items: list[Item],
) -> tuple[list[Item], list[str], list[tuple[int, int, bool]], list[Callable[[], None]], list[str]]:
    """The items whose files can be read, with hashes, sizes and checks, and what was wrong with the others."""

    def look(item: Item) -> tuple[str, tuple[int, int, bool], Callable[[], None]] | str:
        try:
            size, check = size_of(item.path), _check_of(item.path)
            return hashlib.sha256(item.path.read_bytes()).hexdigest(), size, check
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"cannot read {item.path} ({error.strerror})"

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(look, items))
    good = [(item, *seen) for item, seen in zip(items, found, strict=True) if not isinstance(seen, str)]
    bad = [seen for seen in found if isinstance(seen, str)]
    if not good:
        raise UserError(f"none of {len(items)} images can be read; the first: {bad[0] if bad else 'there is none'}")
    notes = [f"{len(bad)} image(s) cannot be read and are left out: {'; '.join(bad[:EXAMPLES])}"] if bad else []
    kept, hashes, sizes, checks = zip(*good, strict=True)
    return list(kept), list(hashes), list(sizes), list(checks), notes


def _check_of(path: Path | Stored) -> Callable[[], None]:
    """See `unchanged`; what lies in a table is not written to in place."""
    return unchanged(path) if isinstance(path, Path) else lambda: None


def _names(items: Sequence[Item], train: Sequence[int], kind: str) -> tuple[tuple[str, ...], tuple[float, float]]:
    if kind == "number":
        numbers = [_number(items[n]) for n in train]
        return ("value",), (fmean(numbers), pstdev(numbers) or 1.0)
    if kind == "labels":
        names = sorted({name for n in train for name in _several(items[n])})
        if not names:
            raise UserError("expected labels, found none; give at least one")
        return tuple(names), (0.0, 1.0)
    names = sorted({_class(items[n]) for n in train})
    if len(names) < 2:
        raise UserError(f"expected two or more classes to tell apart, found {', '.join(names) or 'none'}; add another")
    return tuple(names), (0.0, 1.0)


def _class(item: Item) -> str:
    if isinstance(item.answer, tuple):
        raise UserError(f"{item.path}: expected one class, got several: {'|'.join(item.answer)}; use --answer labels")
    return f"{item.answer:g}" if isinstance(item.answer, float) else item.answer


def _several(item: Item) -> tuple[str, ...]:
    return item.answer if isinstance(item.answer, tuple) else (_class(item),)


def _number(item: Item) -> float:
    try:
        if math.isfinite(number := float(item.answer)):  # type: ignore[arg-type]
            return number
    except (TypeError, ValueError):
        pass
    raise UserError(f"{item.path}: expected a finite number, got {item.answer!r}; mend it, or use --answer class")


def _encoded(items: Sequence[Item], spec: Spec) -> Tensor:
    """The answers as the head takes them; `UserError` names one that training does not know."""
    if spec.answer == "number":
        mean, spread = spec.unit
        return torch.tensor([(_number(item) - mean) / spread for item in items])
    number = {name: n for n, name in enumerate(spec.names)}
    rows = []
    for item in items:
        given = _several(item) if spec.answer == "labels" else (_class(item),)
        if unknown := [name for name in given if name not in number]:
            raise UserError(
                f"{item.path}: label {unknown[0]!r} is not among those of training ({', '.join(spec.names[:20])}); "
                "correct it or add training images of it"
            )
        rows.append([number[name] for name in given])
    if spec.answer == "class":
        return torch.tensor([row[0] for row in rows])
    present = torch.zeros(len(items), len(spec.names))
    for n, row in enumerate(rows):
        present[n, row] = 1.0
    return present


def _summary(
    items: Sequence[Item], parts: dict[str, list[int]], kind: str, sizes: Sequence[tuple[int, int, bool]], spec: Spec
) -> list[str]:
    """What a person should know of the data before training begins."""
    counts = ", ".join(f"{len(numbers):,} {part}" for part, numbers in parts.items())
    middle = " by ".join(f"{median(size[axis] for size in sizes):g}" for axis in (1, 0))
    shrunk = f", shrunk to {spec.longest} on the longer side" if spec.longest else ""
    told = [
        f"{counts} images of about {middle} pixels{shrunk}, in {'colour' if spec.channels == 3 else 'grey'}; answer: "
        f"{kind} ({len(spec.names)} name(s))"
    ]
    if kind == "class":
        count = Counter(_class(items[n]) for n in parts["train"])
        most, least = count.most_common(1)[0], count.most_common()[-1]
        if most[1] > 3 * least[1]:
            told.append(
                f"the classes are uneven: {most[1]:,} of {most[0]} and {least[1]:,} of {least[0]}; --balance shows "
                "each as often"
            )
    return told
