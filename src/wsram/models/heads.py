"""What is asked of a network: heads, each a distribution over answers read from the recurrent state.

A head maps a state to its outputs, the parameters of that distribution, and knows everything that depends on the kind
of answer: log-probabilities, how an answer is told to the inference network, a vote, and the figures of merit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.errors import UserError, require_at_least
from wsram.glimpse.actions import at_least_float32, draw_categorical


@runtime_checkable
class Head(Protocol):
    """A distribution over answers; axes before the outputs' last one are free, answers have the batch first."""

    names: tuple[str, ...]

    def __call__(self, state: Tensor) -> Tensor:
        """The outputs (..., outputs) of states (..., features)."""

    def log_prob(self, outputs: Tensor, answers: Tensor) -> Tensor:
        """log p(answer) (..., batch, steps), nats, of outputs (..., batch, steps, outputs)."""

    def vote(self, outputs: Tensor) -> Tensor:
        """Outputs (...) of the mean distribution over the first axis of outputs (samples, ...)."""

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Answers drawn from outputs (..., outputs); no gradient."""

    def embedding(self, features: int) -> nn.Module:
        """A new layer that tells the inference network an answer, as (..., features)."""

    def error(self, outputs: Tensor, answers: Tensor) -> float:
        """The mean error of the likeliest answers, lower being better, of outputs (..., batch, outputs)."""


class ClassHead(nn.Module):
    """One of several classes: outputs are log-probabilities.

    Args:
        features: of the state.
        names: of the classes, at least 2.
    """

    def __init__(self, features: int, names: Sequence[str]) -> None:
        super().__init__()
        require_at_least(2, classes=len(names))
        self.names = tuple(names)
        self.read = nn.Linear(features, len(names))

    def forward(self, state: Tensor) -> Tensor:
        """log p(class) (..., classes), at least float32."""
        return F.log_softmax(at_least_float32(self.read(state)), -1)

    def log_prob(self, outputs: Tensor, answers: Tensor) -> Tensor:
        """log p of the classes (batch,) int64: (..., batch, steps)."""
        return outputs.gather(-1, answers.view(-1, 1, 1).expand(*outputs.shape[:-1], 1)).squeeze(-1)

    def vote(self, outputs: Tensor) -> Tensor:
        """The log of the mean probability of each class."""
        return torch.logsumexp(outputs, 0) - math.log(len(outputs))

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Classes (...), int64."""
        return draw_categorical(outputs, generator)

    def embedding(self, features: int) -> nn.Module:
        """From classes (...) int64."""
        return nn.Embedding(len(self.names), features)

    def error(self, outputs: Tensor, answers: Tensor) -> float:
        """The share of wrong classes."""
        return (outputs.argmax(-1) != answers).float().mean().item()


HEADS = {"class": ClassHead}
"""Heads by the kind of answer that a data set has."""


def build_head(kind: str, features: int, names: Sequence[str]) -> Head:
    """The head for a kind of answer, freshly initialised; `UserError` if there is none for it."""
    if kind not in HEADS:
        raise UserError(f"unknown kind of answer {kind!r}; choose one of {', '.join(HEADS)}")
    return HEADS[kind](features, names)
