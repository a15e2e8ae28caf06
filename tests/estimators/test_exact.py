"""The policy's score less its exact mean: what is subtracted is zero on average, whatever proposes, and bounded."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.autograd.functional import jacobian

from tests.estimators.enumeration import (
    Moments,
    World,
    action_steps,
    exact_moments,
    gradient,
    log_sequences,
    mean_action_steps,
    multisets,
    probability,
    world,
)
from tests.estimators.families import SEED, P, close
from tests.estimators.test_vimco import multi_sample_bound
from wsram.estimators import Estimator, defensive_mixture, vimco, wake_sleep, wake_sleep_credit
from wsram.glimpse.actions import CellDistribution
from wsram.models.proposal import Proposer

EXACT = pytest.mark.parametrize("each", [vimco, wake_sleep_credit], ids=["vimco", "wake-sleep-exact"])
PLAIN = {vimco: vimco, wake_sleep_credit: wake_sleep}


def far(seed: int, distance: float) -> World:
    """A world whose proposal is so far from the policy, in logits."""
    of, other = world(seed, inference=True), world(seed + 100, inference=True)
    assert other.eta is not None
    return World(of.theta_y, of.theta_p, (of.theta_p + distance * other.eta).detach().requires_grad_())


def informed(seed: int) -> World:
    """A world whose proposal is the posterior."""
    of = world(seed, inference=True)
    first, second = of.posterior.detach().view(2, 2).sum(1), of.posterior.detach().view(2, 2)
    return World(of.theta_y, of.theta_p, torch.cat([first, second.flatten()]).log().requires_grad_())


def policy_moments(each: Estimator, of: World, samples: int, others: int = 0) -> Moments:
    """Exact moments of an estimate of θ_p that knows the policy's mean log-probability under the proposal."""
    assert of.eta is not None
    index, scores = multisets(samples), jacobian(partial(mean_action_steps, drawn_from=of.eta.detach()), of.theta_p)
    mean_log_p = mean_action_steps(of.theta_p.detach(), of.eta)
    rest = multisets(samples)[:, torch.arange(others) * 3 % index.shape[1]]
    estimates = []
    for drawn in index.T:
        sets = torch.cat([drawn.unsqueeze(1), rest], 1)
        leaves = [table[sets].requires_grad_() for table in (*of.step_tables, mean_log_p)]
        _, taken, _, mean = gradient(-sets.shape[1] * each(*leaves[:3], mean_log_p_a=leaves[3]).loss, *leaves)
        estimates.append(
            torch.einsum("mn,mni->i", taken[:, 0], of.step_scores.p[drawn])
            + torch.einsum("mn,mni->i", mean[:, 0], scores[drawn])
        )
    each_set, chance = torch.stack(estimates), probability(index, of.tables.q, ordered=False)
    average = chance @ each_set
    return Moments(average, float(chance @ (each_set - average).square().sum(-1)))


@SEED
@pytest.mark.parametrize("distance", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("samples", [2, 3])
def test_the_mean_of_the_estimate_is_that_without_control_variates(samples: int, distance: float, seed: int) -> None:
    of = far(seed, distance)
    exact = gradient(multi_sample_bound(of, samples), of.theta_p)[0]
    close(policy_moments(vimco, of, samples).mean, exact, 1e-10)
    plain = exact_moments(wake_sleep, of, samples, control_variates=False)[P].mean
    others = 4 if samples == 2 else 0  # with other images there is credit, too
    close(policy_moments(wake_sleep_credit, of, samples, others).mean, plain, 1e-10)


@pytest.mark.parametrize("nats", [0.0, 1.3, 6.0])
@EXACT
def test_a_far_proposal_does_not_make_it_noisy(each: Estimator, nats: float) -> None:
    """At a divergence of the posterior from q of so many nats; ρ/M times the score costs 10⁵ times as much at 6."""
    of = far(3, {0.0: 0.0, 1.3: 1.6, 6.0: 5.7}[nats])
    assert of.divergence().item() == pytest.approx(nats, abs=0.15)
    for samples in (2, 5):
        plain = exact_moments(PLAIN[each], of, samples, control_variates=False)[P].variance
        assert policy_moments(each, of, samples).variance < (0.1 if nats == 0 else 0.7) * plain


@SEED
@pytest.mark.parametrize("samples", [2, 5, 20])
def test_with_the_posterior_as_proposal_it_has_the_least_error(samples: int, seed: int) -> None:
    """ψ costs a bias, in one of these worlds more than it takes out; this costs nothing."""
    of = informed(seed)
    true = gradient(of.evidence(), of.theta_p)[0]
    ours = policy_moments(wake_sleep_credit, of, samples)
    close(ours.mean, true, 1e-10)
    none, psi = (exact_moments(wake_sleep, of, samples, control_variates=c)[P] for c in (False, True))
    assert ours.variance < 0.15 * none.variance
    error_of_psi = psi.variance + float((psi.mean - true).square().sum())
    assert ours.variance < 0.4 * error_of_psi
    if seed == 2:
        assert error_of_psi > none.variance


@EXACT
def test_where_the_policy_proposes_the_mean_is_zero_and_nothing_changes(each: Estimator) -> None:
    of = far(1, 0.0)
    for samples in (2, 3):
        plain = exact_moments(wake_sleep, of, samples, control_variates=True)[P]
        ours = policy_moments(each, of, samples)
        close(ours.mean, plain.mean, 1e-12)
        assert ours.variance == pytest.approx(plain.variance, rel=1e-10)


@EXACT
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("giant", [1e4, -1e4])
def test_giant_ratios_are_ordinary_numbers(each: Estimator, giant: float, dtype: torch.dtype) -> None:
    for group in range(3):
        leaves = [torch.zeros(3, 4, 2, dtype=dtype) for _ in range(4)]
        leaves[group][0, 1, 0] = giant
        leaves = [leaf.requires_grad_() for leaf in leaves]
        taken = gradient(-4 * each(*leaves[:3], mean_log_p_a=leaves[3]).loss, *leaves)
        assert all(bool(c.isfinite().all()) for c in taken)
        assert float(taken[P].abs().max()) <= 1 and float(taken[3].abs().max()) <= 1


def test_in_a_defensive_mixture_the_policys_own_share_has_mean_zero() -> None:
    """Over all sequences of the mixture, the means that the proposer gives add up to the score's."""
    of, share = far(2, 1.5), 0.3
    assert of.eta is not None
    log_p, log_q = action_steps(of.theta_p), action_steps(of.eta.detach())
    mixture = defensive_mixture(log_p.unsqueeze(1), log_q.unsqueeze(1), share)
    proposer = Proposer((1, 1), torch.Generator(), defensive=share)
    means = proposer.mean(mean_action_steps(of.theta_p, of.eta).unsqueeze(1), log_p.unsqueeze(1), mixture)
    chance = mixture.sum(-1).squeeze(1).exp()
    assert float(chance.sum()) == pytest.approx(1.0)
    score = gradient((chance * log_sequences(of.theta_p)).sum(), of.theta_p)[0]
    close(gradient((chance * means.sum(-1).squeeze(1)).sum(), of.theta_p)[0], score, 1e-12)
    assert float(score.norm()) > 0.1


def test_the_mean_over_cells_leaves_out_what_is_never_drawn() -> None:
    policy = CellDistribution(torch.tensor([0.5, 0.5, 0.0]).log())
    drawn_from = CellDistribution(torch.tensor([1.0, 0.0, 0.0]).log())
    close(policy.mean_log_prob(drawn_from), torch.tensor(0.5).log(), 1e-6)
