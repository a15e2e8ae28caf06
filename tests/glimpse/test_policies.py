"""A map over cells as a policy: a proper density, scored as it is drawn, that remembers where it has been."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wsram.glimpse.actions import Action
from wsram.glimpse.exploration import coverage_penalty
from wsram.glimpse.policies import AT_EDGE, Cells, MapDistribution, cell_of, contrast_of, stacked

SIDE, SCALES = 3, 2


def some(*lead: int, seed: int = 0, spread: float = 0.4) -> MapDistribution:
    """A distribution over nine cells whose offsets lie off their centres, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    offset = normal(SIDE**2, 2).tanh()
    return MapDistribution(normal(*lead, SIDE**2), normal(*lead, SCALES), offset, spread)


def fine_grid(points: int) -> tuple[Tensor, float]:
    """Locations (points, points, 2) in the middle of as many small squares that make up the image; a square's area."""
    middle = (torch.arange(points, dtype=torch.float64) + 0.5) * (2 / points) - 1
    return torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1), (2 / points) ** 2


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_density_of_a_location_sums_to_one_over_the_image(temperature: float) -> None:
    locations, area = fine_grid(450)
    density = some().tempered(temperature).location_log_prob(locations).exp()
    assert float(density.sum()) * area == pytest.approx(1, abs=1e-4)


def test_the_cells_share_of_the_density_is_its_probability() -> None:
    d = some()
    locations, area = fine_grid(450)
    found = torch.zeros(SIDE**2, dtype=torch.float64)
    found.index_add_(0, cell_of(locations, SIDE).flatten(), d.location_log_prob(locations).exp().flatten() * area)
    torch.testing.assert_close(found, d.logits.softmax(-1), rtol=0, atol=1e-4)


def test_nothing_outside_the_image_is_possible() -> None:
    assert float(some().location_log_prob(torch.tensor([1.01, 0.0], dtype=torch.float64))) == -math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_drawn_lies_in_its_cell_and_never_changes_it(dtype: torch.dtype) -> None:
    side = 75
    offset = torch.ones(side**2, 2, dtype=dtype)  # at the very edge of each cell
    d = MapDistribution(torch.zeros(side**2, dtype=dtype), torch.zeros(1, dtype=dtype), offset)
    action = d.sample(torch.Generator().manual_seed(0), (4000,))
    cell = cell_of(action.location, side)
    corner = torch.stack([cell % side, cell // side], -1)
    inside = (action.location.double() + 1) * side / 2 - corner
    assert float(inside.min()) > 0 and float(inside.max()) < 1
    assert torch.isfinite(d.log_prob(action)).all()
    assert 0.5 * AT_EDGE + 0.5 > float(inside.mean()) > 0.9  # and it was drawn near that edge


def test_draws_have_the_probabilities_that_they_are_scored_with() -> None:
    d = some(seed=3)
    action = d.sample(torch.Generator().manual_seed(1), (200_000,))
    share = torch.bincount(cell_of(action.location, SIDE), minlength=SIDE**2) / 200_000
    torch.testing.assert_close(share.double(), d.logits.softmax(-1), rtol=0, atol=0.005)
    # Inside the cells, too: the mean of log p of a sample is minus the entropy.
    score = d.log_prob(action)
    error = float(score.std()) / math.sqrt(len(score))
    assert float(score.mean()) == pytest.approx(-float(d.entropy()), abs=4 * error)
    scale = torch.bincount(action.scale, minlength=SCALES) / 200_000
    torch.testing.assert_close(scale.double(), d.scale_logits.softmax(-1), rtol=0, atol=0.005)


def test_a_cell_that_cannot_be_is_never_drawn() -> None:
    logits = torch.full((SIDE**2,), -math.inf, dtype=torch.float64)
    logits[[2, 5]] = 0.0
    action = replace(some(), logits=logits).sample(torch.Generator().manual_seed(0), (2000,))
    assert set(cell_of(action.location, SIDE).tolist()) == {2, 5}


@pytest.mark.parametrize("other", [0.4, 0.9])
def test_entropy_and_mean_log_probability_are_integrals(other: float) -> None:
    p, q = some(), some(seed=1, spread=other)
    q = replace(q, offset=p.offset)
    locations, area = fine_grid(450)
    under = q.location_log_prob(locations).exp() * area
    expected = (under * p.location_log_prob(locations)).sum()
    torch.testing.assert_close(p.location_mean_log_prob(q), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(q.mean_log_prob(q), -q.entropy())
    scales = (q.scale_logits.softmax(-1) * p.scale_logits.log_softmax(-1)).sum()
    torch.testing.assert_close(p.mean_log_prob(q), p.location_mean_log_prob(q) + scales)


def test_the_score_has_mean_zero_and_is_the_density_s_gradient() -> None:
    d = some()
    locations, area = fine_grid(300)

    def log_density(logits: Tensor) -> Tensor:
        return replace(d, logits=logits).location_log_prob(locations)

    logits = d.logits.clone().requires_grad_()
    weight = log_density(logits).detach().exp() * area
    (score,) = torch.autograd.grad((weight * log_density(logits)).sum(), logits)
    torch.testing.assert_close(score, torch.zeros_like(score), rtol=0, atol=1e-4)
    at = torch.tensor([[0.2, -0.4], [0.9, 0.9]], dtype=torch.float64)
    parts = (d.logits.clone().requires_grad_(), d.scale_logits.clone().requires_grad_())

    def log_prob(logits: Tensor, scales: Tensor) -> Tensor:
        action = Action(at, torch.tensor([0, 1]))
        return replace(d, logits=logits, scale_logits=scales).log_prob(action)

    torch.autograd.gradcheck(log_prob, parts)
    torch.autograd.gradcheck(lambda a, b: replace(d, logits=a, scale_logits=b).entropy(), parts)


def test_the_mode_is_the_likeliest_cell_and_its_mean_offset() -> None:
    d = some(4)
    mode = d.mode()
    for n in range(4):
        cell = int(d.logits[n].argmax())
        centre = torch.tensor([cell % SIDE, cell // SIDE]) * 2 / SIDE + 1 / SIDE - 1
        torch.testing.assert_close(mode.location[n], centre + d.offset[cell] / SIDE, rtol=0, atol=1e-4)
    assert mode.scale.tolist() == d.scale_logits.argmax(-1).tolist()


def test_parts_of_the_image_are_visited_as_often_as_their_cells() -> None:
    d = some(5)
    p = d.logits.softmax(-1).view(5, SIDE, SIDE).sum(0)
    torch.testing.assert_close(d.visits(SIDE), p.T)
    halved = d.visits(2 * SIDE)
    torch.testing.assert_close(halved.unflatten(0, (SIDE, 2)).unflatten(-1, (SIDE, 2)).sum((1, 3)), p.T)
    torch.testing.assert_close(d.visits(2).sum(), torch.tensor(5.0, dtype=torch.float64))
    even = replace(d, logits=torch.zeros_like(d.logits))
    assert float(coverage_penalty(even, 6)) == pytest.approx(0, abs=1e-9)
    assert float(coverage_penalty(d, 6)) > 0.05


def test_the_spread_is_that_of_the_cells_centres() -> None:
    d = replace(some(), logits=torch.full((SIDE**2,), -40.0, dtype=torch.float64))
    d.logits[[3, 5]] = 0.0  # left and right of the middle row
    torch.testing.assert_close(d.location_std(), torch.tensor([2 / SIDE, 0.0], dtype=torch.float64))


def cells(batch: int = 2, side: int = 4, toll: float = 3.0) -> Cells:
    """Cells of made-up images, float64."""
    generator = torch.Generator().manual_seed(2)
    keys = torch.randn(batch, side**2, 5, generator=generator, dtype=torch.float64)
    prior = torch.randn(batch, side**2, generator=generator, dtype=torch.float64)
    offset = torch.zeros(batch, side**2, 2, dtype=torch.float64)
    toll_of = torch.tensor(toll, dtype=torch.float64, requires_grad=True)
    return Cells(keys, prior, offset, toll_of, keys.mean(-2))


def test_visited_cells_and_their_neighbours_lose_the_toll_once() -> None:
    before = cells()
    raw = torch.randn(2, 5 + SCALES, dtype=torch.float64)
    at = torch.tensor([[-0.9, -0.9], [0.2, 0.2]], dtype=torch.float64)
    after = before.after(at).after(at)
    lost = (before.policy(raw).logits - after.policy(raw).logits).view(2, 4, 4)
    expected = torch.zeros(2, 4, 4, dtype=torch.float64)
    expected[0, :2, :2] = 3.0
    expected[1, 1:, 1:] = 3.0
    torch.testing.assert_close(lost, expected)


def test_sequences_of_cells_with_a_toll_are_a_proper_distribution() -> None:
    start = cells(1, 3, 1.5)
    raw = torch.randn(1, 5 + SCALES, dtype=torch.float64)
    grid = torch.stack([torch.arange(9) % 3, torch.arange(9) // 3], -1).double() * (2 / 3) + 1 / 3 - 1
    offsets, area = fine_grid(120)
    total = torch.zeros((), dtype=torch.float64)
    for first in grid:
        p_first = start.policy(raw).logits.softmax(-1)[0, cell_of(first, 3)]
        second = start.after(first.view(1, 2)).policy(raw).location_log_prob(offsets.reshape(-1, 1, 2)).exp()
        total = total + p_first * second.sum() * area
    torch.testing.assert_close(total.detach(), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-3)


def test_only_the_query_carries_a_gradient_once_cells_are_detached() -> None:
    whole = replace(cells(), keys=cells().keys.requires_grad_())
    raw = torch.randn(2, 5 + SCALES, dtype=torch.float64, requires_grad=True)
    after = whole.after(torch.zeros(2, 2, dtype=torch.float64)).detach()
    loss = after.policy(raw).logits.logsumexp(-1).sum()
    found = torch.autograd.grad(loss, [raw, whole.keys, whole.toll], allow_unused=True)
    assert found[0] is not None and found[1] is None and found[2] is None


def test_cells_with_contrast_are_where_something_is_and_point_at_its_middle() -> None:
    view = torch.full((1, 1, 12, 12), 0.3)
    view[0, 0, 5:7, 8] = 0.9  # in the cells of rows 2 and 3 (of two pixels), column 4
    log_contrast, offset = contrast_of(view, 2)
    assert {divmod(int(n), 6) for n in log_contrast[0].topk(2).indices} == {(2, 4), (3, 4)}
    assert float(log_contrast.max()) == 0 and float(log_contrast.min()) == pytest.approx(math.log(1e-3))
    across, down = offset.view(6, 6, 2)[2, 4]
    assert float(across) == pytest.approx(-0.5, abs=0.01)  # the left one of the cell's two columns
    assert float(down) == pytest.approx(1, abs=0.01)  # between this cell and the one below
    assert offset.view(6, 6, 2)[0, 0].tolist() == [0, 0]
    dark = contrast_of(1 - view, 2)
    torch.testing.assert_close(dark[0], log_contrast)  # the sign of contrast does not matter


def test_where_there_is_nothing_the_map_is_even() -> None:
    log_contrast, offset = contrast_of(torch.full((2, 3, 8, 8), 0.5), 2)
    assert len(log_contrast.unique()) == 1 and not offset.any()


def test_policies_of_several_glimpses_are_scored_as_one() -> None:
    start = cells()
    raw = torch.randn(3, 2, 5 + SCALES, dtype=torch.float64)
    policies = [start.policy(raw[0])]
    generator = torch.Generator().manual_seed(0)
    actions = [policies[0].sample(generator, (3,))]
    for n in (1, 2):
        start = start.after(actions[-1].location)
        policies.append(start.policy(raw))
        actions.append(policies[-1].sample(generator))
        assert n == len(policies) - 1
    together = stacked(policies, (3, 2))
    action = Action(torch.stack([a.location for a in actions], -2), torch.stack([a.scale for a in actions], -1))
    each = torch.stack([p.log_prob(a) for p, a in zip(policies, actions, strict=True)], -1)
    torch.testing.assert_close(together.log_prob(action), each)
    assert together.entropy().shape == (3, 2, 3)
