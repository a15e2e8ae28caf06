"""Where a run's figures go besides its own folder, through Accelerate: and with them, pictures of where it looks."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from accelerate import tracking
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wsram.config import Tracker
from wsram.data import Dataset
from wsram.data.given import given
from wsram.errors import UserError
from wsram.evidence import explain
from wsram.glimpse.tiles import WHOLE
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import ClassHead
from wsram.models.pretrained import Network
from wsram.tasks import Task

TRACKERS: tuple[str, ...] = get_args(Tracker)
EXAMPLES = 4
"""Validation examples whose glimpses are drawn at every evaluation."""
SAMPLES = 200
"""Sequences of glimpses behind the map of the evidence for the first of them."""


def require(names: Sequence[str]) -> None:
    """`UserError` unless the packages of all these trackers are installed."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"expected a tracker, one of {', '.join(TRACKERS)}; got {name!r}")
        if importlib.util.find_spec(name) is None:
            package = '"wsram[tensorboard]"' if name == "tensorboard" else name
            raise UserError(f"--tracker {name} needs a package that is not installed; `pip install {package}`")


class Trackers:
    """Some of TensorBoard, Trackio, Weights & Biases and MLflow, told the same; see `wsram.training.Watcher`.

    Args:
        names: of `TRACKERS`, each once.

    Raises:
        UserError: no such tracker, or its package is missing.
    """

    def __init__(self, names: Sequence[str]) -> None:
        require(names)
        self.names = tuple(dict.fromkeys(names))
        self._open: list[tracking.GeneralTracker] = []

    def begin(self, folder: Path, step: int) -> None:
        """Open a record of a run that is at an update; TensorBoard's lies in the run's folder, others where they do."""
        run = folder.resolve().name
        makers: dict[str, Any] = {
            # What was written after that update belongs to a run that was stopped.
            "tensorboard": lambda: tracking.TensorBoardTracker("tensorboard", folder, purge_step=step + 1),
            "trackio": lambda: tracking.TrackioTracker("wsram", name=run),
            "wandb": lambda: tracking.WandBTracker("wsram", name=run, dir=str(folder)),
            "mlflow": lambda: tracking.MLflowTracker("wsram", run_name=run),
        }
        for name in self.names:
            tracker = makers[name]()
            if hasattr(tracker, "start"):  # some versions of Accelerate begin at once
                tracker.start()
            self._open.append(tracker)

    def log(self, figures: dict[str, float], step: int) -> None:
        """Figures after an update, by name."""
        for tracker in self._open:
            tracker.log(figures, step=step)

    def look(self, task: Task, network: Network, validation: Dataset, step: int) -> None:
        """Draw where the network looks at the first validation examples, and where the evidence in one of them is."""
        training = network.training
        network.eval()
        pictures = {"glimpses": task.look(network, validation, EXAMPLES), "evidence": _evidence(network, validation)}
        network.train(training)
        for name, figure in pictures.items():
            if figure is not None:
                self._picture(name, figure, step)

    def _picture(self, name: str, figure: Figure, step: int) -> None:
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        for tracker in self._open:
            if tracker.name == "tensorboard":
                tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({name: [pixels]}, step=step)
            elif tracker.name == "mlflow":
                tracker.log_figure(figure, f"{name}/{step:06}.png")
            else:
                tracker.log({name: importlib.import_module("trackio").Image(pixels)}, step=step)

    def end(self) -> None:
        """Close every record."""
        while self._open:
            self._open.pop().finish()


def _evidence(network: Network, validation: Dataset) -> Figure | None:
    """The evidence in the first validation example for what it shows, where there is an inference network to ask.

    None for an image too large to be mapped pixel by pixel.
    """
    if not isinstance(network, AttentionClassifier) or network.inference is None:
        return None
    if not isinstance(network.head, ClassHead):
        return None
    example = validation.batch(torch.tensor([0]))
    pixels = example.images[0]
    if not isinstance(pixels, torch.Tensor):  # it lies in tiles on a disk
        return None
    image = given(pixels.cpu(), network.channels, network.longest)
    if math.prod(image.size) > WHOLE:
        return None
    label = network.head.names[int(example.answers[0])]
    return explain(network, image, label, samples=SAMPLES).draw()
