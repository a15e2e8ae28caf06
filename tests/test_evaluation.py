"""Errors under each way of looking, against the same figures worked out one digit at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tiny import tiny_config
from wsram import evaluation
from wsram.data.mnist import Digits
from wsram.data.scenes import evaluation_scenes, scene_spec
from wsram.errors import UserError
from wsram.evaluation import evaluate_mean_action, evaluate_sampled
from wsram.models.build import build_classifier
from wsram.models.classifier import AttentionClassifier

SPEC = scene_spec("translated")
COUNT = 23


@pytest.fixture
def digits() -> Digits:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (COUNT, 28, 28), generator=generator, dtype=torch.uint8)
    return Digits(images, torch.arange(COUNT) % 10)


@pytest.fixture
def network(digits: Digits) -> AttentionClassifier:
    """A network nobody trained, with strong opinions, no favourite, and another opinion after other glimpses."""
    config = tiny_config(None, std_range=(1.0, 1.0))
    network = build_classifier(config.model, config.estimator, channels=1, classes=10)
    head = network.prediction.label_head
    images = evaluation_scenes(digits.images, torch.arange(COUNT), SPEC).images
    with torch.no_grad():
        head.weight.mul_(30)
        looked = network.predict(images, samples=8, generator=torch.Generator().manual_seed(0))
        head.bias.sub_(looked.log_p_labels.mean((0, 1)))
    return network


def scene(digits: Digits, n: int) -> Tensor:
    return evaluation_scenes(digits.images, torch.tensor([n]), SPEC).images


def test_the_mean_action_one_digit_at_a_time(network: AttentionClassifier, digits: Digits) -> None:
    wrong, nll = 0, 0.0
    for n, label in enumerate(digits.labels.tolist()):
        with torch.no_grad():
            chances = network.predict(scene(digits, n)).log_p_labels[0].exp().tolist()
        wrong += max(range(10), key=chances.__getitem__) != label
        nll -= math.log(chances[label])
    found = evaluate_mean_action(network, digits, SPEC)
    assert found == {
        "error_mean_action": pytest.approx(wrong / COUNT),
        "nll_mean_action": pytest.approx(nll / COUNT, rel=1e-5),
    }
    assert 0 < wrong < COUNT  # or the comparison would say nothing


@pytest.mark.parametrize("glimpses", [1, 2])
def test_fewer_glimpses_can_be_asked_for(network: AttentionClassifier, digits: Digits, glimpses: int) -> None:
    short = build_classifier(
        tiny_config(None, glimpses=glimpses).model, tiny_config(None).estimator, channels=1, classes=10
    )
    short.load_state_dict(network.state_dict())
    asked = evaluate_mean_action(network, digits, SPEC, glimpses=glimpses)
    assert asked == evaluate_mean_action(short, digits, SPEC)


def test_one_sample_and_a_vote_counted_one_by_one(network: AttentionClassifier, digits: Digits) -> None:
    samples, seed = 5, 3
    images = torch.cat([scene(digits, n) for n in range(COUNT)])
    generator = torch.Generator().manual_seed(seed * 1_000_003)
    with torch.no_grad():
        chances = network.predict(images, samples=samples, generator=generator).log_p_labels.double().exp().tolist()
    wrong_once, wrong_vote, nll_once, nll_vote = 0, 0, 0.0, 0.0
    for n, label in enumerate(digits.labels.tolist()):
        votes = [sum(chances[m][n][k] for m in range(samples)) / samples for k in range(10)]
        wrong_vote += max(range(10), key=votes.__getitem__) != label
        nll_vote -= math.log(votes[label])
        for m in range(samples):
            wrong_once += max(range(10), key=chances[m][n].__getitem__) != label
            nll_once -= math.log(chances[m][n][label])
    assert evaluate_sampled(network, digits, SPEC, samples=samples, seed=seed) == {
        "error_one_sample": pytest.approx(wrong_once / COUNT / samples),
        "error_vote_5": pytest.approx(wrong_vote / COUNT),
        "nll_one_sample": pytest.approx(nll_once / COUNT / samples, rel=1e-4),
        "nll_vote_5": pytest.approx(nll_vote / COUNT, rel=1e-4),
    }
    assert wrong_once != wrong_vote * samples  # a vote is another figure than one sample


def test_a_vote_of_one_is_one_sample(network: AttentionClassifier, digits: Digits) -> None:
    found = evaluate_sampled(network, digits, SPEC, samples=1)
    assert found["error_vote_1"] == found["error_one_sample"]
    assert found["nll_vote_1"] == pytest.approx(found["nll_one_sample"])


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
def test_figures_do_not_depend_on_how_many_are_looked_at_together(
    network: AttentionClassifier, digits: Digits, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    together = evaluate_mean_action(network, digits, SPEC)
    monkeypatch.setattr(evaluation, "ROWS", rows)
    assert evaluate_mean_action(network, digits, SPEC) == pytest.approx(together, rel=1e-5)
    # With samples the draws differ, and their number must not: fewer rows than samples still gives every sample.
    sampled = evaluate_sampled(network, digits, SPEC, samples=6)
    assert round(sampled["error_one_sample"] * COUNT * 6, 3).is_integer()
    assert sampled["nll_vote_6"] <= sampled["nll_one_sample"]


def test_the_same_figures_every_time_whatever_else_was_drawn(network: AttentionClassifier, digits: Digits) -> None:
    first = evaluate_mean_action(network, digits, SPEC) | evaluate_sampled(network, digits, SPEC, samples=3)
    torch.manual_seed(12345)
    second = evaluate_mean_action(network, digits, SPEC) | evaluate_sampled(network, digits, SPEC, samples=3)
    assert first == second
    assert evaluate_sampled(network, digits, SPEC, samples=3, seed=1) != evaluate_sampled(
        network, digits, SPEC, samples=3
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(network: AttentionClassifier, digits: Digits, training: bool) -> None:
    network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate_mean_action(network, digits, SPEC)
    evaluate_sampled(network, digits, SPEC, samples=2)
    assert network.training is training
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("samples", [0, -1])
def test_a_vote_needs_a_sample(network: AttentionClassifier, digits: Digits, samples: int) -> None:
    with pytest.raises(UserError, match="at least 1 sample"):
        evaluate_sampled(network, digits, SPEC, samples=samples)


def test_the_label_does_not_help_at_test_time(network: AttentionClassifier, digits: Digits) -> None:
    """Other labels and another inference network change what is counted as right, and nothing of what is said."""
    assert network.inference is not None
    images = scene(digits, 0)
    before = network.predict(images).log_p_labels
    drawn = network.predict(images, samples=4, generator=torch.Generator().manual_seed(0)).log_p_labels
    with torch.no_grad():
        for parameter in network.inference.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(network.predict(images).log_p_labels, before)
    again = network.predict(images, samples=4, generator=torch.Generator().manual_seed(0)).log_p_labels
    assert torch.equal(again, drawn)
