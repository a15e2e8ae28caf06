"""Locations followed through what is seen at them: unbiased at every share, by quadrature, and only if all of it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.estimators.families import close
from wsram.glimpse.actions import Action, GlimpseDistribution

NODES = 7
NOISE, WEIGHT = (torch.tensor(t) for t in np.polynomial.hermite_e.hermegauss(NODES))
WEIGHT = WEIGHT / WEIGHT.sum()
EPSILON = torch.cartesian_prod(NOISE, NOISE)
CHANCE = torch.cartesian_prod(WEIGHT, WEIGHT).prod(-1)
"""Gauss-Hermite nodes (n, 2) of a location's noise, and their probabilities (n,)."""


class World:
    """Two glimpses at a world that is smooth in the locations; every parameter of it is in one vector."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def matrix(*shape: int) -> Tensor:
            return 0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.theta = (2 * matrix(4)).requires_grad_()
        self.first, self.state, self.second, self.answer = matrix(6, 4), matrix(5, 8), matrix(6, 5), matrix(3, 8)

    def policy(self, raw: Tensor) -> GlimpseDistribution:
        return GlimpseDistribution(0.5 * torch.tanh(raw[..., :2]), 0.3 * torch.tanh(raw[..., 2:4]) - 2.0, raw[..., 4:])

    def after(self, action: Action) -> Tensor:
        """The state that a first glimpse leaves."""
        scale = torch.nn.functional.one_hot(action.scale, 2).double()
        theta = self.theta.expand(*action.scale.shape, -1)
        return torch.tanh(torch.cat([action.location, scale, theta], -1) @ self.state.T)

    def log_p_y(self, state: Tensor, action: Action) -> Tensor:
        """Of the label, after a second glimpse; there may be more of those than of states."""
        bright = torch.sin(3 * action.location).sum(-1, keepdim=True) * (1.0 + action.scale.unsqueeze(-1))
        state = state.expand(*action.scale.shape, -1)
        seen = torch.cat([state, action.location, bright], -1)
        return torch.log_softmax(seen @ self.answer.T, -1)[..., 0]


def everything(policy: GlimpseDistribution, lead: int) -> tuple[Action, Tensor]:
    """Every action (2, n, ...) of a policy, in a new pair of axes before `lead` others, and its probability."""
    shape = (-1, *[1] * lead, 2)
    location = policy.mean + policy.log_std.exp() * EPSILON.view(shape)
    scale = torch.arange(2).view(2, 1, *[1] * lead).expand(2, len(EPSILON), *policy.mean.shape[:-1])
    probability = policy.scale_log_prob(scale).exp() * CHANCE.view(1, -1, *[1] * lead)
    return Action(location.expand(2, *location.shape), scale), probability


def exact_gradient(of: World) -> Tensor:
    """Of the bound F: a sum over everything, differentiated as it stands."""
    first, chance = everything(of.policy(of.first @ of.theta), 0)
    state = of.after(first)
    second, chance_then = everything(of.policy(state @ of.second.T), 2)
    return torch.autograd.grad((chance * chance_then * of.log_p_y(state, second)).sum(), of.theta)[0]


def scored(policy: GlimpseDistribution, action: Action, share: float) -> Tensor:
    """As the classifier scores it."""
    location = policy.location_log_prob(action.location.detach())
    return torch.lerp(location, location.detach(), share) + policy.scale_log_prob(action.scale)


def mean_estimate(of: World, shares: tuple[float, float], *, cut: bool = False) -> Tensor:
    """The mean of what is estimated; cut, the second policy's scores do not know where the first location came from."""

    def fixed(drawn: tuple[Action, Tensor]) -> tuple[Action, Tensor]:
        (location, scale), chance = drawn
        return Action(location.detach(), scale), chance.detach()

    policy = of.policy(of.first @ of.theta)
    first, chance = fixed(everything(policy, 0))
    log_p = scored(policy, first, shares[0])
    first = policy.followed(first, shares[0])
    state = of.after(first)
    raw = state @ of.second.T
    policy = of.policy(raw)
    second, chance_then = fixed(everything(policy, 2))
    reward = of.log_p_y(state, policy.followed(second, shares[1]))
    if cut:
        policy = of.policy(of.after(Action(first.location.detach(), first.scale)) @ of.second.T)
    log_p = log_p + scored(policy, second, shares[1])
    baseline = 0.7
    estimate = reward + (reward.detach() + baseline) * log_p
    return torch.autograd.grad((chance * chance_then * estimate).sum(), of.theta)[0]


@pytest.mark.parametrize("shares", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3), (0.8, 0.1), (0.0, 1.0)])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_estimate_is_unbiased_for_every_share(seed: int, shares: tuple[float, float]) -> None:
    of = World(seed)
    exact = exact_gradient(of)
    assert float(exact.norm()) > 0.01
    assert float((mean_estimate(of, shares) - exact).norm() / exact.norm()) < 1e-4


def test_later_scores_must_know_where_earlier_locations_came_from() -> None:
    of = World(1)
    exact = exact_gradient(of)
    assert float((mean_estimate(of, (1.0, 1.0), cut=True) - exact).norm() / exact.norm()) > 5e-4
    assert float((mean_estimate(of, (1.0, 1.0)) - exact).norm() / exact.norm()) < 1e-10


def test_what_is_followed_is_the_same_action() -> None:
    policy = GlimpseDistribution(torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True), torch.zeros(3))
    action = policy.sample(torch.Generator().manual_seed(0), (4,))
    followed = policy.followed(action, 0.25)
    assert torch.equal(followed.location, action.location) and torch.equal(followed.scale, action.scale)
    by_mean, by_spread = torch.autograd.grad(followed.location.sum(), [policy.mean, policy.log_std])
    close(by_mean, torch.full((2,), 1.0), 1e-6)  # a quarter of four samples
    close(by_spread, 0.25 * action.location.sum(0), 1e-6)
