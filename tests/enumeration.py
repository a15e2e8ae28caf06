"""A world small enough to enumerate, in float64: what an estimator does on average is then summed, not sampled.

Two glimpses with two possible actions each give four sequences. An estimator is symmetric in its samples, so its exact
mean and variance over M samples are finite sums over the multisets of M sequences with multinomial probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from wsram.estimators import Estimator

ACTIONS = 2
SEQUENCES = ACTIONS**2
CLASSES = 3
LABEL = 0


def log_sequences(logits: Tensor) -> Tensor:
    """(4,) log-probabilities of the sequences: two logits for a_1, then two for a_2 after each a_1."""
    first = torch.log_softmax(logits[:ACTIONS], -1)
    second = torch.log_softmax(logits[ACTIONS:].view(ACTIONS, ACTIONS), -1)
    return (first.unsqueeze(-1) + second).flatten()


def log_label(theta_y: Tensor) -> Tensor:
    """(4,) log p(y|a) of the label: each glimpse adds its evidence for every class."""
    first, second = theta_y.view(2, ACTIONS, CLASSES)
    return torch.log_softmax(first.unsqueeze(1) + second.unsqueeze(0), -1)[..., LABEL].flatten()


class Tables(NamedTuple):
    """Something for each of the three log-probabilities: of the label, under the policy, under the proposal."""

    y: Tensor
    p: Tensor
    q: Tensor


@dataclass(frozen=True)
class World:
    """Parameters of the label, of the policy and of the proposal; `eta` is None where the policy itself proposes."""

    theta_y: Tensor
    theta_p: Tensor
    eta: Tensor | None

    @property
    def log_probs(self) -> Tables:
        """The three log-probabilities (4,) of every sequence, differentiable in the parameters that they depend on."""
        log_p_a = log_sequences(self.theta_p)
        return Tables(
            log_label(self.theta_y), log_p_a, log_p_a.detach() if self.eta is None else log_sequences(self.eta)
        )

    @cached_property
    def tables(self) -> Tables:
        """The same numbers without a gradient."""
        return Tables(*(t.detach() for t in self.log_probs))

    @cached_property
    def scores(self) -> Tables:
        """Each log-probability's gradient in its own parameters, (4, parameters); no columns for an absent η."""
        q = torch.zeros(SEQUENCES, 0, dtype=torch.float64) if self.eta is None else jacobian(log_sequences, self.eta)
        return Tables(jacobian(log_label, self.theta_y), jacobian(log_sequences, self.theta_p), q)

    @property
    def posterior(self) -> Tensor:
        """(4,) p(a | y, I)."""
        log_p_y, log_p_a, _ = self.tables
        return torch.softmax(log_p_y + log_p_a, 0)

    def evidence(self) -> Tensor:
        """The log-evidence log p(y|I), differentiable."""
        log_p_y, log_p_a, _ = self.log_probs
        return torch.logsumexp(log_p_y + log_p_a, 0)

    def bound(self) -> Tensor:
        """The variational bound F = Σ p(a|I) log p(y|a,I), differentiable."""
        log_p_y, log_p_a, _ = self.log_probs
        return (log_p_a.exp() * log_p_y).sum()

    def divergence(self) -> Tensor:
        """KL(p(a|y,I) || q), differentiable in η."""
        posterior = self.posterior
        return (posterior * (posterior.log() - self.log_probs.q)).sum()


def world(seed: int, *, inference: bool, spread: float = 1.0) -> World:
    """A random world; `spread` is the parameters' standard deviation."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(size: int) -> Tensor:
        return (spread * torch.randn(size, generator=generator, dtype=torch.float64)).requires_grad_()

    theta_y, theta_p, eta = leaf(2 * ACTIONS * CLASSES), leaf(ACTIONS + SEQUENCES), leaf(ACTIONS + SEQUENCES)
    return World(theta_y, theta_p, eta if inference else None)


def gradient(value: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """The gradient of a scalar in each group of parameters, zeros where it depends on none of them."""
    return torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)


@cache
def tuples(samples: int) -> Tensor:
    """(samples, sets) every ordered way to draw `samples` sequences."""
    return torch.cartesian_prod(*[torch.arange(SEQUENCES)] * samples).view(-1, samples).T.contiguous()


@cache
def multisets(samples: int) -> Tensor:
    """(samples, sets) every unordered way to draw `samples` sequences."""
    return torch.tensor(list(combinations_with_replacement(range(SEQUENCES), samples))).T.contiguous()


def counts(index: Tensor) -> Tensor:
    """(sets, 4) how often each sequence is in each set."""
    return torch.stack([(index == k).sum(0) for k in range(SEQUENCES)], -1).double()


def probability(index: Tensor, log_q: Tensor, *, ordered: bool) -> Tensor:
    """(sets,) probability of drawing each set from q, in any order unless `ordered`."""
    log_p = log_q[index].sum(0)
    if not ordered:
        log_p = log_p + math.lgamma(len(index) + 1) - torch.lgamma(counts(index) + 1).sum(-1)
    return log_p.exp()


def coefficients(estimator: Estimator, tables: Tables, index: Tensor, *, control_variates: bool) -> Tables:
    """How much of each sample's score an estimator takes, (samples, sets) for each log-probability.

    The sets are the batch, and the losses are linear in the log-probabilities, so one backward pass gives them all.
    """
    leaves = [table[index].requires_grad_() for table in tables]
    loss = estimator(*leaves, control_variates=control_variates).loss
    # The loss is the batch's mean of what is to be minimised.
    return Tables(*(-index.shape[1] * g for g in gradient(loss, *leaves)))


class Moments(NamedTuple):
    """Exact mean (parameters,) of a gradient estimate and its variance, the trace of its covariance."""

    mean: Tensor
    variance: float


def moments(coefficient: Tensor, score: Tensor, index: Tensor, chance: Tensor) -> Moments:
    """Mean and variance of Σ_m c^m s^m over sets `index` (samples, sets) drawn with probability `chance` (sets,)."""
    each = torch.zeros(index.shape[1], SEQUENCES, dtype=torch.float64).scatter_add_(1, index.T, coefficient.T) @ score
    mean = chance @ each
    return Moments(mean, float(chance @ (each - mean).square().sum(-1)))


def exact_moments(estimator: Estimator, of: World, samples: int, *, control_variates: bool) -> tuple[Moments, ...]:
    """Exact moments of the estimates for θ_y, θ_p and η with `samples` samples from the world's proposal."""
    index = multisets(samples)
    chance = probability(index, of.tables.q, ordered=False)
    taken = coefficients(estimator, of.tables, index, control_variates=control_variates)
    return tuple(moments(c, s, index, chance) for c, s in zip(taken, of.scores, strict=True))
