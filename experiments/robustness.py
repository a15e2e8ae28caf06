"""How a network that names digits bears other light, noise, sizes, and nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.pages import require_writable, shown
from wsram.data.digits import SceneDigits
from wsram.data.scenes import SceneSpec, make_scenes, scene_spec
from wsram.errors import UserError
from wsram.evaluate import Trained, open_trained
from wsram.metadata import robustness_table
from wsram.models.classifier import AttentionClassifier
from wsram.provenance import provenance
from wsram.runtime import autocast
from wsram.tasks.measuring import ROWS
from wsram.terminal import Screen

SEED = 1
"""Of the scenes, which are others than those of training and of evaluation."""


def _noise(images: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return (images + 0.1 * torch.randn(images.shape, generator=generator).to(images.device)).clamp(0, 1)


def _on_grey(level: float) -> Callable[[Tensor], Tensor]:
    return lambda images: level + (1 - level) * images


def _at_brightness(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda images: (images * factor).clamp(0, 1)


def _as_it_is(images: Tensor) -> Tensor:
    return images


CONDITIONS: dict[str, tuple[tuple[int, int], Callable[[Tensor], Tensor]]] = {
    "plain, sides 14 to 56": ((14, 56), _as_it_is),
    "inverted": ((14, 56), lambda images: 1 - images),
    "on grey 0.1": ((14, 56), _on_grey(0.1)),
    "on grey 0.3": ((14, 56), _on_grey(0.3)),
    "on grey 0.5": ((14, 56), _on_grey(0.5)),
    "noise of 0.1, clipped": ((14, 56), _noise),
    "brightness times 0.25": ((14, 56), _at_brightness(0.25)),
    "brightness times 0.5": ((14, 56), _at_brightness(0.5)),
    "brightness times 1.5": ((14, 56), _at_brightness(1.5)),
    "sides 10 to 14": ((10, 14), _as_it_is),
    "sides 56 to 80": ((56, 80), _as_it_is),
}
"""Sides of the digits on 100 by 100 pixels, and what is done to the scenes."""


def robustness(name: str, source: str | None, screen: Screen, *, test: bool, to: Path | None) -> dict[str, Any]:
    """Show the mode's error and mean confidence under each condition, and what is said of a black image.

    Args:
        name: of the network.
        source: of the digits.
        screen: where they are shown.
        test: measure on the test digits rather than those of validation.
        to: a JSON file to keep the figures in.

    Raises:
        UserError: a network of another task, or no digits.
    """
    require_writable(to)
    trained = open_trained(name, source=source)
    dataset = trained.examples(test=test)
    if not isinstance(dataset, SceneDigits):
        raise UserError(f"{name} was not trained on digits in scenes; name a network that was")
    rows = {}
    for condition, (sides, change) in CONDITIONS.items():
        spec = replace(scene_spec("translated-scaled"), min_side=sides[0], max_side=sides[1])
        rows[condition] = _measured(trained, dataset, spec, change)
        screen.say(f"{condition}: {rows[condition]['error']:.2%}")
    black = _probabilities(trained, torch.zeros(1, 1, 100, 100, device=dataset.digits.labels.device))[0]
    names = dataset.spec.names
    found = {
        "network": trained.name,
        "set": "test" if test else "validation",
        "digits": len(dataset),
        "precision": trained.network.precision,
        "conditions": rows,
        "black": {"said": names[int(black.argmax())], "confidence": float(black.max())},
        "provenance": provenance(),
    }
    return shown(found, robustness_table(found), screen, to)


def _measured(
    trained: Trained, dataset: SceneDigits, spec: SceneSpec, change: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    wrong, sure = 0.0, 0.0
    for part in torch.arange(len(dataset)).split(ROWS):
        index = part.to(dataset.digits.labels.device)
        scenes = make_scenes(dataset.digits.images, index, spec, seed=SEED, epoch=-1)
        probabilities = _probabilities(trained, change(scenes.images))
        confidence, said = probabilities.max(-1)
        wrong += float((said != dataset.digits.labels[index]).sum())
        sure += float(confidence.sum())
    return {"error": wrong / len(dataset), "confidence": sure / len(dataset)}


def _probabilities(trained: Trained, images: Tensor) -> Tensor:
    with torch.no_grad(), autocast(trained.network.precision, images.device)():
        assert isinstance(trained.network, AttentionClassifier)
        return trained.network.predict(images).outputs.exp()
