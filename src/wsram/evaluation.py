"""How good a trained network is, each figure named after the way the network was allowed to look."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from wsram.data.mnist import Digits
from wsram.data.scenes import SceneSpec, evaluation_scenes
from wsram.errors import UserError
from wsram.models.classifier import AttentionClassifier, Looked

Autocast = Callable[[], AbstractContextManager[None]]
"""Makes the context that sets the precision to compute in."""
ROWS = 2000
"""Glimpse sequences looked at together: bounds memory whatever the number of samples."""


def evaluate_mean_action(
    network: AttentionClassifier,
    digits: Digits,
    spec: SceneSpec,
    *,
    glimpses: int | None = None,
    autocast: Autocast = nullcontext,
) -> dict[str, float]:
    """Error and negative log-likelihood when the network looks at its mean actions, one fixed scene for each digit.

    Args:
        network: the classifier.
        digits: what to place in the scenes.
        spec: the kind of scene.
        glimpses: how many to take; by default all.
        autocast: the precision to compute in.

    Returns:
        "error_mean_action", a share, and "nll_mean_action", in nats.
    """
    log_p = _over(
        network, digits, spec, ROWS, autocast, lambda images, start: network.predict(images, glimpses=glimpses)
    )
    return {
        "error_mean_action": _error(log_p, digits.labels),
        "nll_mean_action": -log_p.gather(-1, digits.labels.unsqueeze(-1)).mean().item(),
    }


def evaluate_sampled(
    network: AttentionClassifier,
    digits: Digits,
    spec: SceneSpec,
    *,
    samples: int,
    seed: int = 0,
    autocast: Autocast = nullcontext,
) -> dict[str, float]:
    """Error when the network looks where it draws: at one sequence, and voting over `samples` of them.

    Args:
        network: the classifier.
        digits: what to place in the scenes.
        spec: the kind of scene.
        samples: sequences for each image, at least 1; a vote averages their predicted probabilities.
        seed: of the draws.
        autocast: the precision to compute in.

    Returns:
        "error_one_sample", the mean over all the sequences; "error_vote" with the number of samples; "nll_one_sample",
        minus the bound F, and "nll_vote", minus the log of the mean probability, in nats.

    Raises:
        UserError: fewer than 1 sample.
    """
    if samples < 1:
        raise UserError(f"a vote needs at least 1 sample, got {samples}")

    def look(images: Tensor, start: int) -> Looked:
        generator = torch.Generator(images.device).manual_seed(seed * 1_000_003 + start)
        return network.predict(images, samples=samples, generator=generator)

    log_p = _over(network, digits, spec, max(1, ROWS // samples), autocast, look)
    vote = torch.logsumexp(log_p, 0) - torch.tensor(float(samples)).log().item()
    label = digits.labels.unsqueeze(-1)
    return {
        "error_one_sample": _error(log_p, digits.labels),
        f"error_vote_{samples}": _error(vote, digits.labels),
        "nll_one_sample": -log_p.gather(-1, label.expand(samples, -1, -1)).mean().item(),
        f"nll_vote_{samples}": -vote.gather(-1, label).mean().item(),
    }


def _error(log_p: Tensor, labels: Tensor) -> float:
    return (log_p.argmax(-1) != labels).float().mean().item()


def _over(
    network: AttentionClassifier,
    digits: Digits,
    spec: SceneSpec,
    batch: int,
    autocast: Autocast,
    look: Callable[[Tensor, int], Looked],
) -> Tensor:
    """log p(label) (..., digits, classes) of every digit's evaluation scene, `batch` images at a time."""
    found = []
    index = torch.arange(len(digits.labels), device=digits.images.device)
    training = network.training
    network.eval()
    with torch.no_grad():
        for part in index.split(batch):
            images = evaluation_scenes(digits.images, part, spec).images
            with autocast():
                found.append(look(images, int(part[0])).log_p_labels)
    network.train(training)
    return torch.cat(found, -2)
