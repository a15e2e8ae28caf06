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


def action_steps(logits: Tensor) -> Tensor:
    """(4, 2) log-probability of each of a sequence's actions: two logits for a_1, then two for a_2 after each a_1."""
    first = torch.log_softmax(logits[:ACTIONS], -1).unsqueeze(-1).expand(ACTIONS, ACTIONS)
    second = torch.log_softmax(logits[ACTIONS:].view(ACTIONS, ACTIONS), -1)
    return torch.stack([first, second], -1).flatten(0, 1)


def log_sequences(logits: Tensor) -> Tensor:
    """(4,) log-probabilities of the sequences."""
    return action_steps(logits).sum(-1)


def label_steps(theta_y: Tensor) -> Tensor:
    """(4, 2) what each glimpse adds to the label's log-probability: it brings evidence for every class."""
    first, second = theta_y.view(2, ACTIONS, CLASSES)
    after_one = torch.log_softmax(first, -1)[..., LABEL].unsqueeze(-1).expand(ACTIONS, ACTIONS)
    after_two = torch.log_softmax(first.unsqueeze(1) + second.unsqueeze(0), -1)[..., LABEL]
    return torch.stack([after_one, after_two - after_one], -1).flatten(0, 1)


def log_label(theta_y: Tensor) -> Tensor:
    """(4,) log p(y|a) of the label."""
    return label_steps(theta_y).sum(-1)


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

    @cached_property
    def step_tables(self) -> Tables:
        """The three log-probabilities (4, 2) of every sequence by step, without a gradient."""
        eta = self.theta_p if self.eta is None else self.eta
        return Tables(*(t.detach() for t in (label_steps(self.theta_y), action_steps(self.theta_p), action_steps(eta))))

    @cached_property
    def step_scores(self) -> Tables:
        """Each step's gradient in its own parameters, (4, 2, parameters); no columns for an absent η."""
        q = torch.zeros(SEQUENCES, 2, 0, dtype=torch.float64) if self.eta is None else jacobian(action_steps, self.eta)
        return Tables(jacobian(label_steps, self.theta_y), jacobian(action_steps, self.theta_p), q)

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


def coefficients(
    estimator: Estimator, tables: Tables, index: Tensor, *, control_variates: bool, inference: bool = True
) -> Tables:
    """How much of each sample's score an estimator takes, (samples, sets) for each log-probability.

    The sets are the batch, and the losses are linear in the log-probabilities, so one backward pass gives them all.
    Without `inference` the proposal carries no gradient, as if the policy proposes.
    """
    leaves = [table[index].requires_grad_(inference or n < 2) for n, table in enumerate(tables)]
    trained = leaves if inference else leaves[:2]
    loss = estimator(*leaves, control_variates=control_variates).loss
    # The loss is the batch's mean of what is to be minimised.
    taken = [-index.shape[1] * g for g in gradient(loss, *trained)]
    return Tables(*taken) if inference else Tables(*taken, torch.zeros_like(taken[0]))


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
    inference = of.eta is not None
    taken = coefficients(estimator, of.tables, index, control_variates=control_variates, inference=inference)
    return tuple(moments(c, s, index, chance) for c, s in zip(taken, of.scores, strict=True))


def step_estimates(
    estimator: Estimator, of: World, index: Tensor, others: Tables, *, control_variates: bool
) -> tuple[Tensor, ...]:
    """The estimates for θ_y, θ_p and η, (sets, parameters) each, of one image's sample sets by step.

    Each set is put at the head of a batch whose other images' samples stay the same, (samples, batch - 1, 2).
    """
    batch = others.y.shape[1] + 1
    found: tuple[list[Tensor], ...] = ([], [], [])
    for drawn in index.T:
        leaves = [
            torch.cat([mine[drawn].unsqueeze(1), other], 1).requires_grad_()
            for mine, other in zip(of.step_tables, others, strict=True)
        ]
        taken = gradient(-batch * estimator(*leaves, control_variates=control_variates).loss, *leaves)
        for estimates, c, score in zip(found, taken, of.step_scores, strict=True):
            estimates.append(torch.einsum("mn,mni->i", c[:, 0], score[drawn]))
    return tuple(torch.stack(estimates) for estimates in found)


def step_moments(
    estimator: Estimator, of: World, samples: int, others: Tables, *, control_variates: bool
) -> tuple[Moments, ...]:
    """Exact moments of one image's estimates for θ_y, θ_p and η by step, whatever the rest of the batch drew."""
    index = multisets(samples)
    chance = probability(index, of.tables.q, ordered=False)
    found = []
    for each in step_estimates(estimator, of, index, others, control_variates=control_variates):
        mean = chance @ each
        found.append(Moments(mean, float(chance @ (each - mean).square().sum(-1))))
    return tuple(found)


def mean_action_steps(logits: Tensor, drawn_from: Tensor) -> Tensor:
    """(4, 2) the mean log-probability of each of a sequence's actions over those of another policy, given the past."""
    probability = action_steps(drawn_from.detach()).exp()
    mean = (probability * action_steps(logits)).view(ACTIONS, ACTIONS, 2)
    # A first action is that of two sequences.
    first = mean[..., 0].sum() / ACTIONS
    second = mean[..., 1].sum(1, keepdim=True)
    return torch.stack([first.expand(ACTIONS, ACTIONS), second.expand(-1, ACTIONS)], -1).flatten(0, 1)
