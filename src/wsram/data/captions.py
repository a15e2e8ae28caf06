"""Images with captions: the official Flickr8k folder, and Karpathy's JSON for Flickr8k, Flickr30k and COCO.

Flickr8k (Hodosh, Young, Hockenmaier 2013) has 8,000 images in three splits, five captions each. Karpathy and Li (2015)
gave their splits of all three data sets as JSON files of one format. Real copies have flaws: captions of images that do
not exist, images that are there twice. They are survived, and told in `CaptionSet.flaws`.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsram.data.vocabulary import tokenize
from wsram.errors import UserError
from wsram.strict_json import loads

SPLITS = ("train", "dev", "test")

IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset")
"""Where the official layout keeps its images: the first is the archive's own spelling."""
TEXT_FOLDER = "Flickr8k_text"
CAPTION_FILE = "Flickr8k.token.txt"
SPLIT_FILES = {split: f"Flickr_8k.{split}Images.txt" for split in SPLITS}

KARPATHY_SPLITS = {"train": ("train", "restval"), "dev": ("val", "dev"), "test": ("test",)}
"""What each split is called in Karpathy's JSON; restval are COCO's validation images that serve in training."""

_EXAMPLES = 3
_HEAD = 4096
_AGAIN = "copy it again from the data set"


@dataclass(frozen=True)
class CaptionedImage:
    """An image file and its captions, as people wrote them; at least one."""

    path: Path
    captions: tuple[str, ...]


@dataclass(frozen=True)
class CaptionSet:
    """One split of a data set, in the order of its list.

    images: those that have a file and a caption.
    flaws: what was wrong with the data and was left out or let pass, one readable line each; empty if nothing was.
    """

    images: tuple[CaptionedImage, ...]
    flaws: tuple[str, ...]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)


def split_name(split: str) -> str:
    """The split's own name, train, dev or test; val is dev, and anything else is a `UserError`."""
    name = "dev" if split == "val" else split
    if name not in SPLITS:
        raise UserError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    return name


def load_captions(source: Path, split: str, images: Path | None = None) -> CaptionSet:
    """The images and captions of one split.

    Args:
        source: a folder in the official Flickr8k layout (Flicker8k_Dataset/ and Flickr8k_text/ or all files in one
            folder), or one of Karpathy's JSON files.
        split: train, dev or test; val is another name of dev.
        images: the folder of the images, where it is not the one beside the captions. Of COCO, the folder that holds
            train2014/ and val2014/, or one with all images.

    Raises:
        UserError: there is no such split, a file cannot be read or is no such file, or no image of the split is there.
    """
    name = split_name(split)
    if images is not None and not images.is_dir():
        raise UserError(f"expected a folder of images at {images}, found none; name the folder that holds them")
    if source.is_dir():
        return _official(source, name, images)
    if not source.exists():
        raise UserError(
            f"expected captions at {source}, found nothing; name a folder with {TEXT_FOLDER}/ or one of Karpathy's "
            "JSON files"
        )
    return _karpathy(source, name, images)


def _official(source: Path, split: str, images: Path | None) -> CaptionSet:
    texts = next((folder for folder in (source / TEXT_FOLDER, source) if (folder / CAPTION_FILE).exists()), None)
    if texts is None:
        raise UserError(
            f"expected {CAPTION_FILE} in {source} or {source / TEXT_FOLDER}, found neither; "
            "name the folder of Flickr8k, or one of Karpathy's JSON files"
        )
    beside = next((source / name for name in IMAGE_FOLDERS if (source / name).is_dir()), source)
    folder = beside if images is None else images
    captions, broken = _token_file(texts / CAPTION_FILE)
    listed = [line.strip() for line in _read(texts / SPLIT_FILES[split]).splitlines() if line.strip()]
    flaws = [] if not broken else [_flaw(broken, f"line(s) of {CAPTION_FILE} are not IMAGE#NUMBER<tab>CAPTION")]
    # Such captions belong to no split, so every split tells of them.
    strays = sorted(name for name in captions if not os.path.isfile(folder / name))
    lines = sum(len(captions[name]) for name in strays)
    if strays and len(strays) < len(captions):
        flaws.append(_flaw(strays, f"image(s) named by {lines} caption line(s) of {CAPTION_FILE} do not exist"))
    entries = ((folder / name, name, captions.get(name, [])) for name in listed)
    return _collect(entries, flaws, f"the split {split} of {source}", folder)


def _token_file(path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Captions by image name, and the numbers of lines of another form."""
    captions: dict[str, list[str]] = defaultdict(list)
    broken = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        key, tab, caption = line.partition("\t")
        name, mark, _ = key.rpartition("#")
        if tab and mark:
            captions[name].append(caption)
        elif line.strip():
            broken.append(f"line {number}")
    if not captions:
        raise UserError(f"{path}: expected lines IMAGE#NUMBER<tab>CAPTION, found none; {_AGAIN}")
    return dict(captions), broken


def _karpathy(path: Path, split: str, images: Path | None) -> CaptionSet:
    try:
        content = loads(_read(path))
    except ValueError as error:
        raise UserError(f"{path}: expected one of Karpathy's JSON files, got no JSON ({error}); {_AGAIN}") from error
    rows = content.get("images") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise UserError(f'{path}: expected a JSON object with a list "images", got another; name a Karpathy JSON file')
    folder = path.parent if images is None else images
    wanted, entries, seen = KARPATHY_SPLITS[split], [], set()
    for number, row in enumerate(rows):
        try:
            name, part = str(row["filename"]), row["split"]
            captions = [_sentence(sentence) for sentence in row["sentences"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f'{path}: expected "filename", "split" and "sentences" in image {number}, '
                f"got {type(error).__name__}: {error}; {_AGAIN}"
            ) from error
        seen.add(str(part))
        if part in wanted:
            entries.append((_image_path(folder, str(row.get("filepath", "")), name), name, captions))
    if not entries:
        raise UserError(
            f"{path}: expected images of the split {split}, got none; it has {', '.join(sorted(seen)) or 'no image'}"
        )
    return _collect(entries, [], f"the split {split} of {path}", folder)


def _sentence(sentence: Any) -> str:
    said = sentence.get("raw")
    said = " ".join(sentence["tokens"]) if said is None else said
    if not isinstance(said, str):
        raise TypeError(f"a caption is text, not {said!r:.80}")
    return said


def _image_path(folder: Path, subfolder: str, name: str) -> Path:
    """COCO's file paths have a folder before the name, which a user's copy may lack."""
    nested = folder / subfolder / name
    return nested if subfolder and os.path.exists(nested) else folder / name


def _collect(entries: Iterable[tuple[Path, str, list[str]]], flaws: list[str], what: str, folder: Path) -> CaptionSet:
    """The usable entries, and what was wrong with the others."""
    images: list[CaptionedImage] = []
    missing, bare, empty, repeated = [], [], [], []
    seen: set[Path] = set()
    for path, name, captions in entries:
        said = tuple(caption.strip() for caption in captions if tokenize(caption))
        if not os.path.isfile(path):  # which, unlike a path's own, takes any name
            missing.append(name)
        elif path in seen:
            repeated.append(name)
        elif not said:
            bare.append(name)
        else:
            seen.add(path)
            images.append(CaptionedImage(path, said))
            if len(said) < len(captions):
                empty.append(name)
    if not images:
        reason = f"{len(missing)} of its images are not in {folder}" if missing else "no image has a caption"
        raise UserError(f"expected images with captions for {what}, found none: {reason}; name the images' folder")
    for names, text in (
        (missing, "image(s) of the split do not exist and are left out"),
        (repeated, "image(s) are listed twice in the split and taken once"),
        (bare, "image(s) of the split have no caption and are left out"),
        (empty, "image(s) have a caption without a word, which is left out"),
    ):
        if names:
            flaws.append(_flaw(names, text))
    for same in duplicates([image.path for image in images]):
        flaws.append(f"{len(same)} images are identical and all kept: {', '.join(path.name for path in same)}")
    return CaptionSet(tuple(images), tuple(flaws))


def duplicates(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Groups of files with the same bytes. Only files of equal size are read, whole only if they begin alike."""

    def head(path: Path) -> bytes:
        with path.open("rb") as file:
            return file.read(_HEAD)

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    try:
        by_size = _groups(paths, lambda path: path.stat().st_size)
        alike = [begun for group in by_size for begun in _groups(group, head)]
        return [tuple(same) for group in alike for same in _groups(group, digest)]
    except OSError as error:
        raise UserError(f"expected a readable image at {error.filename}, got: {error.strerror}; {_AGAIN}") from error


def shared_images(sets: Mapping[str, CaptionSet]) -> tuple[str, ...]:
    """One line for each group of identical images that lie in different splits, named by `sets`' keys.

    A test image that was trained on makes a score too good, so a report should say so.
    """
    home = {image.path: split for split, part in sets.items() for image in part.images}
    return tuple(
        "identical images in different splits: " + ", ".join(f"{path.name} ({home[path]})" for path in same)
        for same in duplicates(home)
        if len({home[path] for path in same}) > 1
    )


def _groups(paths: Iterable[Path], key: Callable[[Path], object]) -> list[list[Path]]:
    """Those groups of paths with the same key that have two members or more, in order of appearance."""
    groups: dict[object, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _flaw(names: list[str], text: str) -> str:
    shown = ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
    return f"{len(names)} {text}: {shown}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"expected a readable file at {path}, got: {error.strerror}; {_AGAIN}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in UTF-8, got other bytes ({error.reason}); {_AGAIN}") from error
