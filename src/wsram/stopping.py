"""What it costs, and what it saves, to stop looking once a network is sure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsram.data import Dataset
from wsram.errors import UserError
from wsram.evaluate import Trained, keep
from wsram.halting import evidence, fitted, of_the_other_half
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import ClassHead
from wsram.models.stopping import sureness
from wsram.provenance import provenance
from wsram.runtime import autocast
from wsram.tables import Panel, Table
from wsram.tasks.figures import stopping_curve
from wsram.tasks.measuring import parts
from wsram.terminal import Screen

NEVER = 2.0
"""A probability that none reaches: all glimpses are taken."""
SURE = tuple(1 - 10**-n for n in range(4, 8))
STOPS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, *SURE, NEVER)
"""Probabilities to stop at, of which validation examples choose one."""


def stopping(trained: Trained, screen: Screen, *, test: bool = False, to: Path | None = None) -> dict[str, Any]:
    """Error against the mean number of glimpses, and where to stop, chosen on validation examples.

    Chosen is the probability with the fewest glimpses whose error is no higher than that of all glimpses. The test set
    is looked at once, for that choice alone. Beside the network's own probability stands one that was learned, of
    looking on for nothing (`wsram.halting`): of validation examples by their other half, of test examples by all.

    Args:
        trained: the network and its data.
        screen: where tables are shown.
        test: measure what was chosen on the test set too.
        to: JSON file to keep the figures in, with a picture beside it; by default stopping.json in a run's folder.

    Raises:
        UserError: a network that does not name classes, data that cannot be had, or a file that cannot be written.
    """
    network = trained.network
    if not isinstance(network, AttentionClassifier) or not isinstance(network.head, ClassHead):
        raise UserError("stopping when sure is for networks that name one of several classes, and this one does not")
    sure, right, shown = _looked(trained, network, trained.examples())
    found: dict[str, Any] = {"glimpses": network.prediction.glimpses}
    found |= _chosen(stopping_curve(sure, right, STOPS))
    found["learned"] = _chosen(stopping_curve(of_the_other_half(shown, right), right, STOPS))
    if test:
        weights = fitted(shown, right)
        sure, right, shown = _looked(trained, network, trained.examples(test=True))
        for which, certain in ((found, sure), (found["learned"], (shown @ weights).sigmoid())):
            which["test"] = stopping_curve(certain, right, sorted({which["stop_at"], NEVER}))
    for how, which in (("when sure", found), ("when more looking is thought to gain nothing", found["learned"])):
        for name in ("validation", "test"):
            if name in which:
                screen.show(_table(f"{trained.name}: stopping {how}, {name} examples", which[name], which["stop_at"]))
    if to is None and trained.run is not None:
        to = trained.run.folder / "stopping.json"
    if to is not None:
        curves = {"by its probability": found["validation"], "learned": found["learned"]["validation"]}
        panels = [
            Panel(
                title,
                "mean glimpses of an image",
                y,
                [
                    (label, [row["glimpses"] for row in curve], [100 * row[name] for row in curve])
                    for label, curve in curves.items()
                ],
            )
            for title, y, name in (
                ("stopping when sure", "error, %", "error"),
                ("knowing when it is wrong", "area under risk–coverage, %", "aurc"),
            )
        ]
        keep(to, found | {"provenance": provenance()}, screen, panels)
    return found


def _chosen(curve: list[dict[str, float]]) -> dict[str, Any]:
    return {"stop_at": chosen_of(curve)["stop_at"], "validation": curve}


def chosen_of(curve: list[dict[str, float]]) -> dict[str, float]:
    """The row with the fewest glimpses whose error is no higher than that of all glimpses, the last row's."""
    return min((row for row in curve if row["error"] <= curve[-1]["error"]), key=lambda row: row["glimpses"])


def _looked(trained: Trained, network: AttentionClassifier, dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """How sure the network is after each glimpse, (examples, glimpses), whether it is right, and `evidence` of that."""
    context = autocast(network.precision, next(network.parameters()).device)
    sure, right, shown = [], [], []
    with torch.inference_mode():
        for _, examples in parts(network, dataset):
            with context():
                outputs = network.predict(examples.images).outputs_after
            sure.append(sureness(network.head, outputs))
            right.append(outputs.argmax(-1) == examples.answers.unsqueeze(-1))
            shown.append(evidence(outputs))
    return torch.cat(sure), torch.cat(right), torch.cat(shown)


def _table(title: str, curve: list[dict[str, float]], chosen: float) -> Table:
    most = curve[-1]["glimpses"]
    rows = []
    for row in curve:
        stop = "never" if row["stop_at"] == NEVER else f"{row['stop_at']:.8g}"
        stop += " (chosen)" if row["stop_at"] == chosen else ""
        share = row["glimpses"] / most
        rows.append([stop, f"{row['glimpses']:.2f}", f"{share:.0%}", f"{row['error']:.2%}", f"{row['aurc']:.3%}"])
    return Table(title, ["stops at", "glimpses", "of all", "error", "risk–coverage"], rows)
