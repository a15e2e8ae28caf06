"""Images of one's own: of every kind and size, in folders or tables, and what is wrong with them named."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.refusals import refusal
from tests.tiny import rows
from wsram.cli import main
from wsram.data import Splits, open_data
from wsram.data import folder as module
from wsram.data import images as reader
from wsram.data.augment import augmented
from wsram.data.balance import Balanced
from wsram.data.folder import ImageFiles
from wsram.data.images import read_image, size_of
from wsram.errors import UserError
from wsram.image_settings import AugmentConfig, ImageData


def noise(seed: int, width: int = 6, height: int = 5, mode: str = "L") -> Image.Image:
    """An image that no other seed makes."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if bands == 1 else values)


def write(path: Path, image: Image.Image | None = None, seed: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or noise(hash_of(path) if seed is None else seed)).save(path)
    return path


def hash_of(path: Path) -> int:
    return sum(ord(c) * 31**n for n, c in enumerate("/".join(path.parts[-3:]))) % 2**32


def make(root: Path, classes: tuple[str, ...] = ("a", "b"), count: int = 8) -> Path:
    """A folder of so many images of each class."""
    for name in classes:
        for n in range(count):
            write(root / name / f"{n}.png")
    return root


def opened(source: Path, **settings: object) -> Splits:
    return open_data(ImageData(str(source), **settings))  # type: ignore[arg-type]


def whole(dataset: object) -> tuple[Tensor | list[Tensor], Tensor]:
    batch = dataset.batch(torch.arange(len(dataset)))  # type: ignore[attr-defined, arg-type]
    return batch.images, batch.answers


def named(splits: Splits) -> dict[str, dict[str, Tensor]]:
    """The images of each part by the name of their file."""
    found = {}
    for part, dataset in (("train", splits.train), ("validation", splits.validation), ("test", splits.open_test())):
        assert isinstance(dataset, ImageFiles)
        images, _ = whole(dataset)
        found[part] = dict(zip([path.name for path in dataset.paths], images, strict=True))
    return found


def kinds(folder: Path) -> dict[str, tuple[Path, tuple[int, int], tuple[int, int, int]]]:
    """A file of every kind: where it is, (height, width) upright, and the colour of its top left quarter."""
    folder.mkdir()
    found = {}

    def add(name: str, image: Image.Image, size: tuple[int, int], colour: tuple[int, int, int], **how: object) -> None:
        image.save(folder / name, **how)  # type: ignore[arg-type]
        found[name] = (folder / name, size, colour)

    turned = Image.Exif()
    turned[0x0112] = 6
    sideways = Image.new("RGB", (20, 10), (0, 0, 200))
    sideways.paste((200, 0, 0), (0, 5, 10, 10))  # whose lower left is the upper left when turned upright
    add("grey.png", Image.new("L", (7, 5), 80), (5, 7), (80, 80, 80))
    add("colour.png", Image.new("RGB", (6, 6), (10, 20, 30)), (6, 6), (10, 20, 30))
    add("rgba.png", Image.new("RGBA", (6, 4), (0, 0, 0, 0)), (4, 6), (255, 255, 255))
    add("palette.gif", Image.new("RGB", (5, 5), (255, 0, 0)).convert("P"), (5, 5), (255, 0, 0))
    add("printed.tif", Image.new("CMYK", (9, 8), (0, 255, 255, 0)), (8, 9), (255, 0, 0))
    add("deep.png", Image.fromarray(np.full((4, 5), 80 * 257, np.uint16)), (4, 5), (80, 80, 80))
    add("deep.tif", Image.fromarray(np.full((4, 5), 80 * 257, np.uint16)), (4, 5), (80, 80, 80))
    add("float.tif", Image.fromarray(np.full((3, 5), 0.4, np.float32)), (3, 5), (102, 102, 102))
    add("bytes.tiff", Image.fromarray(np.full((3, 5), 102.0, np.float32)), (3, 5), (102, 102, 102))
    add("turned.png", sideways, (20, 10), (200, 0, 0), exif=turned)
    add("odd.png", Image.new("RGB", (8, 4), (1, 2, 3)), (4, 8), (1, 2, 3), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    add("one.bmp", Image.new("RGB", (1, 1), (9, 8, 7)), (1, 1), (9, 8, 7))
    add("web.webp", Image.new("RGB", (6, 6), (50, 60, 70)), (6, 6), (50, 60, 70), lossless=True)
    return found


def test_images_of_every_kind_lie_in_one_folder(tmp_path: Path) -> None:
    files = kinds(tmp_path / "kinds")
    extra = [write(tmp_path / "kinds" / f"v{n}.png", seed=n) for n in range(2)]
    lines = [f"{name},{'ab'[n % 2]},train" for n, name in enumerate(files)]
    lines += [f"{path.name},{'ab'[n]},val" for n, path in enumerate(extra)]
    (tmp_path / "kinds" / "table.csv").write_text("\n".join(["path,label,split", *lines, "v0.png,a,test"]) + "\n")
    splits = opened(tmp_path / "kinds" / "table.csv")
    assert splits.train.spec.channels == 3
    seen = named(splits)["train"]
    assert list(seen) == list(files)
    for name, (path, size, colour) in files.items():
        image = seen[name]
        assert image.shape == (3, *size), name
        assert torch.equal(image, read_image(path).float() / 255), name
        corner = (255 * image[:, 0, 0]).round().tolist()
        assert corner == pytest.approx(colour, abs=1), name
        assert size_of(path)[:2] == size, name
    assert not any("cannot be read" in note for note in splits.notes)


def test_grey_images_stay_grey_unless_colour_is_asked_for(tmp_path: Path) -> None:
    make(tmp_path)
    assert opened(tmp_path).train.spec.channels == 1
    assert opened(tmp_path, colour=True).train.batch(torch.tensor([0])).images.shape[1] == 3  # type: ignore[union-attr]
    write(tmp_path / "a" / "colour.png", noise(1, mode="RGB"))
    assert opened(tmp_path).train.spec.channels == 3
    assert opened(tmp_path, colour=False).train.spec.channels == 1


def test_images_of_one_size_are_a_tensor_and_of_several_a_list(tmp_path: Path) -> None:
    make(tmp_path)
    images, answers = whole(opened(tmp_path).train)
    assert isinstance(images, Tensor) and images.shape[1:] == (1, 5, 6)
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    assert answers.dtype == torch.int64
    for n in range(8):
        write(tmp_path / "b" / f"{n}.png", noise(100 + n, width=9))
    train = opened(tmp_path).train
    images, answers = whole(train)
    assert isinstance(images, list)
    assert [image.shape[-1] for image in images] == [6 + 3 * answer for answer in answers.tolist()]
    same = train.batch((answers == 1).nonzero().squeeze(-1)).images
    assert isinstance(same, Tensor)


def test_large_images_are_shrunk_and_keep_their_aspects(tmp_path: Path) -> None:
    make(tmp_path)
    write(tmp_path / "a" / "large.png", noise(5, 40, 20))
    splits = opened(tmp_path, longest=10)
    sizes = {name: image.shape[-2:] for part in named(splits).values() for name, image in part.items()}
    assert sizes["large.png"] == (5, 10) and sizes["0.png"] == (5, 6)
    assert splits.train.spec.longest == 10 and "shrunk to 10" in splits.notes[0]
    assert opened(tmp_path, longest=40).train.spec.longest is None


def test_images_read_again_are_the_same_as_those_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    kept, _ = whole(opened(tmp_path).train)
    monkeypatch.setattr(module, "CACHE", 70)  # room for two
    train = opened(tmp_path).train
    assert isinstance(train, ImageFiles)
    for _ in range(2):
        again, _ = whole(train)
        assert torch.equal(torch.as_tensor(again), torch.as_tensor(kept))
        assert 0 < sum(image.numel() for image in train.cache.values()) < 70


def test_the_split_is_by_content_whatever_the_names_and_the_order(tmp_path: Path) -> None:
    make(tmp_path / "one", count=12)
    for n in range(12):
        for name in "ab":
            target = tmp_path / "two" / name / "deeper" / f"{(7 * n) % 12:02}-renamed.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / "one" / name / f"{n}.png", target)
    ours, theirs = (opened(tmp_path / name) for name in ("one", "two"))
    for one, other in ((ours.train, theirs.train), (ours.validation, theirs.validation)):
        assert isinstance(one, ImageFiles) and isinstance(other, ImageFiles)
        assert sorted(one.hashes) == sorted(other.hashes)
    assert len(ours.train) == 16 and len(ours.validation) == len(ours.open_test()) == 4


def test_copies_are_never_on_two_sides_and_are_told(tmp_path: Path) -> None:
    make(tmp_path)
    for n in range(8):
        shutil.copy(tmp_path / "a" / f"{n}.png", tmp_path / "a" / f"copy-{n}.png")
    splits = opened(tmp_path)
    sides = [{*part.hashes} for part in (splits.train, splits.validation, splits.open_test())]  # type: ignore[attr-defined]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 16
    assert any("8 image(s) are there more than once" in note for note in splits.notes)


def test_folders_of_parts_are_the_parts(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 3), ("test", 2)):
        make(tmp_path / part, count=count)
    splits = opened(tmp_path)
    assert [len(part) for part in (splits.train, splits.validation, splits.open_test())] == [8, 6, 4]
    for part, dataset in (("train", splits.train), ("val", splits.validation), ("test", splits.open_test())):
        assert all(path.parts[-3] == part for path in dataset.paths)  # type: ignore[attr-defined]
    shutil.rmtree(tmp_path / "test")
    refusal(lambda: opened(tmp_path).open_test(), "no test images")


def test_data_with_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    for part in ("val", "test"):
        make(tmp_path / part, count=2)
    (tmp_path / "t.csv").write_text("path,label,split\nval/a/0.png,a,val\nval/b/1.png,b,test\n")
    refusal(lambda: opened(tmp_path), "for train", "no folder", "only for validation and test")
    refusal(lambda: opened(tmp_path / "t.csv"), "for train", "no rows", "only for validation and test")


def test_tables_say_classes_labels_and_numbers(tmp_path: Path) -> None:
    for n in range(4):
        write(tmp_path / f"{n}.png", seed=n)

    def table(name: str, *labels: object) -> Path:
        parts = ("train", "train", "val", "test")
        path = tmp_path / name
        if name.endswith("csv"):
            lines = [f"{n}.png,{label},{part}" for n, (label, part) in enumerate(zip(labels, parts, strict=True))]
            path.write_text("\n".join(["path,label,split", *lines]))
        else:
            whole_rows = zip(range(4), labels, parts, strict=True)
            path.write_text(
                "\n".join(json.dumps({"path": f"{n}.png", "label": w, "split": p}) for n, w, p in whole_rows)
            )
        return path

    for name in ("t.csv", "t.jsonl"):
        splits = opened(table(name, "cat", "dog", "dog", "cat"))
        assert (splits.train.spec.answer, splits.train.spec.names) == ("class", ("cat", "dog"))
        assert [whole(part)[1].tolist() for part in (splits.train, splits.validation)] == [[0, 1], [1]]
    for source in (table("l.csv", "x|y", "y", "x", "|"), table("l.jsonl", ["x", "y"], "y", "x", [])):
        splits = opened(source)
        assert (splits.train.spec.answer, splits.train.spec.names) == ("labels", ("x", "y"))
        found = [whole(part)[1].tolist() for part in (splits.train, splits.validation, splits.open_test())]
        assert found == [[[1, 1], [0, 1]], [[1, 0]], [[0, 0]]]
    for source in (table("n.csv", 1, 3, 2, 5.5), table("n.jsonl", 1, 3, 2, 5.5)):
        splits = opened(source, answer="number")
        assert (splits.train.spec.names, splits.train.spec.unit) == (("value",), (2, 1))
        assert [whole(part)[1].tolist() for part in (splits.train, splits.open_test())] == [[-1, 1], [3.5]]
    assert opened(table("n.jsonl", 1, 3, 2, 5.5)).train.spec.answer == "number"
    for labels in ((1, 3, 2, 5.5), (1, "3e0", 2, -5)):
        assert opened(table("n.csv", *labels)).train.spec.unit == (2, 1)
    assert opened(table("n.csv", "1.50", "1.5", "1.5", "1.5"), answer="class").train.spec.names == ("1.5", "1.50")
    assert opened(table("n.csv", 1, 3, 3, 1)).train.spec.names == ("1", "3")  # whole numbers may name classes
    assert opened(table("n.csv", "1.5", "e", "e", "e")).train.spec.names == ("1.5", "e")
    assert opened(table("mixed.jsonl", ["x"], 3, "x", 3)).train.spec.names == ("3", "x")  # labels, some of them bare

    refusal(lambda: opened(table("n.csv", 1, 3, "many", 5), answer="number"), "2.png", "'many'")
    refusal(lambda: opened(table("n.csv", 1, "nan", 2, 5), answer="number"), "1.png", "finite")
    refusal(lambda: opened(table("l.csv", "x|y", "y", "x", "y"), answer="class"), "0.png", "x|y", "--answer labels")
    refusal(lambda: opened(table("c.csv", "cat", "dog", "cow", "cat")), "2.png", "'cow'", "cat, dog")
    refusal(lambda: opened(table("c.csv", "cat", "dog", "dog", "cow")).open_test(), "3.png", "'cow'")
    refusal(lambda: opened(table("l.csv", "x|y", "y", "z|x", "x")), "2.png", "'z'")
    refusal(lambda: opened(table("c.csv", "cat", "cat", "cat", "cat")), "two or more classes", "cat")


def bad_files(folder: Path) -> list[str]:
    """Files that are no images, whatever they are called."""
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("<html>not found</html>")
    Image.new("RGB", (16, 16), "red").save(folder / "script.jpg", "EPS")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "absent.png").symlink_to(folder / "nowhere.png")
    return ["empty.png", "text.jpg", "script.jpg", "loop.png", "absent.png"]


def test_files_that_cannot_be_read_are_left_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.setattr(module, "EXAMPLES", 10)
    names = bad_files(tmp_path / "a")
    write(tmp_path / "a" / "bomb.png", Image.new("L", (50, 50)))
    monkeypatch.setattr(reader, "LARGEST", 2499)
    splits = opened(tmp_path)
    assert sum(map(len, (splits.train, splits.validation, splits.open_test()))) == 16
    (note,) = (note for note in splits.notes if "cannot be read" in note)
    assert note.startswith("6 image(s)") and "50×50 pixels" in note and "\n" not in note
    assert all(str(tmp_path / "a" / name) in note for name in (*names, "bomb.png"))


def test_an_image_that_is_broken_further_on_is_named_when_it_is_read(tmp_path: Path) -> None:
    make(tmp_path)
    content = io.BytesIO()
    noise(1, 40, 40).save(content, "PNG")
    for n in range(8):
        (tmp_path / "a" / f"{n}.png").write_bytes(content.getvalue()[: -200 - n])
    refusal(lambda: whole(opened(tmp_path).train), tmp_path / "a", ".png", "whole image", "leave it out")


def test_what_breaks_while_it_is_trained_on_is_left_out_and_told(tmp_path: Path) -> None:
    """The others keep their answers, and what is made of them; a figure is never of fewer than it says."""
    make(tmp_path)
    config = AugmentConfig(flip="both", noise=0.2)
    train, kept = opened(tmp_path).train, opened(tmp_path).train
    assert isinstance(train, ImageFiles) and isinstance(kept, ImageFiles)
    index = torch.arange(4)
    expected = augmented(kept, config, 0).batch(index, 3)
    train.paths[1].unlink()
    train.paths[2].write_bytes(train.paths[2].read_bytes()[:-30])
    found = augmented(train, config, 0).batch(index, 3)
    assert (
        found.there is not None
        and found.there.tolist() == [0, 3]
        and torch.equal(found.answers, expected.answers[[0, 3]])
    )
    assert all(torch.equal(ours, expected.images[n]) for ours, n in zip(found.images, (0, 3), strict=True))
    assert [str(train.paths[n]) in text for n, text in zip((1, 2), found.lost, strict=True)] == [True, True]
    refusal(lambda: train.batch(index), train.paths[1], "No such file")
    refusal(lambda: train.batch(index[1:3], 3), train.paths[1])


def test_a_batch_of_one_lost_file_again_and_again_is_refused(tmp_path: Path) -> None:
    make(tmp_path, ("a",), 20)
    make(tmp_path, ("b",), 5)
    train = opened(tmp_path, balance=True).train
    assert isinstance(train, Balanced) and isinstance(train.base, ImageFiles)
    shown, last = (train.numbers == train.numbers[-1]).nonzero().squeeze(-1), train.base.paths[int(train.numbers[-1])]
    assert len(shown) > 1 and isinstance(last, Path)
    last.unlink()
    refusal(lambda: train.batch(shown, 0), last, "No such file")


def test_a_file_that_is_another_than_was_listed_is_no_example(tmp_path: Path) -> None:
    make(tmp_path)
    train = opened(tmp_path).train
    assert isinstance(train, ImageFiles)
    train.paths[1].write_bytes(train.paths[0].read_bytes())  # a whole image, but of another class
    found = train.batch(torch.arange(4), 0)
    assert found.there is not None and found.there.tolist() == [0, 2, 3]
    assert found.lost == (f"{train.paths[1]} was changed while it was read; read it again once it is whole",)
    refusal(lambda: train.batch(torch.arange(4)), train.paths[1], "was changed")


def test_a_file_that_fails_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    train, tried = opened(tmp_path).train, list[Path]()

    def stumbling(path: Path, *arguments: Any) -> Tensor:
        tried.append(path)
        if tried.count(path) == 1:
            raise UserError(f"cannot read {path} (Input/output error)")
        return read_image(path, *arguments)

    monkeypatch.setattr("wsram.data.folder.read_image", stumbling)
    assert train.batch(torch.arange(4), 0).there is None
    assert len(tried) == 8


def test_nothing_but_files_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    refusal(lambda: opened(tmp_path), "none of 2 images", tmp_path / "a" / "1.png")


def test_one_class_is_refused_and_an_empty_one_told(tmp_path: Path) -> None:
    make(tmp_path, ("a",))
    refusal(lambda: opened(tmp_path), "two or more classes", "found a")
    make(tmp_path, ("b",))
    (tmp_path / "void").mkdir()
    (tmp_path / "readme.txt").touch()
    (tmp_path / ".hidden").mkdir()
    splits = opened(tmp_path)
    assert splits.train.spec.names == ("a", "b")
    assert any(note == "1 class(es) are empty: void" for note in splits.notes)
    assert any("readme.txt" in note for note in splits.notes)
    assert not any("hidden" in note for note in splits.notes)


def test_settings_for_digits_are_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path)
    for setting, value in (("scene", "translated"), ("distortion", 0.5), ("empty", 0.1), ("validation", 5)):
        refusal(lambda setting=setting, value=value: opened(tmp_path, **{setting: value}), f"--{setting}", "one digit")


def test_balance_shows_every_class_as_often_in_training_alone(tmp_path: Path) -> None:
    make(tmp_path, ("a",), 20)
    make(tmp_path, ("b",), 5)
    plain, even = opened(tmp_path), opened(tmp_path, balance=True)
    assert any("uneven" in note and "--balance" in note for note in plain.notes)
    counts = [torch.bincount(whole(splits.train)[1]).tolist() for splits in (plain, even)]
    assert counts == [[14, 3], [14, 14]]
    assert len(even.validation) == len(plain.validation)
    assert even.train.fingerprint() == plain.train.fingerprint() and even.train.spec == plain.train.spec
    shown = {tuple(image.flatten().tolist()) for image in even.train.batch(torch.arange(28)).images}
    assert shown == {tuple(image.flatten().tolist()) for image in whole(plain.train)[0]}
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(f"a/{n}.png,{n}" for n in range(20)))
    refusal(lambda: opened(tmp_path / "t.csv", answer="number", balance=True), "--balance", "number")


def test_the_fingerprint_is_of_content_and_answers(tmp_path: Path) -> None:
    make(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    ours, theirs = (opened(tmp_path / name).validation.fingerprint() for name in ("one", "two"))
    assert ours == theirs
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "c")
    assert opened(tmp_path / "two").validation.fingerprint() != ours


def test_a_folder_is_trained_on_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two classes of two sizes, from the command line."""
    for n in range(8):
        write(tmp_path / "photos" / "dark" / f"{n}.png", noise(n, 24, 24).point(lambda v: v // 2))
        write(tmp_path / "photos" / "light" / f"{n}.png", noise(n, 30, 20).point(lambda v: 128 + v // 2))
    run = tmp_path / "run"
    main(["train", str(tmp_path / "photos"), "--updates", "4", "--batch", "4", "--run", str(run)])
    said = capsys.readouterr().out
    assert "Validation error" in said and "answer: class (2 name(s))" in " ".join(said.split())
    assert rows(run)[-1]["step"] == 4
    assert json.loads((run / "training.json").read_text())["data"]["source"] == str(tmp_path / "photos")
    for words, name, count in (([], "validation", 2), (["--test"], "test", 2)):
        main(["evaluate", str(run), *words])
        found = json.loads((run / f"evaluation-{name}.json").read_text())
        assert (found["set"], found["examples"]) == (name, count)
        assert 0 <= found["error_mode"] <= 1
        assert f"{count} {name} images" in " ".join(capsys.readouterr().out.split())
