"""Where the evidence is: the map and the log-evidence against sums over every sequence of a tiny network."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models.networks import classifier
from tests.refusals import refusal
from wsram.evidence import heat_map, shares_of_glimpses
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.models.classifier import AttentionClassifier
from wsram.predictor import Predictor

SIZE = (14, 18)


def image() -> Tensor:
    return torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(3))


def countable(**changes: object) -> AttentionClassifier:
    """A network whose glimpses lie where its policy's mean is, so that its scales are all that is drawn.

    The inference network corrects the scales alone, or its proposals would lie elsewhere.
    """
    network = classifier(patch=5, scales=(1, 2), glimpses=3, std_range=(1e-5, 1e-5), **changes)
    with torch.no_grad():
        network.prediction.policy_head.weight.mul_(20)  # opinions
        network.prediction.upper.unit.weight_ih.normal_(std=0.5)
        network.head.read.weight.mul_(60)
        if network.inference is not None:
            network.inference.correct.weight[:4] = 0
            network.inference.correct.bias[:4] = 0
    return network


def every_sequence(network: AttentionClassifier) -> tuple[Tensor, Tensor, Action]:
    """log p(a) (sequences,), outputs (sequences, glimpses, outputs) and the glimpses, of every choice of scales."""
    log_p, outputs, places, scales = [], [], [], []
    for chosen in itertools.product(range(2), repeat=3):
        taken = iter(chosen)

        def choose(policy, raw, r2, taken=taken):  # type: ignore[no-untyped-def]
            return Action(policy.mean, torch.tensor([next(taken)]))

        with torch.no_grad():
            looked = network.prediction.look(image().unsqueeze(0), choose)
        log_p.append(looked.policy.scale_log_prob(looked.action.scale).sum())
        outputs.append(looked.outputs_after[0])
        places.append(looked.action.location[0])
        scales.append(looked.action.scale[0])
    return torch.stack(log_p), torch.stack(outputs), Action(torch.stack(places), torch.stack(scales))


def shared(after: Tensor, known_before: float) -> Tensor:
    """Of sequences (sequences, glimpses), glimpse by glimpse: a half evenly, a half by what was gained."""
    rows = []
    for sequence in after.tolist():
        gains = [max(0.0, now - before) for before, now in itertools.pairwise([known_before, *sequence])]
        total = sum(gains)
        rows.append([0.5 / len(gains) + 0.5 * (gain / total if total else 1 / len(gains)) for gain in gains])
    return torch.tensor(rows)


@pytest.mark.parametrize("inference", [False, True])
def test_log_evidence_and_map_are_those_of_the_sum_over_every_sequence(inference: bool) -> None:
    network = countable(inference=inference)
    log_p, outputs, action = every_sequence(network)
    assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-5)

    evidence = Predictor(network).explain(image(), "b", "d", samples=6000)

    assert evidence.proposal == ("inference" if inference else "policy") and evidence.samples == 6000
    for support in (evidence.label, evidence.against):
        after = outputs[..., "abcde".index(support.label)]
        log_joint = log_p + after[:, -1]
        exact = float(log_joint.logsumexp(0))
        assert 0 < support.standard_error < 0.05
        assert abs(support.log_evidence - exact) < 4 * support.standard_error
        shares = shared(after, -math.log(5))
        expected = heat_map(network.prediction.sensor, SIZE, action, log_joint.softmax(0).unsqueeze(-1) * shares)
        assert float((support.heat - expected).abs().sum()) < 0.03
        # The two answers differ by more than that.
        prior = heat_map(network.prediction.sensor, SIZE, action, log_p.exp().unsqueeze(-1) * shares)
        assert float((prior - expected).abs().sum()) > 0.04
        # So they do where all glimpses of a sequence count the same, and those shares differ from even ones.
        even, even_prior = (
            heat_map(network.prediction.sensor, SIZE, action, weights.unsqueeze(-1).expand(-1, 3))
            for weights in (log_joint.softmax(0), log_p.exp())
        )
        assert float((even - expected).abs().sum()) > 0.05
        assert float((even - even_prior).abs().sum()) > 0.05
    assert [evidence.label.label, evidence.against.label] == ["b", "d"]


def test_the_inference_network_does_not_change_the_answer_when_it_proposes_elsewhere() -> None:
    """With places that are drawn too, both proposals must agree: the weights account for who drew."""
    told, alone = classifier(), classifier()
    alone.inference = None
    alone.load_state_dict({k: v for k, v in told.state_dict().items() if not k.startswith("inference.")})
    ours, theirs = (Predictor(network).explain(image(), "c", samples=8000) for network in (told, alone))
    assert (ours.proposal, theirs.proposal) == ("inference", "policy")
    spread = math.hypot(ours.label.standard_error, theirs.label.standard_error)
    assert abs(ours.label.log_evidence - theirs.label.log_evidence) < 4 * spread < 0.2
    assert float((ours.label.heat - theirs.label.heat).abs().sum()) < 0.1


@pytest.mark.parametrize("inference", [False, True])
def test_the_standard_error_is_how_much_the_estimates_scatter(inference: bool) -> None:
    predictor = Predictor(countable(inference=inference))
    found = [predictor.explain(image(), "b", samples=100, seed=seed).label for seed in range(80)]
    scatter = np.std([support.log_evidence for support in found], ddof=1)
    assert np.mean([support.standard_error for support in found]) == pytest.approx(scatter, rel=0.25)
    assert all(1 <= support.effective_samples <= 100 for support in found)


def test_samples_are_drawn_from_the_seed_alone_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for inference in (False, True):
        predictor = Predictor(countable(inference=inference))
        first, again, other = (predictor.explain(image(), "b", samples=40, seed=seed) for seed in (1, 1, 2))
        assert first.label.log_evidence == again.label.log_evidence != other.label.log_evidence
    monkeypatch.setattr("wsram.evidence.TOGETHER", 16)
    found = predictor.explain(image(), "b", samples=40)
    assert found.label.effective_samples > 16 and found.samples == 40


def test_the_other_answer_is_the_likeliest_other_one() -> None:
    predictor = Predictor(classifier())
    prediction = predictor.predict(image())
    best, second = prediction.best[0], prediction.runner_up[0]
    assert predictor.explain(image(), best, samples=9).against.label == second
    assert predictor.explain(image(), second, samples=9).against.label == best


def test_an_answer_that_was_given_as_a_number_is_asked_about_as_one() -> None:
    evidence = Predictor(classifier(names=tuple("01234"))).explain(image(), 3, against=1, samples=9)
    assert (evidence.label.label, evidence.against.label) == ("3", "1")


def test_a_label_among_several_is_explained_by_its_presence() -> None:
    network = countable(answer="labels", inference=True)
    log_p, outputs, action = every_sequence(network)
    evidence = Predictor(network).explain(image(), "b", samples=4000)
    after = outputs[..., 1].sigmoid().log()
    log_joint = log_p + after[:, -1]
    assert evidence.proposal == "policy"  # the inference network is told all labels or none
    assert abs(evidence.label.log_evidence - float(log_joint.logsumexp(0))) < 4 * evidence.label.standard_error + 1e-6
    weights = log_joint.softmax(0).unsqueeze(-1) * shared(after, -math.log(2))
    expected = heat_map(network.prediction.sensor, SIZE, action, weights)
    assert float((evidence.label.heat - expected).abs().sum()) < 0.05


def test_a_sequence_that_gained_nothing_is_shared_evenly() -> None:
    after = torch.tensor([[-1.0, -2.0], [-0.5, -0.1]])
    assert shares_of_glimpses(after, -0.7).tolist() == [
        [0.5, 0.5],
        [pytest.approx(0.25 + 1 / 6), pytest.approx(7 / 12)],
    ]


def test_what_cannot_be_explained_is_refused() -> None:
    predictor = Predictor(classifier())
    refusal(lambda: predictor.explain(image(), "f"), "a, b, c, d, e", "'f'")
    refusal(lambda: predictor.explain(image(), "a", "f"), "'f'")
    refusal(lambda: predictor.explain(image(), "a", "a"), "the same")
    refusal(lambda: predictor.explain(image(), "a", samples=1), "at least 2 samples, got 1")
    number = Predictor(classifier(answer="number", names=("n",)))
    refusal(lambda: number.explain(image(), "n"), "number")
    lonely = Predictor(classifier(answer="labels", names=("n",)))
    refusal(lambda: lonely.explain(image(), "n"), "n alone")


# The map


@settings(max_examples=40)
@given(st.data())
def test_the_map_sums_to_one_and_is_the_mean_of_the_glimpses_boxes(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(2, 12), "height"), data.draw(st.integers(2, 12), "width")
    sensor = Sensor(data.draw(st.integers(1, 5), "patch"), (1, 2))
    seed = data.draw(st.integers(0, 1000), "seed")
    generator = torch.Generator().manual_seed(seed)
    location = torch.rand(3, 2, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
    action = Action(location, torch.randint(2, (3, 2), generator=generator))
    weights = torch.rand(3, 2, generator=generator)

    heat = heat_map(sensor, (height, width), action, weights)

    assert heat.shape == (height, width) and float(heat.sum()) == pytest.approx(1) and float(heat.min()) >= 0
    # Each pixel in a hundred parts, and whether the middle of each lies in a box.
    fine = 10
    rows, columns = ((torch.arange(n * fine) + 0.5) / fine for n in (height, width))
    slow = torch.zeros(height * fine, width * fine, dtype=torch.float64)
    for m in range(3):
        for n in range(2):
            side = sensor.patch_size * sensor.scales[int(action.scale[m, n])]
            x, y = ((location[m, n] + 1) / 2 * (torch.tensor([width, height]) - 1) + 0.5).tolist()
            inside = ((rows - y).abs() < side / 2).unsqueeze(-1) & ((columns - x).abs() < side / 2)
            slow += float(weights[m, n]) * inside / side**2
    slow = slow.unflatten(0, (height, fine)).unflatten(-1, (width, fine)).mean((1, 3))
    if float(slow.sum()) > 0.05:  # the rest is beyond what a hundred parts tell
        assert float((heat - slow / slow.sum()).abs().max()) < 0.25 / sensor.patch_size


def test_glimpses_beside_the_image_leave_it_even() -> None:
    action = Action(torch.full((2, 1, 2), 9.0), torch.zeros(2, 1, dtype=torch.long))
    heat = heat_map(Sensor(2, (1,)), (4, 5), action, torch.full((2, 1), 0.5))
    assert heat.tolist() == [[pytest.approx(1 / 20)] * 5] * 4


# What is said


def test_the_peak_is_in_pixels_of_the_image_as_it_was_given() -> None:
    network = classifier(longest=10)
    picture = torch.rand(1, 30, 50)
    evidence = Predictor(network).explain(picture, "a", samples=20)
    assert evidence.label.heat.shape == (6, 10)
    row, column = divmod(int(evidence.label.heat.argmax()), 10)
    assert evidence.peak() == pytest.approx((5 * (column + 0.5), 5 * (row + 0.5)))


def test_evidence_is_said_in_words_and_drawn_with_both_maps(tmp_path: Path) -> None:
    evidence = Predictor(classifier()).explain(image(), "a", "e", samples=30)
    first, second = str(evidence).splitlines()
    assert first.startswith("a: log-evidence ") and " ± " in first and second.startswith("e: ")
    said = evidence.to_dict()
    assert said["label"].keys() == {"label", "log_evidence", "standard_error", "effective_samples"}
    assert said["samples"] == 30 and said["proposal"] == "inference" and len(said["peak"]) == 2
    figure = evidence.draw()
    original, ours, theirs = figure.axes
    assert "30 sequences" in original.get_title() and "inference network" in original.get_title()
    for axes, support in ((ours, evidence.label), (theirs, evidence.against)):
        assert axes.get_title().startswith(support.label)
        shown = np.asarray(axes.get_images()[-1].get_array())
        np.testing.assert_allclose(shown, (support.heat / support.heat.max()).float().numpy(), rtol=1e-6)
