"""The prediction network: what can reach its answer, where it may look, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.models.networks import following, gradients, prediction, somewhere, untouched
from tests.refusals import refusal
from wsram.glimpse.actions import Action, GlimpseDistribution
from wsram.models.layers import NETWORKS, RECURRENCES

# What can reach the answer


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_view_reaches_the_answer_through_the_choice_of_glimpses_alone(recurrence: str, network: str) -> None:
    """With the glimpses held, nothing of the path from the view to the policy has a way to the answer."""
    model = prediction(recurrence=recurrence, network=network)
    images, actions = torch.rand(4, 1, 20, 20), somewhere(4, 3)
    looked = model.look(images, following(actions))
    answer = looked.outputs[:, 0].sum()
    for module in (model.view_network, model.upper, model.policy_head):
        assert untouched(answer, module)
    for module in (model.glimpse_network, model.lower, model.head):  # the test can see influence
        assert all(g is not None for g in gradients(answer, module))
    assert not untouched(looked.policy.log_prob(actions).sum(), model.view_network)
    # Nor by any way that has no gradient: other weights there give the very same answer.
    with torch.no_grad():
        for module in (model.view_network, model.upper, model.policy_head):
            for parameter in module.parameters():
                parameter.normal_()
    assert torch.equal(model.look(images, following(actions)).outputs, looked.outputs)


def test_pixels_that_no_glimpse_covers_do_not_reach_the_answer() -> None:
    model = prediction(patch=4, scales=(1,), view=20)
    images = torch.rand(2, 1, 20, 20)
    corner = Action(torch.full((2, 3, 2), -0.7), torch.zeros(2, 3, dtype=torch.long))
    changed = images.clone()
    changed[..., 10:, :] = torch.rand(2, 1, 10, 20)
    before, after = (model.look(i, following(corner)) for i in (images, changed))
    assert torch.equal(before.outputs, after.outputs)
    assert not torch.allclose(before.policy.mean, after.policy.mean)  # the policy saw the change
    changed = images.clone()
    changed[..., :5, :5] = torch.rand(2, 1, 5, 5)
    assert not torch.allclose(model.look(changed, following(corner)).outputs, before.outputs)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("figure", "ground"), [(0.9, 0.2), (0.1, 0.6)])
def test_an_aim_is_at_what_stands_out_before_anything_is_learned(
    figure: float, ground: float, network: str, recurrence: str
) -> None:
    model = prediction(aim="contrast", network=network, recurrence=recurrence, channels=3, view=25)
    corners = torch.tensor([[10, 10], [40, 20], [20, 50], [45, 45]])
    images = torch.full((4, 3, 64, 64), ground)
    for image, (column, row) in zip(images, corners.tolist(), strict=True):
        image[:, row : row + 8, column : column + 8] = figure
    policy = model.look(images, lambda policy, raw, r2: policy.mode()).policy
    assert isinstance(policy, GlimpseDistribution)
    centres = (corners + 4) / 32 - 1
    assert (policy.mean - centres.unsqueeze(1)).abs().max() < 0.06  # of 2, at every glimpse
    nothing = model.look(images[:, :, :5, :5], lambda policy, raw, r2: policy.mode()).policy
    assert isinstance(nothing, GlimpseDistribution)
    assert nothing.mean.abs().max() < 0.06


def test_an_aim_may_be_distrusted() -> None:
    model = prediction(aim="contrast")
    images = torch.zeros(1, 1, 20, 20)
    images[..., 2:6, 2:6] = 1.0
    look = model.look(images, lambda policy, raw, r2: policy.mode())
    assert not untouched(look.policy.log_prob(Action(torch.zeros(1, 3, 2), torch.zeros(1, 3).long())).sum(), model)
    assert model.trust is not None and model.trust.grad is None
    (slope,) = torch.autograd.grad(look.policy.mean.sum(), model.trust)
    assert slope < 0  # left and up
    with torch.no_grad():
        model.trust.zero_()
    assert model.look(images, lambda policy, raw, r2: policy.mode()).policy.mean.abs().max() < 0.06


def test_an_aim_that_cannot_be_taken_is_refused() -> None:
    refusal(lambda: prediction(aim="left"), "unknown aim 'left'", "middle, contrast")
    refusal(lambda: prediction(aim="contrast", policy="map"), "a map points at contrast by itself", "--aim middle")


@pytest.mark.parametrize("aim", ["middle", "contrast"])
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_a_toll_on_scales_leaves_the_policy_as_it_is(recurrence: str, aim: str) -> None:
    free, tolled = (prediction(recurrence=recurrence, aim=aim, scale_toll=toll).eval() for toll in (0.0, 5.0))
    tolled.load_state_dict(free.state_dict())
    images, action = torch.rand(4, 1, 20, 20), somewhere(4, 3)
    one, other = (model.look(images, following(action)) for model in (free, tolled))
    torch.testing.assert_close(other.policy.log_prob(action), one.policy.log_prob(action))
    torch.testing.assert_close(other.outputs_after, one.outputs_after)


@pytest.mark.parametrize("toll", [0.3, 50.0])
def test_at_its_modes_a_scale_pays_for_each_time_it_was_used(toll: float) -> None:
    model = prediction(glimpses=5, scale_toll=toll, scales=(1, 2, 3)).eval()
    with torch.no_grad():
        model.policy_head.weight.zero_()
        model.policy_head.bias[4:] = torch.tensor([0.4, 0.0, 0.2])
    expected = {0.3: [0, 2, 0, 1, 2], 50.0: [0, 2, 1, 0, 2]}[toll]
    images = torch.rand(2, 1, 20, 20)
    assert model.look(images).action.scale.tolist() == [expected] * 2
    never = model.look_until(images, lambda outputs: torch.zeros(len(outputs), dtype=torch.bool))
    assert never.action.scale.tolist() == [expected] * 2


def test_a_toll_is_not_below_zero() -> None:
    refusal(lambda: prediction(scale_toll=-1.0), "scale toll must be at least 0", "-1")


def test_one_glimpse_and_many_are_read_at_the_same_loudness() -> None:
    """The head reads the mean over glimpses; with a ReLU layer at its start, repeating a glimpse changes nothing."""
    model = prediction(glimpses=4)
    with torch.no_grad():
        for weights in (model.lower.unit.bias_ih, model.lower.unit.bias_hh):
            weights.zero_()
    same = Action(torch.zeros(2, 4, 2), torch.zeros(2, 4, dtype=torch.long))
    images = torch.rand(2, 1, 20, 20)
    one, four = (model.look(images, following(same), n).outputs for n in (1, 4))
    torch.testing.assert_close(one, four)


def test_what_an_earlier_glimpse_would_have_answered_is_told() -> None:
    model, images, actions = prediction(), torch.rand(2, 1, 20, 20), somewhere(2, 3)
    looked = model.look(images, following(actions))
    for n in (1, 2, 3):
        stopped = model.look(images, following(actions), n)
        torch.testing.assert_close(looked.outputs_after[:, n - 1], stopped.outputs)
    assert torch.equal(looked.outputs, looked.outputs_after[:, -1])


# Where to look


def test_locations_are_drawn_within_the_bounds_of_their_spread() -> None:
    model = prediction(std_range=(0.1, 0.4))
    raw = torch.randn(1000, model.policy_head.out_features) * 20
    policy = model.policy(raw)
    std = policy.log_std.exp()
    assert float(std.min()) >= 0.1 - 1e-6 and float(std.max()) <= 0.4 + 1e-6
    assert float(policy.mean.abs().max()) <= 1
    fixed = prediction(std_range=(0.2, 0.2)).policy(raw)
    torch.testing.assert_close(fixed.log_std.exp(), torch.full((1000, 2), 0.2))


def test_at_first_every_glimpse_of_an_image_is_drawn_around_the_same_place() -> None:
    looked = prediction().look(torch.rand(3, 1, 20, 20), following(somewhere(3, 3)))
    mean = looked.policy.mean
    assert torch.equal(mean, mean[:, :1].expand_as(mean))
    assert not torch.equal(mean[0], mean[1])  # which place that is, the image says


def test_images_smaller_than_a_patch_are_looked_at_against_black() -> None:
    """A glimpse in the middle of a small image sees all of it, wherever it lies on a larger black one."""
    model = prediction(glimpses=1, patch=7, scales=(1,))
    small, large = torch.rand(2, 1, 3, 5), torch.zeros(2, 1, 7, 7)
    large[..., 2:5, 1:6] = small
    middle = Action(torch.zeros(2, 1, 2), torch.zeros(2, 1, dtype=torch.long))
    ours, theirs = (model.look(images, following(middle)).outputs for images in (small, large))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("policy", ["gaussian", "map"])
def test_where_nothing_else_is_asked_for_glimpses_are_at_the_policys_modes(policy: str) -> None:
    model, images = prediction(policy=policy), torch.rand(2, 1, 20, 20)
    looked, asked = model.look(images), model.look(images, lambda policy, raw, r2: policy.mode())
    assert torch.equal(looked.outputs_after, asked.outputs_after)
    for ours, theirs in zip(looked.action, asked.action, strict=True):
        assert torch.equal(ours, theirs) and not ours.requires_grad
    assert len(asked.policies) == 3 and not looked.policies  # which nobody asked for


# What is refused

BAD = {
    "no glimpses": (dict(glimpses=0), "glimpses must be at least 1"),
    "one class": (dict(names=("a",)), "classes must be at least 2"),
    "one unit": (dict(lower_units=1), "lower units must be at least 2"),
    "no channels": (dict(channels=0), "channels must be at least 1"),
    "unknown recurrence": (dict(recurrence="elman"), "'elman'"),
    "unknown network": (dict(network="transformer"), "'transformer'"),
    "unknown answer": (dict(answer="essay"), "'essay'"),
    "no spread": (dict(std_range=(0.0, 1.0)), "got (0.0, 1.0)"),
    "spread upside down": (dict(std_range=(0.5, 0.1)), "got (0.5, 0.1)"),
    "no number of a spread": (dict(std_range=(math.nan, 1.0)), "got (nan, 1.0)"),
    "endless spread": (dict(std_range=(0.1, math.inf)), "got (0.1, inf)"),
    "a view of no pixels": (dict(view=0), "got 0x0"),
    "a view too small for convolutions": (dict(view=3, network="conv"), "got 3x3"),
    "a patch too small for convolutions": (dict(patch=3, network="conv"), "got 3x3"),
    "convolutions without channels": (dict(widths=(8, 0), network="conv"), "widths must be at least 1"),
}


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_networks_that_cannot_be_are_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    refusal(lambda: prediction(**changes), words)
