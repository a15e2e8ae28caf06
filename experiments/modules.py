"""Modules of solar cells, of which it is told only whether any cell is defective: where are those that are?

A module is sixty photographs of cells of one kind, each of 300 by 300 pixels, in six rows of ten: 1800 by 3000 pixels.
One in two is good; in the others one to six cells are defective, wherever they lie. Modules for training, validation
and test are made of the cells that `examples/solar_cells.py` sets apart for each.

Beside a network that looks stand the same encoder on every cell and on as many random ones, with heads as of
`experiments.mosaic`, and a small convolutional network that sees the whole module at a fifth of its size.

Source: Buerhop-Lutz et al. 2018 and Deitsch et al. 2019, the photographs (package elpv-dataset; for research alone).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.costs import cost, cost_of_images, most_memory
from experiments.mosaic import encoder_of, error_of, trained_head
from experiments.mosaic_training import teach_tiled
from experiments.pages import require_writable, shown
from wsram.config import ClassificationConfig, changed
from wsram.data.dataset import Batch, Spec
from wsram.data.images import read_image
from wsram.data.mosaic import Mosaic, Photos
from wsram.errors import UserError
from wsram.glimpse.source import in_unit
from wsram.models.classifier import AttentionClassifier
from wsram.models.layers import MeanAndMost
from wsram.provenance import provenance
from wsram.recipes import RECIPES
from wsram.runtime import autocast
from wsram.tables import Table
from wsram.terminal import Screen

ROWS, COLUMNS, SIDE = 6, 10, 300
"""Cells of a module, and pixels along each of them."""
MOST = 6
"""Cells that are defective in a defective module, at most; at least one."""
COUNTS = (50, 200, 1000)
"""Training modules."""
VALIDATION, TEST = 200, 500
"""Modules that are held out, and those of the test."""
SETTINGS: dict[str, Any] = {
    "glimpses": 8, "patch": 100, "scales": (3,), "view": 240, "map_stride": 8, "map_apart": False,
    "map_query": True, "map_dropout": 0.0, "map_toll": 20.0, "dropout": 0.5, "read_dropout": 0.0,
    "widths": (32, 64), "lower_units": 64,
    "updates": 600, "batch": 32, "samples": 2, "evaluate_every": 100,
}  # fmt: skip
"""Of the recipe `mosaic`: a glimpse is as large as a cell, and the view has 40 by 24 pixels of each."""
PIXELS = 300
"""Updates on pixels, after those on features: there a glimpse that lies on two cells shows where they meet."""
WHOLE = 60
"""Pixels of a cell's side as the small network sees it."""
WIDTHS = (16, 32, 64, 128)
STEPS, BATCH, RATE, DECAY = 200, 16, 2e-3, 0.05
"""Of the small network: channels of its convolutions, updates, modules in one, peak rate, weight decay."""
TIMED = 10
"""Modules that are timed, one at a time; the median counts."""


class Drawn(NamedTuple):
    """What a module is; see `experiments.tiled.Placed`."""

    places: Tensor
    decides: Tensor

    @property
    def answer(self) -> int:
        """0 of a good one, 1 of a defective one."""
        return int(self.decides.any())


@dataclass(frozen=True)
class Modules:
    """Modules of cells; see `experiments.tiled.Tiled`.

    photos: the cells.
    defective: (cells,) bool.
    kinds: (cells,) int64, the kind of each.
    count: of modules.
    seed: of how they are made of the cells.
    title: of the set.
    """

    photos: Photos
    defective: Tensor
    kinds: Tensor
    count: int
    seed: int
    title: str

    @property
    def spec(self) -> Spec:
        """Good or defective, on grey images."""
        return Spec(1, "class", ("good", "defective"), (ROWS * SIDE, COLUMNS * SIDE))

    def __len__(self) -> int:
        """How many modules there are."""
        return self.count

    def draw(self, number: int, epoch: int | None = None) -> Drawn:
        """What lies where in a module, the same in every epoch; numbers go round."""
        random = np.random.default_rng((2, self.seed, number % self.count))
        of_kind = self.kinds.numpy() == random.choice(self.kinds.unique().numpy())
        good, bad = (np.flatnonzero(of_kind & (self.defective.numpy() == one)) for one in (False, True))
        places = random.choice(good, ROWS * COLUMNS, replace=len(good) < ROWS * COLUMNS)
        count = int(random.integers(1, MOST + 1)) if random.random() < 0.5 else 0
        at = random.choice(ROWS * COLUMNS, count, replace=False)
        places[at] = random.choice(bad, count)
        decides = torch.zeros(ROWS * COLUMNS, dtype=torch.bool)
        decides[torch.from_numpy(at)] = True
        return Drawn(torch.from_numpy(places).view(ROWS, COLUMNS), decides.view(ROWS, COLUMNS))

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """Modules as sources, and their answers (batch,) int64."""
        made = [self.draw(number) for number in index.tolist()]
        images = [Mosaic(self.photos, each.places) for each in made]
        return Batch(images, torch.tensor([each.answer for each in made]))

    def to(self, device: torch.device) -> Modules:
        """Itself: they stay on the processor."""
        return self

    def fingerprint(self) -> str:
        """Of the cells and how modules are made of them."""
        whole = hashlib.sha256(f"{self.count} {self.seed} {MOST}".encode())
        for part in (self.photos.pixels, self.defective, self.kinds):
            whole.update(part.numpy().tobytes())
        return whole.hexdigest()[:16]


def open_modules() -> dict[str, Modules]:
    """Modules for "train", of which as many are used as are asked for, "val" and "test".

    Raises:
        UserError: the photographs are not installed.
    """
    from examples.solar_cells import parts  # a script beside the experiments, which need not be there to show figures

    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise UserError("the photographs of cells are in the package elpv-dataset; pip install elpv-dataset")
    data = Path(spec.origin).parent / "data"
    cells = [line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines()]
    defective = [float(probability) > 0.5 for _, probability, _ in cells]
    labels = ["defective" if one else "good" for one in defective]
    split = parts([f"{label} {kind}" for label, (_, _, kind) in zip(labels, cells, strict=True)], 0)
    names = sorted({kind for _, _, kind in cells})
    found = {}
    for seed, (part, count) in enumerate((("train", max(COUNTS)), ("val", VALIDATION), ("test", TEST))):
        chosen = [n for n, of in enumerate(split) if of == part]
        pixels = torch.stack([read_image(data / cells[n][0], 1) for n in chosen])
        found[part] = Modules(
            Photos(pixels),
            torch.tensor([defective[n] for n in chosen]),
            torch.tensor([names.index(cells[n][2]) for n in chosen]),
            count,
            seed,
            f"{part} modules",
        )
    return found


def modules(
    screen: Screen, folder: Path, *, counts: Sequence[int] = COUNTS, test: bool, to: Path | None
) -> dict[str, Any]:
    """Train on so many modules each time, and show what looking, all cells, random cells and a small network reach.

    Args:
        screen: where the figures are shown.
        folder: of the networks that look, one for each number of modules; it is made.
        counts: training modules, from 1 to `COUNTS`'s largest.
        test: measure on the test modules rather than those of validation.
        to: a JSON file to keep the figures in.

    Raises:
        UserError: no photographs, another number of modules, or a folder that is there.
    """
    require_writable(to)
    if not counts or not all(1 <= count <= max(COUNTS) for count in counts):
        raise UserError(f"modules to train on are from 1 to {max(COUNTS):,}, got {', '.join(map(str, counts))}")
    sets = open_modules()
    dataset = sets["test" if test else "val"]
    rows = []
    for count in counts:
        train = replace(sets["train"], count=count)
        row = {"modules": count, **_ways(train, sets["val"], dataset, folder / f"modules-{count}", screen)}
        rows.append(row)
        screen.say(", ".join(f"{name}: {way['error']:.1%}" for name, way in row["ways"].items()))
    found = {
        "set": dataset.title,
        "modules": len(dataset),
        "defective": sum(dataset.draw(n).answer for n in range(len(dataset))),
        "rows": rows,
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to)


def table(found: dict[str, Any]) -> Table:
    """A row for each way and number of training modules: error, and what an answer costs."""
    rows = []
    for row in found["rows"]:
        for name, way in row["ways"].items():
            rows.append([
                f"{row['modules']:,}", name, f"{way['error']:.1%}", f"{way['pixels']:.0%}",
                f"{way['multiply_adds']:,.0f}", f"{way['milliseconds']:,.0f}", f"{way['megabytes']:,.0f}",
            ])  # fmt: skip
    told = "; ".join(
        f"after {row['modules']:,} modules {row['looked_at']:.0%} of these have a defective cell looked at, "
        f"{row['recognised']:.0%} are recognised, and in {row['pointed_at']:.0%} of those the glimpse that says most "
        "for a defect lies on one"
        for row in found["rows"]
    )
    title = f"{found['modules']} {found['set']}, {found['defective']} of them defective: {told}"
    header = ["trained on", "what is seen", "error", "pixels read", "million multiply-adds", "ms a module", "MiB more"]
    return Table(title, header, rows)


def _ways(train: Modules, held_out: Modules, dataset: Modules, to: Path, screen: Screen) -> dict[str, Any]:
    config = changed(cast(ClassificationConfig, RECIPES["mosaic"]), **SETTINGS)
    network = teach_tiled(config, train, held_out, to, screen, len(train), pixels=PIXELS)
    encode, context = encoder_of(network), autocast(network.precision, torch.device("cpu"))
    features = {id(each): encode(each.photos.pixels) for each in (train, dataset)}
    images = [dataset.batch(torch.tensor([n])).images for n in range(TIMED)]
    glimpses = network.prediction.glimpses

    def headed(tiles: int) -> dict[str, Any]:
        head = trained_head(train, features[id(train)], tiles)
        few = dataset.photos.pixels[torch.arange(tiles) % len(dataset.photos.pixels)]
        spent = cost([lambda: encode(few)] * 3) | {"megabytes": most_memory(lambda: encode(few))}
        error = error_of(head, dataset, features[id(dataset)], tiles)
        return {"error": error, "pixels": tiles / (ROWS * COLUMNS), **spent}

    looked = _looked(network, dataset)
    whole = _trained_whole(train)
    return {
        "ways": {
            f"{glimpses} glimpses": {
                "error": looked["error"],
                "pixels": glimpses / (ROWS * COLUMNS),
                **cost_of_images(network.predict, dataset, TIMED, context),
                "megabytes": most_memory(lambda: network.predict(images[0]), context),
            },
            f"{glimpses} random cells": headed(glimpses),
            "every cell": headed(ROWS * COLUMNS),
            "the whole at a fifth": {
                "error": _error_of_whole(whole, dataset),
                "pixels": 1.0,
                **cost([partial(_read_whole, whole, cast(Mosaic, image[0])) for image in images]),
                "megabytes": most_memory(lambda: _read_whole(whole, cast(Mosaic, images[0][0]))),
            },
        },
        **{name: looked[name] for name in ("looked_at", "recognised", "pointed_at")},
    }


def _looked(network: AttentionClassifier, dataset: Modules) -> dict[str, float]:
    """Of modes on pixels: error, and of the defective modules how many were looked at, recognised and pointed at."""
    wrong, looked_at, recognised, pointed_at = 0, 0, 0, 0
    defective = 0
    for n in range(len(dataset)):
        module = dataset.draw(n)
        images = dataset.batch(torch.tensor([n])).images
        with torch.inference_mode(), autocast(network.precision, torch.device("cpu"))():
            looked = network.predict(images)
        said = int(looked.outputs[0].argmax())
        wrong += said != module.answer
        if module.answer:
            defective += 1
            row, column = _cells(looked.action.location[0])
            looked_at += bool(module.decides[row, column].any())
            if said:
                recognised += 1
                # The glimpse that says most for a defect.
                gained = looked.outputs_after[0, :, 1].diff(prepend=torch.zeros(1))
                best = int(gained.argmax())
                pointed_at += bool(module.decides[row[best], column[best]])
    return {
        "error": wrong / len(dataset),
        "looked_at": looked_at / max(1, defective),
        "recognised": recognised / max(1, defective),
        "pointed_at": pointed_at / max(1, recognised),
    }


def _cells(location: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (glimpses,) of the cells that the middles of glimpses (glimpses, 2) lie on."""
    x, y = ((location + 1) / 2).unbind(-1)
    return (y * ROWS).long().clamp(0, ROWS - 1), (x * COLUMNS).long().clamp(0, COLUMNS - 1)


class _Whole(nn.Module):
    """A small convolutional network: each layer halves the image, and what is largest anywhere is read."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, WIDTHS[0], 5, 2, 2), nn.ReLU()]
        for before, after in pairwise(WIDTHS):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
        self.layers, self.read = nn.Sequential(*layers), nn.Linear(2 * WIDTHS[-1], 2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 2) of images (batch, 1, height, width) in [0, 1]."""
        return self.read(MeanAndMost()(self.layers(2 * images - 1)))


def _small(dataset: Modules, index: Tensor) -> tuple[Tensor, Tensor]:
    """Modules as the small network sees them, and their answers."""
    made = [dataset.draw(n) for n in index.tolist()]
    images = torch.stack([Mosaic(dataset.photos, each.places).averaged(WHOLE, WHOLE) for each in made])
    return images, torch.tensor([each.answer for each in made])


def _read_whole(network: _Whole, module: Mosaic) -> Tensor:
    """What the small network makes of a module's pixels."""
    pixels = in_unit(module.read(0, 0, module.height, module.width)).unsqueeze(0)
    return network(F.adaptive_avg_pool2d(pixels, (ROWS * WHOLE, COLUMNS * WHOLE)))


def _trained_whole(train: Modules) -> _Whole:
    """The small network, on mirrored modules too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _Whole()
        optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
        for _ in range(STEPS):
            images, answers = _small(train, torch.randint(len(train), (BATCH,)))
            axes = [axis for axis in (-2, -1) if torch.rand(()) < 0.5]
            optimizer.zero_grad()
            F.cross_entropy(network(images.flip(axes)), answers).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def _error_of_whole(network: _Whole, dataset: Modules) -> float:
    wrong = 0
    for index in torch.arange(len(dataset)).split(BATCH):
        images, answers = _small(dataset, index)
        wrong += int((network(images).argmax(-1) != answers).sum())
    return wrong / len(dataset)
