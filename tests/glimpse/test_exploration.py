"""The exploration terms against plain numerical integrals, and the raised temperature against exact answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wsram.estimators import Estimator, variational, wake_sleep
from wsram.glimpse.actions import Action, GlimpseDistribution
from wsram.glimpse.exploration import coverage_penalty, entropy_bonus
from wsram.models.classifier import AttentionClassifier


def policies(mean: list[list[float]], std: list[list[float]], scales: int = 3) -> GlimpseDistribution:
    """Distributions in float64; scales are equally likely."""
    mean_of, std_of = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    return GlimpseDistribution(mean_of, std_of.log(), torch.zeros(len(mean), scales, dtype=torch.float64))


def integrated_coverage(policy: GlimpseDistribution, parts: int, points: int = 400) -> float:
    """KL(uniform || visits) with each part's probability as a sum of the density over a fine grid of its points."""
    offsets = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    width = 2.0 / parts
    visits = [[0.0] * parts for _ in range(parts)]
    rows = list(zip(policy.mean.reshape(-1, 2).tolist(), policy.log_std.exp().reshape(-1, 2).tolist(), strict=True))

    def inside(part: int, mean: float, std: float) -> float:
        at = -1 + width * (part + offsets)
        return float((torch.exp(-0.5 * ((at - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))).mean()) * width

    for (mean_x, mean_y), (std_x, std_y) in rows:
        for x in range(parts):
            for y in range(parts):
                visits[x][y] += inside(x, mean_x, std_x) * inside(y, mean_y, std_y) / len(rows)
    total = sum(map(sum, visits))
    return -sum(math.log(parts**2 * v / total) for row in visits for v in row) / parts**2


SPREADS = {
    "one": ([[0.1, -0.2]], [[0.4, 0.6]]),
    "uneven": ([[0.9, 0.9]], [[0.5, 1.5]]),
    "beyond the edge": ([[1.4, -1.2]], [[0.7, 0.8]]),
    "many": ([[0.5, 0.5], [-0.5, 0.5], [0.0, -0.7]], [[0.3, 0.5], [0.4, 0.3], [0.5, 0.5]]),
}


@pytest.mark.parametrize("parts", [2, 5, 8])
@pytest.mark.parametrize("mean, std", SPREADS.values(), ids=SPREADS)
def test_coverage_is_the_divergence_from_visiting_every_part_alike(
    mean: list[list[float]], std: list[list[float]], parts: int
) -> None:
    policy = policies(mean, std)
    assert float(coverage_penalty(policy, parts)) == pytest.approx(integrated_coverage(policy, parts), rel=1e-4)


def test_coverage_is_of_the_policies_together_whatever_their_axes() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, log_std = torch.randn(2, 3, 4, 2, generator=generator), torch.randn(2, 3, 4, 2, generator=generator) * 0.3
    batched = GlimpseDistribution(mean, log_std, torch.zeros(2, 3, 4, 3))
    flat = GlimpseDistribution(mean.reshape(-1, 2), log_std.reshape(-1, 2), torch.zeros(24, 3))
    torch.testing.assert_close(coverage_penalty(batched), coverage_penalty(flat))


def test_coverage_asks_the_batch_and_not_each_policy_to_be_everywhere() -> None:
    left, right = ([[-0.5, 0.0]], [[0.4, 0.8]]), ([[0.5, 0.0]], [[0.4, 0.8]])
    apart = coverage_penalty(policies(left[0] + right[0], left[1] + right[1]))
    alone = coverage_penalty(policies(*left))
    assert float(apart) < 0.25 * float(alone)


@pytest.mark.parametrize("mean, std", SPREADS.values(), ids=SPREADS)
def test_the_gradient_of_coverage_is_its_slope(mean: list[list[float]], std: list[list[float]]) -> None:
    start = policies(mean, std)

    def penalty(mean: Tensor, log_std: Tensor) -> Tensor:
        return coverage_penalty(GlimpseDistribution(mean, log_std, start.scale_logits))

    torch.autograd.gradcheck(penalty, (start.mean.requires_grad_(), start.log_std.requires_grad_()))


def test_coverage_widens_a_narrow_policy_and_brings_a_strayed_one_back() -> None:
    policy = policies([[0.5, -0.3]], [[0.3, 0.3]])
    both = (policy.mean.requires_grad_(), policy.log_std.requires_grad_())
    mean, log_std = torch.autograd.grad(coverage_penalty(policy), both)
    # Descent goes against the gradient: towards the middle, and to a larger standard deviation.
    assert mean[0, 0] > 0 > mean[0, 1]
    assert bool((log_std < 0).all())


def test_following_coverage_spreads_a_crowd_over_the_image() -> None:
    generator = torch.Generator().manual_seed(2)
    mean = (0.05 * torch.randn(16, 2, generator=generator)).requires_grad_()
    # The spread of each is held, so that only going apart can help.
    log_std, logits = torch.full((16, 2), math.log(0.25)), torch.zeros(16, 1)
    optimizer = torch.optim.Adam([mean], lr=0.05)
    before = float(coverage_penalty(GlimpseDistribution(mean, log_std, logits)).detach())
    for _ in range(150):
        optimizer.zero_grad()
        coverage_penalty(GlimpseDistribution(mean, log_std, logits)).backward()
        optimizer.step()
    after = float(coverage_penalty(GlimpseDistribution(mean, log_std, logits)).detach())
    assert before > 2.0 and after < 0.2
    assert bool((mean.detach().std(0) > 0.4).all())


@pytest.mark.parametrize("std", [1e-3, 1e-1, 1.0, 1e3])
@pytest.mark.parametrize("mean", [0.0, 0.99, 5.0])
def test_coverage_and_its_gradient_are_finite_however_extreme_the_policy(mean: float, std: float) -> None:
    policy = GlimpseDistribution(
        torch.full((3, 2), mean, requires_grad=True),
        torch.full((3, 2), math.log(std), requires_grad=True),
        torch.zeros(3, 2),
    )
    value = coverage_penalty(policy)
    slopes = torch.autograd.grad(value, (policy.mean, policy.log_std))
    assert math.isfinite(float(value.detach())) and all(bool(s.isfinite().all()) for s in slopes)


def test_the_entropy_bonus_by_hand() -> None:
    std, logits = [[0.5, 2.0], [0.1, 1.0]], [[0.0, 1.0, -1.0], [3.0, 0.0, 0.0]]
    policy = GlimpseDistribution(torch.randn(2, 2), torch.tensor(std).log(), torch.tensor(logits))
    # A Gaussian's entropy is 1/2 log(2 π e σ²) along each axis; a categorical's is -Σ p log p.
    location = sum(0.5 * math.log(2 * math.pi * math.e * s**2) for pair in std for s in pair) / 2
    scale = 0.0
    for row in logits:
        total = sum(map(math.exp, row))
        scale -= sum(math.exp(v) / total * math.log(math.exp(v) / total) for v in row) / 2
    for weigh_location, weigh_scale in ((1.0, 0.0), (0.0, 1.0), (0.3, 0.7)):
        bonus = float(entropy_bonus(policy, location=weigh_location, scale=weigh_scale))
        assert bonus == pytest.approx(weigh_location * location + weigh_scale * scale, rel=1e-5)


def test_the_entropy_bonus_makes_every_decision_more_open() -> None:
    policy = policies([[0.2, 0.3]], [[0.2, 0.3]])
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    policy = GlimpseDistribution(policy.mean.requires_grad_(), policy.log_std.requires_grad_(), logits)
    mean, log_std, scale = torch.autograd.grad(
        entropy_bonus(policy, location=1.0, scale=1.0),
        (policy.mean, policy.log_std, logits),
        allow_unused=True,
        materialize_grads=True,
    )
    assert not mean.any() and bool((log_std > 0).all())
    assert scale[0, 0] < 0 < scale[0, 2]  # from the likely scale to the unlikely one


def test_each_entropy_has_a_weight_of_its_own() -> None:
    log_std, logits = torch.zeros(2, requires_grad=True), torch.tensor([1.0, 0.0], requires_grad=True)
    policy = GlimpseDistribution(torch.zeros(2), log_std, logits)
    for weights, touched in (((1.0, 0.0), (True, False)), ((0.0, 1.0), (False, True))):
        bonus = entropy_bonus(policy, location=weights[0], scale=weights[1])
        slopes = torch.autograd.grad(bonus, (log_std, logits), allow_unused=True, materialize_grads=True)
        assert tuple(bool(s.any()) for s in slopes) == touched


# A raised temperature. One glimpse, one image: the label's log-probability is a function of the action that is known,
# so a sum over the scales and a fine grid of locations gives every expectation.


def log_label(action: Action) -> Tensor:
    """Some log p(y | a): high near (0.5, -0.2), and at the second scale."""
    distance = (action.location - action.location.new_tensor([0.5, -0.2])).square().sum(-1)
    return -0.2 - 1.5 * distance.clamp(max=4.0) - action.location.new_tensor([1.0, 0.1, 2.0])[action.scale]


def leaves() -> tuple[Tensor, Tensor, Tensor]:
    values = ([0.1, 0.3], [-1.0, -0.7], [0.5, -0.5, 0.0])
    mean, log_std, logits = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values)
    return mean, log_std, logits


def exact(value: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, tuple[Tensor, ...]]:
    """value(log p(a), log p(y|a)) summed over all actions with their volume, and its gradient in the policy."""
    policy = GlimpseDistribution(*leaves())
    points = 401
    axis = torch.linspace(-4, 4, points, dtype=torch.float64)
    location = torch.cartesian_prod(axis, axis).repeat(3, 1)
    action = Action(location, torch.arange(3).repeat_interleave(points**2))
    log_p_a = policy.log_prob(action) + 2 * math.log(8 / (points - 1))
    result = value(log_p_a, log_label(action))
    return float(result.detach()), torch.autograd.grad(result, (policy.mean, policy.log_std, policy.scale_logits))


def evidence(log_p_a: Tensor, log_p_y: Tensor) -> Tensor:
    return torch.logsumexp(log_p_a + log_p_y, 0)


def bound(log_p_a: Tensor, log_p_y: Tensor) -> Tensor:
    return (log_p_a.exp() * log_p_y).sum()


@pytest.mark.parametrize("control_variates", [False, True], ids=["without", "with"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    "each, value", [(wake_sleep, evidence), (variational, bound)], ids=["wake-sleep", "variational"]
)
def test_a_tempered_proposal_changes_what_is_drawn_and_not_what_is_estimated(
    each: Estimator, value: Callable[[Tensor, Tensor], Tensor], temperature: float, control_variates: bool
) -> None:
    # Many samples for few images, since only many samples make self-normalised weights exact.
    samples, batch = (200, 600) if control_variates else (4000, 50)
    truth, gradients = exact(value)
    policy = GlimpseDistribution(*leaves())
    proposal = policy.detach().tempered(temperature)
    action = proposal.sample(torch.Generator().manual_seed(0), (samples, batch))
    estimate = each(
        log_label(action), policy.log_prob(action), proposal.log_prob(action), control_variates=control_variates
    )
    reached = estimate.log_evidence if each is wake_sleep else estimate.bound
    assert float(reached.mean()) == pytest.approx(truth, abs=0.01)
    ours = torch.autograd.grad(-estimate.loss, (policy.mean, policy.log_std, policy.scale_logits))
    torch.testing.assert_close(torch.cat(ours), torch.cat(gradients), rtol=0.02, atol=0.015)


def test_without_the_weights_a_raised_temperature_would_be_seen() -> None:
    """What the test above would notice: the tolerance is far smaller than the error of forgetting the weights."""
    _, gradients = exact(evidence)
    policy = GlimpseDistribution(*leaves())
    action = policy.detach().tempered(2.5).sample(torch.Generator().manual_seed(0), (200_000, 1))
    log_p_a = policy.log_prob(action)
    estimate = wake_sleep(log_label(action), log_p_a, log_p_a.detach(), control_variates=False)
    ours = torch.cat(torch.autograd.grad(-estimate.loss, (policy.mean, policy.log_std, policy.scale_logits)))
    assert float((ours - torch.cat(gradients)).abs().max()) > 0.2


def test_a_network_scores_its_glimpses_under_the_tempered_proposal_they_were_drawn_from() -> None:
    network = AttentionClassifier(
        names=("a", "b", "c", "d"),
        glimpses=3,
        patch=4,
        scales=(1, 2),
        lower_units=8,
        upper_units=8,
        view=4,
        inference=False,
    )
    images, labels = torch.rand(5, 1, 12, 12), torch.arange(5) % 4

    def look(temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            rollout = network(
                images, labels, samples=400, generator=torch.Generator().manual_seed(0), temperature=temperature
            )
        drawn_from = rollout.policy.tempered(temperature)
        torch.testing.assert_close(rollout.log_q_a, drawn_from.log_prob(rollout.action))
        torch.testing.assert_close(rollout.log_p_a, rollout.policy.log_prob(rollout.action))
        first = rollout.action.location[:, :, 0]  # 400 draws of each image's first glimpse
        return first.std(0), rollout.policy.log_std[0, :, 0].exp(), (rollout.log_p_a - rollout.log_q_a).sum(-1)

    spread, std, log_ratio = look(4.0)
    torch.testing.assert_close(spread, 2.0 * std, rtol=0.15, atol=0.0)  # √4 times as wide
    assert bool((log_ratio.abs() > 0.1).any())
    spread, std, log_ratio = look(1.0)
    torch.testing.assert_close(spread, std, rtol=0.15, atol=0.0)
    assert not log_ratio.any()
