"""Images and captions as people have them on disk: both layouts are read, flaws are told, what cannot be is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.refusals import refusal
from wsram.data.captions import CaptionSet, duplicates, load_captions, shared_images

SPLIT_FILES = {split: f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test")}


def official(
    root: Path,
    lines: Sequence[str],
    splits: Mapping[str, Sequence[str]],
    images: Mapping[str, bytes],
    *,
    image_folder: str = "Flicker8k_Dataset",
    text_folder: str = "Flickr8k_text",
) -> Path:
    """A folder in the official layout. Images need not be images: only their bytes are looked at."""
    for folder in (root / image_folder, root / text_folder):
        folder.mkdir(parents=True, exist_ok=True)
    (root / text_folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for split, names in splits.items():
        (root / text_folder / SPLIT_FILES[split]).write_text("".join(f"{name}\n" for name in names))
    for name, content in images.items():
        (root / image_folder / name).write_bytes(content)
    return root


LINES = ["a.jpg#0\tA dog .", "a.jpg#1\tOne dog", "b.jpg#0\tA cat", "c.jpg#0\tTwo men", "d.jpg#0\tA hill"]
NAMES = {"train": ["b.jpg", "a.jpg"], "dev": ["c.jpg"], "test": ["d.jpg"]}
FILES = {f"{name}.jpg": f"pixels of {name}".encode() for name in "abcd"}


def pairs(found: CaptionSet) -> list[tuple[str, tuple[str, ...]]]:
    return [(image.path.name, image.captions) for image in found.images]


# The official layout


@pytest.mark.parametrize("image_folder", ["Flicker8k_Dataset", "Flickr8k_Dataset", ""])
@pytest.mark.parametrize("text_folder", ["Flickr8k_text", ""])
def test_the_official_layout_in_its_variants(image_folder: str, text_folder: str, tmp_path: Path) -> None:
    official(tmp_path, LINES, NAMES, FILES, image_folder=image_folder, text_folder=text_folder)
    train = load_captions(tmp_path, "train")
    assert pairs(train) == [("b.jpg", ("A cat",)), ("a.jpg", ("A dog .", "One dog"))]
    assert train.images[0].path == tmp_path / image_folder / "b.jpg"
    assert train.flaws == ()
    assert len(train) == 2
    assert pairs(load_captions(tmp_path, "val")) == pairs(load_captions(tmp_path, "dev")) == [("c.jpg", ("Two men",))]
    assert pairs(load_captions(tmp_path, "test")) == [("d.jpg", ("A hill",))]


def test_the_images_may_be_in_another_folder(tmp_path: Path) -> None:
    official(tmp_path / "texts", LINES, NAMES, {})
    official(tmp_path / "pictures", [], {}, FILES, image_folder="all")
    found = load_captions(tmp_path / "texts", "test", tmp_path / "pictures" / "all")
    assert found.images[0].path == tmp_path / "pictures" / "all" / "d.jpg"


def test_flaws_are_survived_and_told(tmp_path: Path) -> None:
    odd = ["gone.jpg#0\tA ghost", "gone.jpg.1#1\tA ghost", "e.jpg#0\t .", "f.jpg#0\t", "f.jpg#1\tA fox", "no tab"]
    lines = LINES + odd
    names = {"train": ["b.jpg", "a.jpg", "a.jpg", "gone.jpg", "e.jpg", "f.jpg", "g.jpg"], "dev": ["c.jpg"]}
    files = {**FILES, "e.jpg": b"e", "f.jpg": FILES["a.jpg"], "g.jpg": b"g"}
    found = load_captions(official(tmp_path, lines, names, files), "train")
    assert pairs(found) == [("b.jpg", ("A cat",)), ("a.jpg", ("A dog .", "One dog")), ("f.jpg", ("A fox",))]
    assert found.flaws == (
        "1 line(s) of Flickr8k.token.txt are not IMAGE#NUMBER<tab>CAPTION: line 11",
        "2 image(s) named by 2 caption line(s) of Flickr8k.token.txt do not exist: gone.jpg, gone.jpg.1",
        "1 image(s) of the split do not exist and are left out: gone.jpg",
        "1 image(s) are listed twice in the split and taken once: a.jpg",
        "2 image(s) of the split have no caption and are left out: e.jpg, g.jpg",
        "1 image(s) have a caption without a word, which is left out: f.jpg",
        "2 images are identical and all kept: a.jpg, f.jpg",
    )


def test_many_examples_of_one_flaw_are_cut_short(tmp_path: Path) -> None:
    names = {"train": ["a.jpg", *(f"{n}.jpg" for n in range(5))]}
    flaws = load_captions(official(tmp_path, LINES, names, FILES), "train").flaws
    assert flaws == ("5 image(s) of the split do not exist and are left out: 0.jpg, 1.jpg, 2.jpg, ...",)


def test_what_is_not_flickr8k_is_refused(tmp_path: Path) -> None:
    refusal(lambda: load_captions(tmp_path / "absent", "train"), tmp_path / "absent", "found nothing")
    refusal(lambda: load_captions(tmp_path, "train"), tmp_path, "Flickr8k.token.txt", "found neither")
    refusal(lambda: load_captions(tmp_path, "training"), "'training'", "train, dev, test")
    official(tmp_path, LINES, {"train": ["a.jpg"], "dev": ["x.jpg"], "test": []}, FILES)
    refusal(lambda: load_captions(tmp_path, "train", tmp_path / "none"), tmp_path / "none", "folder of images")
    refusal(lambda: load_captions(tmp_path, "dev"), "split dev", "1 of its images are not in", "Flicker8k_Dataset")
    refusal(lambda: load_captions(tmp_path, "test"), "split test", "no image has a caption")
    (tmp_path / "Flickr8k_text" / SPLIT_FILES["dev"]).unlink()
    refusal(lambda: load_captions(tmp_path, "dev"), SPLIT_FILES["dev"], "No such file")
    (tmp_path / "Flickr8k_text" / SPLIT_FILES["test"]).write_bytes(b"\xff\xfe\x00")
    refusal(lambda: load_captions(tmp_path, "test"), SPLIT_FILES["test"], "UTF-8")
    (tmp_path / "Flickr8k_text" / "Flickr8k.token.txt").write_text("<html>not found</html>")
    refusal(lambda: load_captions(tmp_path, "train"), "Flickr8k.token.txt", "IMAGE#NUMBER")


# Karpathy's JSON


def row(name: str, split: str, *captions: str, **more: Any) -> dict[str, Any]:
    sentences = [{"raw": caption, "tokens": caption.split()} for caption in captions]
    return {"filename": name, "split": split, "sentences": sentences} | more


def karpathy(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"dataset": "tiny", "images": rows}))
    return path


def test_karpathys_json_of_flickr(tmp_path: Path) -> None:
    images = official(tmp_path, [], {}, FILES, image_folder="images") / "images"
    rows = row("a.jpg", "train", "A dog .", "One dog"), row("c.jpg", "val", "Men")
    source = karpathy(tmp_path / "dataset.json", *rows)
    assert pairs(load_captions(source, "train", images)) == [("a.jpg", ("A dog .", "One dog"))]
    assert pairs(load_captions(source, "dev", images)) == pairs(load_captions(source, "val", images))
    assert load_captions(source, "dev", images).images[0].path == images / "c.jpg"
    refusal(lambda: load_captions(source, "test", images), source, "split test", "it has train, val")
    refusal(lambda: load_captions(source, "train"), tmp_path, "1 of its images are not in")


def test_cocos_subfolders_and_restval(tmp_path: Path) -> None:
    source = karpathy(
        tmp_path / "dataset_coco.json",
        row("a.jpg", "train", "A dog", filepath="train2014"),
        row("b.jpg", "restval", "A cat", filepath="val2014"),
        row("c.jpg", "val", "Men", filepath="val2014"),
    )
    official(tmp_path, [], {}, {"a.jpg": b"a"}, image_folder="train2014")
    official(tmp_path, [], {}, {"c.jpg": b"c"}, image_folder="val2014")
    (tmp_path / "b.jpg").write_bytes(b"b")  # and a copy that lies flat
    train = load_captions(source, "train")
    assert [image.path for image in train.images] == [tmp_path / "train2014" / "a.jpg", tmp_path / "b.jpg"]
    assert pairs(load_captions(source, "dev")) == [("c.jpg", ("Men",))]


def test_captions_without_raw_are_made_of_their_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    entry = {"filename": "a.jpg", "split": "train", "sentences": [{"tokens": ["a", "dog"]}, {"raw": ""}]}
    found = load_captions(karpathy(tmp_path / "dataset.json", entry), "train")
    assert pairs(found) == [("a.jpg", ("a dog",))]
    assert found.flaws == ("1 image(s) have a caption without a word, which is left out: a.jpg",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("[]", '"images"'),
        ('{"images": {}}', '"images"'),
        ('{"images": []}', "it has no image"),
        ('{"images": [{"filename": "a.jpg", "split": "train"}]}', "KeyError"),
        ('{"images": [{"filename": "a.jpg", "split": "train", "sentences": [{}]}]}', "tokens"),
        ('{"images": ["a.jpg"]}', "TypeError"),
    ],
)
def test_another_json_is_refused_by_name(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(text)
    refusal(lambda: load_captions(tmp_path / "dataset.json", "train"), tmp_path / "dataset.json", words)


# Identical images


def test_identical_images_are_found_and_only_those(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abcde"]
    for path, content in zip(paths, (b"one", b"two", b"one", b"three", b"one"), strict=True):
        path.write_bytes(bytes(5000) + content)  # they begin alike
    assert duplicates(paths) == [(paths[0], paths[2], paths[4])]
    refusal(lambda: duplicates([tmp_path / "absent"]), tmp_path / "absent")


def test_images_shared_by_two_splits_are_told(tmp_path: Path) -> None:
    files = {**FILES, "d.jpg": FILES["a.jpg"], "b.jpg": FILES["a.jpg"]}
    official(tmp_path, LINES, NAMES, files)
    sets = {split: load_captions(tmp_path, split) for split in NAMES}
    assert shared_images(sets) == ("identical images in different splits: b.jpg (train), a.jpg (train), d.jpg (test)",)
    assert shared_images({"train": sets["train"]}) == ()


# Flickr8k itself


def test_flickr8k_has_its_splits_and_known_flaws(flickr8k_dir: Path) -> None:
    sets = {split: load_captions(flickr8k_dir, split) for split in NAMES}
    assert {split: len(each) for split, each in sets.items()} == {"train": 6000, "dev": 1000, "test": 1000}
    assert all(len(image.captions) == 5 for each in sets.values() for image in each.images)
    stray = (
        "2 image(s) named by 5 caption line(s) of Flickr8k.token.txt do not exist: "
        "2258277193_586949ec62.jpg, 2258277193_586949ec62.jpg.1"
    )
    same = "2 images are identical and all kept: 3050606344_af711c726c.jpg, 2851198725_37b6027625.jpg"
    assert sets["train"].flaws == (stray, same)
    assert sets["dev"].flaws == sets["test"].flaws == (stray,)
    assert shared_images(sets) == ()
    paths = [image.path for each in sets.values() for image in each.images]
    assert len(set(paths)) == 8000
