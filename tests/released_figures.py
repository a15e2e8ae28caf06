"""What the networks that are kept here answer about some real digits: `python -m tests.released_figures` writes it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import torch

from wsram.data.digits import SceneDigits
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
    """Error and nats of the mode on the first validation digits, in float32 on the CPU."""
    splits = open_trained(folder, source=str(mnist)).splits
    network, dataset = from_pretrained(folder), splits.validation
    assert isinstance(network, AttentionClassifier) and isinstance(dataset, SceneDigits)
    few = Digits(dataset.digits.images[:COUNT], dataset.digits.labels[:COUNT])
    return evaluate_mode(network, replace(dataset, digits=few))


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
