"""Resampling between glimpses, in float64: what comes of it on average is summed over all that can be drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.estimators.enumeration import (
    ACTIONS,
    World,
    action_steps,
    gradient,
    label_steps,
    multisets,
    probability,
    tuples,
    world,
)
from tests.estimators.families import PROPOSAL, SEED, close
from wsram.estimators import wake_sleep, wake_sleep_resampled
from wsram.estimators.base import Estimate
from wsram.estimators.resampled import along, resample


def outcomes(of: World, samples: int) -> Iterator[tuple[float, Estimate, tuple[Tensor, Tensor]]]:
    """Everything that can be drawn: its chance, the estimate, and its gradient with control variates and without.

    First actions are drawn, then sequences resampled, for every stretch of the uniform number on which the heirs are
    the same, then second actions drawn.
    """
    y, p, q = (table.view(ACTIONS, ACTIONS, 2) for table in of.step_tables)
    every = torch.cartesian_prod(*[torch.arange(ACTIONS)] * samples).view(-1, samples)
    for first in every:
        log_step = (y + p - q)[first, 0, 0].unsqueeze(-1)
        edges = torch.softmax(log_step, 0).squeeze(-1).cumsum(0)[:-1] * samples
        for low, high in pairwise(sorted({0.0, 1.0, *(edges % 1).tolist()})):
            heirs = resample(log_step, torch.tensor([(low + high) / 2], dtype=torch.float64)).squeeze(-1)
            for second in every:
                log_drawn = q[first, 0, 0].sum() + q[first[heirs], second, 1].sum()
                yield (high - low) * float(log_drawn.exp()), *estimated(of, first, heirs, second)


def estimated(of: World, first: Tensor, heirs: Tensor, second: Tensor) -> tuple[Estimate, tuple[Tensor, Tensor]]:
    log_p = action_steps(of.theta_p)
    tables = (label_steps(of.theta_y), log_p, log_p.detach() if of.eta is None else action_steps(of.eta))
    # The first glimpses are those of the sequences that were drawn; the second follow those of their ancestors.
    steps = [
        torch.stack([t[first, 0, 0], t[first[heirs], second, 1]], -1).unsqueeze(1)
        for t in (table.view(ACTIONS, ACTIONS, 2) for table in tables)
    ]
    ancestors = torch.stack([torch.arange(len(first)), heirs], -1).unsqueeze(1)
    parameters = [each for each in (of.theta_y, of.theta_p, of.eta) if each is not None]

    def taken(control_variates: bool) -> tuple[Estimate, Tensor]:
        estimate = wake_sleep_resampled(*steps, control_variates=control_variates, ancestors=ancestors)
        found = torch.autograd.grad(
            -estimate.loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return estimate, torch.cat(found)

    estimate, with_them = taken(True)
    return estimate, (with_them, taken(False)[1])


@SEED
@PROPOSAL
@pytest.mark.parametrize("samples", [2, 3])
def test_evidence_and_its_gradient_are_those_of_the_sum_over_every_sequence(
    seed: int, inference: bool, samples: int
) -> None:
    of = world(seed, inference=inference)
    total, evidence = 0.0, 0.0
    weighed: Tensor | float = 0.0
    for chance, estimate, (_, plain) in outcomes(of, samples):
        total += chance
        share = chance * float(estimate.log_evidence.exp())
        evidence += share
        weighed = weighed + share * plain
    assert total == pytest.approx(1, abs=1e-12)
    assert evidence == pytest.approx(of.evidence().exp().item(), abs=1e-12)
    # The proposal learns from the posterior; the rest is the gradient of p(y|I).
    exact = torch.cat(gradient(of.evidence().exp(), of.theta_y, of.theta_p))
    if of.eta is not None:
        (towards,) = gradient(-of.divergence(), of.eta)
        exact = torch.cat([exact, of.evidence().exp().detach() * towards])
    close(torch.as_tensor(weighed), exact)


@SEED
@PROPOSAL
def test_control_variates_leave_the_mean_alone(seed: int, inference: bool) -> None:
    of = world(seed, inference=inference)
    with_them, without = ([chance * pair[n] for chance, _, pair in outcomes(of, 3)] for n in (0, 1))
    difference = torch.stack(with_them).sum(0) - torch.stack(without).sum(0)
    policy = slice(len(of.theta_y), len(of.theta_y) + len(of.theta_p))
    if inference:  # there ψ is an estimate, as that of `wake_sleep` is
        difference[policy] = 0
    close(difference, torch.zeros_like(difference))


def test_the_evidence_is_less_noisy_where_each_glimpse_counts() -> None:
    """One in five glimpses makes the label, which is unlikely throughout, about twenty times as probable."""
    favour = torch.tensor([[3.0, 6, 0], [0, 6, 0]] * 2, dtype=torch.float64)
    likely = torch.tensor([0.2, 0.8] * 3, dtype=torch.float64).log()
    of = World(favour.flatten().requires_grad_(), likely.requires_grad_(), None)
    exact, samples = of.evidence().exp().item(), 3
    resampled = sum(chance * (float(each.log_evidence.exp()) - exact) ** 2 for chance, each, _ in outcomes(of, samples))
    index = tuples(samples)
    log_p_y, log_p_a, log_q_a = (table[index] for table in of.tables)
    plain = wake_sleep(log_p_y, log_p_a, log_q_a, control_variates=False).log_evidence.exp()
    without = float(probability(index, of.tables.q, ordered=True) @ (plain - exact).square())
    assert resampled < 0.7 * without


@SEED
@PROPOSAL
def test_without_resampling_weights_and_gradients_for_the_proposal_are_those_of_wake_sleep(
    seed: int, inference: bool
) -> None:
    of = world(seed, inference=inference)
    index = multisets(3)
    steps = [table[index].requires_grad_() for table in of.step_tables]
    ours, theirs = wake_sleep_resampled(*steps), wake_sleep(*steps)
    close(ours.weights, theirs.weights)
    close(ours.log_evidence, theirs.log_evidence)
    close(ours.bound, theirs.bound)
    close(gradient(ours.proposal_loss, steps[2])[0], gradient(theirs.proposal_loss, steps[2])[0])
    close(gradient(ours.prediction_loss, steps[0])[0], gradient(theirs.prediction_loss, steps[0])[0])


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_sequence_has_as_many_heirs_as_its_share_but_for_rounding(samples: int, seed: int, uniform: float) -> None:
    log_weights = 3 * torch.randn(samples, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    heirs = resample(log_weights, torch.tensor([uniform], dtype=torch.float64))
    expected = samples * torch.softmax(log_weights, 0).squeeze(-1)
    assert heirs.shape == (samples, 1) and bool((heirs.squeeze(-1).diff() >= 0).all())
    assert float((torch.bincount(heirs.squeeze(-1), minlength=samples) - expected).abs().max()) < 1 + 1e-9


def test_even_weights_leave_every_sequence_to_itself_and_nothing_possible_is_even() -> None:
    for weight in (0.0, -1e4, -math.inf):
        heirs = resample(torch.full((5, 4), weight), torch.tensor([0.0, 0.3, 0.6, 0.999]))
        assert heirs.T.tolist() == [list(range(5))] * 4


def test_running_totals_are_on_top_of_the_ancestor() -> None:
    gained = torch.tensor([[[1.0, 10.0, 100.0]], [[2.0, 20.0, 200.0]]])
    ancestors = torch.tensor([[[0, 1, 0]], [[1, 1, 0]]])
    assert along(gained, ancestors).tolist() == [[[1.0, 12.0, 112.0]], [[2.0, 22.0, 212.0]]]
    assert along(gained, None).tolist() == gained.cumsum(-1).tolist()


def test_ancestors_of_another_shape_are_refused() -> None:
    steps = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\), got \(2, 3\)"):
        wake_sleep_resampled(steps, steps, steps, ancestors=torch.zeros(2, 3, dtype=torch.long))
