"""The feature cache is whole or absent, goes on where it stopped, and is never taken for another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.refusals import refusal
from wsram.data.features import CacheKey, Features, cache_key, extract_features, image_set, open_features
from wsram.models.backbone import Backbone
from wsram.terminal import Screen

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


def backbone(name: str = "pool", limit: int = 10**6) -> Backbone:
    return Backbone(name, Pool(limit), grid=2, channels=3, resolution=SIDE, mean=(0, 0, 0), std=(1.0, 1.0, 1.0))


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


def extract(folder: Path, paths: list[Path], made_by: Backbone | None = None) -> Features:
    return extract_features(folder, paths, made_by or backbone(), Screen(quiet=True), batch=2)


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
    again = backbone(limit=0)
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
        extract(tmp_path / "cache", paths, backbone(limit=limit))
    assert not (tmp_path / "cache").exists()
    with (tmp_path / "cache.partial" / "features.npy").open("ab") as file:
        file.write(b"half a row")  # as a process that is killed may leave it
    rest = backbone()
    features = extract(tmp_path / "cache", paths, rest)
    assert rest.trunk.seen == COUNT - limit
    assert np.array_equal(features.array, whole.array)
    for name in ("features.npy", "features.json"):
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_work_stopped_before_the_last_step_has_nothing_left_to_make(paths: list[Path], tmp_path: Path) -> None:
    extract(tmp_path / "cache", paths)
    (tmp_path / "cache").rename(tmp_path / "cache.partial")
    (tmp_path / "cache").mkdir()
    assert len(extract(tmp_path / "cache", paths, backbone(limit=0)).array) == COUNT


def test_work_stopped_within_the_first_lines_begins_anew(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache.partial").mkdir()
    (tmp_path / "cache.partial" / "features.json.partial").write_text("{")
    (tmp_path / "cache.partial" / "features.npy").write_bytes(b"\x93NUM")
    assert len(extract(tmp_path / "cache", paths).array) == COUNT


def test_a_cache_of_something_else_is_never_used(paths: list[Path], tmp_path: Path) -> None:
    key = extract(tmp_path / "cache", paths).key
    shutil.copytree(tmp_path / "cache", tmp_path / "other.partial")
    other = backbone("other")
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
    for text in ("", "[]", json.dumps({"backbone": "pool"}), sidecar.replace('"names"', '"titles"')):
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
    rest = backbone()
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


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_and_nothing_is_said_elsewhere(
    terminal: bool,
    paths: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")  # by which rich takes anything for a terminal
    extract_features(tmp_path / "cache", paths, backbone(), Screen())
    said = capsys.readouterr().out
    assert ("7/7" in said) == terminal == bool(said)
