"""VIMCO: unbiased for the multi-sample bound, and what its baseline takes out of the variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.estimators.by_hand import Coefficients, hand_moments, numbers, share
from tests.estimators.enumeration import Tables, World, exact_moments, gradient, multisets, probability, world
from tests.estimators.families import PROPOSAL, SAMPLES_AND_CONTROL, SEED, P, Q, close
from wsram.estimators import variational, vimco


def multi_sample_bound(of: World, samples: int) -> Tensor:
    """E[log 1/M Σ w̃], differentiable in everything, also in what the samples are drawn from."""
    log_p_y, log_p_a, log_q_a = of.log_probs
    drawn_from = log_p_a if of.eta is None else log_q_a
    index = multisets(samples)
    log_evidence = torch.logsumexp((log_p_y + log_p_a - drawn_from)[index], 0) - math.log(samples)
    return probability(index, drawn_from, ordered=False) @ log_evidence


@SEED
@PROPOSAL
@SAMPLES_AND_CONTROL
def test_vimco_is_unbiased_for_the_multi_sample_bound(
    samples: int, control_variates: bool, inference: bool, seed: int
) -> None:
    of = world(seed, inference=inference)
    parameters = (of.theta_y, of.theta_p) + (() if of.eta is None else (of.eta,))
    exact = gradient(multi_sample_bound(of, samples), *parameters)
    assert min(float(g.norm()) for g in exact) > 1e-4
    got = exact_moments(vimco, of, samples, control_variates=control_variates)[: len(exact)]
    for ours, expected in zip(got, exact, strict=True):
        close(ours.mean, expected, 1e-9)


@SEED
def test_vimco_with_one_sample_of_the_policy_is_variational(seed: int) -> None:
    of = world(seed, inference=False)
    one, other = (exact_moments(each, of, 1, control_variates=False) for each in (vimco, variational))
    for ours, theirs in zip(one, other, strict=True):
        close(ours.mean, theirs.mean, 1e-12)
        assert ours.variance == pytest.approx(theirs.variance, rel=1e-12, abs=1e-15)


@SEED
@PROPOSAL
def test_variance_of_vimco_falls_with_more_samples_for_its_baseline_alone(inference: bool, seed: int) -> None:
    # Where q misses the posterior by much, more samples first find more of it, and the variance has yet to fall.
    of, group = world(seed, inference=inference, spread=0.5), Q if inference else P
    with_it, without = (
        [exact_moments(vimco, of, m, control_variates=c)[group].variance for m in (2, 4, 8, 16)] for c in (True, False)
    )
    assert all(ours < 0.9 * theirs for ours, theirs in zip(with_it, without, strict=True))
    assert all(few > many for few, many in pairwise(with_it))
    assert without[-1] > without[0] / 2  # M scores, each times a signal that does not shrink


@SEED
def test_baseline_of_vimco_alone_leaves_the_policy_as_it_is_where_another_proposes(seed: int) -> None:
    """Without the policy's mean its coefficients are the weights, which no ratio makes large."""
    of = world(seed, inference=True, spread=3.0)
    assert (of.tables.p - of.tables.q).max() > 2
    with_it, without = (exact_moments(vimco, of, 5, control_variates=c)[P] for c in (True, False))
    assert with_it.variance == without.variance < float(of.scores.p.square().sum(-1).max())


def geometric(values: list[float]) -> float:
    return math.prod(values) ** (1 / len(values))


# A baseline from a sample's own weight and the others', M in all.
BROKEN: dict[str, Callable[[float, list[float], int], float]] = {
    "no log M in it": lambda itself, others, m: sum(others) + geometric(others),
    "no log M in the signal": lambda itself, others, m: (sum(others) + geometric(others)) / m**2,
    "not left out": lambda itself, others, m: (itself + sum(others)) / m,
    "not replaced": lambda itself, others, m: sum(others) / m,
    "arithmetic mean": lambda itself, others, m: sum(others) / len(others),
}


@pytest.mark.parametrize(
    ("kind", "samples"),
    # One other sample is every mean of the others.
    [(kind, samples) for kind in BROKEN for samples in (2, 3, 5) if (kind, samples) != ("arithmetic mean", 2)],
)
def test_variance_tells_a_broken_baseline_of_vimco_apart(kind: str, samples: int) -> None:
    """A log M that is forgotten on one side leaves the mean right; what it costs grows with M."""
    of = world(1, inference=False)

    def formula(tables: Tables, drawn: Tensor) -> Coefficients:
        _, _, weight = numbers(tables, drawn)
        others = [weight[:m] + weight[m + 1 :] for m in range(samples)]
        baseline = [BROKEN[kind](weight[m], others[m], samples) for m in range(samples)]
        return share(weight), [math.log(sum(weight) / samples / b) for b in baseline], [0.0] * samples

    ours = exact_moments(vimco, of, samples, control_variates=True)[P]
    mean, variance = hand_moments(formula, of, samples)[P]
    assert abs(variance / ours.variance - 1) > 0.01
    if kind != "not left out":
        close(mean, ours.mean, 1e-10)
    if kind.startswith("no log M"):
        assert variance > 2 * ours.variance


def test_vimco_refuses_samples_of_anything_but_its_proposal() -> None:
    with pytest.raises(ValueError, match="samples of the proposal that it trains"):
        vimco(*[torch.zeros(2, 1)] * 3, log_proposal=torch.zeros(2, 1))
