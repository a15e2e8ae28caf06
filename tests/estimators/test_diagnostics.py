"""Effective sample size, scale usage and gradient variance against the same numbers worked out directly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.estimators.enumeration import world
from wsram.estimators.diagnostics import (
    GradientSpread,
    effective_sample_size,
    gradient_variance,
    location_coverage,
    mean_interval,
    posterior_divergence,
    scale_usage,
)
from wsram.models.classifier import AttentionClassifier
from wsram.tasks import TASKS


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 4), st.floats(0.0, 30.0), st.integers(0, 2**31))
def test_between_one_sample_and_all_of_them_count(samples: int, batch: int, spread: float, seed: int) -> None:
    logits = spread * torch.randn(samples, batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = torch.softmax(logits, 0)
    size = effective_sample_size(weights)
    assert size.shape == (batch,)
    assert bool((size >= 1 - 1e-9).all()) and bool((size <= samples + 1e-9).all())
    by_hand = [1 / sum(w**2 for w in column) for column in weights.T.tolist()]
    assert size.tolist() == pytest.approx(by_hand)


def test_equal_weights_all_count_and_a_single_weight_counts_alone() -> None:
    assert float(effective_sample_size(torch.full((5, 1), 0.2))) == pytest.approx(5.0)
    assert float(effective_sample_size(torch.eye(5)[:, :1])) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_the_divergence_from_the_posterior_is_the_exact_one(seed: int) -> None:
    """From every sequence once, drawn evenly, and from many draws of a proposal."""
    w = world(seed, inference=True)
    y, p, q = (table.unsqueeze(-1) for table in w.tables)
    evenly = torch.full_like(p, -math.log(4))
    posterior = w.posterior.detach()
    to_policy = (posterior * (posterior.log() - w.tables.p)).sum()
    assert posterior_divergence(y, p, q, evenly).item() == pytest.approx(w.divergence().item())
    assert posterior_divergence(y, p, p, evenly).item() == pytest.approx(to_policy.item())
    drawn = torch.multinomial(w.tables.q.exp(), 200_000, replacement=True)
    assert posterior_divergence(y[drawn], p[drawn], p[drawn], q[drawn]).item() == pytest.approx(
        to_policy.item(), abs=0.02
    )


def test_scale_usage_counts_each_scale_also_those_never_taken() -> None:
    scale = torch.tensor([[[0, 2], [2, 2]], [[2, 0], [3, 2]]])
    assert scale_usage(scale, 5).tolist() == [0.25, 0.0, 0.625, 0.125, 0.0]


def test_coverage_is_the_number_of_equally_visited_parts() -> None:
    """e to the entropy of the shares: 1 part of 16, all 16, and by hand for shares of 1/2, 1/4 and 1/4."""
    centres = (2 * torch.arange(4) + 1) / 4 - 1
    everywhere = torch.cartesian_prod(centres, centres)
    assert location_coverage(everywhere.view(2, 8, 2), parts=4) == pytest.approx(1.0)
    assert location_coverage(everywhere[5].expand(7, 2), parts=4) == pytest.approx(1 / 16)
    uneven = torch.stack([everywhere[n] for n in (0, 0, 3, 9)])
    entropy = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert location_coverage(uneven, parts=4) == pytest.approx(math.exp(entropy) / 16)


def test_looking_beyond_the_edge_counts_for_the_part_at_the_edge() -> None:
    beyond = torch.tensor([[1.5, 1.5], [9.0, 1.1], [0.9, 0.9], [1.0, 1.0]])
    assert location_coverage(beyond, parts=4) == pytest.approx(1 / 16)
    assert location_coverage(torch.cat([beyond, -beyond]), parts=4) == pytest.approx(2 / 16)


def noisy(network: nn.Module, inputs: Tensor) -> Callable[[int], Tensor]:
    """A loss of which every draw differs, in noise of the same generator for the same draw."""

    def draw(n: int) -> Tensor:
        noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(n), dtype=inputs.dtype)
        return network(inputs + 0.5 * noise).square().mean()

    return draw


def test_variance_is_the_trace_of_the_covariance_of_the_gradients() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    draw = noisy(network, torch.randn(6, 3, dtype=torch.float64))
    groups = {"first": list(network[0].parameters()), "last": list(network[2].parameters())}
    draws = 9
    ours = gradient_variance(draw, groups, draws)
    assert list(ours) == ["first", "last"]
    for name, parameters in groups.items():
        stacked = torch.stack(
            [torch.cat([g.flatten() for g in torch.autograd.grad(draw(n), parameters)]) for n in range(draws)]
        )
        variance = float(torch.cov(stacked.T).trace())
        assert ours[name]["variance"] == pytest.approx(variance, rel=1e-10)
        norm = float(stacked.mean(0).square().sum()) - variance / draws
        assert ours[name]["squared_norm"] == pytest.approx(norm, rel=1e-10)


def test_both_figures_are_right_on_average_with_as_few_as_two_draws() -> None:
    """The gradient is c + e or c - e, each half of the time: four pairs of draws are all there is."""
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    c = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    e = torch.tensor([0.25, 3.0, -1.0], dtype=torch.float64)
    found = [
        gradient_variance(lambda n, signs=signs: (parameter * (c + signs[n] * e)).sum(), {"all": [parameter]}, 2)["all"]
        for signs in itertools.product((-1, 1), repeat=2)
    ]
    assert sum(f["variance"] for f in found) / 4 == pytest.approx(float(e.square().sum()))
    assert sum(f["squared_norm"] for f in found) / 4 == pytest.approx(float(c.square().sum()))


def test_a_small_noise_on_a_large_gradient_is_still_measured() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    steps = [0.0, 1.0, 2.0, 3.0]  # float32 represents 2**20 and these sums exactly
    found = gradient_variance(lambda n: (parameter * (2.0**20 + steps[n])).sum(), {"all": [parameter]}, 4)["all"]
    assert found["variance"] == pytest.approx(2 * (5 / 3))


def test_a_parameter_that_the_loss_does_not_reach_adds_nothing() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    found = gradient_variance(lambda n: (used * n).sum(), {"both": [used, unused], "unused": [unused]}, 3)
    assert found["unused"] == {"variance": 0.0, "squared_norm": 0.0}
    assert found["both"]["variance"] == pytest.approx(2.0)


def test_what_each_draw_adds_has_the_variance_as_its_mean() -> None:
    """The gradient is one of two values, evenly: over all sequences of four draws, every e_n has the same mean."""
    parameter = nn.Parameter(torch.zeros(2))
    values = torch.tensor([[1.0, 2.0], [3.0, -2.0]], dtype=torch.float64)
    totals = [0.0, 0.0, 0.0]
    for signs in itertools.product((0, 1), repeat=4):
        spread = GradientSpread({"all": [parameter]})
        for sign in signs:
            spread.add([values[sign]])
        totals = [total + each / 16 for total, each in zip(totals, spread.increments["all"], strict=True)]
    exact = float((values - values.mean(0)).square().sum(1).mean())
    assert totals == pytest.approx([exact] * 3)


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 60, generator=generator).square()
    held = 0
    for each in values:
        low, high = mean_interval(each.tolist()) or (0.0, 0.0)
        held += low <= 1.0 <= high
    assert 0.88 <= held / 200 <= 0.98
    assert mean_interval([1.0]) is None and mean_interval([1.0, 2.0], over=[0.0, 0.0]) is None


def test_a_ratio_is_known_better_than_its_parts_where_they_share_their_draws() -> None:
    common = torch.randn(80, generator=torch.Generator().manual_seed(1)).square()
    other = (0.5 * common + 0.01 * torch.rand(80, generator=torch.Generator().manual_seed(2))).tolist()
    alone, ratio = mean_interval(common.tolist()), mean_interval(other, over=common.tolist())
    assert alone is not None and ratio is not None
    assert (ratio[1] - ratio[0]) / 0.5 < 0.1 * (alone[1] - alone[0])


def test_measuring_leaves_no_gradient_and_no_change_behind() -> None:
    network = nn.Linear(3, 2)
    before = [p.detach().clone() for p in network.parameters()]
    gradient_variance(noisy(network, torch.randn(4, 3)), {"all": network.parameters()}, 3)
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("draws", [-1, 0, 1])
def test_a_variance_needs_two_draws(draws: int) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="at least 2 draws"):
        gradient_variance(lambda n: parameter.sum(), {"all": [parameter]}, draws)


@pytest.mark.parametrize("recurrence", ["relu", "gru", "lstm"])
@pytest.mark.parametrize("network", ["fc", "conv"])
@pytest.mark.parametrize("inference", [True, False], ids=["inference", "policy"])
def test_every_parameter_is_in_one_group(inference: bool, network: str, recurrence: str) -> None:
    classifier = AttentionClassifier(
        names=tuple("0123456789"),
        glimpses=2,
        patch=8,
        scales=(1, 2),
        lower_units=16,
        upper_units=16,
        view=8,
        network=network,
        recurrence=recurrence,
        inference=inference,
    )
    groups = TASKS["image-classification"].parameter_groups(classifier)
    assert list(groups) == ["prediction", "policy"] + ["inference"] * inference
    grouped = [id(p) for parameters in groups.values() for p in parameters]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in classifier.parameters()}
