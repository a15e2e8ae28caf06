"""Reweighted wake-sleep: how its bias and variance fall with the samples, and its control variates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.estimators.by_hand import Coefficients, HandFormula, hand_moments, numbers, share
from tests.estimators.enumeration import (
    Tables,
    World,
    coefficients,
    exact_moments,
    gradient,
    moments,
    multisets,
    probability,
    world,
)
from tests.estimators.families import (
    CONTROL,
    PROPOSAL,
    SEED,
    P,
    Q,
    Y,
    close,
    exact_gradients,
    extrapolated,
    in_proportion,
)
from wsram.estimators import wake_sleep

# The mean of wake-sleep. A ratio of means Σ w̃ f / Σ w̃ has, to first order in 1/M, the bias and the variance that the
# delta method gives: with r = w̃ / E[w̃] and T the ratio's limit, -E[r² (f - T)] / M and E[|r (f - T)|²] / M.
# The next terms are of order 1/M²; `extrapolated` removes them, so that the limit itself can be compared.


def wake_sleep_limits(of: World, group: int, control_variates: bool) -> tuple[Tensor, Tensor]:
    """M * bias and M * variance of a group's wake-sleep estimate as M grows."""
    tables, score = of.tables, of.scores[group]
    q = tables.q.exp()
    rho = tables.p.exp() / q
    ratio = of.posterior / q
    target = of.posterior @ score
    bias = -(q * ratio**2) @ (score - target)
    influence = ratio.unsqueeze(-1) * (score - target)
    if control_variates and group == P:
        bias = bias + (q * rho**2) @ score
        influence = influence - rho.unsqueeze(-1) * score
    if control_variates and group == Q:
        influence = influence - score
    return bias, q @ influence.square().sum(-1)


@SEED
@PROPOSAL
@CONTROL
def test_wake_sleep_bias_falls_as_one_over_m(inference: bool, control_variates: bool, seed: int) -> None:
    of = world(seed, inference=inference, spread=0.2)
    exact = exact_gradients(of)
    by_samples = {m: exact_moments(wake_sleep, of, m, control_variates=control_variates) for m in (2, 8, 32)}
    for group in (Y, P, Q) if inference else (Y, P):
        bias = {m: by_samples[m][group].mean - exact[group] for m in by_samples}
        assert bias[2].norm() > 1e-3
        assert bias[8].norm() < bias[2].norm() / 2
        assert bias[32].norm() < bias[8].norm() / 3
        limit, _ = wake_sleep_limits(of, group, control_variates)
        assert (extrapolated(8 * bias[8], 32 * bias[32]) - limit).norm() < 0.03 * limit.norm()


@SEED
@PROPOSAL
@CONTROL
def test_variance_of_wake_sleep_tends_to_its_limit(inference: bool, control_variates: bool, seed: int) -> None:
    of = world(seed, inference=inference, spread=0.2)
    few, many = (exact_moments(wake_sleep, of, m, control_variates=control_variates) for m in (8, 32))
    for group in (Y, P, Q) if inference else (Y, P):
        _, limit = wake_sleep_limits(of, group, control_variates)
        scaled = [m * limit.new_tensor(got[group].variance) for m, got in ((8, few), (32, many))]
        close(extrapolated(*scaled), limit, 0.03)


@SEED
@pytest.mark.parametrize("samples", [2, 3, 8])
def test_control_variates_of_mean_zero_leave_the_mean_alone(samples: int, seed: int) -> None:
    """The mean of Σ_m s^m / M is zero for samples from s's own distribution: the policy's if q = p, η's always."""
    for inference, groups in ((False, (Y, P)), (True, (Y, Q))):
        of = world(seed, inference=inference)
        without, with_them = (exact_moments(wake_sleep, of, samples, control_variates=c) for c in (False, True))
        for group in groups:
            close(with_them[group].mean, without[group].mean, 1e-12)


@pytest.mark.parametrize("copies", [1, 5])
@PROPOSAL
@CONTROL
def test_samples_in_exact_proportion_give_the_exact_gradient(
    inference: bool, control_variates: bool, copies: int
) -> None:
    """Every sequence drawn exactly as often as the proposal says: the sums over samples are sums over sequences."""
    of, drawn = in_proportion(inference, copies)
    estimate = wake_sleep(*(t[drawn].unsqueeze(-1) for t in of.log_probs), control_variates=control_variates)
    parameters = (of.theta_y, of.theta_p) + (() if of.eta is None else (of.eta,))
    for ours, exact in zip(gradient(-estimate.loss, *parameters), exact_gradients(of), strict=True):
        close(ours, exact, 1e-12)
    close(estimate.log_evidence, of.evidence().detach().unsqueeze(0), 1e-12)


@pytest.mark.parametrize("samples", [2, 3, 8])
def test_a_proposal_that_is_the_posterior_is_left_where_it_is(samples: int) -> None:
    """With q = p(a|y,I) every set of samples weighs evenly, knows the evidence exactly and asks nothing of η."""
    of = world(2, inference=True)
    log_p_y, log_p_a, _ = of.tables
    at_posterior = Tables(log_p_y, log_p_a, of.posterior.log())
    index = multisets(samples)
    estimate = wake_sleep(*(t[index] for t in at_posterior))
    close(estimate.weights, torch.full(index.shape, 1 / samples, dtype=torch.float64), 1e-13)
    close(estimate.log_evidence, of.evidence().detach().expand(index.shape[1]), 1e-13)
    taken = coefficients(wake_sleep, at_posterior, index, control_variates=True)
    assert taken.q.abs().max() < 1e-13


@SEED
def test_control_variates_cost_the_policy_a_part_of_its_gradient_where_q_is_the_posterior(seed: int) -> None:
    """Without them the policy's estimate is then unbiased; ψ is self-normalised, and takes a part of order 1/M."""
    of = world(seed, inference=True)
    at_posterior = Tables(*of.tables[:2], of.posterior.log())
    exact = exact_gradients(of)[P]
    kept = {}
    for samples in (2, 8, 32):
        index = multisets(samples)
        chance = probability(index, at_posterior.q, ordered=False)
        without, with_them = (
            moments(coefficients(wake_sleep, at_posterior, index, control_variates=c).p, of.scores.p, index, chance)
            for c in (False, True)
        )
        close(without.mean, exact, 1e-12)
        kept[samples] = float(with_them.mean @ exact / exact.square().sum())
    assert 0 < kept[2] < 0.6
    assert 1 - kept[8] < 0.6 * (1 - kept[2]) and 1 - kept[32] < 0.4 * (1 - kept[8])


OfWeights = Callable[[float, float, int], float]
"""A sample's coefficient as a function of its w, its ψ and the number of samples."""


def wrong_wake_sleep(policy: OfWeights, proposal: OfWeights) -> HandFormula:
    """Wake-sleep with other coefficients than its own for the policy and for the proposal."""

    def formula(tables: Tables, drawn: Tensor) -> Coefficients:
        _, rho, weight = numbers(tables, drawn)
        w, psi = share(weight), share(rho)
        taken = list(zip(w, psi, [len(w)] * len(w), strict=True))
        return w, [policy(*t) for t in taken], [proposal(*t) for t in taken]

    return formula


BROKEN = {
    "added": (lambda w, psi, m: w + psi, lambda w, psi, m: w + 1 / m),
    "left out": (lambda w, psi, m: w, lambda w, psi, m: w),
    "halved": (lambda w, psi, m: w - psi / 2, lambda w, psi, m: w - 1 / (2 * m)),
    "not divided by M": (lambda w, psi, m: w - m * psi, lambda w, psi, m: w - 1),
    "the other's": (lambda w, psi, m: w - 1 / m, lambda w, psi, m: w - psi),
}


@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize(("policy", "proposal"), BROKEN.values(), ids=BROKEN)
def test_variance_tells_a_broken_control_variate_apart(policy: OfWeights, proposal: OfWeights, samples: int) -> None:
    """Each way to get a control variate wrong moves the exact variance well away from that of the code."""
    of = world(1, inference=True)
    ours = exact_moments(wake_sleep, of, samples, control_variates=True)
    broken = hand_moments(wrong_wake_sleep(policy, proposal), of, samples)
    for group in (P, Q):
        assert abs(broken[group][1] / ours[group].variance - 1) > 0.05
