"""Captioned images small enough for a test: one coloured square each, whose captions name its colour.

Importing this module needs the captions extra.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor, nn

from wsram.models.encoder import Encoder

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
COUNTS = {"train": 48, "dev": 12, "test": 8}
GRID, SIDE = 7, 14


def encoder(name: str = "efficientnet-lite2", grid: int = GRID) -> Encoder:
    """Means over the cells, under the name of the default encoder, which these tests need not load."""
    return Encoder(name, Means(), grid=grid, channels=3, resolution=SIDE, mean=(0, 0, 0), std=(255.0, 255.0, 255.0))


class Means(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, SIDE // GRID)


def write_world(root: Path) -> Path:
    """Write a folder in Flickr8k's layout."""
    (root / "Flicker8k_Dataset").mkdir()
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


def words(world: Path, features: Path, *more: str, steps: int = 8) -> list[str]:
    small = "--embedding 16 --units 24 --attention-units 12 --dropout 0.1 --min-count 2 --samples 3 --batch 16"
    timing = f"--steps {steps} --warmup 2 --evaluate-every 4 --learning-rate 0.01 --precision no"
    return [
        *("train-captions", "--captions", str(world), "--features", str(features)),
        *small.split(),
        *timing.split(),
        *more,
    ]
