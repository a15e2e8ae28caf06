"""What is asked of a network: heads, each a distribution over answers read from the recurrent state.

A head maps a state to its outputs, the parameters of that distribution, and knows everything that depends on the kind
of answer: log-probabilities, how an answer is told to the inference network, a vote, and the figures of merit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.errors import UserError, require_at_least
from wsram.glimpse.actions import LOG_2PI, at_least_float32, draw_categorical
from wsram.glimpse.draws import drawn


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

    def probabilities(self, outputs: Tensor) -> Tensor:
        """(..., names) the probability of each name, or of a number its mean."""

    def embedding(self, features: int) -> nn.Module:
        """A new layer that tells the inference network an answer, as (..., features)."""

    def error(self, outputs: Tensor, answers: Tensor) -> float:
        """The mean error of the likeliest answers, lower being better, of outputs (..., batch, outputs)."""


def require_label(label: str, names: Sequence[str]) -> None:
    """`UserError` for a label that is not among `names`."""
    if label not in names:
        raise UserError(f"expected a label among {', '.join(names)}, got {label!r}; name one of them")


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
        self.temperature = 1.0

    def forward(self, state: Tensor) -> Tensor:
        """log p(class) (..., classes), at least float32, at the temperature that validation asked for."""
        return self.outputs(self.read(state))

    def outputs(self, scores: Tensor) -> Tensor:
        """log p(class) of logits (..., classes), from wherever they are."""
        scores = at_least_float32(scores)
        return F.log_softmax(scores if self.temperature == 1.0 else scores / self.temperature, -1)

    def log_prob(self, outputs: Tensor, answers: Tensor) -> Tensor:
        """log p of the classes (batch,) int64: (..., batch, steps)."""
        return outputs.gather(-1, answers.view(-1, 1, 1).expand(*outputs.shape[:-1], 1)).squeeze(-1)

    def vote(self, outputs: Tensor) -> Tensor:
        """The log of the mean probability of each class; of one sequence, what that says."""
        if len(outputs) == 1:
            return outputs[0]
        return torch.logsumexp(outputs, 0) - math.log(len(outputs))

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Classes (...), int64."""
        return draw_categorical(outputs, generator)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of each class, summing to 1."""
        return outputs.exp()

    def embedding(self, features: int) -> nn.Module:
        """From classes (...) int64."""
        return nn.Embedding(len(self.names), features)

    def error(self, outputs: Tensor, answers: Tensor) -> float:
        """The share of wrong classes."""
        return (outputs.argmax(-1) != answers).float().mean().item()


class LabelsHead(nn.Module):
    """Any number of labels at once, each present or not: outputs are log-odds.

    Args:
        features: of the state.
        names: of the labels, at least 1.
    """

    def __init__(self, features: int, names: Sequence[str]) -> None:
        super().__init__()
        require_at_least(1, labels=len(names))
        self.names = tuple(names)
        self.read = nn.Linear(features, len(names))
        self.thresholds = [0.0] * len(names)

    def forward(self, state: Tensor) -> Tensor:
        """Log-odds (..., labels) of each label, at least float32."""
        return self.outputs(self.read(state))

    def outputs(self, scores: Tensor) -> Tensor:
        """Log-odds of the labels (..., labels), from wherever they are."""
        return at_least_float32(scores)

    def log_prob(self, outputs: Tensor, answers: Tensor) -> Tensor:
        """log p of the labels (batch, labels), 1 for present and 0 for absent: (..., batch, steps)."""
        present = answers.unsqueeze(-2).to(outputs.dtype).expand_as(outputs)
        return -F.binary_cross_entropy_with_logits(outputs, present, reduction="none").sum(-1)

    def vote(self, outputs: Tensor) -> Tensor:
        """The log-odds of the mean probability of each label."""
        count = math.log(len(outputs))
        yes, no = (torch.logsumexp(F.logsigmoid(sign * outputs), 0) - count for sign in (1, -1))
        return yes - no

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Labels (..., labels), 1 or 0, floating point."""
        with torch.no_grad():
            uniform = drawn(torch.rand, outputs.shape, generator, outputs)
            return (uniform < outputs.sigmoid()).to(outputs.dtype)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of each label, each by itself."""
        return outputs.sigmoid()

    def embedding(self, features: int) -> nn.Module:
        """From labels (..., labels), floating point."""
        return nn.Linear(len(self.names), features)

    def error(self, outputs: Tensor, answers: Tensor) -> float:
        """The share of labels that are wrong, present above the thresholds that validation asked for."""
        present = outputs > torch.tensor(self.thresholds, device=outputs.device)
        return (present != (answers > 0.5)).float().mean().item()


class NumberHead(nn.Module):
    r"""A number: outputs are mean and log standard deviation of a Gaussian, in units of the training answers' spread.

    Args:
        features: of the state.
        names: one, what the number is called.
        unit: mean and standard deviation of the training answers; networks and estimators see numbers in these units.
    """

    def __init__(self, features: int, names: Sequence[str], unit: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        self.unit = unit
        if len(names) != 1:
            raise UserError(f"a number has one name, got {len(names)}")
        self.names = tuple(names)
        self.read = nn.Linear(features, 2)

    def forward(self, state: Tensor) -> Tensor:
        """(..., 2) mean and log standard deviation, which is kept between e⁻⁵ and e³."""
        mean, log_std = at_least_float32(self.read(state)).unbind(-1)
        return torch.stack([mean, log_std.clamp(-5.0, 3.0)], -1)

    def log_prob(self, outputs: Tensor, answers: Tensor) -> Tensor:
        """Log-density of numbers (batch,): (..., batch, steps)."""
        mean, log_std = outputs.unbind(-1)
        z = (answers.unsqueeze(-1) - mean) * (-log_std).exp()
        return -0.5 * z.square() - log_std - 0.5 * LOG_2PI

    def vote(self, outputs: Tensor) -> Tensor:
        """The Gaussian of the mixture's mean and variance."""
        mean, log_std = outputs.unbind(-1)
        centre = mean.mean(0)
        variance = ((2 * log_std).exp() + (mean - centre).square()).mean(0)
        return torch.stack([centre, 0.5 * variance.log()], -1)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers (...)."""
        with torch.no_grad():
            mean, log_std = outputs.unbind(-1)
            noise = drawn(torch.randn, (*mean.shape, 1), generator, mean).squeeze(-1)
            return mean + log_std.exp() * noise

    def probabilities(self, outputs: Tensor) -> Tensor:
        """(..., 1) the mean, as numbers are written."""
        return outputs[..., :1] * self.unit[1] + self.unit[0]

    def embedding(self, features: int) -> nn.Module:
        """From numbers (...)."""
        return nn.Sequential(_Column(), nn.Linear(1, features))

    def error(self, outputs: Tensor, answers: Tensor) -> float:
        """The mean absolute error, as numbers are written."""
        return self.unit[1] * (outputs[..., 0] - answers).abs().mean().item()


class _Column(nn.Module):
    """(...) to (..., 1)."""

    def forward(self, values: Tensor) -> Tensor:
        return values.unsqueeze(-1)


HEADS: dict[str, Callable[..., Head]] = {"class": ClassHead, "labels": LabelsHead, "number": NumberHead}
"""Heads by the kind of answer that a data set has."""


def build_head(kind: str, features: int, names: Sequence[str], unit: tuple[float, float] = (0.0, 1.0)) -> Head:
    """The head for a kind of answer, freshly initialised; `UserError` if there is none for it."""
    if kind not in HEADS:
        raise UserError(f"unknown kind of answer {kind!r}; choose one of {', '.join(HEADS)}")
    return HEADS[kind](features, names, unit) if kind == "number" else HEADS[kind](features, names)
