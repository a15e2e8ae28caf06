"""The estimators against exact sums over a world of four glimpse sequences: means, variances and limits.

A mean alone cannot see a broken control variate, so every variance is compared with a number worked out by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from enumeration import (
    ACTIONS,
    CLASSES,
    SEQUENCES,
    Tables,
    World,
    coefficients,
    exact_moments,
    gradient,
    log_sequences,
    moments,
    multisets,
    probability,
    step_estimates,
    step_moments,
    tuples,
    world,
)
from wsram.errors import UserError
from wsram.estimators import (
    ESTIMATORS,
    Estimate,
    Estimator,
    defensive_mixture,
    estimator,
    sleep,
    variational,
    variational_credit,
    vimco,
    wake_sleep,
    wake_sleep_credit,
)

Y, P, Q = range(3)  # the groups of parameters: θ_y, θ_p, η
BOTH = pytest.mark.parametrize("each", [variational, wake_sleep], ids=["variational", "wake-sleep"])
EACH = pytest.mark.parametrize("each", ESTIMATORS.values(), ids=ESTIMATORS)
CONTROL = pytest.mark.parametrize("control_variates", [False, True], ids=["without", "with"])
PROPOSAL = pytest.mark.parametrize("inference", [False, True], ids=["q=p", "q"])
SEED = pytest.mark.parametrize("seed", [1, 2, 3])


def close(ours: Tensor, exact: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, exact, rtol=tolerance, atol=tolerance)


def exact_gradients(of: World) -> tuple[Tensor, ...]:
    """What wake-sleep estimates: ∇ log p(y|I) for θ_y and θ_p, and -∇ KL(p(a|y,I) || q) for η."""
    policy = gradient(of.evidence(), of.theta_y, of.theta_p)
    return (*policy, torch.zeros(0)) if of.eta is None else (*policy, *gradient(-of.divergence(), of.eta))


# The formulas by hand, for one set of samples, with plain numbers and loops; nothing here is shared with the code.


def numbers(tables: Tables, drawn: Tensor) -> tuple[list[float], list[float], list[float]]:
    """L, ρ and w̃ of the drawn sequences."""
    label, policy, proposal = (t[drawn].tolist() for t in tables)
    rho = [math.exp(p) / math.exp(q) for p, q in zip(policy, proposal, strict=True)]
    return label, rho, [r * math.exp(lik) for r, lik in zip(rho, label, strict=True)]


def share(values: list[float]) -> list[float]:
    return [v / sum(values) for v in values]


Coefficients = tuple[list[float], list[float], list[float]]
HandFormula = Callable[[Tables, Tensor], Coefficients]


def hand_wake_sleep(tables: Tables, drawn: Tensor) -> Coefficients:
    _, _, weight = numbers(tables, drawn)
    w = share(weight)
    return w, w, w


def hand_wake_sleep_cv(tables: Tables, drawn: Tensor) -> Coefficients:
    _, rho, weight = numbers(tables, drawn)
    w, psi = share(weight), share(rho)
    return w, [w[m] - psi[m] for m in range(len(w))], [w[m] - 1 / len(w) for m in range(len(w))]


def hand_variational(tables: Tables, drawn: Tensor) -> Coefficients:
    label, rho, _ = numbers(tables, drawn)
    psi = share(rho)
    return psi, [psi[m] * label[m] for m in range(len(psi))], [0.0] * len(psi)


def hand_variational_cv(tables: Tables, drawn: Tensor) -> Coefficients:
    label, rho, _ = numbers(tables, drawn)
    psi = share(rho)
    policy = []
    for m in range(len(psi)):
        others = [i for i in range(len(psi)) if i != m]
        baseline = sum(rho[i] * label[i] for i in others) / sum(rho[i] for i in others)
        policy.append(psi[m] * (label[m] - baseline))
    return psi, policy, [0.0] * len(psi)


def signals(weight: list[float], control_variates: bool) -> list[float]:
    """VIMCO's learning signals."""
    samples, signal = len(weight), []
    for m in range(samples):
        others = [weight[i] for i in range(samples) if i != m]
        typical = math.prod(others) ** (1 / len(others)) if control_variates else 0.0
        baseline = math.log((sum(others) + typical) / samples) if control_variates else 0.0
        signal.append(math.log(sum(weight) / samples) - baseline)
    return signal


def hand_vimco(control_variates: bool, inference: bool) -> HandFormula:
    def formula(tables: Tables, drawn: Tensor) -> Coefficients:
        _, rho, weight = numbers(tables, drawn)
        w, signal = share(weight), signals(weight, control_variates)
        if not inference:
            return w, signal, [0.0] * len(w)
        zero_mean = 1 / len(w) if control_variates else 0.0
        policy = [w[m] - zero_mean * rho[m] for m in range(len(w))]
        return w, policy, [signal[m] - (w[m] - zero_mean) for m in range(len(w))]

    return formula


def hand(each: Estimator, control_variates: bool, inference: bool) -> HandFormula:
    """The formula of whole sequences, in which there is no credit to assign."""
    if each is vimco:
        return hand_vimco(control_variates, inference)
    if each in (wake_sleep, wake_sleep_credit):
        return hand_wake_sleep_cv if control_variates else hand_wake_sleep
    return hand_variational_cv if control_variates else hand_variational


def hand_coefficients(formula: HandFormula, tables: Tables, index: Tensor) -> Tables:
    """The formula's coefficients for every column of `index` (samples, sets)."""
    each = torch.tensor([formula(tables, drawn) for drawn in index.T], dtype=torch.float64)
    return Tables(*each.permute(1, 2, 0))


def hand_moments(formula: HandFormula, of: World, samples: int) -> list[tuple[Tensor, float]]:
    """Exact mean and variance (trace) of a formula's estimates of θ_y, θ_p and η over all ordered sample sets."""
    index = tuples(samples)
    chance = probability(index, of.tables.q, ordered=True)
    taken = hand_coefficients(formula, of.tables, index)
    return [moments(c, s, index, chance) for c, s in zip(taken, of.scores, strict=True)]


# The gradient of one given set of samples.


@EACH
@CONTROL
@PROPOSAL
@SEED
def test_gradient_of_given_samples_is_the_formula(
    each: Estimator, control_variates: bool, inference: bool, seed: int
) -> None:
    of = world(seed, inference=inference)
    batch, samples = 3, 5
    drawn = torch.randint(SEQUENCES, (samples, batch), generator=torch.Generator().manual_seed(seed))
    of_samples = [t[drawn] for t in of.log_probs]
    estimate = each(*of_samples, control_variates=control_variates)
    parameters = (of.theta_y, of.theta_p) + (() if of.eta is None else (of.eta,))
    ours = gradient(-estimate.loss, *parameters)
    by_hand = hand_coefficients(hand(each, control_variates, inference), of.tables, drawn)
    for got, taken, score in zip(ours, by_hand, of.scores, strict=False):
        close(got, sum(taken[m, b] * score[drawn[m, b]] for m in range(samples) for b in range(batch)) / batch, 1e-12)


@EACH
@CONTROL
def test_each_loss_reaches_its_own_log_probability_alone(each: Estimator, control_variates: bool) -> None:
    leaves = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    estimate = each(*leaves, control_variates=control_variates)
    losses = (estimate.prediction_loss, estimate.policy_loss, estimate.proposal_loss)
    for group, loss in enumerate(losses):
        if not loss.requires_grad:  # the variational bound does not train q
            assert each in (variational, variational_credit) and group == Q and loss == 0
            continue
        reached = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)
        assert [g is not None for g in reached] == [i == group for i in range(3)]
    assert all(loss.shape == () for loss in losses)
    close(estimate.loss, sum(losses), 1e-14)


@EACH
@CONTROL
def test_weights_and_evidence_carry_no_gradient(each: Estimator, control_variates: bool) -> None:
    leaves = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    estimate = each(*leaves, control_variates=control_variates)
    for detached, shape in ((estimate.weights, (4, 3)), (estimate.bound, (3,)), (estimate.log_evidence, (3,))):
        assert detached.shape == shape and not detached.requires_grad
    # If a coefficient carried a gradient, the loss would not be linear: its second derivative would not vanish.
    first = torch.autograd.grad(estimate.prediction_loss + estimate.policy_loss, leaves[:2], create_graph=True)
    assert not any(g.requires_grad for g in first)


@EACH
@CONTROL
@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), samples=st.integers(2, 6))
def test_order_of_samples_does_not_matter(each: Estimator, control_variates: bool, seed: int, samples: int) -> None:
    """What lets the tests below sum over multisets: the estimate goes along with any permutation of its samples."""
    generator = torch.Generator().manual_seed(seed)
    tables = Tables(*(torch.randn(SEQUENCES, generator=generator, dtype=torch.float64) for _ in range(3)))
    index = torch.randint(SEQUENCES, (samples, 1), generator=generator)
    shuffle = torch.randperm(samples, generator=generator)
    straight = coefficients(each, tables, index, control_variates=control_variates)
    shuffled = coefficients(each, tables, index[shuffle], control_variates=control_variates)
    for a, b in zip(straight, shuffled, strict=True):
        close(b, a[shuffle], 1e-12)


@CONTROL
@PROPOSAL
def test_sums_over_multisets_and_over_tuples_agree(control_variates: bool, inference: bool) -> None:
    of = world(1, inference=inference)
    for samples in (2, 3, 4):
        index = tuples(samples)
        chance = probability(index, of.tables.q, ordered=True)
        close(chance.sum(), torch.ones_like(chance[0]), 1e-12)
        taken = coefficients(wake_sleep, of.tables, index, control_variates=control_variates)
        by_multisets = exact_moments(wake_sleep, of, samples, control_variates=control_variates)
        for c, s, (mean, variance) in zip(taken, of.scores, by_multisets, strict=True):
            ordered = moments(c, s, index, chance)
            close(mean, ordered.mean, 1e-12)
            assert variance == pytest.approx(ordered.variance, rel=1e-11)


# The mean of the variational estimator.


@SEED
@pytest.mark.parametrize(
    ("samples", "control_variates"), [(1, False), *((m, c) for m in (2, 3, 8, 16) for c in (False, True))]
)
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


# The mean of wake-sleep. A ratio of means Σ w̃ f / Σ w̃ has, to first order in 1/M, the bias and the variance that the
# delta method gives: with r = w̃ / E[w̃] and T the ratio's limit, -E[r² (f - T)] / M and E[|r (f - T)|²] / M.
# The next terms are of order 1/M²; `extrapolated` removes them, so that the limit itself can be compared.


def extrapolated(at_8: Tensor, at_32: Tensor) -> Tensor:
    """The limit for large M of a quantity c + d / M + ..., from its values at 8 and 32."""
    return (4 * at_32 - at_8) / 3


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
@pytest.mark.parametrize("samples", [2, 3, 8])
def test_control_variates_of_mean_zero_leave_the_mean_alone(samples: int, seed: int) -> None:
    """The mean of Σ_m s^m / M is zero for samples from s's own distribution: the policy's if q = p, η's always."""
    for inference, groups in ((False, (Y, P)), (True, (Y, Q))):
        of = world(seed, inference=inference)
        without, with_them = (exact_moments(wake_sleep, of, samples, control_variates=c) for c in (False, True))
        for group in groups:
            close(with_them[group].mean, without[group].mean, 1e-12)


RATIONAL = World(
    theta_y=world(1, inference=False).theta_y,
    # Sequences of probability 1/8, 1/8, 1/4, 1/2 under the policy and 1/8, 3/8, 1/4, 1/4 under the proposal.
    theta_p=torch.tensor([1 / 4, 3 / 4, 1 / 2, 1 / 2, 1 / 3, 2 / 3], dtype=torch.float64).log().requires_grad_(),
    eta=torch.tensor([1 / 2, 1 / 2, 1 / 4, 3 / 4, 1 / 2, 1 / 2], dtype=torch.float64).log().requires_grad_(),
)
RATIONAL_POLICY = World(RATIONAL.theta_y, RATIONAL.theta_p, None)


@pytest.mark.parametrize("copies", [1, 5])
@PROPOSAL
@CONTROL
def test_samples_in_exact_proportion_give_the_exact_gradient(
    inference: bool, control_variates: bool, copies: int
) -> None:
    """Every sequence drawn exactly as often as the proposal says: the sums over samples are sums over sequences."""
    of, often = (RATIONAL, [1, 3, 2, 2]) if inference else (RATIONAL_POLICY, [1, 1, 2, 4])
    drawn = torch.arange(SEQUENCES).repeat_interleave(torch.tensor(often) * copies)
    estimate = wake_sleep(*(t[drawn].unsqueeze(-1) for t in of.log_probs), control_variates=control_variates)
    parameters = (of.theta_y, of.theta_p) + (() if of.eta is None else (of.eta,))
    for got, exact in zip(gradient(-estimate.loss, *parameters), exact_gradients(of), strict=False):
        close(got, exact, 1e-12)
    close(estimate.log_evidence, of.evidence().detach().unsqueeze(0), 1e-12)
    bound = gradient(of.bound(), of.theta_y, of.theta_p)
    estimate = variational(*(t[drawn].unsqueeze(-1) for t in of.log_probs), control_variates=False)
    close(gradient(-estimate.loss, of.theta_y)[0], bound[Y], 1e-12)
    close(gradient(-estimate.loss, of.theta_p)[0], bound[P], 1e-12)
    if not inference:
        # The baseline leaves itself out: a sample covariance, M/(M-1) times the population's.
        estimate = variational(*(t[drawn].unsqueeze(-1) for t in of.log_probs), control_variates=True)
        close(gradient(-estimate.loss, of.theta_p)[0], bound[P] * len(drawn) / (len(drawn) - 1), 1e-12)


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


# Variances.


@SEED
@pytest.mark.parametrize("samples", [2, 3])
@EACH
@CONTROL
@PROPOSAL
def test_variance_is_the_formulas(
    each: Estimator, control_variates: bool, inference: bool, samples: int, seed: int
) -> None:
    of = world(seed, inference=inference)
    got = exact_moments(each, of, samples, control_variates=control_variates)
    by_hand = hand_moments(hand(each, control_variates, inference), of, samples)
    for ours, (mean, variance) in zip(got, by_hand, strict=True):
        close(ours.mean, mean, 1e-11)
        assert ours.variance == pytest.approx(variance, rel=1e-10, abs=1e-13)


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


@pytest.mark.parametrize("samples", [2, 3, 8, 16])
@PROPOSAL
@BOTH
def test_control_variates_lower_the_variance(each: Estimator, inference: bool, samples: int) -> None:
    """Of the policy's part and of η's; the classifier's part is left alone."""
    for seed in (1, 2, 3):
        of = world(seed, inference=inference, spread=0.5)
        without, with_them = (exact_moments(each, of, samples, control_variates=c) for c in (False, True))
        assert with_them[P].variance < 0.9 * without[P].variance
        assert with_them[Y].variance == pytest.approx(without[Y].variance, rel=1e-12)
        close(with_them[Y].mean, without[Y].mean, 1e-12)
        if inference and each is wake_sleep:
            assert with_them[Q].variance < 0.9 * without[Q].variance


def wrong_wake_sleep(policy: Callable[..., float], proposal: Callable[..., float]) -> HandFormula:
    """Wake-sleep whose coefficients are functions of (w, ψ, M)."""

    def formula(tables: Tables, drawn: Tensor) -> Coefficients:
        _, rho, weight = numbers(tables, drawn)
        w, psi = share(weight), share(rho)
        taken = list(zip(w, psi, [len(w)] * len(w), strict=True))
        return w, [policy(*t) for t in taken], [proposal(*t) for t in taken]

    return formula


def wrong_variational(baseline: Callable[[float, list[float]], float]) -> HandFormula:
    """The variational estimator (q = p) whose baseline is a function of a sample's L and the others'."""

    def formula(tables: Tables, drawn: Tensor) -> Coefficients:
        label, _, _ = numbers(tables, drawn)
        size = len(label)
        others = [[label[i] for i in range(size) if i != m] for m in range(size)]
        return [1 / size] * size, [(label[m] - baseline(label[m], others[m])) / size for m in range(size)], [0.0] * size

    return formula


BROKEN_WAKE_SLEEP = {
    "added": (lambda w, psi, m: w + psi, lambda w, psi, m: w + 1 / m),
    "left out": (lambda w, psi, m: w, lambda w, psi, m: w),
    "halved": (lambda w, psi, m: w - psi / 2, lambda w, psi, m: w - 1 / (2 * m)),
    "not divided by M": (lambda w, psi, m: w - m * psi, lambda w, psi, m: w - 1),
    "the other's": (lambda w, psi, m: w - 1 / m, lambda w, psi, m: w - psi),
}
BROKEN_VARIATIONAL = {
    "added": lambda itself, others: -sum(others) / len(others),
    "left out": lambda itself, others: 0.0,
    "halved": lambda itself, others: sum(others) / len(others) / 2,
    "not divided": lambda itself, others: sum(others),
    "divided by M": lambda itself, others: sum(others) / (len(others) + 1),
    "not left out of its own": lambda itself, others: (itself + sum(others)) / (len(others) + 1),
}


@pytest.mark.parametrize("samples", [2, 3])
def test_variance_tells_a_broken_control_variate_apart(samples: int) -> None:
    """Each way to get a control variate wrong moves the exact variance well away from that of the code."""
    # Two samples leave the sum of one other equal to its mean.
    of = world(1, inference=True)
    ours = exact_moments(wake_sleep, of, samples, control_variates=True)
    for name, (policy, proposal) in BROKEN_WAKE_SLEEP.items():
        broken = hand_moments(wrong_wake_sleep(policy, proposal), of, samples)
        for group in (P, Q):
            assert abs(broken[group][1] / ours[group].variance - 1) > 0.05, (name, group)
    of = world(1, inference=False)
    ours = exact_moments(variational, of, samples, control_variates=True)
    for name, baseline in BROKEN_VARIATIONAL.items():
        if name == "not divided" and samples == 2:
            continue
        broken = hand_moments(wrong_variational(baseline), of, samples)
        assert abs(broken[P][1] / ours[P].variance - 1) > 0.05, name


# VIMCO.


def multi_sample_bound(of: World, samples: int) -> Tensor:
    """E[log 1/M Σ w̃], differentiable in everything, also in what the samples are drawn from."""
    log_p_y, log_p_a, log_q_a = of.log_probs
    drawn_from = log_p_a if of.eta is None else log_q_a
    index = multisets(samples)
    log_evidence = torch.logsumexp((log_p_y + log_p_a - drawn_from)[index], 0) - math.log(samples)
    return probability(index, drawn_from, ordered=False) @ log_evidence


@SEED
@PROPOSAL
@pytest.mark.parametrize(
    ("samples", "control_variates"), [(1, False), *((m, c) for m in (2, 3, 8, 16) for c in (False, True))]
)
def test_vimco_is_unbiased_for_the_multi_sample_bound(
    samples: int, control_variates: bool, inference: bool, seed: int
) -> None:
    of = world(seed, inference=inference)
    parameters = (of.theta_y, of.theta_p) + (() if of.eta is None else (of.eta,))
    exact = gradient(multi_sample_bound(of, samples), *parameters)
    assert min(float(g.norm()) for g in exact) > 1e-4
    for got, expected in zip(exact_moments(vimco, of, samples, control_variates=control_variates), exact, strict=False):
        close(got.mean, expected, 1e-9)


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


@pytest.mark.parametrize("samples", [3, 5, 8])
def test_control_variate_of_vimco_lowers_the_variance_for_the_policy_too(samples: int) -> None:
    ratios = []
    for seed in range(1, 9):
        of = world(seed, inference=True, spread=0.4)  # its ratios are not bounded: q must not be far from p
        with_it, without = (exact_moments(vimco, of, samples, control_variates=c)[P].variance for c in (True, False))
        ratios.append(with_it / without)
    assert sum(ratios) / len(ratios) < 0.4 and max(ratios) < 1


def broken_signals(weight: list[float], kind: str) -> list[float]:
    samples, signal = len(weight), []
    for m in range(samples):
        others = [weight[i] for i in range(samples) if i != m]
        geometric = math.prod(others) ** (1 / len(others))
        baseline = {
            "no log M in it": sum(others) + geometric,
            "no log M in the signal": (sum(others) + geometric) / samples**2,
            "not left out": sum(weight) / samples,
            "not replaced": sum(others) / samples,
            "arithmetic mean": sum(others) / len(others),
        }[kind]
        signal.append(math.log(sum(weight) / samples) - math.log(baseline))
    return signal


@pytest.mark.parametrize("samples", [2, 3, 5])
@pytest.mark.parametrize(
    "kind", ["no log M in it", "no log M in the signal", "not left out", "not replaced", "arithmetic mean"]
)
def test_variance_tells_a_broken_baseline_of_vimco_apart(kind: str, samples: int) -> None:
    """A log M that is forgotten on one side leaves the mean right; what it costs grows with M."""
    if kind == "arithmetic mean" and samples == 2:
        return  # one other sample is every mean of the others
    of = world(1, inference=False)

    def formula(tables: Tables, drawn: Tensor) -> Coefficients:
        _, _, weight = numbers(tables, drawn)
        return share(weight), broken_signals(weight, kind), [0.0] * samples

    ours = exact_moments(vimco, of, samples, control_variates=True)[P]
    mean, variance = hand_moments(formula, of, samples)[P]
    assert abs(variance / ours.variance - 1) > 0.01
    if kind != "not left out":
        close(mean, ours.mean, 1e-10)
    if kind.startswith("no log M"):
        assert variance > 2 * ours.variance


def test_vimco_refuses_samples_of_anything_but_its_proposal() -> None:
    with pytest.raises(UserError, match="samples of the proposal that it trains"):
        vimco(*[torch.zeros(2, 1)] * 3, log_proposal=torch.zeros(2, 1))


# Steps, and credit for each of them.

CREDIT = pytest.mark.parametrize("each", [variational_credit, wake_sleep_credit], ids=["variational", "wake-sleep"])
WHOLE = {variational_credit: variational, wake_sleep_credit: wake_sleep}


@CONTROL
@EACH
def test_sequences_of_one_step_and_whole_sequences_are_the_same(each: Estimator, control_variates: bool) -> None:
    values = [torch.randn(4, 3, dtype=torch.float64) for _ in range(3)]
    leaves = [[v.clone().view(shape).requires_grad_() for v in values] for shape in ((4, 3), (4, 3, 1))]
    whole, steps = (gradient(each(*ls, control_variates=control_variates).loss, *ls) for ls in leaves)
    for a, b in zip(whole, steps, strict=True):
        close(b.squeeze(-1), a, 1e-13)


@CONTROL
@pytest.mark.parametrize("each", [variational, wake_sleep, vimco])
def test_estimators_without_credit_take_the_sum_of_the_steps(each: Estimator, control_variates: bool) -> None:
    steps = [torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    whole = [s.detach().sum(-1).requires_grad_() for s in steps]
    ours, theirs = (each(*leaves, control_variates=control_variates) for leaves in (steps, whole))
    close(ours.loss, theirs.loss, 1e-12)
    for a, b in zip(gradient(ours.loss, *steps), gradient(theirs.loss, *whole), strict=True):
        close(a, b.unsqueeze(-1).expand_as(a), 1e-12)


@CREDIT
def test_without_control_variates_there_is_no_credit(each: Estimator) -> None:
    steps = [torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    ours, theirs = (e(*steps, control_variates=False) for e in (each, WHOLE[each]))
    for a, b in zip(gradient(ours.loss, *steps), gradient(theirs.loss, *steps), strict=True):
        assert torch.equal(a, b)


@CREDIT
def test_a_single_image_has_no_others_to_fit_a_slope_to(each: Estimator) -> None:
    steps = [torch.randn(4, 1, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    ours, theirs = (e(*steps) for e in (each, WHOLE[each]))
    for a, b in zip(gradient(ours.loss, *steps), gradient(theirs.loss, *steps), strict=True):
        close(a, b, 1e-13)


def slope_by_hand(regressor: list[list[float]], response: list[list[float]], image: int) -> float:
    """Least squares through the origin over all images but one, (samples of each image), kept within 0 and 1."""
    pairs = [pair for b in range(len(regressor)) if b != image for pair in zip(regressor[b], response[b], strict=True)]
    size = sum(x * x for x, _ in pairs)
    return min(1.0, max(0.0, sum(x * y for x, y in pairs) / size)) if size else 0.0


@pytest.mark.parametrize("group", [P, Q])
@pytest.mark.parametrize("mixture", [False, True], ids=["q", "mixture"])
@SEED
def test_credit_of_wake_sleep_is_the_formula(seed: int, mixture: bool, group: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples, batch, glimpses = 4, 3, 3
    steps = [torch.randn(samples, batch, glimpses, generator=generator, dtype=torch.float64) for _ in range(3)]
    drawn_from = defensive_mixture(steps[P], steps[Q], 0.3) if mixture else steps[Q]
    leaves = [s.clone().requires_grad_() for s in steps]
    loss = wake_sleep_credit(*leaves, log_proposal=drawn_from if mixture else None).loss
    taken = -batch * gradient(loss, leaves[group])[0]
    label, policy, scored, proposal = (t.tolist() for t in (steps[Y], steps[P], steps[group], drawn_from))
    for n in range(glimpses):
        zero, known, weight = [], [], []
        for b in range(batch):
            weight.append(
                share([math.exp(sum(label[m][b]) + sum(policy[m][b]) - sum(proposal[m][b])) for m in range(samples)])
            )
            ratio = [math.exp(sum(scored[m][b]) - sum(proposal[m][b])) for m in range(samples)]
            past = [
                math.exp(sum(label[m][b][:n]) + sum(policy[m][b][:n]) - sum(scored[m][b][:n])) for m in range(samples)
            ]
            zero.append(share(ratio))
            known.append(share([r * f for r, f in zip(ratio, past, strict=True)]))
        away = [[k - z for k, z in zip(known[b], zero[b], strict=True)] for b in range(batch)]
        left = [[w - z for w, z in zip(weight[b], zero[b], strict=True)] for b in range(batch)]
        for b in range(batch):
            slope = slope_by_hand(away, left, b)
            expected = [left[b][m] - slope * away[b][m] for m in range(samples)]
            close(taken[:, b, n], taken.new_tensor(expected), 1e-11)


@SEED
def test_credit_of_variational_is_the_formula(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples, batch, glimpses = 4, 3, 3
    label, policy = (torch.randn(samples, batch, glimpses, generator=generator, dtype=torch.float64) for _ in range(2))
    leaf = policy.clone().requires_grad_()
    taken = -batch * gradient(variational_credit(label, leaf, policy).loss, leaf)[0]

    def centred(values: list[float]) -> list[float]:
        return [v - (sum(values) - v) / (samples - 1) for v in values]

    gained = label.tolist()
    for n in range(glimpses):
        past = [centred([sum(gained[m][b][:n]) for m in range(samples)]) for b in range(batch)]
        reward = [centred([sum(gained[m][b]) for m in range(samples)]) for b in range(batch)]
        for b in range(batch):
            slope = slope_by_hand(past, reward, b)
            expected = [(reward[b][m] - slope * past[b][m]) / samples for m in range(samples)]
            close(taken[:, b, n], taken.new_tensor(expected), 1e-12)


def rest_of_batch(of: World, samples: int, images: int, seed: int) -> Tables:
    """Steps (samples, images, 2) of other images: sequences drawn from the world's proposal."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(of.tables.q.exp(), samples * images, replacement=True, generator=generator)
    return Tables(*(t[drawn.view(samples, images)] for t in of.step_tables))


@SEED
@pytest.mark.parametrize("samples", [2, 3, 5])
@pytest.mark.parametrize("images", [1, 16])
def test_credit_keeps_the_mean_whatever_the_other_images_are(images: int, samples: int, seed: int) -> None:
    """∇F for the variational bound; for wake-sleep what it is without any control variate."""
    of = world(seed, inference=False)
    others = rest_of_batch(world(seed + 10, inference=False), samples, images, seed)
    exact = gradient(of.bound(), of.theta_y, of.theta_p)
    got = step_moments(variational_credit, of, samples, others, control_variates=True)
    close(got[Y].mean, exact[Y], 1e-10)
    close(got[P].mean, exact[P], 1e-10)
    for inference, groups in ((False, (Y, P)), (True, (Y, Q))):
        of = world(seed, inference=inference)
        others = rest_of_batch(world(seed + 10, inference=inference), samples, images, seed)
        plain = exact_moments(wake_sleep, of, samples, control_variates=False)
        got = step_moments(wake_sleep_credit, of, samples, others, control_variates=True)
        for group in groups:
            close(got[group].mean, plain[group].mean, 1e-12)


@pytest.mark.parametrize("copies", [1, 3])
@PROPOSAL
def test_credit_of_samples_in_exact_proportion_is_the_exact_gradient(inference: bool, copies: int) -> None:
    """Also where ψ is self-normalised: what is subtracted is then exactly zero, for every slope."""
    of, often = (RATIONAL, [1, 3, 2, 2]) if inference else (RATIONAL_POLICY, [1, 1, 2, 4])
    drawn = torch.arange(SEQUENCES).repeat_interleave(torch.tensor(often) * copies)
    others = rest_of_batch(world(1, inference=inference), len(drawn), 8, 1)
    # As a set of its own, the drawn sequences are one column.
    for ours, exact in zip(
        step_estimates(wake_sleep_credit, of, drawn.unsqueeze(-1), others, control_variates=True),
        exact_gradients(of),
        strict=False,
    ):
        close(ours[0], exact.to(ours), 1e-12)


@SEED
def test_credit_of_wake_sleep_is_consistent_for_the_policy_under_another_proposal(seed: int) -> None:
    of = world(seed, inference=True, spread=0.2)
    exact = exact_gradients(of)[P]
    bias = []
    for samples in (2, 8):
        others = rest_of_batch(of, samples, 16, seed)
        bias.append(step_moments(wake_sleep_credit, of, samples, others, control_variates=True)[P].mean - exact)
    assert bias[1].norm() < bias[0].norm() / 2.5


@PROPOSAL
@pytest.mark.parametrize("samples", [2, 3, 5])
def test_credit_lowers_the_variance_further(samples: int, inference: bool) -> None:
    """Below that of the control variates of whole sequences, and by 70% and more below that of none."""
    ratios = []
    for seed in range(1, 9):
        of = world(seed, inference=inference, spread=0.5)
        others = rest_of_batch(of, samples, 31, seed)
        none, whole = (exact_moments(wake_sleep, of, samples, control_variates=c) for c in (False, True))
        ours = step_moments(wake_sleep_credit, of, samples, others, control_variates=True)
        assert ours[P].variance < whole[P].variance
        assert ours[Y].variance == pytest.approx(whole[Y].variance, rel=1e-10)
        groups = (P, Q) if inference else (P,)
        ratios.append([[ours[g].variance / than[g].variance for g in groups] for than in (whole, none)])
    to_whole, to_none = torch.tensor(ratios).mean(0)
    assert (to_whole < 0.85).all() and (to_none < 0.2).all()
    # The slope is fitted to the weights, not to their product with the scores, so for η it can cost a little, too.
    assert torch.tensor(ratios)[:, 0].max() < 1.05


@SEED
@pytest.mark.parametrize("samples", [2, 3, 5])
def test_credit_lowers_the_variance_of_variational(samples: int, seed: int) -> None:
    of = world(seed, inference=False)
    others = rest_of_batch(of, samples, 31, seed)
    whole = exact_moments(variational, of, samples, control_variates=True)
    ours = step_moments(variational_credit, of, samples, others, control_variates=True)
    assert ours[P].variance < 0.97 * whole[P].variance
    assert ours[Y].variance == pytest.approx(whole[Y].variance, rel=1e-10)


def test_a_glimpse_answers_for_nothing_before_it() -> None:
    """Rewards that only the first glimpse decides leave the second one's score no noise at all."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randn(5, 32, 2, generator=generator, dtype=torch.float64)
    label[..., 1] = 0.0
    policy = torch.randn(5, 32, 2, generator=generator, dtype=torch.float64)
    for each in (variational_credit, wake_sleep_credit):
        leaf = policy.clone().requires_grad_()
        first, second = gradient(each(label, leaf, policy).loss, leaf)[0].unbind(-1)
        assert first.abs().max() > 1e-3 and second.abs().max() < 1e-14


# Defensive mixtures.


@SEED
@pytest.mark.parametrize("share_of_policy", [0.01, 0.2, 0.9])
def test_defensive_mixture_is_a_distribution_that_bounds_the_ratios(share_of_policy: float, seed: int) -> None:
    of = world(seed, inference=True, spread=4.0)
    steps = [t.unsqueeze(1) for t in of.step_tables]
    mixture = defensive_mixture(steps[P], steps[Q], share_of_policy).squeeze(1)
    by_hand = share_of_policy * of.tables.p.exp() + (1 - share_of_policy) * of.tables.q.exp()
    close(mixture.sum(-1).exp(), by_hand, 1e-12)
    # Every step is a conditional distribution: over the first action, and over the second given the first.
    close(mixture[::2, 0].exp().sum(), torch.tensor(1.0).double(), 1e-12)
    close(mixture[:, 1].exp().view(2, 2).sum(-1), torch.ones(2).double(), 1e-12)
    assert (of.tables.p - of.tables.q).exp().max() > 1 / share_of_policy or share_of_policy < 0.9
    assert (of.tables.p - mixture.sum(-1)).exp().max() <= 1 / share_of_policy
    assert (of.tables.q - mixture.sum(-1)).exp().max() <= 1 / (1 - share_of_policy)


@pytest.mark.parametrize("share_of_policy", [-0.1, 0.0, 1.0, math.nan])
def test_a_share_that_mixes_nothing_is_refused(share_of_policy: float) -> None:
    with pytest.raises(UserError, match="above 0 and below 1"):
        defensive_mixture(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1), share_of_policy)


@CONTROL
@pytest.mark.parametrize("each", [e for e in ESTIMATORS.values() if e is not vimco])
def test_naming_the_proposal_that_is_q_anyway_changes_nothing(each: Estimator, control_variates: bool) -> None:
    leaves = [torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    losses = [
        each(*leaves, control_variates=control_variates, log_proposal=named).loss
        for named in (None, leaves[Q].detach())
    ]
    for a, b in zip(*(gradient(loss, *leaves) for loss in losses), strict=True):
        close(a, b, 1e-13)


def mixed(of: World, share_of_policy: float) -> Tensor:
    """(4, 2) steps of the mixture's log-density."""
    return defensive_mixture(*(of.step_tables[g].unsqueeze(1) for g in (P, Q)), share_of_policy).squeeze(1)


@CONTROL
@pytest.mark.parametrize("each", [wake_sleep, wake_sleep_credit])
def test_a_mixture_in_exact_proportion_gives_the_exact_gradient(each: Estimator, control_variates: bool) -> None:
    """η's gradient is that of its own log-density, not of the mixture's, and what is subtracted from it is zero."""
    drawn = torch.arange(SEQUENCES).repeat_interleave(torch.tensor([1, 2, 2, 3]))  # half of each: 1/8, 2/8, 2/8, 3/8
    log_proposal = mixed(RATIONAL, 0.5)
    close(log_proposal.sum(-1).exp(), torch.tensor([1, 2, 2, 3]).double() / 8, 1e-12)
    leaves = [t[drawn].unsqueeze(1).requires_grad_() for t in RATIONAL.step_tables]
    loss = each(*leaves, control_variates=control_variates, log_proposal=log_proposal[drawn].unsqueeze(1)).loss
    for taken, score, exact in zip(
        gradient(-loss, *leaves), RATIONAL.step_scores, exact_gradients(RATIONAL), strict=True
    ):
        close(torch.einsum("mn,mni->i", taken[:, 0], score[drawn]), exact, 1e-12)


def mixture_moments(
    of: World, samples: int, share_of_policy: float, *, control_variates: bool
) -> list[tuple[Tensor, float]]:
    """Exact moments of wake-sleep's estimates for θ_y, θ_p and η with samples of a defensive mixture."""
    index, log_proposal = multisets(samples), mixed(of, share_of_policy).sum(-1)
    chance = probability(index, log_proposal, ordered=False)
    leaves = [table[index].requires_grad_() for table in of.tables]
    loss = wake_sleep(*leaves, control_variates=control_variates, log_proposal=log_proposal[index]).loss
    taken = [-index.shape[1] * g for g in gradient(loss, *leaves)]
    return [moments(c, s, index, chance) for c, s in zip(taken, of.scores, strict=True)]


@SEED
def test_control_variates_lower_the_variance_of_a_mixture_too(seed: int) -> None:
    of = world(seed, inference=True, spread=0.5)
    without, with_them = (mixture_moments(of, 5, 0.2, control_variates=c) for c in (False, True))
    for group in (P, Q):
        assert with_them[group][1] < 0.7 * without[group][1]


def test_a_mixture_survives_a_proposal_that_is_blind_to_the_posterior() -> None:
    """A proposal all but sure of the wrong sequences: the mixture's bias and mean squared error are far smaller."""
    of = world(2, inference=True)
    blind = World(of.theta_y, of.theta_p, (-3 * of.theta_p.detach()).requires_grad_())
    exact = exact_gradients(blind)
    alone = exact_moments(wake_sleep, blind, 16, control_variates=True)
    mixture = mixture_moments(blind, 16, 0.25, control_variates=True)
    for group in (Y, P):
        bias, of_mixture = ((got[group][0] - exact[group]).norm() for got in (alone, mixture))
        assert of_mixture < bias / 2
        assert of_mixture**2 + mixture[group][1] < (bias**2 + alone[group][1]) / 2


# Weights, evidence and numbers at the edge.


def test_weights_are_the_posterior_over_the_samples() -> None:
    of = world(1, inference=True)
    index = tuples(3)
    weights = wake_sleep(*(t[index] for t in of.tables)).weights
    for drawn, got in zip(index.T, weights.T, strict=True):
        close(got, torch.tensor(share(numbers(of.tables, drawn)[2]), dtype=torch.float64), 1e-12)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), samples=st.integers(1, 20), spread=st.sampled_from([0.0, 1.0, 30.0, 1000.0]))
def test_effective_sample_size_lies_between_one_and_the_number_of_samples(
    seed: int, samples: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = [spread * torch.randn(samples, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    weights = wake_sleep(*values, control_variates=False).weights
    close(weights.sum(0), torch.ones(4, dtype=torch.float64), 1e-12)
    size = 1 / weights.square().sum(0)
    assert (weights >= 0).all() and (size >= 1 - 1e-12).all() and (size <= samples + 1e-9).all()


@pytest.mark.parametrize("samples", [2, 3, 5, 7, 20])
def test_a_policy_that_proposes_weighs_its_samples_exactly_evenly(samples: int) -> None:
    """ψ = 1/M, to the last bit: seen through the classifier's coefficients of the variational estimator."""
    log_p_a = -100 * torch.rand(samples, 1, requires_grad=True)
    log_p_y = -torch.rand(samples, 1)
    log_p_y.requires_grad_()
    estimate = variational(log_p_y, log_p_a, log_p_a.detach(), control_variates=False)
    taken = -gradient(estimate.loss, log_p_y)[0]
    assert torch.equal(taken, torch.full_like(taken, 1 / samples))
    # And the weights are then the likelihood's share alone.
    torch.testing.assert_close(estimate.weights, torch.softmax(log_p_y.detach(), 0))


@EACH
@CONTROL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_very_improbable_labels_and_actions_stay_finite(
    each: Estimator, control_variates: bool, dtype: torch.dtype
) -> None:
    """All weights underflow outside log space; shifts common to the samples do not move the weights."""
    leaves = [torch.randn(4, 3, dtype=dtype) for _ in range(3)]
    plain = each(*leaves, control_variates=control_variates)
    shifts = (-1e4, -3e3, 2e3)
    shifted = [(t + shift).requires_grad_() for t, shift in zip(leaves, shifts, strict=True)]
    estimate = each(*shifted, control_variates=control_variates)
    gradients = gradient(estimate.loss, *shifted)
    assert all(torch.isfinite(g).all() for g in gradients) and torch.isfinite(estimate.loss)
    tolerance = 1e-2 if dtype == torch.float32 else 1e-8
    close(estimate.weights, plain.weights, tolerance)
    close(estimate.log_evidence, plain.log_evidence + (-1e4 - 3e3 - 2e3), tolerance)


@CONTROL
def test_one_dominant_sample_leaves_no_nan(control_variates: bool) -> None:
    """A baseline whose other samples are all but impossible under the policy, and the reverse."""
    log_ratio = torch.tensor([0.0, -1e4, -2e4, -1e4], dtype=torch.float64).unsqueeze(-1)
    for each in ESTIMATORS.values():
        leaves = [(log_ratio * s).requires_grad_() for s in (1.0, 1.0, 0.0)]
        gradients = gradient(each(*leaves, control_variates=control_variates).loss, *leaves)
        assert all(torch.isfinite(g).all() for g in gradients)


@SEED
@PROPOSAL
def test_evidence_is_a_lower_bound_that_tightens(inference: bool, seed: int) -> None:
    of = world(seed, inference=inference, spread=0.2)
    exact = float(of.evidence().detach())
    means = []
    for samples in (1, 2, 3, 4, 8, 16, 32):
        index = multisets(samples)
        log_evidence = wake_sleep(*(t[index] for t in of.tables), control_variates=False).log_evidence
        means.append(float(probability(index, of.tables.q, ordered=False) @ log_evidence))
    assert all(a < b for a, b in zip(means, [*means[1:], exact], strict=True))
    assert exact - means[-1] < (exact - means[0]) / 10
    if not inference:
        assert means[0] == pytest.approx(float(of.bound().detach()), rel=1e-12)


@EACH
@SEED
def test_reported_bound_is_the_variational_bound(each: Estimator, seed: int) -> None:
    """Unbiased for F if the policy proposes; under another proposal the policy's own weighted mean of L."""
    of = world(seed, inference=False)
    exact = of.bound().detach()
    for samples in (2, 3, 8):
        index = multisets(samples)
        bound = each(*(t[index] for t in of.tables)).bound
        close(probability(index, of.tables.q, ordered=False) @ bound, exact, 1e-12)
    of = world(seed, inference=True)
    for drawn in tuples(3).T[::7]:
        label, rho, _ = numbers(of.tables, drawn)
        bound = each(*(t[drawn].unsqueeze(-1) for t in of.tables)).bound
        close(bound, bound.new_tensor([sum(r * lik for r, lik in zip(share(rho), label, strict=True))]), 1e-12)


@EACH
def test_all_estimators_report_the_same_weights_bound_and_evidence(each: Estimator) -> None:
    of = world(1, inference=True)
    one, other = (e(*(t[tuples(3)] for t in of.tables)) for e in (each, wake_sleep))
    assert torch.equal(one.weights, other.weights)
    assert torch.equal(one.bound, other.bound)
    assert torch.equal(one.log_evidence, other.log_evidence)


@CONTROL
@EACH
def test_a_proposal_without_parameters_does_not_hinder_the_backward_pass(
    each: Estimator, control_variates: bool
) -> None:
    of = world(1, inference=False)
    drawn = torch.tensor([[0], [3], [1]])
    log_p_y, log_p_a, log_q_a = (t[drawn] for t in of.log_probs)
    estimate = each(log_p_y, log_p_a, log_q_a, control_variates=control_variates)
    assert not estimate.proposal_loss.requires_grad
    estimate.loss.backward()
    for parameter in (of.theta_y, of.theta_p):
        assert parameter.grad is not None and parameter.grad.norm() > 1e-3


@EACH
@CONTROL
def test_batch_is_averaged(each: Estimator, control_variates: bool) -> None:
    """The gradient of a batch is the mean of its elements' own, and no element touches another."""
    values = [torch.randn(5, 4, dtype=torch.float64) for _ in range(3)]

    def gradients(columns: slice) -> tuple[Tensor, ...]:
        leaves = [v[:, columns].clone().requires_grad_() for v in values]
        return gradient(each(*leaves, control_variates=control_variates).loss, *leaves)

    together = gradients(slice(None))
    for b in range(4):
        for whole, alone in zip(together, gradients(slice(b, b + 1)), strict=True):
            close(whole[:, b : b + 1] * 4, alone, 1e-12)


# Mistakes.


@EACH
@pytest.mark.parametrize(
    "shapes",
    [
        ((4, 3), (4, 3), (4, 2)),
        ((4, 3), (3, 3), (4, 3)),
        ((4,), (4,), (4,)),
        ((4, 3), (4, 3, 1), (4, 3, 1)),
        ((4, 3, 2), (4, 3, 2), (4, 3, 1)),
        ((4, 3, 2, 1), (4, 3, 2, 1), (4, 3, 2, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(each: Estimator, shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(UserError, match=r"must all be \(samples, batch\)"):
        each(*(torch.zeros(shape) for shape in shapes), control_variates=False)


@EACH
def test_one_sample_cannot_be_compared_with_others(each: Estimator) -> None:
    one = torch.zeros(1, 3)
    with pytest.raises(UserError, match="at least 2, got 1"):
        each(one, one, one, control_variates=True)
    assert torch.isfinite(each(one, one, one, control_variates=False).loss)


def test_estimators_are_found_by_name() -> None:
    assert estimator("variational") is variational and estimator("wake-sleep") is wake_sleep
    with pytest.raises(UserError) as raised:
        estimator("reinforce")
    assert all(name in str(raised.value) for name in ("'reinforce'", *ESTIMATORS))


# The sleep phase


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_sleep_is_the_gradient_of_the_dreams_expected_log_q(share: float) -> None:
    """Over all that can be dreamt: every sequence with every label, each as often as the model dreams it."""
    of = world(3, inference=True)
    assert of.eta is not None
    first, second = of.theta_y.detach().view(2, ACTIONS, CLASSES)
    p_labels = torch.softmax(first.unsqueeze(1) + second.unsqueeze(0), -1).flatten(0, 1)
    tables = [torch.randn(ACTIONS + SEQUENCES, dtype=torch.float64, requires_grad=True) for _ in range(CLASSES)]
    log_q = torch.stack([log_sequences(table) for table in tables], -1)
    joint = of.tables.p.exp().unsqueeze(-1) * p_labels
    loss = -(1 - share) * 2 * tables[0].sum() - share * (joint * log_q).sum()
    expected = torch.autograd.grad(loss, tables, retain_graph=True)
    # Dreams in exact proportion: each pair alone, weighed by how often it comes up.
    total = torch.zeros((), dtype=torch.float64)
    for n in range(SEQUENCES):
        for y in range(CLASSES):
            zero = of.theta_y.new_zeros(())
            wake = Estimate(zero, zero, -2 * tables[0].sum(), zero, zero, zero)
            total = total + joint[n, y] * sleep(wake, log_q[n, y].view(1, 1), share).proposal_loss
    for f, e in zip(gradient(total, *tables), expected, strict=True):
        torch.testing.assert_close(f, e)


def test_sleep_averages_dreams_and_images_and_sums_steps() -> None:
    dreams = torch.randn(3, 4, 2, requires_grad=True)
    zero = torch.zeros(())
    loss = sleep(Estimate(zero, zero, zero, zero, zero, zero), dreams, 0.5).loss
    assert torch.allclose(torch.autograd.grad(loss, dreams)[0], torch.tensor(-0.5 / 12))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_sleep_that_cannot_be_is_refused(share: float) -> None:
    zero = torch.zeros(())
    with pytest.raises(UserError, match="from 0 to 1"):
        sleep(Estimate(zero, zero, zero, zero, zero, zero), torch.zeros(1, 1), share)
