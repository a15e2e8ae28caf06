"""The pointing game: does the map of the evidence for a digit have its maximum on that digit?

Beside the posterior's map stand two of equal cost: where the policy looks whatever the answer, and by how much the
digit becomes less probable when a square is black.

Source: Zhang et al. 2016 (Top-down neural attention by excitation backprop), the game; Zeiler & Fergus 2014, occlusion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.pages import require_writable, shown
from wsram.data.digits import SceneDigits
from wsram.data.mnist import Digits
from wsram.data.scenes import Scenes, SceneSpec, evaluation_scenes, place, uniform_hash
from wsram.errors import UserError, require_at_least
from wsram.evaluate import open_trained
from wsram.evidence import SAMPLES, drawn, heat_map
from wsram.models.classifier import AttentionClassifier
from wsram.predictor import Predictor
from wsram.provenance import provenance
from wsram.tables import Table
from wsram.terminal import Screen

PAIRS = 0x9A185
"""Sets the placement of two digits in one scene apart from that of one."""


def pointing(
    network: str,
    source: str | None,
    screen: Screen,
    *,
    images: int = 200,
    samples: int = SAMPLES,
    to: Path | None = None,
) -> dict[str, Any]:
    """Show the shares of a network trained on digits in scenes, on validation digits with one digit, and with two.

    Args:
        network: its name, see `wsram.evaluate.open_trained`.
        source: the digits, if they are not where the network was trained from.
        screen: where the table goes.
        images: scenes of each kind.
        samples: sequences of glimpses for a map, and predictions for one of occlusion.
        to: a JSON file to keep the shares in.

    Raises:
        UserError: no such network or digits, one that sees no scenes, or fewer than 1 image.
    """
    require_writable(to)
    require_at_least(1, images=images)
    trained = open_trained(network, source=source, inference=True)
    dataset = trained.examples()
    if not isinstance(dataset, SceneDigits):
        raise UserError(f"{network} does not see digits in scenes, of which alone the truth is known; name another")
    predictor = Predictor(trained.network)
    index = torch.arange(min(images, len(dataset)), device=dataset.digits.labels.device)
    made = {
        "one": evaluation_scenes(dataset.digits.images, index, dataset.scene),
        "two, asked about one of them": two_digits(dataset.digits, index, dataset.scene),
    }
    labels = dataset.digits.labels[index]
    found = {
        "network": trained.name,
        "set": "validation",
        "scenes": len(index),
        "samples": samples,
        "proposal": "policy" if predictor.network.inference is None else "inference",
        "shares": {name: pointing_game(predictor, scenes, labels, samples=samples) for name, scenes in made.items()},
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to)


def table(found: Mapping[str, Any]) -> Table:
    """The shares as a table."""
    rows = [
        [name, f"{found['scenes']}", *(f"{share:.1%}" for share in shares.values())]
        for name, shares in found["shares"].items()
    ]
    title = (
        f"{found['network']}: share of scenes where the maximum of a map of {found['samples']} predictions lies on "
        "the digit"
    )
    return Table(title, ["digits in a scene", "scenes", "posterior", "policy", "occlusion"], rows)


def pointing_game(
    predictor: Predictor, scenes: Scenes, labels: Tensor, *, samples: int = SAMPLES
) -> Mapping[str, float]:
    """The share of scenes where each map's maximum lies on the digit that was asked about.

    Args:
        predictor: of a classifier of digits.
        scenes: whose truth is known.
        labels: (batch,) int64 the digits.
        samples: the cost of a map, in predictions.

    Returns:
        "posterior": the map of `Predictor.explain`; "policy": of as many sequences drawn from the policy, each counting
        the same; "occlusion": see `occlusion_map`.
    """
    network = predictor.network
    assert isinstance(network, AttentionClassifier)
    hits = {"posterior": 0, "policy": 0, "occlusion": 0}
    for n, label in enumerate(labels.tolist()):
        image = scenes.images[n]
        with torch.inference_mode():
            pyramid = network.prediction.sensor.pyramid(image.unsqueeze(0))
            _, action = drawn(network, pyramid, samples, 0)
        size = (image.shape[-2], image.shape[-1])
        maps = {
            "posterior": predictor.explain(image, network.head.names[label], samples=samples).label.heat,
            "policy": heat_map(network.prediction.sensor, size, action, torch.ones_like(action.location[..., 0])),
            "occlusion": occlusion_map(network, image, label, samples=samples),
        }
        left, top, side = (int(each[n]) for each in (scenes.left, scenes.top, scenes.side))
        for name, heat in maps.items():
            row, column = divmod(int(heat.argmax()), size[1])
            hits[name] += left <= column < left + side and top <= row < top + side
    return {name: count / len(labels) for name, count in hits.items()}


def occlusion_map(network: AttentionClassifier, image: Tensor, label: int, *, samples: int = SAMPLES) -> Tensor:
    """By how many nats a label becomes less probable, on the mean over the black squares that cover a pixel.

    The squares have the side of the network's glimpses and lie on an even grid of about `samples` places.

    Args:
        network: looks at the policy's modes.
        image: (1, height, width) in [0, 1].
        label: the number of the class.
        samples: predictions, at least 1.

    Returns:
        (height, width).
    """
    side, steps = network.prediction.sensor.patch_size, max(1, math.isqrt(samples))
    height, width = image.shape[-2:]
    rows, columns = (
        torch.linspace(0, extent - side, steps, device=image.device).round().long() for extent in (height, width)
    )
    at, along = (torch.arange(extent, device=image.device) for extent in (height, width))
    down = (at >= rows.unsqueeze(-1)) & (at < rows.unsqueeze(-1) + side)
    across = (along >= columns.unsqueeze(-1)) & (along < columns.unsqueeze(-1) + side)
    black = (down[:, None, :, None] & across[None, :, None, :]).flatten(0, 1)
    with torch.inference_mode():
        whole = network.predict(image.unsqueeze(0)).outputs[0, label]
        covered = network.predict(image * ~black.unsqueeze(1)).outputs[:, label]
    return torch.einsum("s,shw->hw", whole - covered, black.float()) / black.sum(0).clamp(min=1)


def two_digits(digits: Digits, index: Tensor, spec: SceneSpec) -> Scenes:
    """Scenes of two digits of different classes, side by side; the truth is that of the first, the one asked about.

    Args:
        digits: what is placed.
        index: (batch,) the digits asked about.
        spec: gives the canvas and the digits' largest side, of which two must fit side by side.
    """
    side = min(spec.max_side, spec.canvas // 2)
    u = uniform_hash(PAIRS, 0, index, 5)
    other = (index + 1 + (u[:, 0] * (len(digits) - 1)).long()) % len(digits)
    while bool((same := digits.labels[other] == digits.labels[index]).any()):
        other = torch.where(same, (other + 1) % len(digits), other)
    swapped = u[:, 1] < 0.5
    room = spec.canvas // 2 - side
    first, second = (u[:, 2] * (room + 1)).long(), spec.canvas // 2 + (u[:, 3] * (room + 1)).long()
    sides = torch.full_like(index, side)
    tops = (u[:, 4:] * (spec.canvas - side + 1)).long().expand(-1, 2)
    left, others = torch.where(swapped, second, first), torch.where(swapped, first, second)
    images = digits.images.float() / 255
    scene = place(images[index], spec, sides, left, tops[:, 0]) + place(images[other], spec, sides, others, tops[:, 1])
    return Scenes(scene.clamp(max=1.0), sides, left, tops[:, 0])
