"""The feature cache is whole or absent, goes on where it stopped, and is never taken for another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from refusals import refusal
from wsram.data.features import CacheKey, Features, cache_key, extract_features, image_set, open_features, read_image
from wsram.models.encoder import Encoder

SIDE = 4
COUNT = 7


class Stop(Exception):
    """What ends the work halfway."""


class Pool(nn.Module):
    """Means of quarters; it counts the images it saw, and stops before a batch that would exceed `limit`."""

    def __init__(self, limit: int = 10**6) -> None:
        super().__init__()
        self.seen, self.limit = 0, limit

    def forward(self, images: Tensor) -> Tensor:
        if self.seen + len(images) > self.limit:
            raise Stop
        self.seen += len(images)
        return nn.functional.avg_pool2d(images, 2)


def encoder(name: str = "pool", limit: int = 10**6) -> Encoder:
    return Encoder(name, Pool(limit), grid=2, channels=3, resolution=SIDE, mean=(0, 0, 0), std=(1.0, 1.0, 1.0))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Seven images in two folders, image n all of the colour (n, 10 n, 20 n)."""
    found = []
    for n in range(COUNT):
        path = tmp_path / f"folder{n % 2}" / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 5), (n, 10 * n, 12 * n)).save(path)
        found.append(path)
    return found


def extract(folder: Path, paths: list[Path], made_by: Encoder | None = None) -> Features:
    return extract_features(folder, paths, made_by or encoder(), Console(quiet=True), batch=2)


# Images


def test_an_image_is_squashed_to_a_square_of_three_colours(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 10), (200, 100, 50))
    wide.paste((0, 0, 0), (20, 0, 40, 10))
    wide.save(tmp_path / "wide.png")
    image = read_image(tmp_path / "wide.png", 8)
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.uint8
    assert image[:, 4, 0].tolist() == [200, 100, 50]
    assert image[:, 4, 7].tolist() == [0, 0, 0]


MODES = {
    "grey": (Image.new("L", (5, 5), 80), [80, 80, 80]),
    "one bit": (Image.new("1", (5, 5), 1), [255, 255, 255]),
    "16 bits of grey": (Image.fromarray(np.full((5, 5), 80 * 257, dtype=np.uint16)), [80, 80, 80]),
    "palette": (Image.new("RGB", (5, 5), (255, 0, 0)).convert("P"), [255, 0, 0]),
    "transparent": (Image.new("RGBA", (5, 5), (9, 9, 9, 0)), [255, 255, 255]),
    "half transparent": (Image.new("RGBA", (5, 5), (0, 0, 0, 128)), [127, 127, 127]),
    "grey and transparent": (Image.new("LA", (5, 5), (9, 0)), [255, 255, 255]),
}


@pytest.mark.parametrize("kind", MODES)
def test_other_kinds_of_image_become_colours(kind: str, tmp_path: Path) -> None:
    image, colour = MODES[kind]
    image.save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png", 3)[:, 1, 1].tolist() == colour


def test_printers_colours_become_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "image.jpg")
    red, green, blue = read_image(tmp_path / "image.jpg", 3)[:, 1, 1].tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_a_cameras_note_of_orientation_is_heeded(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "white")
    image.paste((0, 0, 0), (0, 0, 8, 4))
    note = Image.Exif()
    note[0x0112] = 6  # to be turned clockwise by a quarter: its top is then at the right
    image.save(tmp_path / "image.png", exif=note)
    read = read_image(tmp_path / "image.png", 8)
    assert (read[:, :, :4] == 255).all()
    assert (read[:, :, 4:] == 0).all()


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.jpg")
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    for kind in ("jpg", "png"):
        content = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    for name in ("cut.jpg", "cut.png", "text.jpg", "empty.jpg", "folder.jpg", "absent.jpg"):
        refusal(lambda name=name: read_image(tmp_path / name, 8), tmp_path / name, "whole image", "leave it out")


def test_an_image_too_large_to_be_sound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (60, 60)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    refusal(lambda: read_image(tmp_path / "large.png", 8), tmp_path / "large.png", "3600 pixels")


# Making and reading a cache


def test_features_are_kept_in_order_of_names(paths: list[Path], tmp_path: Path) -> None:
    features = extract(tmp_path / "cache", paths[::-1])
    assert isinstance(features.array, np.memmap)
    assert features.array.dtype == np.float16
    assert features.array.shape == (COUNT, 4, 3)
    index = features.index([paths[5], paths[0], paths[5]])
    assert index.tolist() == [5, 0, 5]
    taken = features.take(index)
    assert taken.dtype == torch.float32
    assert torch.equal(taken, torch.tensor([5.0, 0, 5])[:, None, None] * torch.tensor([1.0, 10, 12]).expand(4, 3))
    taken += 1  # it is the reader's own
    assert torch.equal(features.take(index), taken - 1)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["features.json", "features.npy"]
    assert not (tmp_path / "cache.partial").exists()


def test_what_is_cached_is_not_made_again(paths: list[Path], tmp_path: Path) -> None:
    first = extract(tmp_path / "cache", paths)
    again = encoder(limit=0)
    second = extract(tmp_path / "cache", sorted(paths), again)
    assert np.array_equal(first.array, second.array)
    moved = [Path(shutil.copy(path, tmp_path)) for path in paths]
    key = cache_key("pool", 2, moved)
    assert np.array_equal(open_features(tmp_path / "cache", key).array, first.array)
    assert key == CacheKey("pool", 2, image_set(paths), COUNT) == first.key


@pytest.mark.parametrize("limit", [0, 2, 4, 6])
def test_work_that_was_stopped_goes_on_and_ends_the_same(limit: int, paths: list[Path], tmp_path: Path) -> None:
    whole = extract(tmp_path / "whole", paths)
    with pytest.raises(Stop):
        extract(tmp_path / "cache", paths, encoder(limit=limit))
    assert not (tmp_path / "cache").exists()
    with (tmp_path / "cache.partial" / "features.npy").open("ab") as file:
        file.write(b"half a row")  # as a process that is killed may leave it
    rest = encoder()
    features = extract(tmp_path / "cache", paths, rest)
    assert rest.trunk.seen == COUNT - limit
    assert np.array_equal(features.array, whole.array)
    for name in ("features.npy", "features.json"):
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_work_stopped_before_the_last_step_has_nothing_left_to_make(paths: list[Path], tmp_path: Path) -> None:
    extract(tmp_path / "cache", paths)
    (tmp_path / "cache").rename(tmp_path / "cache.partial")
    (tmp_path / "cache").mkdir()
    assert len(extract(tmp_path / "cache", paths, encoder(limit=0)).array) == COUNT


def test_work_stopped_within_the_first_lines_begins_anew(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache.partial").mkdir()
    (tmp_path / "cache.partial" / "features.json.partial").write_text("{")
    (tmp_path / "cache.partial" / "features.npy").write_bytes(b"\x93NUM")
    assert len(extract(tmp_path / "cache", paths).array) == COUNT


def test_a_cache_of_something_else_is_never_used(paths: list[Path], tmp_path: Path) -> None:
    key = extract(tmp_path / "cache", paths).key
    shutil.copytree(tmp_path / "cache", tmp_path / "other.partial")
    other = encoder("other")
    for folder, place in (("cache", "cache"), ("other", "other.partial")):
        refusal(
            lambda folder=folder: extract(tmp_path / folder, paths, other),
            tmp_path / place,
            f"holds features of pool with a grid of 2 on 7 images ({key.images})",
            "expected those of other with a grid of 2",
        )
        fewer = cache_key("pool", 2, paths[:-1])
        refusal(lambda folder=folder: extract(tmp_path / folder, paths[:-1]), key.images, fewer.images, "6 images")
    refusal(lambda: open_features(tmp_path / "cache", cache_key("pool", 14, paths)), "grid of 2", "grid of 14")
    Image.new("RGB", (300, 200), (3, 30, 60)).save(paths[3])
    refusal(lambda: extract(tmp_path / "cache", paths), key.images, image_set(paths))


def test_a_damaged_cache_is_refused_by_name(paths: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    key = extract(cache, paths).key
    array, sidecar = (cache / "features.npy").read_bytes(), (cache / "features.json").read_text()
    for content in (b"", array[:-1], b"garbage"):
        (cache / "features.npy").write_bytes(content)
        refusal(lambda: open_features(cache, key), cache / "features.npy", f"delete {cache}")
    np.save(cache / "features.npy", np.zeros((COUNT, 4, 3)))
    refusal(lambda: open_features(cache, key), "float16 (7, 4, 3)", "float64")
    np.save(cache / "features.npy", np.array([{}], dtype=object), allow_pickle=True)
    refusal(lambda: open_features(cache, key), cache / "features.npy")
    (cache / "features.npy").write_bytes(array)
    for text in ("", "[]", json.dumps({"encoder": "pool"}), sidecar.replace('"names"', '"titles"')):
        (cache / "features.json").write_text(text)
        refusal(lambda: open_features(cache, key), cache / "features.json", f"delete {cache}")
    (cache / "features.json").unlink()
    refusal(lambda: extract(cache, paths), cache, "other files")
    refusal(lambda: open_features(tmp_path / "absent", key), tmp_path / "absent", "extract the features first")


def test_a_broken_image_is_named_and_the_work_goes_on_once_it_is_mended(paths: list[Path], tmp_path: Path) -> None:
    good = paths[4].read_bytes()
    size = len(good)
    paths[4].write_bytes(good[: size // 2] + bytes(size - size // 2))
    refusal(lambda: extract(tmp_path / "cache", paths), paths[4], "whole image")
    paths[4].write_bytes(good)
    rest = encoder()
    assert len(extract(tmp_path / "cache", paths, rest).array) == COUNT
    assert rest.trunk.seen == COUNT - 4


def test_images_that_cannot_be_told_apart_or_found_are_refused(paths: list[Path], tmp_path: Path) -> None:
    refusal(lambda: extract(tmp_path / "cache", []), "none")
    refusal(lambda: extract(tmp_path / "cache", [*paths, tmp_path / "3.png"]), "3.png twice")
    refusal(lambda: extract(tmp_path / "cache", [*paths, tmp_path / "absent.png"]), tmp_path / "absent.png")
    features = extract(tmp_path / "cache", paths)
    refusal(lambda: features.index([tmp_path / "absent.png"]), "'absent.png'", "again")


def test_a_place_that_cannot_be_written_is_a_users_error(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal(lambda: extract(tmp_path / "file" / "cache", paths), tmp_path / "file", "choose another folder")
    refusal(lambda: extract(tmp_path / "file", paths), tmp_path / "file", "choose another folder")


def test_progress_is_shown(paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extract_features(tmp_path / "cache", paths, encoder(), Console())
    assert "7/7" in capsys.readouterr().out
