"""The classifier: what each network learns from, how sequences are scored and dreamt, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models.networks import (
    CLASSES,
    NAMES,
    check_lineages,
    check_mean,
    classifier,
    following,
    gradients,
    untouched,
)
from tests.refusals import refusal
from wsram.estimators import defensive_mixture, wake_sleep
from wsram.glimpse.actions import Action, GlimpseDistribution
from wsram.models.classifier import AttentionClassifier
from wsram.models.layers import NETWORKS, RECURRENCES


def rolled(model: AttentionClassifier, images: Tensor, answers: Tensor, samples: int = 4, **changes: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return model(images, answers, samples=samples, generator=generator, **changes)


def opinionated(**changes: Any) -> AttentionClassifier:
    """One, in float64, whose answers depend on what it sees, so that some sequences are worth more than others."""
    model = classifier(**changes).double()
    with torch.no_grad():
        model.head.read.weight.mul_(60)
    return model


def six() -> tuple[Tensor, Tensor]:
    return torch.rand(6, 1, 20, 20), torch.arange(6) % CLASSES


# What can reach what


def test_the_answer_reaches_the_prediction_through_the_glimpses_proposed_alone() -> None:
    model = classifier()
    network = model.prediction
    images, answers = six()
    rollout = rolled(model, images, answers)
    for value in (rollout.log_p_y.sum(), rollout.log_p_a.sum()):
        assert untouched(value, model.inference)
    assert untouched(rollout.log_q_a.sum(), network)
    assert not untouched(rollout.log_q_a.sum(), model.inference)
    # The same glimpses without an inference network: the same numbers.
    for m in range(4):
        taken = Action(rollout.action.location[m], rollout.action.scale[m])
        looked = network.look(images, following(taken))
        at_answer = looked.outputs.gather(-1, answers.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(at_answer, rollout.log_p_y[m].sum(-1))
        torch.testing.assert_close(looked.policy.log_prob(taken), rollout.log_p_a[m])


def test_the_three_losses_teach_whom_they_should() -> None:
    model = classifier()
    network = model.prediction
    rollout = rolled(model, *six())
    estimate = wake_sleep(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a)
    assert untouched(estimate.prediction_loss, network.policy_head)
    assert untouched(estimate.prediction_loss, network.view_network)
    assert untouched(estimate.policy_loss, network.head)
    assert untouched(estimate.policy_loss + estimate.prediction_loss, model.inference)
    assert untouched(estimate.proposal_loss, network)
    # The test can see influence.
    assert not untouched(estimate.prediction_loss, network.head)
    assert not untouched(estimate.policy_loss, network.policy_head)
    assert not untouched(estimate.proposal_loss, model.inference)


def test_the_policys_mean_is_that_over_what_is_proposed() -> None:
    """Step by step what the log-probabilities come to on average; θ learns from it, η does not, and nothing changes."""
    model, (images, answers) = classifier(), six()
    plain = rolled(model, images[:2], answers[:2], samples=4000)
    rollout = rolled(model, images[:2], answers[:2], samples=4000, centred=True)
    check_mean(plain, rollout, model.inference)
    assert not untouched(rollout.mean_log_p_a.sum(), model.prediction.policy_head)


def test_a_location_is_followed_through_its_glimpse_and_all_that_comes_after() -> None:
    """The label's log-probability at fixed noise, moved with the policy's weights, as finite differences have it."""
    model = classifier(inference=False, recurrence="gru").double()
    images, answers = (part[:3] for part in six())
    images = images.double()
    weight = model.prediction.policy_head.weight
    rollout = rolled(model, images, answers, pathwise=1.0)
    (ours,) = torch.autograd.grad(rollout.log_p_y.sum(), weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():  # the same generator draws the same noise, and the same scales for so small a step
        moved = []
        for step in (1e-6, -1e-6):
            weight += step * direction
            moved.append(rolled(model, images, answers).log_p_y.sum())
            weight -= step * direction
    assert float((ours * direction).sum()) == pytest.approx(float((moved[0] - moved[1]) / 2e-6), rel=1e-4)
    half = rolled(model, images, answers, pathwise=0.5)
    for name in ("log_p_y", "log_p_a", "log_q_a"):
        torch.testing.assert_close(getattr(half, name), getattr(rollout, name))


def test_at_first_the_inference_network_proposes_what_the_policy_would() -> None:
    rollout = rolled(classifier(fresh=True), *six())
    torch.testing.assert_close(rollout.log_q_a, rollout.log_p_a)


def test_the_proposal_is_scored_as_it_was_drawn_from() -> None:
    """With an inference network that has learned, log q is another than log p, and depends on the answer."""
    model = classifier()
    images, _ = six()
    one, other = (rolled(model, images, torch.full((6,), answer)) for answer in (0, 1))
    assert not torch.allclose(one.log_q_a, one.log_p_a)
    assert not torch.allclose(one.action.location, other.action.location)


@pytest.mark.parametrize("changes", [{}, {"with_inference": False}, {"sum_scale": True}, {"temperature": 1.5}])
def test_a_resampled_sequence_goes_on_from_another_as_if_it_had_been_that_one(changes: dict[str, Any]) -> None:
    model = opinionated(recurrence="gru", scale_toll=1.0)
    images, answers = six()
    rollout = rolled(model, images.double(), answers, resample=True, **changes)
    if "sum_scale" not in changes:
        check_lineages(model, images.double(), answers, rollout)
    plain = rolled(model, images.double(), answers, **changes)
    assert plain.ancestors is None
    # The first glimpses are those that there would be anyway; of the others some follow another past.
    assert torch.equal(plain.action.location[:, :, 0], rollout.action.location[:, :, 0])
    assert torch.equal(plain.log_p_y[..., 0], rollout.log_p_y[..., 0])
    assert not torch.equal(plain.log_p_y[..., 1], rollout.log_p_y[..., 1])


def test_sequences_are_gone_on_with_in_proportion_to_their_weights() -> None:
    model = opinionated()
    images, answers = six()
    rollout = rolled(model, images.double(), answers, samples=2000, resample=True)
    log_w = (rollout.log_p_a - rollout.log_q_a + rollout.log_p_y)[..., 0].detach()
    expected = 2000 * torch.softmax(log_w, 0)
    heirs = torch.zeros_like(expected).scatter_add(0, rollout.ancestors[..., 1], torch.ones_like(expected))
    assert float((heirs - expected).abs().max()) < 1 + 1e-6


def test_resampled_sequences_are_of_no_mixture() -> None:
    model, (images, answers) = classifier(), six()
    refusal(lambda: rolled(model, images, answers, resample=True, defensive=0.5), "use --defensive 0")


def test_without_its_inference_network_the_policy_proposes() -> None:
    model = classifier()
    images, answers = six()
    rollout = rolled(model, images, answers, with_inference=False)
    assert torch.equal(rollout.log_q_a, rollout.log_p_a) and not rollout.log_q_a.requires_grad
    other = rolled(model, images, (answers + 1) % CLASSES, with_inference=False)
    assert torch.equal(rollout.action.location, other.action.location)
    assert not torch.equal(rollout.action.location, rolled(model, images, answers).action.location)


# Shapes

ANSWERS = {
    "class": (NAMES, CLASSES, torch.tensor([4, 0, 1, 3])),
    "labels": (("a", "b", "c"), 3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])),
    "number": (("a",), 2, torch.tensor([0.5, -2.0, 0.0, 1.0])),
}
"""Names, outputs and four answers of every kind."""


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_answer_image_size_channels_glimpses_and_precision(data: st.DataObject) -> None:
    def draw(low: int, high: int, name: str) -> int:
        return data.draw(st.integers(low, high), name)

    network, recurrence = data.draw(st.sampled_from(NETWORKS)), data.draw(st.sampled_from(RECURRENCES))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), "dtype")
    patch, channels, glimpses = draw(4, 7, "patch"), draw(1, 4, "channels"), draw(1, 5, "glimpses")
    height, width = draw(patch, 31, "height"), draw(patch, 31, "width")
    samples, batch = draw(1, 3, "samples"), draw(1, 4, "batch")
    kind = data.draw(st.sampled_from(sorted(ANSWERS)), "answer")
    names, outputs, answers = ANSWERS[kind]
    sizes = dict(patch=patch, channels=channels, glimpses=glimpses, network=network, recurrence=recurrence)
    model = classifier(answer=kind, names=names, **sizes).to(dtype)
    images, answers = torch.rand(batch, channels, height, width).to(dtype), answers[:batch]
    rollout = rolled(model, images, answers, samples, dreams=1)
    assert rollout.log_p_y.shape == rollout.log_p_a.shape == rollout.log_q_a.shape == (samples, batch, glimpses)
    assert rollout.action.scale.shape == (samples, batch, glimpses)
    assert rollout.action.location.shape == rollout.policy.mean.shape == (samples, batch, glimpses, 2)
    exact = torch.float64 if dtype == torch.float64 else torch.float32  # probabilities are never kept in bfloat16
    for value in (rollout.log_p_y, rollout.log_p_a, rollout.log_q_a):
        assert value.dtype == exact and bool(value.isfinite().all())
    (rollout.log_p_y + rollout.log_p_a + rollout.log_q_a).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    with torch.no_grad():
        looked = model.predict(images)
        assert looked.outputs.shape == (batch, outputs) and looked.outputs_after.shape == (batch, glimpses, outputs)
        assert looked.outputs.dtype == exact and bool(looked.outputs.isfinite().all())
        voted = model.predict(images, samples=samples, generator=torch.Generator(), glimpses=1)
        assert voted.outputs.shape == (samples, batch, outputs)
        assert voted.action.scale.shape == (samples, batch, 1)


def test_images_of_several_sizes_are_looked_at_as_each_by_itself() -> None:
    model = classifier(channels=2)
    images = [torch.rand(2, *size) for size in ((20, 31), (9, 7), (40, 12))]
    answers = torch.tensor([0, 3, 1])
    looked = model.predict(images)
    for n, image in enumerate(images):
        alone = model.predict(image.unsqueeze(0))
        torch.testing.assert_close(looked.outputs[n], alone.outputs[0])
        torch.testing.assert_close(looked.action.location[n], alone.action.location[0])
    rollout = rolled(model, images, answers, dreams=2)
    for n, image in enumerate(images):
        taken = Action(rollout.action.location[0, n : n + 1], rollout.action.scale[0, n : n + 1])
        after = model.prediction.look(image.unsqueeze(0), following(taken)).outputs[0, answers[n]]
        torch.testing.assert_close(rollout.log_p_y[0, n].sum(), after)


def test_a_pyramid_serves_as_its_images_do() -> None:
    model = classifier()
    images, answers = six()
    pyramid = model.prediction.sensor.pyramid(images)
    assert torch.equal(model.predict(pyramid).outputs, model.predict(images).outputs)
    ours, theirs = (rolled(model, each, answers, dreams=2) for each in (pyramid, images))
    for name in ("log_p_y", "log_p_a", "log_q_a", "log_q_dreams"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_prediction_looks_at_the_policys_modes_or_at_what_is_drawn_from_it() -> None:
    model = classifier()
    images, _ = six()
    looked = model.predict(images)
    told = model.prediction.look(images, lambda policy, raw, r2: policy.mode())
    assert isinstance(told.policy, GlimpseDistribution)
    assert torch.equal(looked.action.location, told.policy.mean)
    assert torch.equal(looked.action.scale, told.policy.scale_logits.argmax(-1))
    drawn, again, other = (
        model.predict(images, samples=3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(drawn.outputs, again.outputs)
    assert not torch.equal(drawn.action.location, other.action.location)
    assert not torch.equal(drawn.action.location, drawn.policy.mean)


# Calibration


def test_classes_are_calibrated_by_a_temperature() -> None:
    model, images = classifier(), torch.rand(6, 1, 20, 20)
    before = model.predict(images).outputs
    model.calibrate([2.0])
    torch.testing.assert_close(model.predict(images).outputs, (before / 2).log_softmax(-1))
    assert model.arguments["calibration"] == [2.0]
    model.calibrate(None)
    assert torch.equal(model.predict(images).outputs, before) and model.arguments["calibration"] is None


def test_labels_are_calibrated_by_thresholds_that_change_no_probability() -> None:
    names, _, answers = ANSWERS["labels"]
    model, images = classifier(answer="labels", names=names), torch.rand(4, 1, 20, 20)
    before = model.predict(images).outputs
    everything, nothing = torch.ones_like(answers), torch.zeros_like(answers)
    for threshold, present in ((-50.0, everything), (50.0, nothing)):
        model.calibrate([threshold] * 3)
        assert torch.equal(model.predict(images).outputs, before)
        assert model.head.error(before, present) == 0


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("class", [1.0, 1.0], "expected 1 value(s)"),
        ("class", [], "expected 1 value(s)"),
        ("class", [0.0], "above 0, got 0.0"),
        ("class", [float("nan")], "above 0, got nan"),
        ("labels", [0.0], "expected 3 value(s)"),
        ("number", [1.0], "expected 0 value(s)"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(kind: str, values: list[float], words: str) -> None:
    model = classifier(answer=kind, names=ANSWERS[kind][0])
    refusal(lambda: model.calibrate(values), words)
    refusal(lambda: classifier(answer=kind, names=ANSWERS[kind][0], calibration=values), words)


# What is refused


def test_no_samples_are_refused() -> None:
    model, image = classifier(inference=False), torch.rand(1, 1, 20, 20)
    refusal(lambda: rolled(model, image, torch.zeros(1, dtype=torch.long), 0), "samples must be at least 1, got 0")
    refusal(lambda: model.predict(image, samples=2), "needs a generator")
    refusal(lambda: model.predict(image, samples=0, generator=torch.Generator()), "at least 1 sample, got 0")


# What each glimpse adds, and mixtures of both networks


def test_what_the_glimpses_add_is_what_stopping_after_each_would_say() -> None:
    model = classifier(inference=False)
    network = model.prediction
    images, answers = torch.rand(4, 1, 20, 20), torch.arange(4)
    rollout = rolled(model, images, answers, 2)
    for m in range(2):
        for n in range(1, 4):
            taken = Action(rollout.action.location[m, :, :n], rollout.action.scale[m, :, :n])
            stopped = network.look(images, following(taken), n).outputs
            at_answer = stopped.gather(-1, answers.unsqueeze(-1)).squeeze(-1)
            torch.testing.assert_close(rollout.log_p_y[m, :, :n].sum(-1), at_answer)
    # What is said after the last glimpse is what the head learns from.
    looked = network.look(images, following(Action(rollout.action.location[0], rollout.action.scale[0])))
    at_answer = looked.outputs.gather(-1, answers.unsqueeze(-1)).sum()
    ours = gradients(rollout.log_p_y[0].sum(), network.head)
    for got, expected in zip(ours, gradients(at_answer, network.head), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_defensive_mixture_draws_whole_sequences_from_either_network() -> None:
    """A proposal that looks at the left and a policy that looks at the right, both all but surely."""
    model = classifier(std_range=(0.05, 0.05))
    network, teacher = model.prediction, model.inference
    with torch.no_grad():
        for layer in (network.policy_head, teacher.correct):
            layer.weight.zero_()
            layer.bias.zero_()
        network.policy_head.bias[0] = 1.0
        teacher.correct.bias[0] = -2.0
    images, answers = torch.rand(5, 1, 20, 20), torch.arange(5)
    rollout = rolled(model, images, answers, 200, defensive=0.25)
    right = rollout.action.location[..., 0] > 0
    assert torch.equal(right.all(-1), right.any(-1))
    assert abs(float(right.float().mean()) - 0.25) < 0.05
    for b in range(5):  # drawn anew for each image
        assert not torch.equal(right[:, b], right[:, b - 1])
    assert rollout.log_proposal is not None and not rollout.log_proposal.requires_grad
    assert torch.equal(rollout.log_proposal, defensive_mixture(rollout.log_p_a, rollout.log_q_a, 0.25))
    log_p, log_q = rollout.log_p_a.sum(-1), rollout.log_q_a.sum(-1)
    ratio = (log_p - rollout.log_proposal.sum(-1)).detach().exp()
    assert float(ratio.max()) <= 4 * (1 + 1e-4) and float(ratio.max()) > 3.9
    # The proposal's density of what the policy chose is the proposal's own.
    assert log_q[right.all(-1)].max() < -100 < -50 < log_q[~right.all(-1)].min()
    undefended = rolled(model, images, answers, 200)
    assert undefended.log_proposal is None and not bool((undefended.action.location[..., 0] > 0).any())


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_a_defensive_mixture_needs_some_of_each(share: float) -> None:
    model, images = classifier(inference=False), torch.rand(1, 1, 20, 20)
    refusal(lambda: rolled(model, images, torch.tensor([0]), 2, defensive=share), "above 0 and below 1", share)


# Summing over the last scale


def test_the_last_scale_is_summed_over_with_the_policys_probabilities() -> None:
    model, images = classifier(), torch.rand(2, 1, 20, 20)
    network = model.prediction
    answers = torch.tensor([1, 3])
    rollout = rolled(model, images, answers, sum_scale=True)
    each = []
    for k in range(2):  # the very same glimpses, but for the last one's scale
        scale = torch.cat([rollout.action.scale[..., :-1], torch.full((4, 2, 1), k)], -1)
        looked = network.look(images, following(Action(rollout.action.location, scale)))
        log_p_y = looked.outputs[..., answers].diagonal(dim1=-2, dim2=-1)
        each.append(looked.policy.scale_log_prob(scale)[..., -1] + log_p_y)
    torch.testing.assert_close(rollout.log_p_y.sum(-1), torch.logsumexp(torch.stack(each), 0))
    policy = rollout.policy
    expected = policy.log_prob(rollout.action)[..., :-1].sum(-1)
    expected = expected + policy.location_log_prob(rollout.action.location)[..., -1]
    torch.testing.assert_close(rollout.log_p_a.sum(-1), expected)
    # So the gradient of where to look reaches the scale through the answer as well.
    assert not untouched(rollout.log_p_y.sum(), network.policy_head)


def test_the_last_scale_is_summed_over_at_the_modes_too() -> None:
    network, images = classifier().prediction, torch.rand(2, 1, 20, 20)
    drawn = network.look(images, lambda policy, raw, r2: policy.mode(), sum_scale=True)
    summed, plain = network.look(images, sum_scale=True), network.look(images)
    assert torch.equal(summed.outputs, drawn.outputs) and torch.equal(summed.action.location, plain.action.location)
    assert not torch.equal(summed.outputs, plain.outputs)
    torch.testing.assert_close(summed.outputs.exp().sum(-1), torch.ones(2))


def test_the_last_scale_is_no_part_of_the_proposal_either() -> None:
    model, images = classifier(glimpses=1), torch.rand(2, 1, 20, 20)
    rollout = rolled(model, images, torch.tensor([1, 3]), 3, sum_scale=True)
    scales = torch.autograd.grad(rollout.log_q_a.sum(), model.inference.correct.bias)[0][4:]
    assert not bool(scales.any())


def test_summing_over_the_last_scale_keeps_the_gradients_mean_and_lowers_its_variance() -> None:
    """Of the variational bound of one glimpse with a fixed place: with the scale alone to choose there is nothing else.

    The bound itself rises, so it is the likelihood's gradient that must agree; at many samples both estimate it.
    """
    model = classifier(inference=False, glimpses=1, std_range=(1e-6, 1e-6))
    network = model.prediction
    with torch.no_grad():
        network.policy_head.weight.normal_(generator=torch.Generator().manual_seed(2))
        network.head.read.weight.mul_(8)
    images, answers = torch.rand(3, 1, 20, 20), torch.tensor([0, 1, 4])
    found = {}
    for sum_scale in (False, True):

        def draw(n: int, sum_scale: bool = sum_scale) -> Tensor:
            generator = torch.Generator().manual_seed(n)
            rollout = model(images, answers, samples=200, generator=generator, sum_scale=sum_scale)
            return wake_sleep(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a).loss

        # The place's own score is the same noise in both; its bias comes first, so leave it out.
        bias = network.policy_head.bias
        found[sum_scale] = torch.stack([torch.autograd.grad(draw(n), bias)[0][4:] for n in range(40)])
    drawn, summed = found[False], found[True]
    assert summed.std(0).max() < 1e-4 < drawn.std(0).min()
    error = drawn.std(0) / 40**0.5
    assert bool(((drawn.mean(0) - summed.mean(0)).abs() < 4 * error + 0.01 * summed.mean(0).abs()).all())


@pytest.mark.parametrize("kind", sorted(ANSWERS.keys() - {"class"}))
def test_other_answers_are_learned_and_dreamt_alike_but_not_summed_over_scales(kind: str) -> None:
    names, _, four = ANSWERS[kind]
    answers = four[:2]
    model, images = classifier(answer=kind, names=names), torch.rand(2, 1, 20, 20)
    rollout = rolled(model, images, answers, dreams=3)
    assert rollout.log_p_y.shape == (4, 2, 3) and rollout.log_q_dreams.shape == (3, 2, 3)
    for m in range(4):
        taken = Action(rollout.action.location[m], rollout.action.scale[m])
        looked = model.prediction.look(images, following(taken))
        expected = model.head.log_prob(looked.outputs_after, answers)
        torch.testing.assert_close(rollout.log_p_y[m].cumsum(-1), expected)
    assert not untouched(rollout.log_p_y.sum(), model.head)
    for value in (rollout.log_q_a.sum(), rollout.log_q_dreams.sum()):
        assert not untouched(value, model.inference.answer)
    other = rolled(model, images, answers + 1)
    assert not torch.equal(other.action.location, rollout.action.location)  # proposed knowing the answer
    refusal(lambda: rolled(model, images, answers, sum_scale=True), "--no-sum-scale")


# Dreams


def test_dreams_are_the_models_own_and_teach_the_inference_network_alone() -> None:
    """Their mean is that of Σ_y p(y|a) log q(a|y) over the policy's actions."""
    model, images, many = classifier(glimpses=1), torch.rand(2, 1, 20, 20), 40_000
    network = model.prediction
    with torch.no_grad():
        network.head.read.weight.mul_(8)
    dreamt = rolled(model, images, torch.tensor([1, 3]), 1, dreams=many).log_q_dreams
    assert dreamt.shape == (many, 2, 1)
    assert untouched(dreamt.sum(), network) and not untouched(dreamt.sum(), model.inference)
    seen: list[tuple[Tensor, Tensor]] = []

    def choose(policy: GlimpseDistribution, raw: Tensor, r2: Tensor) -> Action:
        seen.append((raw, r2))
        return policy.sample(torch.Generator().manual_seed(9), (many,))

    looked = network.look(images, choose)
    action = Action(looked.action.location[..., 0, :], looked.action.scale[..., 0])
    told = torch.arange(CLASSES).view(-1, 1, 1).expand(-1, many, 2)
    log_q = network.policy(model.inference(*seen[0], told)).log_prob(action).movedim(0, -1)
    expected = (looked.outputs.exp() * log_q).sum(-1)
    error = (dreamt.var(0).squeeze(-1) / many + expected.var(0) / many).sqrt()
    assert bool(((dreamt.mean(0).squeeze(-1) - expected.mean(0)).abs() < 4 * error).all())
    told_truth = (log_q[..., 0].mean(0) - expected.mean(0)).abs()
    assert bool((told_truth > 6 * error).any())  # the test can tell answers apart


def test_dreams_need_an_inference_network() -> None:
    model, image = classifier(inference=False), torch.rand(1, 1, 20, 20)
    refusal(lambda: rolled(model, image, torch.tensor([0]), 1, dreams=1), "--proposal inference")
