"""The distributions over actions against torch's own distributions, and what is drawn against its density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal

from wsram.glimpse.actions import Action, CellDistribution, GlimpseDistribution, at_least_float32, draw_categorical


def some(*lead: int, scales: int = 3, dtype: torch.dtype = torch.float64) -> GlimpseDistribution:
    generator = torch.Generator().manual_seed(3)

    def noise(size: int) -> torch.Tensor:
        return torch.randn(*lead, size, generator=generator, dtype=dtype)

    return GlimpseDistribution(noise(2), 0.5 * noise(2), noise(scales))


def test_the_log_probability_is_torchs() -> None:
    d = some(4, 5)
    action = d.sample(torch.Generator().manual_seed(0), (7,))
    location = Normal(d.mean, d.log_std.exp()).log_prob(action.location).sum(-1)
    scale = Categorical(logits=d.scale_logits).log_prob(action.scale)
    torch.testing.assert_close(d.location_log_prob(action.location), location)
    torch.testing.assert_close(d.scale_log_prob(action.scale), scale)
    torch.testing.assert_close(d.log_prob(action), location + scale)


def test_the_entropies_are_torchs() -> None:
    d = some(4, 5)
    location, scale = Normal(d.mean, d.log_std.exp()).entropy().sum(-1), Categorical(logits=d.scale_logits).entropy()
    torch.testing.assert_close(d.location_entropy(), location)
    torch.testing.assert_close(d.scale_entropy(), scale)
    torch.testing.assert_close(d.entropy(), location + scale)


def test_what_is_drawn_has_the_distributions_moments_and_shares() -> None:
    d, draws = some(), 200_000
    action = d.sample(torch.Generator().manual_seed(0), (draws,))
    std = d.log_std.exp()
    # Five standard errors of each figure.
    assert bool(((action.location.mean(0) - d.mean).abs() < 5 * std / math.sqrt(draws)).all())
    assert bool(((action.location.std(0) / std - 1).abs() < 5 / math.sqrt(2 * draws)).all())
    p = d.scale_logits.softmax(-1)
    shares = torch.bincount(action.scale, minlength=3) / draws
    assert bool(((shares - p).abs() < 5 * (p * (1 - p) / draws).sqrt()).all())
    # Location and scale are independent.
    for k in range(3):
        chosen = action.location[action.scale == k]
        assert bool(((chosen.mean(0) - d.mean).abs() < 5 * std / math.sqrt(len(chosen))).all())


def test_a_generator_decides_what_is_drawn() -> None:
    d = some(6)
    first, again, other = (d.sample(torch.Generator().manual_seed(seed), (3,)) for seed in (1, 1, 2))
    assert torch.equal(first.location, again.location) and torch.equal(first.scale, again.scale)
    assert not torch.equal(first.location, other.location)


def test_what_is_drawn_carries_no_gradient() -> None:
    mean = torch.zeros(2, requires_grad=True)
    d = GlimpseDistribution(mean, torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True))
    assert not d.sample(torch.Generator()).location.requires_grad and not d.mode().location.requires_grad
    assert d.log_prob(d.mode()).requires_grad and not d.detach().log_prob(d.mode()).requires_grad


def test_the_mode_is_the_most_probable() -> None:
    d = some(9)
    best = d.mode()
    assert torch.equal(best.location, d.mean) and torch.equal(best.scale, d.scale_logits.argmax(-1))
    drawn = d.sample(torch.Generator().manual_seed(0), (500,))
    assert bool((d.log_prob(drawn) <= d.log_prob(best)).all())


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_a_temperature_is_the_power_of_the_density(temperature: float) -> None:
    """log p_T(a) - log p(a) / T is the same for every action."""
    d = some(4)
    action = d.sample(torch.Generator().manual_seed(0), (50,))
    difference = d.tempered(temperature).log_prob(action) - d.log_prob(action) / temperature
    torch.testing.assert_close(difference, difference[:1].expand_as(difference))


def test_more_heat_more_entropy() -> None:
    d = some(8)
    assert bool((d.tempered(2.0).entropy() > d.entropy()).all() and (d.entropy() > d.tempered(0.5).entropy()).all())


def test_actions_of_several_samples_are_scored_under_one_policy() -> None:
    d = some(5)
    action = d.sample(torch.Generator().manual_seed(0), (2, 3))
    assert d.log_prob(action).shape == (2, 3, 5)
    one = Action(action.location[1, 2], action.scale[1, 2])
    torch.testing.assert_close(d.log_prob(one), d.log_prob(action)[1, 2])


# Cells.


def some_cells(*lead: int, cells: int = 5) -> CellDistribution:
    return CellDistribution(torch.randn(*lead, cells, generator=torch.Generator().manual_seed(3), dtype=torch.float64))


def test_the_probabilities_and_entropy_of_cells_are_torchs() -> None:
    d = some_cells(4, 3)
    theirs = Categorical(logits=d.logits)
    cell = d.sample(torch.Generator().manual_seed(0))
    assert cell.shape == (4, 3) and cell.dtype == torch.int64
    torch.testing.assert_close(d.log_prob(cell), theirs.log_prob(cell))
    torch.testing.assert_close(d.probabilities(), theirs.probs)
    torch.testing.assert_close(d.entropy(), theirs.entropy())


def test_cells_are_drawn_as_often_as_they_are_probable() -> None:
    d, draws = some_cells(2), 100_000
    drawn = d.sample(torch.Generator().manual_seed(0), (draws,))
    assert drawn.shape == (draws, 2)
    for n, p in enumerate(d.probabilities()):
        shares = torch.bincount(drawn[:, n], minlength=5) / draws
        assert bool(((shares - p).abs() < 5 * (p * (1 - p) / draws).sqrt()).all())


def test_the_mode_of_cells_is_the_most_probable_and_carries_no_gradient() -> None:
    d = CellDistribution(torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 0.0]], requires_grad=True))
    assert d.mode().tolist() == [1, 0] and not d.mode().requires_grad
    assert not d.sample(torch.Generator()).requires_grad
    assert d.log_prob(d.mode()).requires_grad and not d.detach().log_prob(d.mode()).requires_grad


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_a_temperature_is_the_power_of_the_probability_of_cells(temperature: float) -> None:
    d = some_cells(4)
    powers = d.probabilities() ** (1 / temperature)
    torch.testing.assert_close(d.tempered(temperature).probabilities(), powers / powers.sum(-1, keepdim=True))


# What both are made of.


def test_a_scale_and_a_cell_are_drawn_alike() -> None:
    """The same logits and generator give the same choice, whichever distribution draws it, in whatever shape."""
    logits = torch.randn(6, 4)
    ours = draw_categorical(logits, torch.Generator().manual_seed(1), (3, 2))
    assert ours.shape == (3, 2, 6)
    assert torch.equal(ours, CellDistribution(logits).sample(torch.Generator().manual_seed(1), (3, 2)))
    certain = torch.full((7, 4), -torch.inf)
    certain[:, 2] = 0.0
    assert bool((draw_categorical(certain, torch.Generator().manual_seed(1)) == 2).all())


@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_becomes_float32_and_more_stays(given: torch.dtype) -> None:
    values = torch.tensor([0.5, -3.0], dtype=given)
    kept = at_least_float32(values)
    assert kept.dtype == (torch.float64 if given == torch.float64 else torch.float32)
    assert kept.tolist() == [0.5, -3.0]


def test_the_mean_log_probability_is_the_sum_over_all_that_could_have_been_drawn() -> None:
    """Over the scales, and over the location by Gauss-Hermite quadrature, which is exact for a Gaussian's logarithm."""
    d = some(4)
    q = GlimpseDistribution(d.mean.flip(0) + 0.3, d.log_std.flip(0) + 0.3, d.scale_logits.flip(0))
    at, weight = (torch.tensor(t) for t in np.polynomial.hermite_e.hermegauss(3))
    at, weight = torch.cartesian_prod(at, at), torch.cartesian_prod(weight, weight).prod(-1) / (2 * math.pi)
    location = q.mean.unsqueeze(1) + q.log_std.exp().unsqueeze(1) * at
    spread = GlimpseDistribution(d.mean.unsqueeze(1), d.log_std.unsqueeze(1), d.scale_logits)
    mean = (weight * spread.location_log_prob(location)).sum(-1)
    torch.testing.assert_close(d.location_mean_log_prob(q), mean)
    scales = (q.scale_logits.softmax(-1) * d.scale_logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(d.mean_log_prob(q), mean + scales)
    torch.testing.assert_close(d.mean_log_prob(d), -d.entropy())
    cells = CellDistribution(d.scale_logits)
    torch.testing.assert_close(cells.mean_log_prob(CellDistribution(q.scale_logits)), scales)
