"""One image step by step: what has just been looked at is light, all else dark."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from tests.models.networks import classifier
from tests.refusals import refusal
from wsram.answers import Prediction
from wsram.heat import heat_picture
from wsram.predictor import Predictor
from wsram.stepping import draw_cell, draw_trace
from wsram.viewing import png


def pixels(figure: Figure) -> np.ndarray:
    """A figure as it is drawn, (height, width) grey."""
    return np.asarray(Image.open(io.BytesIO(png(figure, dpi=50))).convert("L")).astype(float)


def predicted(glimpses: int | None = None) -> Prediction:
    torch.manual_seed(0)  # the same network every time
    image = np.random.default_rng(0).integers(0, 256, (20, 40), dtype=np.uint8)
    found = Predictor(classifier()).predict(image, glimpses=glimpses)
    assert isinstance(found, Prediction)
    return found


@pytest.mark.parametrize("glimpses", [1, 2, 3])
def test_after_some_glimpses_a_prediction_is_what_so_many_would_have_made_it(glimpses: int) -> None:
    whole, fewer = predicted(), predicted(glimpses)
    cut = whole.after(glimpses)
    assert str(cut) == str(fewer)
    torch.testing.assert_close(cut.beliefs, fewer.beliefs)
    assert cut.glimpses == whole.glimpses[:glimpses]
    assert len(cut.votes(2).glimpses) == glimpses


def test_no_prediction_stands_after_no_glimpse() -> None:
    refusal(lambda: predicted().after(0), "glimpses must be at least 1, got 0")


def test_patches_are_what_the_glimpses_showed() -> None:
    found = predicted()
    assert found.patches.shape == (3, 1, 6, 6)
    pyramid = found.sensor.pyramid(found.given.unit().unsqueeze(0))
    for n in range(3):
        one = found.sensor(pyramid, found.action.location[0, n : n + 1], found.action.scale[0, n : n + 1])
        torch.testing.assert_close(found.patches[n], one[0])


def test_the_last_glimpse_shown_is_light_and_fills_a_picture_in_the_images_shape() -> None:
    image = torch.ones(1, 20, 40)
    boxes = [(2.0, 4.0, 8.0), (24.0, 6.0, 8.0)]
    first, both, none = (pixels(draw_trace(image, (20, 40), boxes, shown=shown)) for shown in (1, None, 0))
    height, width = first.shape
    assert width == pytest.approx(2 * height, abs=1)

    def at(drawn: np.ndarray, x: float, y: float) -> float:
        return float(drawn[int(y / 20 * height), int(x / 40 * width)])

    assert at(first, 8, 9) > 250 and at(first, 36, 18) < 130
    assert at(both, 36, 18) > 250 and at(none, 36, 18) > 250


def test_one_cell_is_light_or_none_or_all() -> None:
    image = torch.ones(3, 20, 20)
    lit, dark = (pixels(draw_cell(image, cell, 2, dimmed=True)) for cell in (1, None))
    plain = pixels(draw_cell(image, None, 2))
    half = len(lit) // 2
    assert lit[half // 2, half + half // 2] > 250 and lit[half // 2, half // 2] < 100
    assert dark.max() < 100 and plain.min() > 250


def test_a_map_is_brightest_where_its_cross_is_and_has_the_images_shape() -> None:
    heat = torch.zeros(20, 40)
    heat[4:7, 29:32] = 0.1
    heat[5, 30] = 0.2
    picture = np.asarray(heat_picture(torch.full((1, 20, 40), 0.5), (20, 40), heat, 320))
    assert picture.shape == (160, 320, 3)
    assert tuple(picture[44, 244]) == (0x56, 0xB4, 0xE9)
    light = picture.sum(-1, dtype=int)
    assert light[36, 252] > light[100, 100] > 0
