"""What every estimator is held to: its formula, its exact variance, its weights, and numbers at the edge."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.estimators.by_hand import hand, hand_coefficients, hand_moments, numbers, share
from tests.estimators.enumeration import (
    SEQUENCES,
    Tables,
    coefficients,
    exact_moments,
    gradient,
    moments,
    multisets,
    probability,
    tuples,
    world,
)
from tests.estimators.families import CONTROL, EACH, PROPOSAL, SEED, P, Q, Y, close
from wsram.estimators import Estimator, variational, variational_credit, vimco, wake_sleep
from wsram.estimators.diagnostics import effective_sample_size

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
    groups = slice(len(parameters))
    for got, taken, score in zip(ours, by_hand[groups], of.scores[groups], strict=True):
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
    """What lets tests sum over multisets: the estimate goes along with any permutation of its samples."""
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


@pytest.mark.parametrize("samples", [2, 3, 8, 16])
@PROPOSAL
@pytest.mark.parametrize("each", [variational, wake_sleep], ids=["variational", "wake-sleep"])
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


# Steps.


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


# Weights, evidence and numbers at the edge.


def test_weights_are_the_posterior_over_the_samples() -> None:
    of = world(1, inference=True)
    index = tuples(3)
    weights = wake_sleep(*(t[index] for t in of.tables)).weights
    for drawn, got in zip(index.T, weights.T, strict=True):
        close(got, torch.tensor(share(numbers(of.tables, drawn)[2]), dtype=torch.float64), 1e-12)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), samples=st.integers(1, 20), spread=st.sampled_from([0.0, 1.0, 30.0, 1000.0]))
def test_weights_sum_to_one_and_count_for_between_one_sample_and_all(seed: int, samples: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = [spread * torch.randn(samples, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    weights = wake_sleep(*values, control_variates=False).weights
    close(weights.sum(0), torch.ones(4, dtype=torch.float64), 1e-12)
    size = effective_sample_size(weights)
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


@EACH
@CONTROL
def test_one_dominant_sample_leaves_no_nan(each: Estimator, control_variates: bool) -> None:
    """A baseline whose other samples are all but impossible under the policy, and the reverse."""
    log_ratio = torch.tensor([0.0, -1e4, -2e4, -1e4], dtype=torch.float64).unsqueeze(-1)
    leaves = [(log_ratio * s).requires_grad_() for s in (1.0, 1.0, 0.0)]
    loss = each(*leaves, control_variates=control_variates).loss
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradient(loss, *leaves))


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
    with pytest.raises(ValueError, match=r"must all be \(samples, batch\)"):
        each(*(torch.zeros(shape) for shape in shapes), control_variates=False)


@EACH
def test_one_sample_cannot_be_compared_with_others(each: Estimator) -> None:
    one = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        each(one, one, one, control_variates=True)
    assert torch.isfinite(each(one, one, one, control_variates=False).loss)
