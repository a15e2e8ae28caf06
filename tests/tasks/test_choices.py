"""Settings that images ask for, worked out by hand for images of several sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from wsram.config import ClassificationConfig, changed
from wsram.data import Batch, Spec, Splits
from wsram.recipes import RECIPES
from wsram.tasks.choices import choose_by_images

FOLDER = RECIPES["folder"]
assert isinstance(FOLDER, ClassificationConfig)


@dataclass(frozen=True)
class Sized:
    """So many images of one size, which nobody looks at."""

    spec: Spec
    count: int
    title: str = "images"

    def __len__(self) -> int:
        return self.count

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        raise AssertionError("choices are made without the images")

    def to(self, device: torch.device) -> Sized:
        return self

    def fingerprint(self) -> str:
        return ""


def images(size: tuple[int, int] | None, count: int, channels: int = 3) -> Splits:
    dataset = Sized(Spec(channels, "class", ("cat", "dog"), size), count)
    return Splits(dataset, dataset, lambda: dataset)


def settings(config: ClassificationConfig) -> dict[str, Any]:
    model, schedule = config.model, config.schedule
    return {
        **{name: getattr(model, name) for name in ("patch", "scales", "view")},
        **{name: getattr(schedule, name) for name in ("batch", "updates", "evaluate_every")},
    }


BY_HAND: dict[str, tuple[Splits, dict[str, Any]]] = {
    "photographs": (
        # 480 / 80 is 6 eights, but 32 are enough; 0.75 x 480 / 32 is above 8; 26 images of 921,600 numbers have room.
        images((480, 640), 1000),
        dict(patch=32, scales=(1, 2, 4, 8), view=40, batch=16, updates=3750, evaluate_every=187),
    ),
    "many small grey ones": (
        images((96, 96), 100_000, channels=1),
        dict(patch=16, scales=(1, 2, 4), view=24, batch=64, updates=12_000, evaluate_every=600),
    ),
    "few narrow ones": (
        images((20, 300), 10, channels=1),
        dict(patch=16, scales=(1,), view=16, batch=64, updates=1500, evaluate_every=75),
    ),
    "huge ones": (
        images((4000, 6000), 300),
        dict(patch=32, scales=(1, 2, 4, 8), view=40, batch=4, updates=4500, evaluate_every=225),
    ),
    "of no typical size": (
        images(None, 2000),
        dict(patch=24, scales=(1, 2, 4), view=40, batch=64, updates=1875, evaluate_every=93),
    ),
}


@pytest.mark.parametrize("splits, expected", BY_HAND.values(), ids=BY_HAND)
def test_settings_fit_the_images(splits: Splits, expected: dict[str, Any]) -> None:
    chosen, _ = choose_by_images(FOLDER, splits)
    assert settings(chosen) == expected
    assert chosen == changed(FOLDER, choose=False, **expected)  # and nothing else


def test_every_choice_is_told_with_its_reason() -> None:
    _, said = choose_by_images(FOLDER, images((480, 640), 1000))
    assert said == (
        "patch 32: a typical image is 640 by 480 pixels",
        "scales 1, 2, 4, 8: a glimpse spans 32 to 256 of 480 pixels",
        "view 40: enough to see where something is, too little to see what",
        "batch 16: an image has 921,600 numbers",
        "updates 3,750: 1,000 training images are seen about 60 times",
        "evaluate every 187: twenty looks at the validation images",
    )


def test_what_was_asked_for_stays_and_the_rest_fits_it() -> None:
    asked = changed(FOLDER, patch=24, batch=8)
    chosen, said = choose_by_images(asked, images((480, 640), 1000))
    assert settings(chosen) == dict(patch=24, scales=(1, 2, 4, 8), view=40, batch=8, updates=7500, evaluate_every=375)
    assert [line.split(":")[0] for line in said] == [
        "scales 1, 2, 4, 8",
        "view 40",
        "updates 7,500",
        "evaluate every 375",
    ]
    assert "a glimpse spans 24 to 192 of 480 pixels" in said[0]


@pytest.mark.parametrize(("stride", "view"), [(1, 40), (6, 42), (60, 60)])
def test_a_map_has_whole_cells(stride: int, view: int) -> None:
    by_map = changed(FOLDER, policy="map", map_stride=stride)
    assert choose_by_images(by_map, images((480, 640), 1000))[0].model.view == view
    unmapped = changed(FOLDER, map_stride=stride)
    assert choose_by_images(unmapped, images((480, 640), 1000))[0].model.view == 40


def test_a_pretrained_network_is_given_larger_glimpses_and_a_larger_view() -> None:
    pretrained = changed(FOLDER, network="efficientnet-lite0")
    cells, _ = choose_by_images(pretrained, images((300, 300), 2000, channels=1))
    assert (cells.model.patch, cells.model.scales, cells.model.view) == (64, (1, 2), 64)
    small, _ = choose_by_images(pretrained, images((96, 96), 2000))
    assert (small.model.patch, small.model.scales, small.model.view) == (32, (1, 2), 24)
