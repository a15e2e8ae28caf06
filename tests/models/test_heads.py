"""Heads against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.refusals import refusal
from wsram.models.heads import HEADS, ClassHead, Head, LabelsHead, NumberHead, build_head

THREE = ("cat", "dog", "owl")
NAMES = {"class": THREE, "labels": THREE, "number": ("age",)}
EVERY = pytest.mark.parametrize("kind", HEADS)


def chances(*rows: tuple[float, float, float]) -> Tensor:
    """Outputs of a head of classes, from their probabilities."""
    return torch.tensor(rows).log()


def odds(*rows: tuple[float, ...]) -> Tensor:
    """Outputs of a head of labels, from their probabilities."""
    return torch.tensor(rows).logit()


def gaussian(*rows: tuple[float, float]) -> Tensor:
    """Outputs of a head of numbers, from means and standard deviations."""
    mean, std = torch.tensor(rows).unbind(-1)
    return torch.stack([mean, std.log()], -1)


def head_of(kind: str) -> Any:
    return build_head(kind, 4, list(NAMES[kind]))


# What all have in common


def test_every_kind_of_answer_is_tested_here() -> None:
    assert NAMES.keys() == HEADS.keys()


@EVERY
def test_every_head_is_what_a_network_asks_for(kind: str) -> None:
    head = head_of(kind)
    assert isinstance(head, Head) and isinstance(head, nn.Module)
    assert head.names == NAMES[kind]
    outputs = head(torch.rand(2, 3, 4))  # 2 samples, 3 examples
    answers = head.sample(head.vote(outputs), torch.Generator())
    assert len(answers) == 3
    assert head.log_prob(outputs.unsqueeze(-2), answers).shape == (2, 3, 1)
    assert head.probabilities(outputs).shape == (2, 3, len(NAMES[kind]))
    assert head.embedding(6)(answers).shape == (3, 6)
    assert math.isfinite(head.error(outputs, answers))


@EVERY
def test_outputs_are_never_kept_in_half_precision(kind: str) -> None:
    assert head_of(kind).bfloat16()(torch.ones(3, 4, dtype=torch.bfloat16)).dtype == torch.float32
    assert head_of(kind).double()(torch.ones(3, 4, dtype=torch.float64)).dtype == torch.float64


@EVERY
def test_a_vote_of_one_or_of_equals_is_its_own(kind: str) -> None:
    head = head_of(kind)
    outputs = head(torch.randn(3, 4))
    for count in (1, 5):
        torch.testing.assert_close(head.vote(outputs.expand(count, -1, -1)), outputs)


@EVERY
def test_drawing_answers_teaches_nothing_and_can_be_done_again(kind: str) -> None:
    head = head_of(kind)
    outputs = head(torch.randn(50, 4))
    drawn, again, other = (head.sample(outputs, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert not drawn.requires_grad
    assert torch.equal(drawn, again) and not torch.equal(drawn, other)


@EVERY
def test_probabilities_of_answers_sum_to_one(kind: str) -> None:
    """Over every class, every set of labels, or a fine grid of numbers."""
    head = head_of(kind)
    outputs = head(torch.randn(1, 4)).detach().double()
    if kind == "class":
        answers = [torch.tensor([n]) for n in range(3)]
    elif kind == "labels":
        answers = [torch.tensor([[float(n >> k & 1) for k in range(3)]]) for n in range(8)]
    else:
        answers = list(torch.arange(-100, 100, 0.05, dtype=torch.float64).unsqueeze(-1))
    step = 0.05 if kind == "number" else 1.0
    total = sum(float(head.log_prob(outputs.unsqueeze(-2), answer).exp()) for answer in answers) * step
    assert total == pytest.approx(1, abs=1e-6)


# One of several classes


def test_outputs_of_classes_are_the_log_softmax_of_a_linear_layer() -> None:
    head = ClassHead(2, THREE)
    with torch.no_grad():
        head.read.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).log1p())  # ln 2 where there is a 1
        head.read.bias.zero_()
    # States (1, 0) and (0, 2): scores ln 2, 0, ln 2, and 0, ln 4, ln 4.
    outputs = head(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))
    torch.testing.assert_close(outputs, chances((2 / 5, 1 / 5, 2 / 5), (1 / 9, 4 / 9, 4 / 9)).unsqueeze(0))
    torch.testing.assert_close(head.probabilities(outputs)[0, 0], torch.tensor([0.4, 0.2, 0.4]))


def test_a_temperature_flattens_the_classes_that_a_state_is_read_as() -> None:
    head, state = ClassHead(2, THREE), torch.randn(5, 2)
    before = head(state)
    head.temperature = 2.0  # square roots of the probabilities, normalised
    roots = before.exp().sqrt()
    torch.testing.assert_close(head(state).exp(), roots / roots.sum(-1, keepdim=True))


def test_the_log_probability_is_that_of_each_examples_own_class_at_every_step() -> None:
    # Axes: 1 sample, 2 examples, 2 steps, 3 classes.
    steps = torch.stack([chances((0.5, 0.25, 0.25), (0.1, 0.2, 0.7)), chances((0.6, 0.3, 0.1), (0.4, 0.4, 0.2))])
    found = ClassHead(2, THREE).log_prob(steps.unsqueeze(0), torch.tensor([1, 2]))
    torch.testing.assert_close(found.exp(), torch.tensor([[[0.25, 0.2], [0.1, 0.2]]]))


def test_a_vote_for_classes_is_the_mean_of_the_probabilities() -> None:
    votes = torch.stack([chances((0.5, 0.25, 0.25)), chances((0.1, 0.1, 0.8)), chances((0.0, 1.0, 0.0))])
    torch.testing.assert_close(ClassHead(2, THREE).vote(votes), chances((0.2, 0.45, 0.35)))


def test_classes_are_drawn_as_often_as_they_are_probable() -> None:
    head, many = ClassHead(2, THREE), 20_000
    outputs = chances((0.7, 0.2, 0.1), (0.0, 0.0, 1.0))
    drawn = head.sample(outputs.expand(many, -1, -1), torch.Generator().manual_seed(0))
    assert drawn.shape == (many, 2) and drawn.dtype == torch.int64
    shares, p = drawn[:, 0].bincount(minlength=3) / many, torch.tensor([0.7, 0.2, 0.1])
    assert bool(((shares - p).abs() < 5 * (p * (1 - p) / many).sqrt()).all())  # five deviations of a binomial
    assert bool((drawn[:, 1] == 2).all())


def test_the_error_of_classes_is_the_share_of_wrong_ones() -> None:
    outputs = chances((0.5, 0.3, 0.2), (0.2, 0.5, 0.3), (0.1, 0.2, 0.7), (0.4, 0.5, 0.1))
    answers = torch.tensor([0, 1, 0, 1])
    assert ClassHead(2, THREE).error(outputs, answers) == 1 / 4
    # Of several sequences each counts: moved on by one class, the likeliest are 2, 0, 1 and 0, all of them wrong.
    assert ClassHead(2, THREE).error(torch.stack([outputs, outputs.roll(-1, -1)]), answers) == 5 / 8


def test_a_class_is_told_as_a_row_of_its_own() -> None:
    embedding: Any = ClassHead(2, THREE).embedding(5)
    assert embedding.weight.shape == (3, 5)
    assert torch.equal(embedding(torch.tensor([[2, 0]])), embedding.weight[[2, 0]].unsqueeze(0))


# Labels


def test_outputs_of_labels_are_the_log_odds_of_a_linear_layer() -> None:
    head = LabelsHead(2, THREE)
    with torch.no_grad():
        head.read.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]))
        head.read.bias.copy_(torch.tensor([0.0, 0.0, 3.0]).log1p())  # ln 4 for the last
    outputs = head(torch.tensor([math.log(3.0), math.log(3.0)]))
    torch.testing.assert_close(outputs, torch.tensor([3.0, 1 / 3, 4.0]).log())
    torch.testing.assert_close(head.probabilities(outputs), torch.tensor([0.75, 0.25, 0.8]))


def test_the_log_probability_of_labels_is_the_sum_over_those_present_and_absent() -> None:
    # Axes: 1 sample, 2 examples, 2 steps, 3 labels.
    steps = torch.stack([odds((0.5, 0.25, 0.9), (0.1, 0.2, 0.7)), odds((0.6, 0.3, 0.1), (0.4, 0.4, 0.2))])
    answers = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    found = LabelsHead(2, THREE).log_prob(steps.unsqueeze(0), answers)
    expected = [[0.5 * 0.75 * 0.9, 0.1 * 0.8 * 0.7], [0.4 * 0.7 * 0.9, 0.6 * 0.6 * 0.8]]
    torch.testing.assert_close(found.exp(), torch.tensor([expected]))


def test_a_vote_for_labels_is_the_mean_of_each_ones_probability() -> None:
    votes = torch.stack([odds((0.5, 0.25, 0.9)), odds((0.1, 0.25, 0.8))])
    torch.testing.assert_close(LabelsHead(2, THREE).vote(votes), odds((0.3, 0.25, 0.85)))
    sure = torch.full((2, 1, 3), 200.0)  # of which no probability can be kept
    torch.testing.assert_close(LabelsHead(2, THREE).vote(sure), sure[0])


def test_labels_are_drawn_as_often_as_they_are_probable_each_by_itself() -> None:
    head, many = LabelsHead(2, THREE), 20_000
    p = torch.tensor([0.7, 0.2, 0.5])
    drawn = head.sample(p.logit().expand(many, 3), torch.Generator().manual_seed(0))
    assert drawn.shape == (many, 3) and set(drawn.unique().tolist()) == {0.0, 1.0}
    assert bool(((drawn.mean(0) - p).abs() < 5 * (p * (1 - p) / many).sqrt()).all())
    both = float((drawn[:, 0] * drawn[:, 2]).mean())
    assert abs(both - 0.35) < 5 * math.sqrt(0.35 * 0.65 / many)


def test_the_error_of_labels_is_the_share_of_wrong_ones() -> None:
    outputs = odds((0.6, 0.3, 0.2), (0.2, 0.7, 0.9))
    answers = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert LabelsHead(2, THREE).error(outputs, answers) == pytest.approx(2 / 6)
    assert LabelsHead(2, THREE).error(torch.stack([outputs, -outputs]), answers) == pytest.approx((2 + 4) / 12)


def test_a_label_is_present_above_its_own_threshold() -> None:
    head, answers = LabelsHead(2, THREE), torch.tensor([[1.0, 0.0, 1.0]])
    outputs = odds((0.6, 0.6, 0.6))
    assert head.error(outputs, answers) == pytest.approx(1 / 3)
    head.thresholds = odds((0.5, 0.7, 0.7)).tolist()
    assert head.error(outputs, answers) == pytest.approx(1 / 3)
    head.thresholds = odds((0.5, 0.7, 0.5)).tolist()
    assert head.error(outputs, answers) == 0


# A number


def test_outputs_of_a_number_are_a_mean_and_a_log_deviation_within_bounds() -> None:
    head = NumberHead(1, ("age",))
    with torch.no_grad():
        head.read.weight.copy_(torch.tensor([[2.0], [1.0]]))
        head.read.bias.copy_(torch.tensor([0.5, 0.0]))
    outputs = head(torch.tensor([[1.0], [-9.0], [9.0]]))
    torch.testing.assert_close(outputs, torch.tensor([[2.5, 1.0], [-17.5, -5.0], [18.5, 3.0]]))


def test_the_log_probability_of_a_number_is_its_gaussian_density() -> None:
    # Axes: 1 sample, 2 examples, 2 steps, mean and deviation.
    steps = torch.stack([gaussian((1.0, 2.0), (0.0, 1.0)), gaussian((3.0, 0.5), (-1.0, 1.0))])
    found = NumberHead(2, ("age",)).log_prob(steps.unsqueeze(0), torch.tensor([3.0, 3.0]))
    bell = [[math.exp(-0.5) / 2, math.exp(-4.5)], [1 / 0.5, math.exp(-8.0)]]  # 1, 3, 0 and 4 deviations away
    torch.testing.assert_close(found.exp(), torch.tensor([bell]) / math.sqrt(2 * math.pi))


def test_a_vote_for_a_number_has_the_mixtures_mean_and_variance() -> None:
    # Means 1 and 3 have the variance 1, deviations 1 and 2 the mean square 5 / 2.
    votes = torch.stack([gaussian((1.0, 1.0)), gaussian((3.0, 2.0))])
    torch.testing.assert_close(NumberHead(2, ("age",)).vote(votes), gaussian((2.0, math.sqrt(3.5))))


def test_numbers_are_drawn_about_their_mean_by_their_deviation() -> None:
    many = 20_000
    drawn = NumberHead(2, ("age",)).sample(gaussian((3.0, 0.5)).expand(many, 2), torch.Generator().manual_seed(0))
    assert drawn.shape == (many,)
    assert abs(float(drawn.mean()) - 3) < 5 * 0.5 / math.sqrt(many)
    assert abs(float(drawn.std()) - 0.5) < 5 * 0.5 / math.sqrt(2 * many)


def test_numbers_are_shown_and_their_error_counted_as_they_are_written() -> None:
    head = NumberHead(2, ("age",), (40.0, 10.0))
    outputs = gaussian((0.5, 1.0), (-1.0, 1.0))  # 45 and 30 years
    torch.testing.assert_close(head.probabilities(outputs), torch.tensor([[45.0], [30.0]]))
    # The answers, in units of their spread, are 40 and 60 years.
    assert head.error(outputs, torch.tensor([0.0, 2.0])) == pytest.approx((5 + 30) / 2)


# What is refused


def test_what_cannot_be_asked_is_refused() -> None:
    refusal(lambda: build_head("essay", 4, THREE), "'essay'", *HEADS)
    refusal(lambda: build_head("class", 4, ["cat"]), "classes must be at least 2, got 1")
    refusal(lambda: build_head("labels", 4, []), "labels must be at least 1, got 0")
    refusal(lambda: build_head("number", 4, THREE), "one name, got 3")
