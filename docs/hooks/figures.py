"""The pictures of the pages: `python docs/hooks/figures.py MNIST` makes them anew from the networks kept here.

Scenes are of MNIST's test digits, chosen by number, not by how they came out; `examples/seven.png` is drawn by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from wsram.data.mnist import load_test
from wsram.data.scenes import SceneSpec, make_scenes
from wsram.numbering import draw_order
from wsram.predictor import Predictor, from_pretrained
from wsram.viewing import animate, save, show_image

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
SIDE = 100
WATCHED = (4, 8, 15)
"""Test digits that the moving picture looks at."""
ASKED = (3, 0, 18)
"""Test digits behind the picture of limits: the first is changed, the other two share an image."""
NETWORKS = {"robust": "robust", "translated-scaled": str(ROOT / "checkpoints" / "translated-scaled")}
SEED = 11


def drawn(strokes: list[list[tuple[int, int]]], width: int = 6) -> Image.Image:
    """White strokes on black, 100 by 100, with soft edges."""
    image = Image.new("L", (4 * SIDE, 4 * SIDE))
    pen = ImageDraw.Draw(image)
    for stroke in strokes:
        pen.line([(4 * x, 4 * y) for x, y in stroke], fill=255, width=4 * width, joint="curve")
    return image.filter(ImageFilter.GaussianBlur(3)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def scene(digits: Tensor, number: int, sides: tuple[int, int]) -> Tensor:
    """A digit at a random place, (1, 100, 100) in [0, 1]."""
    spec = SceneSpec(SIDE, min_side=sides[0], max_side=sides[1])
    return make_scenes(digits, torch.tensor([number]), spec, seed=SEED, epoch=-1).images[0]


def looking(digits: Tensor, labels: Tensor) -> None:
    """The moving picture of the start page."""
    predictor = from_pretrained("robust")
    frames: list[Figure] = []
    seconds: list[float] = []
    for number in WATCHED:
        prediction = predictor.predict(scene(digits, number, (24, 56)))
        count = len(prediction.glimpses)
        truth = prediction.names[int(labels[number])]
        frames += [*(prediction._picture(truth, n) for n in range(count + 1)), prediction.draw(truth)]
        seconds += [*[0.7] * (count + 1), 1.8]
    path = FIGURES / "looking.gif"
    path.unlink(missing_ok=True)
    animate(frames, path, seconds=seconds, dpi=70)
    print(path, path.stat().st_size)


def limits(digits: Tensor) -> None:
    """What two networks say of images that they were, or were not, made for; and the same as figures."""
    plain = scene(digits, ASKED[0], (28, 40))
    noise = 0.35 * torch.randn(plain.shape, generator=torch.Generator().manual_seed(SEED))
    changes: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: plain,
        "inverted": lambda: 1 - plain,
        "on grey 0.3": lambda: 0.3 + 0.7 * plain,
        "noise 0.35": lambda: (plain + noise).clamp(0, 1),
        "8 pixels": lambda: scene(digits, ASKED[0], (8, 8)),
        "black": lambda: torch.zeros_like(plain),
        "two digits": lambda: torch.maximum(
            torch.roll(scene(digits, ASKED[1], (30, 30)), 0, -1), scene(digits, ASKED[2], (34, 34))
        ),
        "a letter": lambda: _tensor(drawn([[(30, 75), (50, 25), (70, 75)], [(38, 57), (62, 57)]])),
    }
    images = {name: change() for name, change in changes.items()}
    columns, networks = 4, len(NETWORKS)
    rows = networks * -(-len(images) // columns)
    figure = Figure(figsize=(1.75 * columns, 2.2 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0.05, right=0.995, top=0.965, bottom=0.035, wspace=0.06, hspace=0.36)
    said: dict[str, dict[str, list[object]]] = {}
    for below, (name, folder) in enumerate(NETWORKS.items()):
        predictor: Predictor = from_pretrained(folder, inference=False)
        for n, (title, image) in enumerate(images.items()):
            at, prediction = axes[n // columns * networks + below][n % columns], predictor.predict(image)
            show_image(at, image, extent=(0, SIDE, SIDE, 0))
            boxes = [(each.left, each.top, each.side) for each in prediction.glimpses]
            draw_order(at, boxes, (SIDE, SIDE), 0.05 * SIDE, offset=0.0)
            answer, probability = prediction.best
            at.set_xlabel(f"{answer} ({probability:.0%})", fontsize=10)
            if n % columns == 0:
                at.set_ylabel(name)
            if below == 0:
                at.set_title(title, fontsize=10)
            said.setdefault(name, {})[title] = [answer, round(probability, 3)]
    save(figure, FIGURES / "limits.png", replace=True)
    (FIGURES / "limits.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _tensor(image: Image.Image) -> Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, SIDE, SIDE).float() / 255


def main(source: str) -> None:
    """Make every picture anew."""
    drawn([[(24, 30), (70, 28), (44, 78)]]).save(ROOT / "examples" / "seven.png")
    test = load_test(source)
    looking(test.images, test.labels)
    limits(test.images)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT.parent / "shared" / "data" / "mnist"))
