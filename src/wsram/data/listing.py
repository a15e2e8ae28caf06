"""Which images there are, what is to be said of each, and the part it belongs to: from folders or from a table.

Parts are those of folders named train, val and test, or a column split; else they are drawn by the files' content, so
that they are the same on every machine and no copy of an image stands on two sides.
"""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsram.data.images import SUFFIXES, Stored
from wsram.errors import UserError
from wsram.image_settings import CELLS, TABLES
from wsram.strict_json import loads

PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What folders and the column split call the parts."""
SHARES = {"test": 0.15, "validation": 0.15}
"""Of each class, where the data do not say what is for validation or test."""
EXAMPLES = 3
"""Files that a note names."""


@dataclass(frozen=True)
class Item:
    """An image and what is to be said of it.

    path: of the file, or where its content is stored instead.
    answer: as it was written: a name, several, or a number.
    part: train, validation or test, or None where the data do not say.
    """

    path: Path | Stored
    answer: str | tuple[str, ...] | float
    part: str | None


def is_folder(source: str) -> bool:
    """Whether a source is a folder of images or a table of them."""
    path = Path(os.path.expanduser(source))  # which, like what follows and unlike a path's own, takes any text
    return os.path.isdir(path) or (os.path.isfile(path) and path.suffix.lower() in TABLES)


def read_folder(root: Path) -> tuple[list[Item], list[str]]:
    """Images by the folder they lie in: CLASS/..., or PART/CLASS/...; and what else was found there."""
    if not root.is_dir():
        raise UserError(f"expected a folder of images at {root}, found none; name one with a sub-folder for each class")
    folders = _folders(root)
    by_part = {folder: part for folder in folders for part, names in PARTS.items() if folder.name.lower() in names}
    others = [folder for folder in folders if folder not in by_part]
    odd = next((folder for folder in others if any(images_in(folder))), None) if by_part else None
    if odd:
        for folder in (folder for folder, part in by_part.items() if part == "train"):
            if any(any(images_in(each)) for each in _folders(folder)):
                raise UserError(
                    f"expected in {root} either parts or classes, got {odd.name} with images beside {folder.name} with "
                    f"classes; move {odd.name} elsewhere, or rename {folder.name} if it is a class"
                )
        by_part, others = {}, folders  # what is called like a part is a class
    notes: list[str] = []
    classes: list[tuple[str | None, Path]] = []
    classes += [(part, each) for folder, part in by_part.items() for each in _folders(folder)]
    if not classes and (by_part or not others):
        raise UserError(f"expected a sub-folder for each class in {root}, found none; sort the images into folders")
    classes += [(None, folder) for folder in others]  # which are empty where there are parts
    items, strange, empty = [], [], []
    for part, folder in classes:
        found = list(_files(folder))
        images = [path for path in found if path.suffix.lower() in SUFFIXES]
        strange += [path for path in found if path.suffix.lower() not in SUFFIXES]
        items += [Item(path, folder.name, part) for path in images]
        if not images:
            empty.append(folder)
    for folder in (root, *by_part):  # whose files belong to no class
        strange += [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    for paths, text in (
        (strange, "file(s) are no images by their name, or in no class, and are left out"),
        (empty, "class(es) are empty"),
    ):
        if paths:
            notes.append(_told(paths, text, root))
    return items, notes


def read_table(path: Path) -> tuple[list[Item], list[str]]:
    """Images by a table: CSV or TSV with the columns path and label, and split if it has one; or JSON lines of these.

    Paths are relative to the table. A label is a name, a number, or several names: a list, or parted by "|".
    """
    rows = list(_rows(path))
    items = []
    for number, row in rows:
        where = f"{path}: row {number}"
        if not isinstance(row, dict) or not row.get("path") or row.get("label") in (None, ""):
            raise UserError(f'{where}: expected "path" and "label", got {_short(row)}; mend or remove the row')
        part = str(row.get("split") or "").lower() or None
        if part is not None and (part := next((p for p, names in PARTS.items() if part in names), None)) is None:
            raise UserError(f"{where}: expected a split train, val or test, got {row['split']!r}; mend the row")
        items.append(Item(path.parent / str(row["path"]), answer_of(row["label"], where), part))
    if not items:
        raise UserError(f"expected rows of path and label in {path}, found none; add some")
    return items, []


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a readable table at {path}, got: {error}; name another") from error
    if path.suffix.lower() in CELLS:
        try:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            yield from enumerate(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter), 2)
        except csv.Error as error:
            raise UserError(f"{path}: expected a table of path and label, got: {error}; mend it") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, loads(line)
            except ValueError as error:
                raise UserError(f"{path}: row {number} is not JSON ({error}); mend or remove the row") from error


def answer_of(label: Any, where: str) -> str | tuple[str, ...] | float:
    """A label as an `Item` has it; `UserError` that begins with `where` if it is none."""
    if isinstance(label, list):
        return tuple(str(each) for each in label)
    if isinstance(label, str):
        return tuple(part for part in label.split("|") if part) if "|" in label else label
    if isinstance(label, (int, float)) and not isinstance(label, bool):
        return float(label)
    raise UserError(f"{where}: expected a label that is a name, several or a number, got {_short(label)}; mend the row")


def split(
    items: Sequence[Item], hashes: Sequence[str], held_by: str = "folder"
) -> tuple[dict[str, list[int]], list[str]]:
    """Numbers of the items in each part, which a folder or rows hold, and what was found on the way.

    Where the data do not say, of each class the files with the smallest hashes are for test, the next for validation:
    the same on every machine, and identical files, which have one hash, stay together.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for n, content in enumerate(hashes):
        groups[content].append(n)
    notes = []
    copies = [members for members in groups.values() if len(members) > 1]
    homes = {members[0]: sorted({part for n in members if (part := items[n].part) is not None}) for members in copies}
    together = [members for members in copies if len(homes[members[0]]) < 2]
    if together:
        names = ", ".join(items[members[0]].path.name for members in together[:EXAMPLES])
        notes.append(f"{len(together)} image(s) are there more than once and stay on one side of every split: {names}")
    torn = [members for members in copies if len({str(items[n].answer) for n in members}) > 1]
    if torn:
        names = ", ".join(items[members[0]].path.name for members in torn[:EXAMPLES])
        notes.append(f"{len(torn)} image(s) are there with different labels: {names}")
    parts: dict[str, list[int]] = {part: [n for n, item in enumerate(items) if item.part == part] for part in PARTS}
    for members in copies:
        known = homes[members[0]]
        if len(known) > 1:
            notes.append(f"{items[members[0]].path.name} lies in {' and '.join(known)}")
        elif known:  # copies of which the data say nothing go where the others are
            parts[known[0]] += [n for n in members if items[n].part is None]
    free = {content: members for content, members in groups.items() if all(items[n].part is None for n in members)}
    if any(parts.values()):
        parts["train"] += [n for members in free.values() for n in members]
        # What the data have of training gives what they lack of validation; of test they lack then what they lack.
        if not parts["validation"] and parts["train"]:
            training = set(parts["train"])
            own = {content: [n for n in members if n in training] for content, members in groups.items()}
            taken = _draw(items, {c: m for c, m in own.items() if m}, ("validation",))
            parts["validation"] = taken["validation"]
            parts["train"] = taken["train"]
            served = f"{len(taken['validation']):,} of the training images serve for it"
            notes.append(f"no {held_by} for validation: {served}")
        if not parts["train"]:
            given = " and ".join(part for part in PARTS if parts[part])
            raise UserError(f"expected images for train, got no {held_by} with any, only for {given}; add some")
    else:
        parts = _draw(items, free, ("test", "validation"))
    for name in ("train", "validation"):
        if not parts[name]:
            raise UserError(f"too few images to keep some for {name}: {len(items)} in all; add more")
    return parts, notes


def _draw(items: Sequence[Item], groups: dict[str, list[int]], wanted: Sequence[str]) -> dict[str, list[int]]:
    by_class: dict[str, list[str]] = defaultdict(list)
    for content in sorted(groups):
        by_class[str(items[groups[content][0]].answer) if _countable(items) else ""].append(content)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for contents in by_class.values():
        at = 0
        for part in wanted:
            # At least one of each class, as long as one is left to train on.
            count = min(max(1, round(SHARES[part] * len(contents))), max(0, len(contents) - at - 1))
            parts[part] += [n for content in contents[at : at + count] for n in groups[content]]
            at += count
        parts["train"] += [n for content in contents[at:] for n in groups[content]]
    return {part: sorted(numbers) for part, numbers in parts.items()}


def _countable(items: Sequence[Item]) -> bool:
    """Whether answers are names of classes, of which each part should have its share."""
    return all(isinstance(item.answer, str) for item in items)


def _folders(root: Path) -> list[Path]:
    """The folders in it, in order; hidden ones are not, nor links back to a folder that holds it."""
    above = (root.resolve(), *root.resolve().parents)
    found = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in found if path.resolve() not in above)


def images_in(folder: Path) -> Iterator[Path]:
    """All files below a folder that are images by their names, in order."""
    return (path for path in _files(folder) if path.suffix.lower() in SUFFIXES)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in order; hidden ones, and links to folders, which may lead in circles, are not."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not path.is_symlink():
                yield from _files(path)
        else:
            yield path


def _told(paths: Sequence[Path], text: str, root: Path) -> str:
    shown = ", ".join(str(path.relative_to(root)) for path in paths[:EXAMPLES])
    return f"{len(paths)} {text}: {shown}{', ...' if len(paths) > EXAMPLES else ''}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
