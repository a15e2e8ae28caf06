"""Figures of merit against the same worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsram.tasks.figures import (
    error_by_class,
    expected_calibration_error,
    fitted_temperature,
    fitted_thresholds,
    risk_coverage,
)


def test_calibration_error_is_weighed_by_the_size_of_bins() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.5, 0.5, 0.1])
    correct = torch.tensor([True, False, True, False, False])
    # Above 14/15 it is sure by 1.9 and right once; at 0.5 it is as right as sure; at 0.1 it is sure by 0.1 too much.
    assert expected_calibration_error(confidence, correct) == pytest.approx((0.9 + 0.0 + 0.1) / 5)
    # In two halves: 0.95, 0.95, 0.5 and 0.5 against two right; and 0.1 against none.
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx((0.9 + 0.1) / 5)
    assert expected_calibration_error(confidence, correct, bins=1) == pytest.approx((3.0 - 2.0) / 5)


def test_certainty_falls_into_the_last_bin() -> None:
    sure = torch.ones(4)
    assert expected_calibration_error(sure, torch.tensor([True] * 4)) == 0.0
    assert expected_calibration_error(sure, torch.tensor([True, False] * 2)) == pytest.approx(0.5)


def test_too_sure_and_not_sure_enough_do_not_make_up_for_each_other() -> None:
    confidence = torch.tensor([0.9, 0.9, 0.1, 0.1])
    correct = torch.tensor([False, True, True, False])
    assert expected_calibration_error(confidence, correct) == pytest.approx((0.8 + 0.8) / 4)


def test_risk_is_the_error_of_the_surest() -> None:
    """Ten answers; the third and the tenth surest are wrong."""
    order = torch.tensor([4, 9, 0, 7, 2, 8, 1, 6, 3, 5])  # surest first
    confidence, correct = torch.empty(10), torch.ones(10, dtype=torch.bool)
    confidence[order] = torch.linspace(0.95, 0.05, 10)
    correct[order[[2, 9]]] = False
    found = risk_coverage(confidence, correct)
    area = (sum(1 / n for n in range(3, 10)) + 2 / 10) / 10
    expected = {"aurc": area, "error_at_50": 1 / 5, "error_at_80": 1 / 8, "error_at_90": 1 / 9, "error_at_95": 2 / 10}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("right", [True, False])
def test_one_answer_has_a_risk_too(right: bool) -> None:
    found = risk_coverage(torch.tensor([0.5]), torch.tensor([right]))
    assert set(found.values()) == {0.0 if right else 1.0}


def test_every_class_has_its_own_error_if_it_has_examples() -> None:
    said, answers = torch.tensor([0, 2, 2, 0, 0]), torch.tensor([0, 0, 2, 2, 2])
    found = error_by_class(said, answers, ("cat", "dog", "eel"))
    assert found == {"cat": pytest.approx(1 / 2), "eel": pytest.approx(2 / 3)}


@pytest.mark.parametrize("odds, right", [(4.0, 0.8), (1.0, 0.9), (2.0, 0.6)])
def test_the_temperature_makes_a_network_as_sure_as_it_is_right(odds: float, right: float) -> None:
    log_p = torch.tensor([odds, 0.0]).log_softmax(-1).expand(100, -1)
    answers = (torch.arange(100) >= round(100 * right)).long()
    # sigmoid(odds / T) = right
    expected = odds / math.log(right / (1 - right))
    assert fitted_temperature(log_p, answers) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("answer, bound", [(0, 0.2), (1, 20.0)])
def test_the_temperature_has_bounds(answer: int, bound: float) -> None:
    log_p = torch.tensor([2.0, 0.0]).log_softmax(-1).expand(10, -1)
    assert fitted_temperature(log_p, torch.full((10,), answer)) == pytest.approx(bound)


def f1(scores: Tensor, present: Tensor, threshold: float) -> float:
    said = scores > threshold
    hits = float((said & present.bool()).sum())
    return 2 * hits / float(said.sum() + present.sum())


@given(st.data())
def test_no_threshold_is_better_than_the_fitted_one(data: st.DataObject) -> None:
    """Equal scores too: a threshold cannot part them."""
    count = data.draw(st.integers(1, 8))
    scores = torch.tensor(data.draw(st.lists(st.integers(-4, 4), min_size=count, max_size=count)), dtype=torch.float)
    present = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=count, max_size=count)))
    [threshold] = fitted_thresholds(scores.unsqueeze(-1), present.unsqueeze(-1))
    if not present.any():
        assert threshold == 0.0
        return
    best = max(f1(scores, present, n + 0.5) for n in range(-6, 5))
    assert f1(scores, present, threshold) == pytest.approx(best)


def test_every_label_has_a_threshold_of_its_own() -> None:
    log_odds = torch.tensor([[-2.0, 3.0, 1.0], [-1.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
    present = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert fitted_thresholds(log_odds, present) == [-1.5, 2.5, 0.0]
