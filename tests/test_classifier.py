"""The networks: what can reach what, which shapes they take, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wsram.actions import Action, GlimpseDistribution
from wsram.errors import UserError
from wsram.estimators import defensive_mixture, wake_sleep
from wsram.glimpse import Sensor
from wsram.models.classifier import AttentionClassifier, Choose, InferenceNetwork, PredictionNetwork
from wsram.models.layers import ENCODERS, RECURRENCES, GlimpseEncoder, Recurrence, ViewEncoder

CLASSES = 5


def prediction(patch: int = 6, scales: tuple[int, ...] = (1, 2), **changes: Any) -> PredictionNetwork:
    sizes = dict(glimpses=3, classes=CLASSES, lower_units=12, upper_units=10, view=8)
    return PredictionNetwork(Sensor(patch, scales), **(sizes | changes))


def inference(network: PredictionNetwork) -> InferenceNetwork:
    found = InferenceNetwork(classes=CLASSES, hidden=10, outputs=network.policy_head.out_features)
    with torch.no_grad():  # as if it had learned something
        for parameter in found.parameters():
            parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    return found


def following(actions: Action) -> Choose:
    """Look at the given places, location (batch, glimpses, 2) and scale (batch, glimpses), whatever the policy says."""
    taken = iter(range(actions.scale.shape[-1]))

    def choose(policy: GlimpseDistribution, raw: Tensor, r2: Tensor) -> Action:
        n = next(taken)
        return Action(actions.location[..., n, :], actions.scale[..., n])

    return choose


def somewhere(batch: int, glimpses: int) -> Action:
    generator = torch.Generator().manual_seed(5)
    location = torch.rand(batch, glimpses, 2, generator=generator) - 0.5
    return Action(location, torch.randint(2, (batch, glimpses), generator=generator))


def gradients(value: Tensor, module: nn.Module) -> list[Tensor | None]:
    return list(torch.autograd.grad(value, list(module.parameters()), retain_graph=True, allow_unused=True))


def untouched(value: Tensor, module: nn.Module) -> bool:
    """Whether no parameter of the module has any influence on the value."""
    return all(gradient is None for gradient in gradients(value, module))


# What can reach the prediction


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_view_reaches_the_label_through_the_choice_of_glimpses_alone(recurrence: str, encoder: str) -> None:
    """With the glimpses held, nothing of the path from the view to the policy has a way to the label."""
    network = prediction(recurrence=recurrence, encoder=encoder)
    images, actions = torch.rand(4, 1, 20, 20), somewhere(4, 3)
    looked = network.look(images, following(actions))
    label = looked.log_p_labels[:, 0].sum()
    for module in (network.view_encoder, network.upper, network.policy_head):
        assert untouched(label, module)
    for module in (network.glimpse_encoder, network.lower, network.label_head):  # the test can see influence
        assert all(g is not None for g in gradients(label, module))
    assert not untouched(looked.policy.log_prob(actions).sum(), network.view_encoder)
    # Nor by any way that has no gradient: other weights there give the very same answer.
    with torch.no_grad():
        for module in (network.view_encoder, network.upper, network.policy_head):
            for parameter in module.parameters():
                parameter.normal_()
    assert torch.equal(network.look(images, following(actions)).log_p_labels, looked.log_p_labels)


def test_pixels_that_no_glimpse_covers_do_not_reach_the_label() -> None:
    network = prediction(patch=4, scales=(1,), view=20)
    images = torch.rand(2, 1, 20, 20)
    corner = Action(torch.full((2, 3, 2), -0.7), torch.zeros(2, 3, dtype=torch.long))
    changed = images.clone()
    changed[..., 10:, :] = torch.rand(2, 1, 10, 20)
    before, after = (network.look(i, following(corner)) for i in (images, changed))
    assert torch.equal(before.log_p_labels, after.log_p_labels)
    assert not torch.allclose(before.policy.mean, after.policy.mean)  # the policy saw the change
    changed = images.clone()
    changed[..., :5, :5] = torch.rand(2, 1, 5, 5)
    assert not torch.allclose(network.look(changed, following(corner)).log_p_labels, before.log_p_labels)


def test_the_label_reaches_the_prediction_through_the_glimpses_proposed_alone() -> None:
    network = prediction()
    model = AttentionClassifier(network, inference(network))
    images, labels = torch.rand(6, 1, 20, 20), torch.arange(6) % CLASSES
    rollout = model(images, labels, samples=4, generator=torch.Generator().manual_seed(0))
    assert model.inference is not None
    for value in (rollout.log_p_y.sum(), rollout.log_p_a.sum()):
        assert untouched(value, model.inference)
    assert untouched(rollout.log_q_a.sum(), network)
    assert not untouched(rollout.log_q_a.sum(), model.inference)
    # The same glimpses without an inference network: the same numbers.
    for m in range(4):
        taken = Action(rollout.action.location[m], rollout.action.scale[m])
        looked = network.look(images, following(taken))
        at_label = looked.log_p_labels.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(at_label, rollout.log_p_y[m])
        torch.testing.assert_close(looked.policy.log_prob(taken), rollout.log_p_glimpses[m])


def test_the_three_losses_teach_whom_they_should() -> None:
    network = prediction()
    model = AttentionClassifier(network, inference(network))
    rollout = model(
        torch.rand(6, 1, 20, 20), torch.arange(6) % CLASSES, samples=4, generator=torch.Generator().manual_seed(0)
    )
    estimate = wake_sleep(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a)
    assert model.inference is not None
    assert untouched(estimate.prediction_loss, network.policy_head)
    assert untouched(estimate.prediction_loss, network.view_encoder)
    assert untouched(estimate.policy_loss, network.label_head)
    assert untouched(estimate.policy_loss + estimate.prediction_loss, model.inference)
    assert untouched(estimate.proposal_loss, network)


def test_at_first_the_inference_network_proposes_what_the_policy_would() -> None:
    network = prediction()
    fresh = InferenceNetwork(classes=CLASSES, hidden=10, outputs=network.policy_head.out_features)
    rollout = AttentionClassifier(network, fresh)(
        torch.rand(6, 1, 20, 20), torch.arange(6) % CLASSES, samples=3, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(rollout.log_q_glimpses, rollout.log_p_glimpses)


def test_the_proposal_is_scored_as_it_was_drawn_from() -> None:
    """With an inference network that has learned, log q is another than log p, and depends on the label."""
    network = prediction()
    model = AttentionClassifier(network, inference(network))
    images = torch.rand(6, 1, 20, 20)
    one, other = (
        model(images, torch.full((6,), label), samples=3, generator=torch.Generator().manual_seed(0))
        for label in (0, 1)
    )
    assert not torch.allclose(one.log_q_a, one.log_p_a)
    assert not torch.allclose(one.action.location, other.action.location)


# Shapes


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_image_size_channels_glimpses_and_precision(data: st.DataObject) -> None:
    def draw(low: int, high: int, name: str) -> int:
        return data.draw(st.integers(low, high), name)

    encoder, recurrence = data.draw(st.sampled_from(ENCODERS)), data.draw(st.sampled_from(RECURRENCES))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), "dtype")
    patch, channels, glimpses = draw(4, 7, "patch"), draw(1, 4, "channels"), draw(1, 5, "glimpses")
    height, width = draw(patch, 31, "height"), draw(patch, 31, "width")
    samples, batch = draw(1, 3, "samples"), draw(1, 4, "batch")
    network = prediction(patch, channels=channels, glimpses=glimpses, encoder=encoder, recurrence=recurrence)
    model = AttentionClassifier(network, inference(network)).to(dtype)
    images, labels = torch.rand(batch, channels, height, width).to(dtype), torch.randint(CLASSES, (batch,))
    rollout = model(images, labels, samples=samples, generator=torch.Generator().manual_seed(0))
    assert rollout.log_p_y.shape == rollout.log_p_a.shape == rollout.log_q_a.shape == (samples, batch)
    assert rollout.log_p_glimpses.shape == rollout.action.scale.shape == (samples, batch, glimpses)
    assert rollout.action.location.shape == rollout.policy.mean.shape == (samples, batch, glimpses, 2)
    exact = torch.float64 if dtype == torch.float64 else torch.float32  # probabilities are never kept in bfloat16
    for value in (rollout.log_p_y, rollout.log_p_a, rollout.log_q_a):
        assert value.dtype == exact and bool(value.isfinite().all())
    (rollout.log_p_y + rollout.log_p_a + rollout.log_q_a).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    with torch.no_grad():
        looked = model.predict(images)
        assert looked.log_p_labels.shape == (batch, CLASSES)
        torch.testing.assert_close(looked.log_p_labels.exp().sum(-1), torch.ones(batch, dtype=exact), atol=1e-3, rtol=0)
        voted = model.predict(images, samples=samples, generator=torch.Generator(), glimpses=1)
        assert voted.log_p_labels.shape == (samples, batch, CLASSES)
        assert voted.action.scale.shape == (samples, batch, 1)


def test_locations_are_drawn_within_the_bounds_of_their_spread() -> None:
    network = prediction(std_range=(0.1, 0.4))
    raw = torch.randn(1000, network.policy_head.out_features) * 20
    policy = network.policy(raw)
    std = policy.log_std.exp()
    assert float(std.min()) >= 0.1 - 1e-6 and float(std.max()) <= 0.4 + 1e-6
    assert float(policy.mean.abs().max()) <= 1
    fixed = prediction(std_range=(0.2, 0.2)).policy(raw)
    torch.testing.assert_close(fixed.log_std.exp(), torch.full((1000, 2), 0.2))


def test_lstm_keeps_its_cell_beside_its_output() -> None:
    layer = Recurrence("lstm", 3, 4)
    state = layer.initial(torch.rand(2, 4))
    inputs = torch.rand(2, 3)
    assert isinstance(layer.cell, nn.LSTMCell)
    output, cell = layer.cell(inputs, (state[:, :4], torch.zeros(2, 4)))
    after = layer(inputs, state)
    torch.testing.assert_close(layer.output(after), output)
    torch.testing.assert_close(after[:, 4:], cell)


def test_one_glimpse_and_many_are_read_at_the_same_loudness() -> None:
    """The head reads the mean over glimpses; with a ReLU layer at its start, repeating a glimpse changes nothing."""
    network = prediction(glimpses=4)
    with torch.no_grad():
        for weights in (network.lower.cell.bias_ih, network.lower.cell.bias_hh):
            weights.zero_()
    same = Action(torch.zeros(2, 4, 2), torch.zeros(2, 4, dtype=torch.long))
    images = torch.rand(2, 1, 20, 20)
    one, four = (network.look(images, following(same), n).log_p_labels for n in (1, 4))
    torch.testing.assert_close(one, four)


# What is refused

BAD = {
    "no glimpses": dict(glimpses=0),
    "one class": dict(classes=1),
    "one unit": dict(lower_units=1),
    "no channels": dict(channels=0),
    "unknown recurrence": dict(recurrence="elman"),
    "unknown encoder": dict(encoder="transformer"),
    "no spread": dict(std_range=(0.0, 1.0)),
    "spread upside down": dict(std_range=(0.5, 0.1)),
    "a view of no pixels": dict(view=0),
    "a view too small for convolutions": dict(view=3, encoder="conv"),
    "a patch too small for convolutions": dict(patch=3, encoder="conv"),
    "convolutions without channels": dict(widths=(8, 0), encoder="conv"),
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_networks_that_cannot_be_are_refused_in_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        prediction(**changes)
    assert "\n" not in str(caught.value)


def test_no_samples_are_refused() -> None:
    network = prediction()
    model = AttentionClassifier(network)
    with pytest.raises(UserError, match="samples must be at least 1, got 0"):
        model(torch.rand(1, 1, 20, 20), torch.zeros(1, dtype=torch.long), samples=0, generator=torch.Generator())
    with pytest.raises(UserError, match="needs a generator"):
        model.predict(torch.rand(1, 1, 20, 20), samples=2)
    with pytest.raises(UserError, match="at least 1 sample, got 0"):
        model.predict(torch.rand(1, 1, 20, 20), samples=0, generator=torch.Generator())


def test_images_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(UserError, match=r"a patch of 6 pixels.*5x20 image"):
        prediction().look(torch.rand(1, 1, 5, 20), following(somewhere(1, 3)))


def test_encoders_alone() -> None:
    """Each is usable by itself, as in a network of another kind."""
    glimpse = GlimpseEncoder("conv", channels=2, side=9, scales=3, features=7, widths=(3, 5))
    action = Action(torch.zeros(4, 5, 2), torch.zeros(4, 5, dtype=torch.long))
    assert glimpse(torch.rand(4, 5, 2, 9, 9), action).shape == (4, 5, 7)
    view = ViewEncoder("conv", channels=2, side=11, features=7, widths=(3, 5))
    assert view(torch.rand(3, 2, 30, 40)).shape == (3, 7)
    for encoder in (glimpse, view):
        convolutions = [module for module in encoder.modules() if isinstance(module, torch.nn.Conv2d)]
        assert [module.out_channels for module in convolutions] == [3, 5]


# What each glimpse adds, and mixtures of both networks


def test_what_the_glimpses_add_is_what_stopping_after_each_would_say() -> None:
    network = prediction()
    model = AttentionClassifier(network)
    images, labels = torch.rand(4, 1, 20, 20), torch.arange(4)
    rollout = model(images, labels, samples=2, generator=torch.Generator().manual_seed(0))
    for m in range(2):
        for n in range(1, 4):
            taken = Action(rollout.action.location[m, :, :n], rollout.action.scale[m, :, :n])
            stopped = network.look(images, following(taken), n).log_p_labels
            at_label = stopped.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
            torch.testing.assert_close(rollout.log_p_y_glimpses[m, :, :n].sum(-1), at_label)
    # What is said after the last glimpse is what the label head learns from.
    looked = network.look(images, following(Action(rollout.action.location[0], rollout.action.scale[0])))
    at_label = looked.log_p_labels.gather(-1, labels.unsqueeze(-1)).sum()
    ours = torch.autograd.grad(rollout.log_p_y[0].sum(), list(network.label_head.parameters()))
    for got, expected in zip(ours, gradients(at_label, network.label_head), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_defensive_mixture_draws_whole_sequences_from_either_network() -> None:
    """A proposal that looks at the left and a policy that looks at the right, both all but surely."""
    network = prediction(std_range=(0.05, 0.05))
    teacher = inference(network)
    with torch.no_grad():
        for weights, bias in (
            (network.policy_head.weight, network.policy_head.bias),
            (teacher.correct.weight, teacher.correct.bias),
        ):
            weights.zero_()
            bias.zero_()
        network.policy_head.bias[0] = 1.0
        teacher.correct.bias[0] = -2.0
    model = AttentionClassifier(network, teacher)
    images, labels = torch.rand(5, 1, 20, 20), torch.arange(5)

    def draw(defensive: float) -> Any:
        generator = torch.Generator().manual_seed(0)
        return model(images, labels, samples=200, generator=generator, defensive=defensive)

    rollout = draw(0.25)
    right = rollout.action.location[..., 0] > 0
    assert torch.equal(right.all(-1), right.any(-1))
    assert abs(float(right.float().mean()) - 0.25) < 0.05
    for b in range(5):  # drawn anew for each image
        assert not torch.equal(right[:, b], right[:, b - 1])
    assert rollout.log_proposal_glimpses is not None and not rollout.log_proposal_glimpses.requires_grad
    mixture = defensive_mixture(rollout.log_p_glimpses, rollout.log_q_glimpses, 0.25)
    assert torch.equal(rollout.log_proposal_glimpses, mixture)
    ratio = (rollout.log_p_a - rollout.log_proposal_glimpses.sum(-1)).detach().exp()
    assert float(ratio.max()) <= 4 * (1 + 1e-4) and float(ratio.max()) > 3.9
    # The proposal's density of what the policy chose is the proposal's own.
    assert rollout.log_q_a[right.all(-1)].max() < -100 < -50 < rollout.log_q_a[~right.all(-1)].min()
    assert draw(0.0).log_proposal_glimpses is None and not bool((draw(0.0).action.location[..., 0] > 0).any())


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_a_defensive_mixture_needs_some_of_each(share: float) -> None:
    model = AttentionClassifier(prediction())
    with pytest.raises(UserError, match="above 0 and below 1"):
        model(
            torch.rand(1, 1, 20, 20),
            torch.zeros(1, dtype=torch.long),
            samples=2,
            generator=torch.Generator().manual_seed(0),
            defensive=share,
        )


# Summing over the last scale


def test_the_last_scale_is_summed_over_with_the_policys_probabilities() -> None:
    network, images = prediction(), torch.rand(2, 1, 20, 20)
    model = AttentionClassifier(network, inference(network))
    labels = torch.tensor([1, 3])
    rollout = model(images, labels, samples=4, generator=torch.Generator().manual_seed(0), sum_scale=True)
    each = []
    for k in range(2):  # the very same glimpses, but for the last one's scale
        scale = torch.cat([rollout.action.scale[..., :-1], torch.full((4, 2, 1), k)], -1)
        looked = network.look(images, following(Action(rollout.action.location, scale)))
        log_p_y = looked.log_p_labels[..., labels].diagonal(dim1=-2, dim2=-1)
        each.append(looked.policy.scale_log_prob(scale)[..., -1] + log_p_y)
    torch.testing.assert_close(rollout.log_p_y, torch.logsumexp(torch.stack(each), 0))
    policy = rollout.policy
    expected = policy.log_prob(rollout.action)[..., :-1].sum(-1)
    expected = expected + policy.location_log_prob(rollout.action.location)[..., -1]
    torch.testing.assert_close(rollout.log_p_a, expected)
    # So the gradient of where to look reaches the scale through the label as well.
    assert not untouched(rollout.log_p_y.sum(), network.policy_head)


def test_the_last_scale_is_no_part_of_the_proposal_either() -> None:
    network, images = prediction(glimpses=1), torch.rand(2, 1, 20, 20)
    model = AttentionClassifier(network, inference(network))
    rollout = model(images, torch.tensor([1, 3]), samples=3, generator=torch.Generator().manual_seed(0), sum_scale=True)
    assert model.inference is not None
    scales = torch.autograd.grad(rollout.log_q_a.sum(), model.inference.correct.bias)[0][4:]
    assert not bool(scales.any())


def test_summing_over_the_last_scale_keeps_the_gradients_mean_and_lowers_its_variance() -> None:
    """Of the variational bound of one glimpse with a fixed place: with the scale alone to choose there is nothing else.

    The bound itself rises, so it is the likelihood's gradient that must agree; at many samples both estimate it.
    """
    network = prediction(glimpses=1, std_range=(1e-6, 1e-6))
    with torch.no_grad():
        network.policy_head.weight.normal_(generator=torch.Generator().manual_seed(2))
        network.label_head.weight.mul_(8)
    model, images, labels = AttentionClassifier(network), torch.rand(3, 1, 20, 20), torch.tensor([0, 1, 4])
    found = {}
    for sum_scale in (False, True):

        def draw(n: int, sum_scale: bool = sum_scale) -> Tensor:
            generator = torch.Generator().manual_seed(n)
            rollout = model(images, labels, samples=200, generator=generator, sum_scale=sum_scale)
            return wake_sleep(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a).loss

        head = {"scale": [network.policy_head.bias]}
        # The place's own score is the same noise in both; its bias comes first, so leave it out.
        found[sum_scale] = torch.stack([torch.autograd.grad(draw(n), head["scale"])[0][4:] for n in range(40)])
    drawn, summed = found[False], found[True]
    assert summed.std(0).max() < 1e-4 < drawn.std(0).min()
    error = drawn.std(0) / 40**0.5
    assert bool(((drawn.mean(0) - summed.mean(0)).abs() < 4 * error + 0.01 * summed.mean(0).abs()).all())


# Dreams


def test_dreams_are_the_models_own_and_teach_the_inference_network_alone() -> None:
    """Their mean is that of Σ_y p(y|a) log q(a|y) over the policy's actions."""
    network, images, many = prediction(glimpses=1), torch.rand(2, 1, 20, 20), 40_000
    with torch.no_grad():
        network.label_head.weight.mul_(8)
    model = AttentionClassifier(network, inference(network))
    assert model.inference is not None
    labels = torch.tensor([1, 3])
    generator = torch.Generator().manual_seed(0)
    rollout = model(images, labels, samples=1, generator=generator, dreams=many)
    dreamt = rollout.log_q_dreams
    assert dreamt is not None and dreamt.shape == (many, 2, 1)
    assert untouched(dreamt.sum(), network) and not untouched(dreamt.sum(), model.inference)
    seen: list[tuple[Tensor, Tensor]] = []

    def choose(policy: GlimpseDistribution, raw: Tensor, r2: Tensor) -> Action:
        seen.append((raw, r2))
        return policy.sample(torch.Generator().manual_seed(9), (many,))

    looked = network.look(images, choose)
    action = Action(looked.action.location[..., 0, :], looked.action.scale[..., 0])
    told = torch.arange(CLASSES).view(-1, 1, 1).expand(-1, many, 2)
    log_q = network.policy(model.inference(*seen[0], told)).log_prob(action).movedim(0, -1)
    expected = (looked.log_p_labels.exp() * log_q).sum(-1)
    error = (dreamt.var(0).squeeze(-1) / many + expected.var(0) / many).sqrt()
    assert bool(((dreamt.mean(0).squeeze(-1) - expected.mean(0)).abs() < 4 * error).all())
    told_truth = (log_q[..., 0].mean(0) - expected.mean(0)).abs()
    assert bool((told_truth > 6 * error).any())  # the test can tell labels apart


def test_dreams_need_an_inference_network() -> None:
    network = AttentionClassifier(prediction())
    with pytest.raises(UserError, match="--proposal inference"):
        network(torch.rand(1, 1, 20, 20), torch.tensor([0]), samples=1, generator=torch.Generator(), dreams=1)
