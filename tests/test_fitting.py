"""A program trains on images it holds, and asks the network that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import wsram
from tests.refusals import refusal
from wsram.config import changed
from wsram.data.given import given
from wsram.data.images import read_image, size_of
from wsram.data.listing import read_table
from wsram.fitting import write_table
from wsram.recipes import RECIPES

QUIET = wsram.Screen(quiet=True)
TINY: dict[str, Any] = dict(patch=8, scales=(1,), view=8, widths=(4, 8), lower_units=16, upper_units=16, batch=16)


def noise(count: int) -> tuple[list[np.ndarray], list[str]]:
    """Images of noise, in every other one much lighter; and which it is."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 100, (24, 24), dtype=np.uint8) + np.uint8(150 * (n % 2)) for n in range(count)]
    return images, ["light" if n % 2 else "dark" for n in range(count)]


def test_a_stranger_trains_on_arrays_and_predicts(tmp_path: Path) -> None:
    images, labels = noise(60)
    settings = TINY | dict(glimpses=1, updates=30, evaluate_every=15, learning_rate=0.01, warmup=5)
    predictor = wsram.fit(images[:40], labels[:40], tmp_path / "run", screen=QUIET, **settings)
    assert predictor.names == ("dark", "light")
    said: Any = predictor.predict(images[40:])  # unseen
    assert [each.best[0] for each in said] == labels[40:]
    again: Any = wsram.from_pretrained(tmp_path / "run").predict(images[40:])  # the run is one like any other
    assert [each.best for each in again] == [each.best for each in said]


def test_images_and_labels_of_every_kind_come_back_from_the_table(tmp_path: Path) -> None:
    Image.new("L", (5, 4), 7).save(tmp_path / "a.png")
    images = [
        tmp_path / "a.png",
        Image.new("CMYK", (5, 4)),
        np.full((4, 5, 3), 9, np.uint8),
        torch.full((1, 4, 5), 0.2),
    ]
    labels = ["a", np.int64(3), 0.5, ("a", "b")]
    items, _ = read_table(write_table(images, labels, tmp_path / "kept"))
    assert [item.answer for item in items] == ["a", "3", 0.5, ("a", "b")]
    assert items[0].path == tmp_path / "a.png"
    modes = []
    for item in items:
        with Image.open(item.path) as image:
            modes.append(image.mode)
            pixels = np.asarray(image).tolist()
    assert modes == ["L", "RGB", "RGB", "L"]
    assert pixels == [[51] * 5] * 4  # of the last one


def turned(image: Image.Image) -> Image.Image:
    """As a camera would have it that was held sideways."""
    image.getexif()[0x0112] = 6
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)),
        Image.fromarray(3000 * np.arange(20, dtype=np.int32).reshape(4, 5)),
        Image.fromarray(3000 * np.arange(20, dtype=np.uint16).reshape(4, 5)),
        Image.new("RGBA", (5, 4), (200, 100, 0, 128)),
        Image.new("LA", (5, 4), (200, 128)),
        turned(Image.linear_gradient("L").resize((5, 4))),
    ],
    ids=["floating point", "integers", "16 bits", "transparent", "grey and transparent", "turned"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_kept_of_an_image_of_pillow_is_what_a_prediction_sees(
    tmp_path: Path, image: Image.Image, channels: int
) -> None:
    (item,), _ = read_table(write_table([image], ["a"], tmp_path / "kept"))
    assert isinstance(item.path, Path)
    assert torch.equal(read_image(item.path, channels), given(image, channels).pixels)
    assert size_of(item.path) == size_of(image)


def test_a_refused_call_leaves_nothing_behind_and_the_corrected_one_trains(tmp_path: Path) -> None:
    images, labels = noise(24)
    settings = TINY | dict(glimpses=1, updates=2, evaluate_every=2)
    for wrong, said in (
        (lambda: wsram.fit(images, labels, tmp_path / "run", screen=QUIET, **settings | dict(patch=99)), "patch of 99"),
        (lambda: wsram.fit([*images[:-1], np.zeros(3)], labels, tmp_path / "run", screen=QUIET), "(3,)"),
    ):
        refusal(wrong, said)
        assert not list(tmp_path.iterdir())
    wsram.fit(images, labels, tmp_path / "run", screen=QUIET, **settings)
    kept = tmp_path / "run-images"
    assert len(list(kept.iterdir())) == 25
    kept.rename(tmp_path / "moved")
    refusal(lambda: wsram.fit(images, labels, tmp_path / "run", screen=QUIET, **settings), "already holds a run")
    assert not kept.exists()


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ([0.5, 1, np.int64(2)], [0.5, 1.0, 2.0]),
        ([0, 1, np.int64(2)], ["0", "1", "2"]),
        ([0.5, 1, "a"], [0.5, "1", "a"]),
    ],
)
def test_labels_are_numbers_where_all_are_and_not_all_whole(
    tmp_path: Path, labels: list[Any], kept: list[str | float]
) -> None:
    items, _ = read_table(write_table(noise(3)[0], labels, tmp_path / "kept"))
    assert [item.answer for item in items] == kept


def test_what_cannot_be_fitted_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    images, labels = noise(4)
    refusal(lambda: wsram.fit(images, labels[:3], tmp_path / "run"), "3 labels", "4 images")
    refusal(lambda: wsram.fit(images, labels, tmp_path / "run", recipe="none"), "'none'", "folder")
    refusal(lambda: wsram.fit([np.zeros((2, 2), np.int64)], ["a"], tmp_path / "run"), "int64")
    refusal(lambda: wsram.fit(images, ["a|b", *labels[1:]], tmp_path / "run"), "'a|b'", "as a list")
    refusal(lambda: wsram.fit(images, labels, "."), "folder for the run", "'.'")
    refusal(lambda: wsram.fit(images, labels, tmp_path / "run", source="photos"), "source", "leave it out")
    write_table(images, labels, tmp_path / "kept")
    refusal(lambda: write_table(images, labels, tmp_path / "kept"), "new folder", tmp_path / "kept")
    with pytest.raises(TypeError, match="colour_of_the_walls"):
        wsram.fit(images, labels, tmp_path / "run", colour_of_the_walls=3)
    assert not (tmp_path / "run").exists()
    assert changed(RECIPES["folder"], **TINY).model.patch == 8
