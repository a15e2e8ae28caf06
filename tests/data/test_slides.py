"""Slides show what their file holds, at every resolution, and say what is wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.test_tiled import averages, noise
from tests.refusals import refusal
from wsram.data.given import given
from wsram.data.tiled import open_tiles

pytest.importorskip("openslide", reason="slides need the slides extra")
tifffile = pytest.importorskip("tifffile", reason="the slide under test is written by the tiles extra")
SIZE = 700, 530


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return noise(*SIZE, 3)


@pytest.fixture(scope="module")
def slide(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TIFF file in tiles, a page for each resolution, which OpenSlide knows whatever it is called."""
    path = tmp_path_factory.mktemp("slides") / "a slide.svs"
    with tifffile.TiffWriter(path) as file:
        for f in (1, 2, 4):
            kind = {"tile": (128, 128), "photometric": "rgb", "metadata": None, "subfiletype": int(f > 1)}
            file.write(averages(pixels, f), **kind)
    return path


def test_a_window_shows_the_files_own_pixels(slide: Path, pixels: np.ndarray) -> None:
    opened = open_tiles(slide, 3)
    assert opened is not None and (opened.height, opened.width) == SIZE
    for top, left, height, width in [(0, 0, 30, 40), (250, 240, 30, 40), (690, 520, 10, 10), (0, 0, *SIZE)]:
        found = opened.read(top, left, height, width)
        expected = torch.from_numpy(pixels).permute(2, 0, 1)[:, top : top + height, left : left + width]
        assert torch.equal(found, expected)


def test_each_resolution_is_a_level(slide: Path, pixels: np.ndarray) -> None:
    opened = open_tiles(slide, 3)
    assert opened is not None
    assert [(level.height, level.width) for level in opened.levels] == [SIZE, (350, 265), (175, 132)]
    half = pixels.reshape(350, 2, 265, 2, 3).mean((1, 3))
    tile = opened.levels[1].load(1, 1)
    assert tile.shape == (3, 94, 9)
    assert np.abs(tile - half[256:350, 256:265].transpose(2, 0, 1)).max() <= 0.5


def test_a_slide_is_looked_at_as_any_image(slide: Path) -> None:
    grey = given(slide, 1)
    assert (grey.height, grey.width) == SIZE and grey.source.channels == 1
    assert grey.source.view(25).shape == (1, 25, 25)


def test_what_is_no_slide_is_refused(tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.ndpi"
    broken.write_bytes(slide.read_bytes()[:100])
    refusal(lambda: open_tiles(broken, 3), "expected a slide in", "broken.ndpi", "copy it again")
    refusal(lambda: open_tiles(tmp_path / "none.svs", 3), "none.svs")
    monkeypatch.setitem(sys.modules, "openslide", None)
    refusal(lambda: open_tiles(slide, 3), "is a slide", 'pip install "wsram[slides]"')
