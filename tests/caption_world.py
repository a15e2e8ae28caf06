"""Captioned images small enough for a test: one coloured square each, whose captions name its colour.

Importing this module needs the captions extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from wsram.config import (
    CaptionData,
    CaptionerConfig,
    CaptioningConfig,
    EstimatorConfig,
    ScheduleConfig,
    changed,
)
from wsram.data.captioned import make_features
from wsram.models.backbone import Backbone
from wsram.terminal import Screen

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
COUNTS = {"train": 48, "dev": 12, "test": 8}
GRID, SIDE = 7, 14


def backbone(name: str = "efficientnet-lite2", grid: int = GRID) -> Backbone:
    """Means over the cells, under the name of the default backbone, which these tests need not load."""
    return Backbone(name, Means(), grid=grid, channels=3, resolution=SIDE, mean=(0, 0, 0), std=(255.0, 255.0, 255.0))


class Means(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, SIDE // GRID)


def write_world(root: Path) -> Path:
    """Write a folder in Flickr8k's layout."""
    (root / "Flicker8k_Dataset").mkdir(parents=True)
    (root / "Flickr8k_text").mkdir()
    lines, n = [], 0
    for split, count in COUNTS.items():
        names = []
        for _ in range(count):
            word, colour = list(COLOURS.items())[n % 4]
            image = Image.new("RGB", (SIDE, SIDE))
            left, top = 2 * (n % 4), 2 * (n // 4 % 4)  # a quarter of the cells or so
            image.paste(colour, (left, top, left + 8, top + 8))
            names.append(f"{n}.png")
            image.save(root / "Flicker8k_Dataset" / names[-1])
            lines += [f"{n}.png#0\tA {word} square .", f"{n}.png#1\tHere is a {word} square !"]
            n += 1
        (root / "Flickr8k_text" / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
    (root / "Flickr8k_text" / "Flickr8k.token.txt").write_text("\n".join(lines) + "\nabsent.png#0\tNothing .\n")
    return root


def tiny_captions(world: Path, features: Path, **changes: Any) -> CaptioningConfig:
    """A run of 6 updates, evaluated after every other one, on the captions in a folder."""
    small = CaptioningConfig(
        data=CaptionData(str(world), features=features, min_count=2),
        model=CaptionerConfig(embedding=16, units=24, attention_units=12, dropout=0.1),
        estimator=EstimatorConfig(samples=3),
        schedule=ScheduleConfig(updates=6, batch=16, learning_rate=0.01, warmup=2, precision="no", evaluate_every=2),
    )
    return changed(small, **changes)


def write_features(config: CaptioningConfig) -> None:
    """Extract the features that a run's settings name, with `backbone`."""
    make_features(config.data, backbone(), Screen(quiet=True))
