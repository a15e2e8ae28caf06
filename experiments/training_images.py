"""Networks that look at megapixel MNIST, each trained on another number of images: error against that number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.megapixel import asked_of, errors, looked, of_megapixels
from experiments.pages import require_writable, shown
from wsram.config import ClassificationConfig
from wsram.errors import UserError
from wsram.evaluate import open_trained
from wsram.provenance import provenance
from wsram.tables import Panel, Table
from wsram.terminal import Screen


def training_images(
    names: Sequence[str], source: str | None, screen: Screen, *, test: bool, to: Path | None
) -> dict[str, Any]:
    """Show the errors of the modes of networks that were asked the same of other numbers of images.

    Args:
        names: of the networks.
        source: of the digits.
        screen: where the figures are shown.
        test: measure on the test images rather than on those of each one's validation.
        to: a JSON file to keep the figures in, with a picture beside it.

    Raises:
        UserError: no network, one of other images, networks that were asked something else, or no digits.
    """
    require_writable(to)
    opened = [open_trained(name, source=source) for name in names]
    sets = [of_megapixels(trained, test=test) for trained in opened]
    tasks = sorted({dataset.task for _, dataset in sets})
    if len(tasks) != 1:
        raise UserError(f"expected networks that were asked the same, got {', '.join(tasks) or 'none'}; name such")
    rows: list[dict[str, Any]] = []
    for trained, (network, dataset) in zip(opened, sets, strict=True):
        config = trained.config
        assert isinstance(config, ClassificationConfig)
        after, answers, seen = looked(network, dataset)
        row: dict[str, Any] = {
            "network": trained.name,
            "training_images": len(trained.splits.train),
            "updates": config.schedule.updates,
            "errors": {
                question: errors(after[:, -1], answers, dataset.task, question).mean().item()
                for question in asked_of(dataset.task)
            },
            "looked_at": seen[-1],
        }
        rows.append(row)
    found = {
        "set": "test" if test else "validation",
        "images": len(sets[0][1]),
        "networks": sorted(rows, key=lambda row: row["training_images"]),
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to, panels(found))


def panels(found: dict[str, Any]) -> list[Panel]:
    """Error, and digits that were not looked at, against the number of training images."""
    rows = found["networks"]
    counts = [row["training_images"] for row in rows]
    wrong = [(question, counts, [100 * row["errors"][question] for row in rows]) for question in rows[0]["errors"]]
    missed = [("digits", counts, [100 * (1 - row["looked_at"]) for row in rows])]
    return [
        Panel(f"error, {found['set']} images", "training images", "%", wrong, log=True),
        Panel("digits not looked at", "training images", "%", missed),
    ]


def table(found: dict[str, Any]) -> Table:
    """The figures, a row for each network."""
    rows = found["networks"]
    made = [
        [
            f"{row['training_images']:,}",
            f"{row['updates']:,}",
            *(f"{error:.1%}" for error in row["errors"].values()),
            f"{row['looked_at']:.1%}",
        ]
        for row in rows
    ]
    title = f"Networks trained on so many images, {found['images']:,} {found['set']} images"
    named = [f"error, {question}" for question in rows[0]["errors"]]
    return Table(title, ["training images", "updates", *named, "digits looked at"], made)
