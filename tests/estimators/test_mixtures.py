"""Defensive mixtures of policy and proposal, and the sleep phase."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.estimators.enumeration import (
    ACTIONS,
    CLASSES,
    SEQUENCES,
    World,
    exact_moments,
    gradient,
    log_sequences,
    moments,
    multisets,
    probability,
    world,
)
from tests.estimators.families import CONTROL, RATIONAL, SEED, P, Q, Y, close, exact_gradients
from wsram.estimators import ESTIMATORS, Estimate, Estimator, defensive_mixture, sleep, wake_sleep, wake_sleep_credit

# Defensive mixtures.


@SEED
@pytest.mark.parametrize("share_of_policy", [0.01, 0.2, 0.9])
def test_defensive_mixture_is_a_distribution_that_bounds_the_ratios(share_of_policy: float, seed: int) -> None:
    of = world(seed, inference=True, spread=5.0)
    steps = [t.unsqueeze(1) for t in of.step_tables]
    mixture = defensive_mixture(steps[P], steps[Q], share_of_policy).squeeze(1)
    by_hand = share_of_policy * of.tables.p.exp() + (1 - share_of_policy) * of.tables.q.exp()
    close(mixture.sum(-1).exp(), by_hand, 1e-12)
    # Every step is a conditional distribution: over the first action, and over the second given the first.
    close(mixture[::2, 0].exp().sum(), torch.tensor(1.0).double(), 1e-12)
    close(mixture[:, 1].exp().view(2, 2).sum(-1), torch.ones(2).double(), 1e-12)
    assert (of.tables.p - of.tables.q).exp().max() > 1 / share_of_policy  # without the mixture
    assert (of.tables.p - mixture.sum(-1)).exp().max() <= 1 / share_of_policy
    assert (of.tables.q - mixture.sum(-1)).exp().max() <= 1 / (1 - share_of_policy)


@pytest.mark.parametrize("share_of_policy", [-0.1, 0.0, 1.0, math.nan])
def test_a_share_that_mixes_nothing_is_refused(share_of_policy: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        defensive_mixture(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1), share_of_policy)


@CONTROL
@pytest.mark.parametrize("each", [entry.function for entry in ESTIMATORS.values() if entry.reweights])
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


# The sleep phase.


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
    with pytest.raises(ValueError, match="from 0 to 1"):
        sleep(Estimate(zero, zero, zero, zero, zero, zero), torch.zeros(1, 1), share)
