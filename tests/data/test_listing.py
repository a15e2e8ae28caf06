"""Which images belong to which part, and what a table may say."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from tests.refusals import refusal
from wsram.data.listing import Item, is_folder, read_folder, read_table, split


def hashed(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()


def items_of(contents: list[int], prefix: str = "") -> tuple[list[Item], list[str]]:
    """Images by their content, two classes in turn."""
    items = [Item(Path(f"{prefix}{n}-{c}.png"), "ab"[c % 2], None) for n, c in enumerate(contents)]
    return items, [hashed(c) for c in contents]


def contents_of(parts: dict[str, list[int]], hashes: list[str]) -> dict[str, list[str]]:
    return {part: sorted(hashes[n] for n in numbers) for part, numbers in parts.items()}


@pytest.mark.parametrize("seed", range(5))
def test_a_split_is_by_content_whatever_the_names_and_the_order(seed: int) -> None:
    contents = list(range(60))
    first, hashes = items_of(contents)
    expected = contents_of(split(first, hashes)[0], hashes)
    random.Random(seed).shuffle(contents)
    other, hashes = items_of(contents, prefix=f"renamed-{seed}-")
    assert contents_of(split(other, hashes)[0], hashes) == expected


def test_every_class_has_its_share_of_every_part() -> None:
    items, hashes = items_of(list(range(80)))
    parts, notes = split(items, hashes)
    assert not notes
    assert sorted(n for numbers in parts.values() for n in numbers) == list(range(80))
    for name in ("a", "b"):
        counts = {part: sum(items[n].answer == name for n in numbers) for part, numbers in parts.items()}
        assert counts == {"train": 28, "validation": 6, "test": 6}


def test_copies_are_never_on_two_sides_and_that_is_told() -> None:
    items, hashes = items_of([*range(40), *range(0, 40, 2)])
    parts, notes = split(items, hashes)
    sides = [set(contents) for contents in contents_of(parts, hashes).values()]
    assert all(sides) and sum(map(len, sides)) == 40  # none in two of them
    assert sum(map(len, parts.values())) == 60
    (note,) = notes
    assert note.startswith("20 image(s) are there more than once") and "0-0.png" in note


def test_copies_with_two_labels_are_told() -> None:
    items, hashes = items_of(list(range(20)))
    items.append(Item(Path("copy.png"), "b", None))
    _, notes = split(items, [*hashes, hashed(0)])
    assert any("different labels: 0-0.png" in note for note in notes)


def with_parts(*rows: tuple[int, str | None]) -> tuple[list[Item], list[str]]:
    items = [Item(Path(f"{n}.png"), "ab"[n % 2], part) for n, (_, part) in enumerate(rows)]
    return items, [hashed(content) for content, _ in rows]


def test_copies_that_the_data_put_on_two_sides_stay_there_and_that_is_told() -> None:
    parts, notes = split(*with_parts((0, "train"), (1, "train"), (0, "test"), (2, "validation")))
    assert parts == {"train": [0, 1], "validation": [3], "test": [2]}
    assert notes == ["0.png lies in test and train"]


def test_a_copy_of_which_the_data_say_nothing_goes_with_the_others() -> None:
    parts, notes = split(*with_parts((0, "test"), (1, "train"), (0, None), (2, "validation"), (3, None)))
    assert {part: sorted(numbers) for part, numbers in parts.items()} == {
        "train": [1, 4], "validation": [3], "test": [0, 2],
    }  # fmt: skip
    assert any("stay on one side" in note for note in notes)


def test_what_the_data_lack_of_validation_comes_from_training_and_is_told() -> None:
    rows = [(n, "train") for n in range(40)] + [(n, "test") for n in range(40, 50)]
    parts, notes = split(*with_parts(*rows))
    assert parts["test"] == list(range(40, 50))
    assert len(parts["validation"]) == 6 and len(parts["train"]) == 34
    assert not set(parts["validation"]) & set(parts["train"])
    assert notes == ["no folder for validation: 6 of the training images serve for it"]
    assert split(*with_parts(*rows), "rows")[1][0].startswith("no rows for validation: 6")
    # The rest is for training, where only the test images are named.
    unnamed, _ = split(*with_parts(*[(n, part if part == "test" else None) for n, part in rows]))
    assert unnamed == parts


def test_too_few_images_are_refused() -> None:
    refusal(lambda: split(*items_of([0, 1])), "too few images", "2 in all")
    refusal(lambda: split(*with_parts((0, "train"))), "too few images", "for validation", "1 in all")
    only = with_parts((0, "test"), (1, "test"), (2, "validation"))
    refusal(lambda: split(*only), "for train", "got no folder with any, only for validation and test")
    refusal(lambda: split(*only, "rows"), "for train", "got no rows with any, only for validation and test")


def test_a_table_says_class_labels_numbers_and_parts(tmp_path: Path) -> None:
    table = tmp_path / "images.csv"
    table.write_text(
        'path,label,split\na.png,cat,train\nsub/b.png,cat|dog,val\n"c,d.png",|,\ne.png,"two\nlines",TEST\n'
    )
    items, notes = read_table(table)
    assert not notes
    assert items == [
        Item(tmp_path / "a.png", "cat", "train"),
        Item(tmp_path / "sub/b.png", ("cat", "dog"), "validation"),
        Item(tmp_path / "c,d.png", (), None),
        Item(tmp_path / "e.png", "two\nlines", "test"),
    ]
    lines = tmp_path / "images.JSONL"
    rows = [
        {"path": "a.png", "label": ["x", "y"]},
        {"path": "b.png", "label": 2.5, "split": "dev"},
        {"path": "c.png", "label": []},
        {"path": "d.png", "label": "one\u2028name"},
    ]
    lines.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    assert read_table(lines)[0] == [
        Item(tmp_path / "a.png", ("x", "y"), None),
        Item(tmp_path / "b.png", 2.5, "validation"),
        Item(tmp_path / "c.png", (), None),
        Item(tmp_path / "d.png", "one\u2028name", None),
    ]


@pytest.mark.parametrize("name", ["images.tsv", "images.TSV"])
def test_a_table_may_be_parted_by_tabs_and_begin_with_a_mark(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes("\ufeffpath\tlabel\r\na.png\tä, b\r\n".encode())
    assert is_folder(str(tmp_path / name))
    assert read_table(tmp_path / name)[0] == [Item(tmp_path / "a.png", "ä, b", None)]


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.csv", "path,label\na.png,\n", ["row 2", "label"]),
        ("a.csv", "file,class\na.png,x\n", ["row 2", "path"]),
        ("a.csv", "path,label,split\na.png,x,holdout\n", ["row 2", "holdout"]),
        ("a.csv", "path,label\n", ["found none"]),
        ("a.csv", "", ["found none"]),
        ("a.jsonl", '{"path": "a.png", "label": "x"}\n{"path": \n', ["row 2", "not JSON"]),
        ("a.jsonl", "[" * 100_000, ["row 1", "not JSON"]),
        ("a.jsonl", "[1, 2]\n", ["row 1", "path"]),
        ("a.jsonl", '{"path": "a.png", "label": {"a": 1}}\n', ["row 1", "label"]),
        ("a.jsonl", '{"path": "a.png", "label": true}\n', ["row 1", "label"]),
    ],
)
def test_a_row_that_cannot_be_understood_is_named(name: str, text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    refusal(lambda: read_table(tmp_path / name), tmp_path / name, *words)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    refusal(lambda: read_table(tmp_path / "a.csv"), tmp_path / "a.csv", "readable table")


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_classes(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "cat/deep/2.JPG", "dog/3.tif")
    items, notes = read_folder(tmp_path)
    assert not notes
    assert [(str(item.path.relative_to(tmp_path)), item.answer, item.part) for item in items] == [
        ("cat/1.png", "cat", None), ("cat/deep/2.JPG", "cat", None), ("dog/3.tif", "dog", None),
    ]  # fmt: skip


def test_folders_of_parts_hold_classes(tmp_path: Path) -> None:
    touch(tmp_path, "Train/a/1.png", "valid/a/2.png", "testing/b/3.png", "Train/stray.png")
    items, notes = read_folder(tmp_path)
    assert {(item.path.name, item.answer, item.part) for item in items} == {
        ("1.png", "a", "train"), ("2.png", "a", "validation"), ("3.png", "b", "test"),
    }  # fmt: skip
    (note,) = notes
    assert note.startswith("1 file(s)") and "Train/stray.png" in note


def test_a_class_may_be_called_like_a_part(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "bus/2.png")
    assert {(item.answer, item.part) for item in read_folder(tmp_path)[0]} == {("train", None), ("bus", None)}


def test_a_folder_beside_the_parts_is_told_if_it_is_empty_and_else_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "val/a/2.png", "__MACOSX/notes.txt")
    items, notes = read_folder(tmp_path)
    assert {(item.answer, item.part) for item in items} == {("a", "train"), ("a", "validation")}
    strange, empty = notes
    assert "__MACOSX/notes.txt" in strange
    assert empty == "1 class(es) are empty: __MACOSX"
    touch(tmp_path, "extra/deep/3.png")
    refusal(lambda: read_folder(tmp_path), tmp_path, "got extra with images beside train", "move extra elsewhere")


def test_what_is_no_image_is_told_and_what_is_hidden_is_not(tmp_path: Path) -> None:
    touch(
        tmp_path, "a/1.png", "b/2.png", "a/notes.txt", "a/.DS_Store", "a/._1.png", "Thumbs.db", ".git/x.png", "c/d.doc"
    )
    (tmp_path / "empty").mkdir()
    items, notes = read_folder(tmp_path)
    assert [item.path.name for item in items] == ["1.png", "2.png"]
    strange, empty = notes
    assert strange.startswith("3 file(s)") and all(n in strange for n in ("a/notes.txt", "c/d.doc", "Thumbs.db"))
    assert empty == "2 class(es) are empty: c, empty"


def test_links_that_lead_in_circles_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    touch(root, "a/1.png", "b/2.png")
    (tmp_path / "elsewhere").mkdir()
    touch(tmp_path, "elsewhere/3.png")
    (root / "a" / "self").symlink_to(root / "a", target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "above").symlink_to(tmp_path, target_is_directory=True)
    (root / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)  # a class may well lie elsewhere
    items, notes = read_folder(root)
    assert not notes
    assert [(item.path.name, item.answer) for item in items] == [("1.png", "a"), ("2.png", "b"), ("3.png", "c")]


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    refusal(lambda: read_folder(tmp_path), tmp_path, "sub-folder for each class")
    refusal(lambda: read_folder(tmp_path / "absent"), tmp_path / "absent", "found none")
