"""Credit for single glimpses: the formulas, the mean that they keep, and the variance that they take out."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import pytest
import torch

from tests.estimators.by_hand import foreseen_by_hand, share
from tests.estimators.enumeration import (
    Tables,
    World,
    exact_moments,
    gradient,
    multisets,
    step_estimates,
    step_moments,
    world,
)
from tests.estimators.families import PROPOSAL, SEED, P, Q, Y, close, exact_gradients, in_proportion
from wsram.estimators import (
    Estimator,
    defensive_mixture,
    variational,
    variational_credit,
    wake_sleep,
    wake_sleep_credit,
)

CREDIT = pytest.mark.parametrize("each", [variational_credit, wake_sleep_credit], ids=["variational", "wake-sleep"])
WHOLE = {variational_credit: variational, wake_sleep_credit: wake_sleep}


@CREDIT
def test_without_control_variates_there_is_no_credit(each: Estimator) -> None:
    steps = [torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    ours, theirs = (e(*steps, control_variates=False) for e in (each, WHOLE[each]))
    for a, b in zip(gradient(ours.loss, *steps), gradient(theirs.loss, *steps), strict=True):
        assert torch.equal(a, b)


@CREDIT
@pytest.mark.parametrize("batch", [1, 2])
def test_so_few_images_have_no_others_to_fit_a_slope_to(each: Estimator, batch: int) -> None:
    steps = [torch.randn(4, batch, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    ours, theirs = (e(*steps) for e in (each, WHOLE[each]))
    for a, b in zip(gradient(ours.loss, *steps), gradient(theirs.loss, *steps), strict=True):
        close(a, b, 1e-13)


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
            expected = [v - f for v, f in zip(left[b], foreseen_by_hand(away, left, b), strict=True)]
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
            expected = [(v - f) / samples for v, f in zip(reward[b], foreseen_by_hand(past, reward, b), strict=True)]
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


@pytest.mark.parametrize("images", [1, 2])
@PROPOSAL
def test_credit_keeps_the_mean_for_each_draw_of_the_other_images(images: int, inference: bool) -> None:
    """Also for those whose pasts are all alike: their slope is then made of nothing, and not of rounding errors."""
    of, other = (world(seed, inference=inference) for seed in (1, 11))
    exact = gradient(of.bound(), of.theta_y, of.theta_p)
    plain = exact_moments(wake_sleep, of, 2, control_variates=False)
    every = list(combinations_with_replacement(multisets(2).T, images))
    for drawn in every[:: 2 * images - 1]:
        others = Tables(*(t[torch.stack(drawn, 1)] for t in other.step_tables))
        got = step_moments(wake_sleep_credit, of, 2, others, control_variates=True)
        for group in (Y, Q) if inference else (Y, P):
            close(got[group].mean, plain[group].mean, 1e-12)
        if not inference:
            got = step_moments(variational_credit, of, 2, others, control_variates=True)
            close(got[P].mean, exact[P], 1e-12)


@pytest.mark.parametrize("copies", [1, 3])
@PROPOSAL
def test_credit_of_samples_in_exact_proportion_is_the_exact_gradient(inference: bool, copies: int) -> None:
    """Also where ψ is self-normalised: what is subtracted is then exactly zero, for every slope."""
    of, drawn = in_proportion(inference, copies)
    others = rest_of_batch(world(1, inference=inference), len(drawn), 8, 1)
    # As a set of its own, the drawn sequences are one column.
    found = step_estimates(wake_sleep_credit, of, drawn.unsqueeze(-1), others, control_variates=True)
    exact = exact_gradients(of)
    for ours, expected in zip(found[: len(exact)], exact, strict=True):
        close(ours[0], expected, 1e-12)


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
    """Below that of the control variates of whole sequences, and on average by 80% and more below that of none."""
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


@CREDIT
def test_a_glimpse_answers_for_nothing_before_it(each: Estimator) -> None:
    """Rewards that only the first glimpse decides leave the second one's score each image's part of the whole alone."""
    generator = torch.Generator().manual_seed(0)
    label = 0.1 * torch.randn(5, 32, 2, generator=generator, dtype=torch.float64)
    label[..., 1] = 0.0
    policy = torch.randn(5, 32, 2, generator=generator, dtype=torch.float64)
    leaf = policy.clone().requires_grad_()
    first, second = gradient(each(label, leaf, policy).loss, leaf)[0].unbind(-1)
    part = first.square().sum(0) / first.square().sum()
    assert part.max() > 0.02
    close(second, part * first, 1e-12)
