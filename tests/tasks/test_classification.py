"""Errors under each way of looking, against the same figures worked out one digit at a time."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.networks import classifier
from tests.refusals import refusal
from tests.tiny import tiny_config
from wsram.config import ClassificationConfig, ExplorationConfig, changed
from wsram.data.digits import SCENE, SceneDigits
from wsram.data.mnist import Digits
from wsram.data.scenes import scene_spec
from wsram.estimators.resampled import along
from wsram.glimpse.actions import GlimpseDistribution
from wsram.glimpse.exploration import coverage_penalty
from wsram.models.classifier import AttentionClassifier
from wsram.recipes import RECIPES
from wsram.tasks import Options, measuring
from wsram.tasks.classification import (
    Classification,
    early_loss,
    exploration_terms,
    glimpses_at,
)
from wsram.tasks.measuring import evaluate_mode, evaluate_sampled
from wsram.tasks.troubles import Looking, Merit

COUNT = 23
TASK = Classification()
SMALL = dict(names="0123456789", patch=8, scales=(1, 2), lower_units=16, upper_units=16, view=8, std_range=(1.0, 1.0))


@pytest.fixture(scope="module")
def scenes() -> SceneDigits:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (COUNT, 28, 28), generator=generator, dtype=torch.uint8)
    return SceneDigits(Digits(images, torch.arange(COUNT) % 10), scene_spec("translated"), "digits")


@pytest.fixture
def network(scenes: SceneDigits) -> AttentionClassifier:
    """A network nobody trained, with strong opinions, no favourite, and another opinion after other glimpses."""
    network = AttentionClassifier(glimpses=2, **SMALL)
    read = network.head.read
    with torch.no_grad():
        read.weight.mul_(30)
        looked = network.predict(whole(scenes), samples=8, generator=torch.Generator().manual_seed(0))
        read.bias.sub_(looked.outputs.mean((0, 1)))
    return network


def whole(scenes: SceneDigits) -> Tensor:
    return scenes.batch(torch.arange(COUNT)).images


def scene(scenes: SceneDigits, n: int) -> Tensor:
    return scenes.batch(torch.tensor([n])).images


def test_the_mode_one_digit_at_a_time(network: AttentionClassifier, scenes: SceneDigits) -> None:
    wrong, nll = 0, 0.0
    for n, label in enumerate(scenes.digits.labels.tolist()):
        with torch.no_grad():
            chances = network.predict(scene(scenes, n)).outputs[0].exp().tolist()
        wrong += max(range(10), key=chances.__getitem__) != label
        nll -= math.log(chances[label])
    assert evaluate_mode(network, scenes) == {
        "error_mode": pytest.approx(wrong / COUNT),
        "nll_mode": pytest.approx(nll / COUNT, rel=1e-5),
    }
    assert 0 < wrong < COUNT  # or the comparison would say nothing


@pytest.mark.parametrize("glimpses", [1, 2])
def test_fewer_glimpses_can_be_asked_for(network: AttentionClassifier, scenes: SceneDigits, glimpses: int) -> None:
    with torch.no_grad():  # or the second glimpse would be the first again
        network.prediction.upper.unit.weight_ih.normal_(generator=torch.Generator().manual_seed(1))
        network.prediction.policy_head.weight.mul_(20)
    short = AttentionClassifier(glimpses=glimpses, **SMALL)
    short.load_state_dict(network.state_dict())
    asked = evaluate_mode(network, scenes, glimpses=glimpses)
    assert asked == evaluate_mode(short, scenes)
    assert (asked == evaluate_mode(network, scenes)) is (glimpses == 2)


def test_one_sample_and_a_vote_counted_one_by_one(network: AttentionClassifier, scenes: SceneDigits) -> None:
    samples, seed = 5, 3
    generator = torch.Generator().manual_seed(seed * 1_000_003)
    with torch.no_grad():
        looked = network.predict(whole(scenes), samples=samples, generator=generator)
    chances = looked.outputs.double().exp().tolist()
    wrong_once, wrong_vote, nll_once, nll_vote = 0, 0, 0.0, 0.0
    for n, label in enumerate(scenes.digits.labels.tolist()):
        votes = [sum(chances[m][n][k] for m in range(samples)) / samples for k in range(10)]
        wrong_vote += max(range(10), key=votes.__getitem__) != label
        nll_vote -= math.log(votes[label])
        for m in range(samples):
            wrong_once += max(range(10), key=chances[m][n].__getitem__) != label
            nll_once -= math.log(chances[m][n][label])
    assert evaluate_sampled(network, scenes, samples=samples, seed=seed) == {
        "error_one_sample": pytest.approx(wrong_once / COUNT / samples),
        "error_vote_5": pytest.approx(wrong_vote / COUNT),
        "nll_one_sample": pytest.approx(nll_once / COUNT / samples, rel=1e-4),
        "nll_vote_5": pytest.approx(nll_vote / COUNT, rel=1e-4),
    }
    assert wrong_once != wrong_vote * samples  # a vote is another figure than one sample


def test_a_vote_of_one_is_one_sample(network: AttentionClassifier, scenes: SceneDigits) -> None:
    found = evaluate_sampled(network, scenes, samples=1)
    assert found["error_vote_1"] == found["error_one_sample"]
    assert found["nll_vote_1"] == pytest.approx(found["nll_one_sample"])


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
def test_figures_do_not_depend_on_how_many_are_looked_at_together(
    network: AttentionClassifier, scenes: SceneDigits, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    together = evaluate_mode(network, scenes)
    monkeypatch.setattr(measuring, "ROWS", rows)
    assert evaluate_mode(network, scenes) == pytest.approx(together, rel=1e-5)
    # With samples the draws differ, and their number must not: fewer rows than samples still gives every sample.
    sampled = evaluate_sampled(network, scenes, samples=6)
    assert round(sampled["error_one_sample"] * COUNT * 6, 3).is_integer()
    assert sampled["nll_vote_6"] <= sampled["nll_one_sample"]


def test_the_same_figures_every_time_whatever_else_was_drawn(network: AttentionClassifier, scenes: SceneDigits) -> None:
    first = evaluate_mode(network, scenes) | evaluate_sampled(network, scenes, samples=3)
    torch.manual_seed(12345)
    assert evaluate_mode(network, scenes) | evaluate_sampled(network, scenes, samples=3) == first
    another = evaluate_sampled(network, scenes, samples=3, seed=1)
    assert another["nll_one_sample"] != first["nll_one_sample"]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(network: AttentionClassifier, scenes: SceneDigits, training: bool) -> None:
    network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate_mode(network, scenes)
    evaluate_sampled(network, scenes, samples=2)
    assert network.training is training
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("samples", [0, -1])
def test_a_vote_needs_a_sample(network: AttentionClassifier, scenes: SceneDigits, samples: int) -> None:
    refusal(lambda: evaluate_sampled(network, scenes, samples=samples), "at least 1 sample", samples)


def test_the_label_does_not_help_at_test_time(network: AttentionClassifier, scenes: SceneDigits) -> None:
    """Other labels and another inference network change what is counted as right, and nothing of what is said."""
    assert network.inference is not None
    images = scene(scenes, 0)
    before = network.predict(images).outputs
    drawn = network.predict(images, samples=4, generator=torch.Generator().manual_seed(0)).outputs
    with torch.no_grad():
        for parameter in network.inference.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(network.predict(images).outputs, before)
    assert torch.equal(network.predict(images, samples=4, generator=torch.Generator().manual_seed(0)).outputs, drawn)


# All figures at once


def test_an_evaluation_holds_every_figure_of_the_same_look(network: AttentionClassifier, scenes: SceneDigits) -> None:
    found = TASK.evaluate(network, scenes, Options(samples=3), nullcontext)
    mode, sampled = evaluate_mode(network, scenes), evaluate_sampled(network, scenes, samples=3)
    assert {name: found[name] for name in mode | sampled} == mode | sampled
    assert found.keys() - (mode | sampled).keys() == {"ece_mode", "risk_coverage", "error_by_class"}
    with torch.no_grad():
        chances = network.predict(whole(scenes)).outputs.exp().tolist()
    labels = scenes.digits.labels.tolist()
    said = [max(range(10), key=row.__getitem__) for row in chances]
    surest_first = sorted(range(COUNT), key=lambda n: -max(chances[n]))
    half = surest_first[: round(COUNT / 2)]
    at_half = sum(said[n] != labels[n] for n in half) / len(half)
    assert found["risk_coverage"]["error_at_50"] == pytest.approx(at_half)
    for k in range(10):
        of_class = [n for n in range(COUNT) if labels[n] == k]
        wrong = sum(said[n] != k for n in of_class) / len(of_class)
        assert found["error_by_class"][str(k)] == pytest.approx(wrong)
    bins: dict[int, list[float]] = {}
    for n in range(COUNT):
        confidence = max(chances[n])
        bins.setdefault(min(14, int(confidence * 15)), []).append(confidence - (said[n] == labels[n]))
    assert found["ece_mode"] == pytest.approx(sum(abs(sum(gaps)) for gaps in bins.values()) / COUNT, rel=1e-4)


def test_by_default_sixteen_vote(network: AttentionClassifier, scenes: SceneDigits) -> None:
    assert "error_vote_16" in TASK.evaluate(network, scenes, Options(), nullcontext)


def test_a_beam_is_for_captions(network: AttentionClassifier, scenes: SceneDigits) -> None:
    refusal(lambda: TASK.evaluate(network, scenes, Options(beam=2), nullcontext), "leave --beam out")


@pytest.mark.parametrize(
    "answer, told, unit, drawn",
    [("class", "270.76%", "%", 270.76), ("number", "2.708", "mean absolute error", 2.7076)],
)
def test_an_error_is_a_share_unless_it_is_that_of_a_number(answer: Any, told: str, unit: str, drawn: float) -> None:
    found = {f"{name}_{way}": 2.7076 for name in ("error", "nll") for way in ("mode", "one_sample", "vote_16")}
    record = found | {"answer": answer, "examples": 9, "step": 6, "training_seconds": 1.0}
    table = TASK.table({"test": record})
    assert table.header[2].endswith("error") and [row[2] for row in table.rows] == [told] * 3
    config = changed(ClassificationConfig(), scales=(1,))
    row = {"step": 6, "error_mode": 2.7076, "bound": -1.0, "log_evidence": -1.0, "ess": 1.0, "scale_usage": [1.0]}
    error = TASK.panels(
        config, classifier(answer=answer, names=("a", "b") if answer == "class" else ("value",)), [row]
    )[0]
    assert error.y == unit and error.curves[0][2] == [pytest.approx(drawn)]


def test_calibration_makes_the_validation_answers_likeliest_and_changes_none(
    network: AttentionClassifier, scenes: SceneDigits
) -> None:
    before = evaluate_mode(network, scenes)
    values = TASK.calibrate(network, scenes, nullcontext)
    assert values is not None and len(values) == 1 and values[0] > 1.05  # strong opinions, and half of them wrong
    likelihoods = {}
    for factor in (1 / 1.05, 1.0, 1.05):
        network.calibrate([values[0] * factor])
        found = evaluate_mode(network, scenes)
        assert found["error_mode"] == before["error_mode"]
        likelihoods[factor] = found["nll_mode"]
    assert likelihoods[1.0] == min(likelihoods.values()) < before["nll_mode"]
    assert TASK.calibrate(network, scenes, nullcontext) == values  # whatever it was calibrated to before


def test_a_network_is_measured_on_what_it_was_made_for(network: AttentionClassifier, scenes: SceneDigits) -> None:
    assert TASK.fitting(network, scenes) is scenes
    other = AttentionClassifier(names=("cat", "dog"), channels=3, patch=8, glimpses=1)
    refusal(lambda: TASK.fitting(other, scenes), "3 channel(s) of cat, dog", "got 1 channel(s) of 0, 1")


# Settings


def test_glimpses_are_added_in_equal_stages() -> None:
    config = changed(ClassificationConfig(), glimpses=4, updates=100, glimpse_growth=0.5)
    stages = [glimpses_at(config, step) for step in range(100)]
    assert stages == [1] * 17 + [2] * 17 + [3] * 16 + [4] * 50
    at_once = changed(config, glimpse_growth=0.0)
    assert {glimpses_at(at_once, step) for step in range(100)} == {4}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"inference": False},
        {"aim": "contrast", "scale_toll": 1.0, "recurrence": "evidence", "leak": 0.1},
        {"policy": "map", "map_evidence": True, "binding": "product", "network": "conv"},
        {"answer": "labels", "recurrence": "lstm"},
        {"answer": "number", "names": ("value",), "recurrence": "gru"},
    ],
)
def test_all_that_learns_is_in_one_group(changes: dict[str, Any]) -> None:
    network = classifier(**changes)
    grouped = [id(each) for group in TASK.parameter_groups(network).values() for each in group]
    assert sorted(grouped) == sorted(id(each) for each in network.parameters() if each.requires_grad)


def test_troubles_are_looked_for_with_the_glimpses_of_the_evaluation(
    network: AttentionClassifier, scenes: SceneDigits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the very next update takes one more."""
    seen: list[int] = []

    def look_again(network: Any, dataset: Any, glimpses: int, autocast: Any) -> Looking:
        seen.append(glimpses)
        return Looking(Merit(0.1, 0.3), Merit(0.5, 1.2), Merit(0.4, 1.1), 0.9, 0.0)

    monkeypatch.setattr("wsram.tasks.classification.look_again", look_again)
    config = changed(ClassificationConfig(), glimpses=2, updates=100, glimpse_growth=0.5)
    row = {"step": 50, "scale_usage": [0.3, 0.3, 0.4]}
    TASK.troubles(config, network, scenes, row, nullcontext)
    assert seen == [glimpses_at(config, 49)] and glimpses_at(config, 50) == 2


def test_exploration_terms_are_weighed_apart_and_rewarded_or_punished() -> None:
    mean, log_std, scales = torch.randn(3, 5, 2), torch.randn(3, 5, 2), torch.randn(3, 5, 3).log_softmax(-1)
    policy = GlimpseDistribution(mean, log_std, scales)
    location = float(log_std.sum(-1).mean()) + math.log(2 * math.pi * math.e)
    scale = float(-(scales.exp() * scales).sum(-1).mean())
    coverage = float(coverage_penalty(policy))
    assert exploration_terms(ExplorationConfig(), policy) == 0.0
    for explore, expected in [
        (ExplorationConfig(location_entropy=0.3), -0.3 * location),
        (ExplorationConfig(scale_entropy=0.2), -0.2 * scale),
        (ExplorationConfig(coverage=0.7), 0.7 * coverage),
        (ExplorationConfig(1.5, 0.3, 0.2, 0.7), -0.3 * location - 0.2 * scale + 0.7 * coverage),
    ]:
        assert float(exploration_terms(explore, policy)) == pytest.approx(expected, rel=1e-5)


def test_the_answer_is_taught_after_every_glimpse_but_the_last() -> None:
    after = torch.tensor([[[-3.0, -2.0, -1.0]], [[-5.0, -4.0, -0.5]]], requires_grad=True)  # two samples of an image
    loss = early_loss(after)
    assert loss.item() == 3.5
    (slope,) = torch.autograd.grad(loss, after)
    assert slope.tolist() == [[[-0.25, -0.25, 0.0]], [[-0.25, -0.25, 0.0]]]
    assert early_loss(after[..., :1]).item() == 0.0


def test_only_where_earlier_answers_are_taught_do_they_add_to_the_loss() -> None:
    config = changed(ClassificationConfig(), every_glimpse=0.5)
    task = Classification()
    for resample in (False, True):
        rollout = classifier().forward(
            torch.rand(2, 1, 40, 40),
            torch.tensor([0, 1]),
            samples=2,
            generator=torch.Generator().manual_seed(0),
            resample=resample,
        )
        assert task.additions(changed(config, every_glimpse=0.0), rollout, 1.0) == 0.0
        early = early_loss(along(rollout.log_p_y, rollout.ancestors)).item()
        # It does not fade as exploration does.
        for fade in (0.0, 1.0):
            assert task.additions(config, rollout, fade).item() == pytest.approx(0.5 * early)


def test_digits_are_placed_in_a_scene_unless_one_was_asked_for(digits: Path) -> None:
    asked = tiny_config(digits)
    splits = TASK.open(asked)
    assert TASK.choose(asked, splits) == (asked, ())
    left, said = TASK.choose(changed(asked, scene=None), splits)
    assert left == changed(asked, scene=SCENE) and said == ()


def test_choices_left_to_the_images_are_made_once_and_told(digits: Path) -> None:
    left = changed(RECIPES["folder"], source=str(digits), scene="translated", choose=True)
    splits = TASK.open(tiny_config(digits))
    chosen, said = TASK.choose(left, splits)
    assert isinstance(chosen, ClassificationConfig) and not chosen.choose
    assert said and all(": " in line for line in said)
    assert TASK.choose(chosen, splits) == (chosen, ())
