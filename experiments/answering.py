"""What an answer costs: about one image inside a program, and about a folder of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from experiments.pages import require_writable, shown
from wsram.errors import UserError, require_at_least
from wsram.models.classifier import AttentionClassifier
from wsram.predictor import BATCH, Predictor, from_pretrained
from wsram.provenance import provenance
from wsram.tables import Table
from wsram.terminal import Screen

WARM_UP, ALONE = 20, 300
"""Answers before the first that counts; and answers about one image that count."""
TURNS = 5
"""Times that the folder is answered about; the median counts."""


def answering(
    network: str, screen: Screen, *, side: int, images: int, compiled: bool, to: Path | None = None
) -> dict[str, Any]:
    """Show what a classifier's answers cost: about one image, and about a folder of PNG files with its parts apart.

    Images are of scribbles and as large as asked for: time depends on nothing that they show.

    Args:
        network: its name, see `wsram.predictor.from_pretrained`.
        screen: where the table goes.
        side: of the images, in pixels.
        images: in the folder.
        compiled: whether `Predictor.compile` is tried, too.
        to: a JSON file to keep the figures in.

    Raises:
        UserError: no such network, a captioner, or fewer than 1 pixel or image.
    """
    require_writable(to)
    require_at_least(1, side=side, images=images)
    predictor = from_pretrained(network, inference=False).to("cpu")
    classifier = predictor.network
    if not isinstance(classifier, AttentionClassifier):
        raise UserError(f"{network} writes captions; name a network that names what it sees")
    random = np.random.default_rng(0)
    made = [scribble(random, side) for _ in range(images)]
    rows = {"one image, an array": alone(lambda: predictor.predict(made[0]))}
    with TemporaryDirectory() as folder:
        files = [Path(folder, f"{n}.png") for n in range(images)]
        for file, pixels in zip(files, made, strict=True):
            Image.fromarray(pixels).save(file)
        rows |= many(predictor, classifier, files)
    if compiled:
        predictor.compile(side, side)
        rows["one image, compiled"] = alone(lambda: predictor.predict(made[0]))
    found = {
        "network": network,
        "side": side,
        "images": images,
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "ways": rows,
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to)


def table(found: dict[str, Any]) -> Table:
    """The figures as a table."""
    rows = [
        [
            way,
            *(f"{row[key]:.2f}" for key in ("milliseconds", "least", "processor")),
            f"{1e3 / row['milliseconds']:,.0f}",
        ]
        for way, row in found["ways"].items()
    ]
    title = f"{found['network']}: answers about images of {found['side']} pixels; {found['images']} in the folder"
    return Table(title, ["what", "ms an image", "least", "of processor", "a second"], rows)


def scribble(random: np.random.Generator, side: int) -> np.ndarray:
    """A black image (side, side) of bytes with a light rectangle and some noise in it."""
    image = np.zeros((side, side), np.uint8)
    top, left = random.integers(0, max(1, side // 2), 2)
    image[top : top + side // 3, left : left + max(1, side // 12)] = 255
    dots = random.integers(0, side, (2, side))
    image[dots[0], dots[1]] = random.integers(0, 256, side)
    return image


def alone(answer: Callable[[], object]) -> dict[str, float]:
    """Medians of an answer's time and of this thread's processor time, and the least of the latter; milliseconds."""
    for _ in range(WARM_UP):
        answer()
    wall, processor = [], []
    for _ in range(ALONE):
        before = time.perf_counter(), time.thread_time()
        answer()
        processor.append(time.thread_time() - before[1])
        wall.append(time.perf_counter() - before[0])
    return _figures(wall, processor, 1)


def many(predictor: Predictor, network: AttentionClassifier, files: Sequence[Path]) -> dict[str, dict[str, float]]:
    """The same for each image of a folder: read, looked at in batches, and both as `wsram predict` does it."""
    read = [predictor._read(file) for file in files]
    batches = [[each.seen.on(predictor.device) for each in read[n : n + BATCH]] for n in range(0, len(read), BATCH)]

    def look() -> None:
        with torch.inference_mode():
            for batch in batches:
                network.predict(batch)

    parts: dict[str, Callable[[], object]] = {
        "a folder: reading alone, one thread": lambda: [predictor._read(file) for file in files],
        "a folder: the network alone, in batches": look,
        "a folder: all of it, as text": lambda: [str(answer) for _, answer in predictor.predict_many(files)],
    }
    spent: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in parts}
    for turn in range(1 + TURNS):
        for name, part in parts.items():  # in turn, so that a slow moment of the machine touches all of them
            before = time.perf_counter(), time.process_time()
            part()
            if turn:
                spent[name][0].append(time.perf_counter() - before[0])
                spent[name][1].append(time.process_time() - before[1])
    return {name: _figures(wall, processor, len(files)) for name, (wall, processor) in spent.items()}


def _figures(wall: Sequence[float], processor: Sequence[float], images: int) -> dict[str, float]:
    return {
        "milliseconds": 1e3 * statistics.median(wall) / images,
        "processor": 1e3 * statistics.median(processor) / images,
        "least": 1e3 * min(processor) / images,
    }
