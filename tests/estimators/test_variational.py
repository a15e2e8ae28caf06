"""REINFORCE on the variational bound: its mean, its variance in closed form, and its baseline."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.estimators.by_hand import Coefficients, HandFormula, hand_moments, numbers
from tests.estimators.enumeration import Tables, exact_moments, gradient, world
from tests.estimators.families import (
    CONTROL,
    PROPOSAL,
    SAMPLES_AND_CONTROL,
    SEED,
    P,
    Y,
    close,
    extrapolated,
    in_proportion,
)
from wsram.estimators import variational


@SEED
@SAMPLES_AND_CONTROL
def test_variational_is_unbiased_when_the_policy_proposes(samples: int, control_variates: bool, seed: int) -> None:
    of = world(seed, inference=False)
    exact = gradient(of.bound(), of.theta_y, of.theta_p)
    assert min(float(g.norm()) for g in exact) > 1e-2
    got = exact_moments(variational, of, samples, control_variates=control_variates)
    close(got[Y].mean, exact[Y], 1e-9)
    close(got[P].mean, exact[P], 1e-9)


@SEED
@CONTROL
def test_variational_is_consistent_under_another_proposal(control_variates: bool, seed: int) -> None:
    of = world(seed, inference=True, spread=0.2)
    exact = gradient(of.bound(), of.theta_y, of.theta_p)
    few, many = (exact_moments(variational, of, m, control_variates=control_variates) for m in (8, 32))
    for group in (Y, P):
        bias = [of_m[group].mean - exact[group] for of_m in (few, many)]
        assert bias[1].norm() < bias[0].norm() / 2
        # The bias is proportional to 1/M up to terms in 1/M²: with four times the samples, four times smaller.
        assert extrapolated(*bias).norm() < 0.1 * bias[0].norm()


@pytest.mark.parametrize("copies", [1, 5])
@PROPOSAL
def test_samples_in_exact_proportion_give_the_exact_gradient(inference: bool, copies: int) -> None:
    """Every sequence drawn exactly as often as the proposal says: the sums over samples are sums over sequences."""
    of, drawn = in_proportion(inference, copies)
    estimate = variational(*(t[drawn].unsqueeze(-1) for t in of.log_probs), control_variates=False)
    bound = gradient(of.bound(), of.theta_y, of.theta_p)
    for ours, exact in zip(gradient(-estimate.loss, of.theta_y, of.theta_p), bound, strict=True):
        close(ours, exact, 1e-12)


@pytest.mark.parametrize("copies", [1, 5])
def test_the_baseline_in_exact_proportion_makes_a_sample_covariance(copies: int) -> None:
    """It leaves itself out, so that the estimate is M / (M - 1) times the population's covariance."""
    of, drawn = in_proportion(False, copies)
    estimate = variational(*(t[drawn].unsqueeze(-1) for t in of.log_probs), control_variates=True)
    exact = gradient(of.bound(), of.theta_p)[0] * len(drawn) / (len(drawn) - 1)
    close(gradient(-estimate.loss, of.theta_p)[0], exact, 1e-12)


@SEED
@pytest.mark.parametrize("samples", [1, 2, 3, 8, 16])
def test_variance_of_variational_in_closed_form(samples: int, seed: int) -> None:
    """Without a baseline a mean of M independent terms; with it a U-statistic, whose variance Hoeffding (1948) gives.

    The estimate with the leave-one-out mean is the sample covariance of L and the score, the mean over pairs of
    h(a, b) = (L_a - L_b)(s_a - s_b) / 2; with ζ1 the variance of E[h|a] and ζ2 that of h, the variance is
    (4 (M - 2) ζ1 + 2 ζ2) / (M (M - 1)).
    """
    of = world(seed, inference=False)
    p, label = of.tables.p.exp(), of.tables.y
    score_y, score, _ = of.scores

    def variance(values: Tensor, chance: Tensor) -> float:
        mean = chance @ values
        return float(chance @ (values - mean).square().sum(-1))

    without = exact_moments(variational, of, samples, control_variates=False)
    assert without[Y].variance == pytest.approx(variance(score_y, p) / samples, rel=1e-10)
    assert without[P].variance == pytest.approx(variance(label.unsqueeze(-1) * score, p) / samples, rel=1e-10)
    if samples == 1:
        return
    pair = (label[:, None] - label).unsqueeze(-1) * (score[:, None] - score) / 2
    one = variance(torch.einsum("b,abi->ai", p, pair), p)
    two = variance(pair.flatten(0, 1), (p[:, None] * p).flatten())
    expected = (4 * (samples - 2) * one + 2 * two) / (samples * (samples - 1))
    got = exact_moments(variational, of, samples, control_variates=True)
    assert got[P].variance == pytest.approx(expected, rel=1e-10)
    assert got[Y].variance == pytest.approx(without[Y].variance, rel=1e-12)


Baseline = Callable[[float, list[float]], float]


def wrong_variational(baseline: Baseline) -> HandFormula:
    """The variational estimator (q = p) whose baseline is a function of a sample's L and the others'."""

    def formula(tables: Tables, drawn: Tensor) -> Coefficients:
        label, _, _ = numbers(tables, drawn)
        size = len(label)
        others = [[label[i] for i in range(size) if i != m] for m in range(size)]
        return [1 / size] * size, [(label[m] - baseline(label[m], others[m])) / size for m in range(size)], [0.0] * size

    return formula


BROKEN = {
    "added": lambda itself, others: -sum(others) / len(others),
    "left out": lambda itself, others: 0.0,
    "halved": lambda itself, others: sum(others) / len(others) / 2,
    "not divided": lambda itself, others: sum(others),
    "divided by M": lambda itself, others: sum(others) / (len(others) + 1),
    "not left out of its own": lambda itself, others: (itself + sum(others)) / (len(others) + 1),
}


@pytest.mark.parametrize(
    ("kind", "samples"),
    # Two samples leave the sum of one other equal to its mean.
    [(kind, samples) for kind in BROKEN for samples in (2, 3) if (kind, samples) != ("not divided", 2)],
)
def test_variance_tells_a_broken_baseline_apart(kind: str, samples: int) -> None:
    """Each way to get the baseline wrong moves the exact variance well away from that of the code."""
    of = world(1, inference=False)
    ours = exact_moments(variational, of, samples, control_variates=True)
    broken = hand_moments(wrong_variational(BROKEN[kind]), of, samples)
    assert abs(broken[P][1] / ours[P].variance - 1) > 0.05
