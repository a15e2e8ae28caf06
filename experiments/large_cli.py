"""The commands of large images: what looking costs as they grow, megapixel MNIST, mosaics and modules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.measured import Measured
from wsram.launch import Commands
from wsram.terminal import Screen


@dataclass(frozen=True)
class MegapixelRun:
    """Measure a network that was trained on megapixel MNIST: error and digits found after each glimpse, and cost."""

    measured: Annotated[Measured, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Canvases:
    """Measure one network of megapixel MNIST on images of other sizes, as it is: its view grows with them."""

    measured: Annotated[Measured, tyro.conf.arg(name="")]
    sides: tuple[int, ...] = (500, 1000, 1500, 2000, 3000, 5000)
    """Of the images, in pixels. As many scribbles lie on a pixel as where it was trained."""


@dataclass(frozen=True)
class TrainingImages:
    """Measure networks of megapixel MNIST that were trained on other numbers of images: error against that number."""

    networks: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of runs or networks."""
    data: str | None = None
    """Where the digits are, if they are not where the networks were trained from."""
    test: bool = False
    """Measure on the test images, instead of what was held out for validation."""
    save: Path | None = None
    """JSON file to keep the figures in, with a picture beside it."""


@dataclass(frozen=True)
class MosaicRun:
    """Measure a network that was trained on mosaics of photos, beside its encoder over every photo and over some."""

    measured: Annotated[Measured, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class MosaicTrain:
    """Teach a network to look at mosaics of photos, by the recipe mosaic, from features that are made once."""

    data: Annotated[str, tyro.conf.Positional]
    """Captioned photos in Flickr8k's layout, or one of Karpathy's JSON files."""
    to: Path = Path("runs/mosaic-features")
    """Folder of the network, which is made."""
    mosaics: int = 2000
    """Training mosaics whose views are read by the pretrained network, once."""
    photos: int = 12
    """Along each side of a mosaic."""
    shown: int = 60
    """Pixels of the view's side that show each photo, a cell of the map: more of them tell more and cost more."""
    start_from: str | None = None
    """A network to go on from: one that was taught by smaller mosaics, say."""
    distil: int = 0
    """Epochs in which the view's network first learns to tell of a small photo what it tells of the whole of it."""
    updates: int = 1000
    """Optimizer steps."""
    batch: int = 32
    """Mosaics in an update."""
    samples: int = 2
    """Glimpse sequences for each mosaic."""
    glimpses: int = 10
    """In a sequence: those who have seen many photos that decide nothing are misled by fewer."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    seed: int = 0
    """Of the initial weights, the order of the mosaics and everything drawn."""


@dataclass(frozen=True)
class ModulesRun:
    """Teach networks which modules of solar cells are defective, beside every cell, random ones and the whole."""

    modules: tuple[int, ...] = (50, 200, 1000)
    """Training modules, for each number a network of its own."""
    to: Path = Path("runs/modules")
    """Folder of the networks."""
    test: bool = False
    """Measure on the test modules; by default on those of validation."""
    save: Path | None = None
    """JSON file to keep the figures in."""


@dataclass(frozen=True)
class ModulesExplained:
    """Ask networks taught by `modules` where the evidence for a defect is: does it point at a defective cell?"""

    networks: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of the networks."""
    samples: int = 24
    """Sequences of glimpses for a map."""
    test: bool = False
    """Ask about the test modules; by default about those of validation."""
    save: Path | None = None
    """JSON file to keep the figures in."""


@dataclass(frozen=True)
class Sizes:
    """Measure what looking costs as images grow, beside a CNN, patch selection and attention sampling."""

    sides: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    """Of the images, in pixels, ascending."""
    folder: Path = Path("docs/results/sizes")
    """Folder of sizes.json and sizes.png."""


def _sizes(args: Sizes, screen: Screen) -> None:
    from experiments.sizes import sizes

    sizes(screen, args.folder, sides=args.sides)


def _megapixel(args: MegapixelRun, screen: Screen) -> None:
    from experiments.megapixel import megapixel

    asked = args.measured
    megapixel(asked.network, asked.data, screen, test=asked.test, to=asked.save)


def _canvases(args: Canvases, screen: Screen) -> None:
    from experiments.canvases import canvases

    asked = args.measured
    canvases(asked.network, asked.data, screen, sides=args.sides, test=asked.test, to=asked.save)


def _training_images(args: TrainingImages, screen: Screen) -> None:
    from experiments.training_images import training_images

    training_images(args.networks, args.data, screen, test=args.test, to=args.save)


def _mosaic(args: MosaicRun, screen: Screen) -> None:
    from experiments.mosaic import mosaic

    asked = args.measured
    mosaic(asked.network, asked.data, screen, test=asked.test, to=asked.save)


def _mosaic_train(args: MosaicTrain, screen: Screen) -> None:
    from experiments.mosaic_training import teach

    names = ("photos", "start_from", "distil", "updates", "batch", "samples", "glimpses", "learning_rate", "seed")
    changes = {name: getattr(args, name) for name in names}
    changes |= {
        "view": args.shown * args.photos,
        "map_stride": args.shown,
        "evaluate_every": max(1, args.updates // 20),
    }
    teach(args.data, args.to, screen, mosaics=args.mosaics, changes=changes)


def _modules(args: ModulesRun, screen: Screen) -> None:
    from experiments.modules import modules

    modules(screen, args.to, counts=args.modules, test=args.test, to=args.save)


def _modules_explained(args: ModulesExplained, screen: Screen) -> None:
    from experiments.modules_explained import modules_explained

    modules_explained(args.networks, screen, samples=args.samples, test=args.test, to=args.save)


COMMANDS: Commands = {
    "megapixel": (MegapixelRun, _megapixel),
    "canvases": (Canvases, _canvases),
    "training-images": (TrainingImages, _training_images),
    "mosaic": (MosaicRun, _mosaic),
    "mosaic-train": (MosaicTrain, _mosaic_train),
    "modules": (ModulesRun, _modules),
    "modules-explained": (ModulesExplained, _modules_explained),
    "sizes": (Sizes, _sizes),
}
