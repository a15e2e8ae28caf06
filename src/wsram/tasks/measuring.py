"""A classifier's answers to many examples, and what they come to: error and likelihood by the way it looked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from wsram.data import Batch, Dataset
from wsram.errors import UserError
from wsram.models.classifier import AttentionClassifier
from wsram.models.looking import Looked
from wsram.runtime import Autocast

ROWS = 2000
"""Glimpse sequences looked at together: bounds memory whatever the number of samples."""
VIEWED = ROWS * 40**2
"""Pixels of low-resolution views looked at together, likewise."""
VOTES = 16
"""Sequences that vote, by default."""


def evaluate_mode(
    network: AttentionClassifier, dataset: Dataset, *, glimpses: int | None = None, autocast: Autocast = nullcontext
) -> dict[str, float]:
    """Error and negative log-likelihood when the network looks at its policy's modes.

    Args:
        network: the classifier.
        dataset: the examples, on the network's device.
        glimpses: how many to take; by default all.
        autocast: the precision to compute in.

    Returns:
        "error_mode", for classes a share, and "nll_mode", in nats.
    """
    outputs, answers = answered(
        network, dataset, ROWS, autocast, lambda images, start: network.predict(images, glimpses=glimpses)
    )
    return {"error_mode": network.head.error(outputs, answers), "nll_mode": nll(network, outputs, answers)}


def evaluate_sampled(
    network: AttentionClassifier,
    dataset: Dataset,
    *,
    samples: int,
    seed: int = 0,
    autocast: Autocast = nullcontext,
) -> dict[str, float]:
    """Error when the network looks where it draws: at one sequence, and voting over `samples` of them.

    Args:
        network: the classifier.
        dataset: the examples, on the network's device.
        samples: sequences for each image, at least 1; a vote averages their predicted distributions.
        seed: of the draws.
        autocast: the precision to compute in.

    Returns:
        "error_one_sample", the mean over all the sequences; "error_vote" with the number of samples; "nll_one_sample",
        minus the bound F, and "nll_vote", minus the log of the mean probability, in nats.

    Raises:
        UserError: fewer than 1 sample.
    """
    outputs, answers = answered_sampled(network, dataset, samples=samples, seed=seed, autocast=autocast)
    vote = network.head.vote(outputs)
    return {
        "error_one_sample": network.head.error(outputs, answers),
        f"error_vote_{samples}": network.head.error(vote, answers),
        "nll_one_sample": nll(network, outputs, answers),
        f"nll_vote_{samples}": nll(network, vote, answers),
    }


def answered_sampled(
    network: AttentionClassifier,
    dataset: Dataset,
    *,
    samples: int,
    seed: int = 0,
    autocast: Autocast = nullcontext,
) -> tuple[Tensor, Tensor]:
    """The head's outputs (samples, examples, outputs) where the network looks where it draws, and the answers.

    Arguments and errors are those of `evaluate_sampled`.
    """
    if samples < 1:
        raise UserError(f"a vote needs at least 1 sample, got {samples}")

    device = next(network.parameters()).device

    def look(images: Any, start: int) -> Looked:
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + start)
        return network.predict(images, samples=samples, generator=generator)

    return answered(network, dataset, max(1, ROWS // samples), autocast, look)


def nll(network: AttentionClassifier, outputs: Tensor, answers: Tensor) -> float:
    """The mean of minus log p of the answers (examples, ...), nats, from outputs (..., examples, outputs)."""
    return -network.head.log_prob(outputs.unsqueeze(-2), answers).mean().item()


def parts(network: AttentionClassifier, dataset: Dataset, rows: int = ROWS) -> Iterator[tuple[Tensor, Batch]]:
    """All examples in order, no more of them together than `rows` images and `VIEWED` pixels of views: numbers, batch.

    Args:
        network: looks at them.
        dataset: the examples.
        rows: images, at most.
    """
    together = max(1, min(rows, VIEWED // network.prediction.view**2))
    for index in torch.arange(len(dataset)).split(together):
        yield index, dataset.batch(index)


def answered(
    network: AttentionClassifier,
    dataset: Dataset,
    batch: int,
    autocast: Autocast,
    look: Callable[[Any, int], Looked],
) -> tuple[Tensor, Tensor]:
    """The head's outputs (..., examples, outputs) and the answers of every example, `batch` images at a time."""
    found, answers = [], []
    training = network.training
    network.eval()
    with torch.no_grad():
        for index, examples in parts(network, dataset, batch):
            answers.append(examples.answers)
            with autocast():
                found.append(look(examples.images, int(index[0])).outputs)
    network.train(training)
    return torch.cat(found, -2), torch.cat(answers)
