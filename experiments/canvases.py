"""One network that looks at megapixel MNIST, on images of other sizes than it learned from: error against side.

Nothing is learned anew. A map's weights do not depend on how many cells there are, so the view grows with the image,
and a cell stays as many pixels; there are more scribbles by as much as there are more pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.megapixel import asked_of, errors, looked, milliseconds, of_megapixels, pixels_read
from experiments.pages import require_writable, shown
from wsram.config import changed
from wsram.errors import UserError
from wsram.evaluate import Trained, open_trained
from wsram.image_settings import ImageData
from wsram.models.classifier import AttentionClassifier
from wsram.provenance import provenance
from wsram.tables import Panel, Table
from wsram.terminal import Screen


def canvases(
    name: str, source: str | None, screen: Screen, *, sides: Sequence[int], test: bool, to: Path | None
) -> dict[str, Any]:
    """Show what a network of a megapixel scene does on images of each side.

    Args:
        name: of the network.
        source: of the digits.
        screen: where the figures are shown.
        sides: of the images, in pixels.
        test: measure on the test digits rather than those of validation.
        to: a JSON file to keep the figures in, with a picture beside it.

    Raises:
        UserError: a network of other images or without a map, no side or one that its view does not fit, or no digits.
    """
    require_writable(to)
    if not sides:
        raise UserError("expected sides of images in pixels, got none; name some after --sides")
    trained = open_trained(name, source=source)
    of_megapixels(trained, test=False)
    placed = [_on(trained, side) for side in sides]  # all of them before the first is measured, which takes minutes
    found = {
        "network": trained.name,
        "set": "test" if test else "validation",
        "trained_on": _settings(trained).canvas,
        "sides": [_measured(each, test=test) for each in placed],
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to, panels(found))


def _on(trained: Trained, side: int) -> Trained:
    """The same network and digits, on images of another side."""
    learned, arguments = _settings(trained), trained.network.arguments
    larger = side / learned.canvas
    view = arguments["view"] * larger
    if arguments["policy"] != "map" or view < 1 or view % arguments["map_stride"]:
        raise UserError(
            f"{trained.name} sees images of {learned.canvas} pixels in a view of {arguments['view']}, which does not "
            f"become one of {side} pixels; name a network with a map, and sides that are multiples of its cells"
        )
    network = AttentionClassifier(**arguments | {"view": int(view)})
    network.load_state_dict(trained.network.state_dict())
    config = changed(trained.config, canvas=side, noises=round(learned.noises * larger**2))
    return replace(
        trained,
        config=config,
        network=network.to(next(trained.network.parameters()).device).eval(),
        splits=trained.task.open(config),
    )


def _settings(trained: Trained) -> ImageData:
    assert isinstance(trained.config.data, ImageData), "megapixel scenes are images"
    return trained.config.data


def _measured(trained: Trained, *, test: bool) -> dict[str, Any]:
    network, dataset = of_megapixels(trained, test=test)
    after, answers, found = looked(network, dataset)
    return {
        "side": dataset.canvas,
        "scribbles": _settings(trained).noises,
        "images": len(dataset),
        "errors": {
            question: errors(after[:, -1], answers, dataset.task, question).mean().item()
            for question in asked_of(dataset.task)
        },
        "looked_at": found[-1],
        "pixels_read": pixels_read(network, dataset),
        "milliseconds": milliseconds(network, dataset)["drawn"],
    }


def panels(found: dict[str, Any]) -> list[Panel]:
    """Error, and share of the pixels that is read, against the side of the images."""
    rows = found["sides"]
    sides = [row["side"] for row in rows]
    wrong = [(question, sides, [100 * row["errors"][question] for row in rows]) for question in rows[0]["errors"]]
    missed = ("digits not looked at", sides, [100 * (1 - row["looked_at"]) for row in rows])
    read = [("read", sides, [100 * row["pixels_read"] for row in rows])]
    return [
        Panel(f"error, {found['set']} images", "side, pixels", "%", [*wrong, missed]),
        Panel("pixels read", "side, pixels", "%", read, log=True),
    ]


def table(found: dict[str, Any]) -> Table:
    """The figures, a row for each side."""
    asked = found["sides"][0]["errors"]
    rows = [
        [
            f"{row['side']:,}",
            f"{row['scribbles']:,}",
            *(f"{row['errors'][question]:.1%}" for question in asked),
            f"{row['looked_at']:.1%}",
            f"{row['pixels_read']:.2%}",
            f"{row['milliseconds']:.0f}",
        ]
        for row in found["sides"]
    ]
    title = (
        f"{found['network']}, trained on {found['trained_on']:,} pixels a side, "
        f"{found['sides'][0]['images']:,} {found['set']} images of each"
    )
    named = [f"error, {question}" for question in asked]
    return Table(title, ["side", "scribbles", *named, "digits looked at", "pixels read", "ms an image"], rows)
