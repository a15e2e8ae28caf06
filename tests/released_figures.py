"""What the networks that are kept here answer about some real digits: `python -m tests.released_figures` writes it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import torch

from wsram.data import Dataset
from wsram.data.digits import SceneDigits
from wsram.data.megapixel import Megapixel
from wsram.data.mnist import Digits
from wsram.evaluate import open_trained
from wsram.models.classifier import AttentionClassifier
from wsram.models.pretrained import from_pretrained
from wsram.tasks.measuring import evaluate_mode

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(
    path.parent for path in (*ROOT.glob("checkpoints/*/config.json"), *ROOT.glob("src/wsram/released/*/config.json"))
)
FIGURES = Path(__file__).with_name("released.json")
COUNT = 200


def figures(folder: Path, mnist: Path) -> dict[str, float]:
    """Error and nats of the mode on the first validation images, in float32 on the CPU."""
    splits = open_trained(folder, source=str(mnist)).splits
    network = from_pretrained(folder)
    assert isinstance(network, AttentionClassifier)
    return evaluate_mode(network, _first(splits.validation))


def _first(dataset: Dataset) -> Dataset:
    if isinstance(dataset, Megapixel):
        return dataset.select(torch.arange(COUNT), dataset.title)
    assert isinstance(dataset, SceneDigits)
    return replace(dataset, digits=Digits(dataset.digits.images[:COUNT], dataset.digits.labels[:COUNT]))


def classifiers() -> list[Path]:
    """The folders of those that name digits."""
    return [
        folder for folder in FOLDERS if "classifier" in json.loads((folder / "config.json").read_text())["model_type"]
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    mnist = Path(os.environ.get("WSRAM_DATA", ROOT.parent / "shared" / "data" / "mnist"))
    found = {folder.name: figures(folder, mnist) for folder in classifiers()}
    FIGURES.write_text(json.dumps(found, indent=2) + "\n")
