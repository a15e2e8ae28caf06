"""Whether an exported network answers as the network it is of: at images of several sizes, in batches of several."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wsram.errors import UserError, printable
from wsram.glimpse.actions import Action, GlimpseDistribution
from wsram.glimpse.policies import Policy
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import LabelsHead, NumberHead

TOLERANCE = 1e-4
"""By how much probabilities, locations and, in units of the training answers' spread, numbers may differ."""
SIZES = ((1, 60, 60), (3, 37, 91), (2, 128, 50), (1, 16, 16))
"""Batch, height and width of the images that are looked at."""

Run = Callable[..., tuple[Tensor, ...]]
"""What an exported file computes: tensors in, in the order of its inputs, tensors out."""


def deviation(network: AttentionClassifier, run: Run, *, sampled: bool) -> float:
    """The largest difference of a file's answers and locations from the network's own; infinite where scales differ.

    Args:
        network: on the CPU.
        run: images and noise, if it is sampled, to what `wsram.export.graph.Look` returns.
        sampled: whether there is noise.

    Raises:
        UserError: it cannot look at images of that size at all.
    """
    worst = 0.0
    unit = network.head.unit[1] if isinstance(network.head, NumberHead) else 1.0
    for seed, (batch, height, width) in enumerate(SIZES):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(batch, network.channels, height, width, generator=generator)
        noise = noise_for(network, batch, seed) if sampled else None
        try:
            found = run(images, *(noise or ()))
        except Exception as error:  # whatever a runtime raises
            reason = printable(" ".join(str(error).split())[:300])
            raise UserError(
                f"the exported network cannot look at {batch} image(s) of {height}×{width} pixels ({reason}), so it "
                "was not kept; try another version of torch or onnxruntime"
            ) from error
        expected = own(network, images, noise)
        answers = len(expected) - 2
        for n, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
            worst = max(worst, _apart(theirs, ours) / (unit if n < answers else 1.0))
    return worst


def _apart(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return math.inf
    if not found.is_floating_point():
        return 0.0 if torch.equal(found, expected) else math.inf
    largest = (found - expected).abs().max().item()
    return largest if math.isfinite(largest) else math.inf


def own(network: AttentionClassifier, images: Tensor, noise: tuple[Tensor, Tensor] | None) -> tuple[Tensor, ...]:
    """What `wsram.export.graph.Look` should return, by the network's own way of looking."""
    taken = 0

    def choose(policy: Policy, raw: Tensor, r2: Tensor) -> Action:
        nonlocal taken
        n, taken = taken, taken + 1
        assert isinstance(policy, GlimpseDistribution) and noise is not None
        location = policy.mean + policy.log_std.exp() * noise[0][:, n]
        return Action(location, (policy.scale_logits + noise[1][:, n]).argmax(-1))

    with torch.no_grad():
        looked = network.prediction.look(images, None if noise is None else choose)
    head, outputs = network.head, looked.outputs_after
    answers = [head.probabilities(outputs)]
    if isinstance(head, LabelsHead):
        answers.append(outputs > torch.tensor(head.thresholds))
    if isinstance(head, NumberHead):
        answers.append(outputs[..., 1:].exp() * head.unit[1])
    return *answers, looked.action.location, torch.tensor(network.prediction.sensor.scales)[looked.action.scale]


def noise_for(network: AttentionClassifier, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Standard normal noise (batch, glimpses, 2) and standard Gumbel noise (batch, glimpses, scales)."""
    generator, prediction = torch.Generator().manual_seed(seed), network.prediction
    location = torch.randn(batch, prediction.glimpses, 2, generator=generator)
    scale = torch.empty(batch, prediction.glimpses, len(prediction.sensor.scales)).exponential_(generator=generator)
    return location, -scale.log()


def stepped(network: AttentionClassifier, start: Run, step: Run) -> Run:
    """The whole, put together of its steps as a host would."""

    def run(images: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        upper, lower = start(images)
        found = []
        for n in range(network.prediction.glimpses):
            *said, upper, lower = step(images, upper, lower, torch.tensor(n + 1.0), *(each[:, n] for each in noise))
            found.append(said)
        return tuple(torch.stack(each, 1) for each in zip(*found, strict=True))

    return run
