"""Where in a module of solar cells the map of the evidence for a defect points: at a defective cell?

Source: Zhang et al. 2016 (Top-down neural attention by excitation backprop), the pointing game.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.modules import COLUMNS, ROWS, SIDE, Modules, open_modules
from experiments.pages import require_writable, shown
from wsram.data.given import Given
from wsram.data.mosaic import Mosaic
from wsram.errors import UserError
from wsram.evidence import explain
from wsram.models.classifier import AttentionClassifier
from wsram.predictor import from_pretrained
from wsram.provenance import provenance
from wsram.runtime import autocast
from wsram.tables import Table
from wsram.terminal import Screen


def modules_explained(
    names: Sequence[str], screen: Screen, *, samples: int, test: bool, to: Path | None
) -> dict[str, Any]:
    """Show how often the map points at a defective cell, of the defective modules that each network recognises.

    Args:
        names: of networks that `experiments.modules` taught.
        screen: where the shares are shown.
        samples: sequences of glimpses for a map, at least 2.
        test: ask about the test modules rather than those of validation.
        to: a JSON file to keep the shares in.

    Raises:
        UserError: no network, one of other images, or no photographs.
    """
    require_writable(to)
    if not names:
        raise UserError("expected a network that was taught by modules, got none; name one")
    dataset = open_modules()["test" if test else "val"]
    networks = {name: _of_modules(name, dataset) for name in names}
    rows = []
    for name, network in networks.items():
        row = {"network": name, **_pointed(network, dataset, samples)}
        screen.say(f"{name}: {row['pointed_at']} of {row['recognised']}")
        rows.append(row)
    found = {
        "set": dataset.title,
        "modules": len(dataset),
        "samples": samples,
        "rows": rows,
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to)


def table(found: dict[str, Any]) -> Table:
    """The counts and shares, a row for each network."""
    rows = [
        [
            row["network"],
            f"{row['recognised']} of {row['defective']}",
            f"{row['pointed_at'] / max(1, row['recognised']):.0%}",
            f"{row['by_chance'] / max(1, row['recognised']):.0%}",
        ]
        for row in found["rows"]
    ]
    title = (
        f"{found['modules']} {found['set']}: where the map of the evidence for a defect, of {found['samples']} "
        "sequences of glimpses, has its maximum"
    )
    return Table(title, ["network", "defective, and recognised", "on a defective cell", "a cell by chance"], rows)


def _of_modules(name: str, dataset: Modules) -> AttentionClassifier:
    network = from_pretrained(name).network
    if not isinstance(network, AttentionClassifier) or tuple(network.head.names) != dataset.spec.names:
        raise UserError(f"{name} does not say of modules whether they are defective; name a network that does")
    return network


def _pointed(network: AttentionClassifier, dataset: Modules, samples: int) -> dict[str, float]:
    """How many are defective, how many of them the mode recognises, and of these how many are pointed at."""
    defective, recognised, pointed_at, by_chance = 0, 0, 0, 0.0
    precision = autocast(network.precision, next(network.parameters()).device)
    for n in range(len(dataset)):
        module = dataset.draw(n)
        if not module.answer:
            continue
        defective += 1
        given = Given(Mosaic(dataset.photos, module.places), ROWS * SIDE, COLUMNS * SIDE, "")
        with torch.inference_mode(), precision():
            said = int(network.predict([given.source]).outputs[0].argmax())
        if said:
            recognised += 1
            x, y = explain(network, given, "defective", "good", samples=samples, autocast=precision).peak()
            pointed_at += bool(module.decides[int(y) // SIDE, int(x) // SIDE])
            by_chance += float(module.decides.double().mean())
    return {"defective": defective, "recognised": recognised, "pointed_at": pointed_at, "by_chance": by_chance}
