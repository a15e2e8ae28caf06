"""The distribution over actions against torch's own distributions, and what is drawn against its density."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Normal

from wsram.actions import Action, GlimpseDistribution


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
    assert not d.sample(torch.Generator()).location.requires_grad and not d.mean_action().location.requires_grad
    assert d.log_prob(d.mean_action()).requires_grad and not d.detach().log_prob(d.mean_action()).requires_grad


def test_the_mean_action_is_the_most_probable() -> None:
    d = some(9)
    best = d.mean_action()
    assert torch.equal(best.location, d.mean)
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
