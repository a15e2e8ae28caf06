"""Means over seeds: the quantiles are Student's, and an interval holds what it says."""

from __future__ import annotations

import math

import pytest
import torch

from experiments.pages import difference, updates_to_reach
from experiments.statistics import interval, shown


@pytest.mark.parametrize("count", [2, 3, 4, 11, 40])
def test_quantiles_are_students(count: int) -> None:
    """By integrating the density from 0 to each: 0.475 of it."""
    values = [float(n) for n in range(count)]
    _, half = interval(values)
    assert half is not None
    freedom, deviation = count - 1, torch.tensor(values, dtype=torch.float64).std().item()
    quantile = half * math.sqrt(count) / deviation
    x = torch.linspace(0, quantile, 20_001, dtype=torch.float64)
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    share = float(torch.trapezoid(constant * (1 + x.square() / freedom) ** (-(freedom + 1) / 2), x))
    assert share == pytest.approx(0.475, abs=1e-6)


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    draws = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = [abs(mean) <= (half or 0.0) for mean, half in map(interval, draws.tolist())]
    assert sum(held) / len(held) == pytest.approx(0.95, abs=0.012)


def test_one_value_has_no_interval_and_none_is_a_dash() -> None:
    assert interval([4.0]) == (4.0, None)
    assert shown([4.0]) == "4.00 (1)" and shown([]) == "—" and shown([2.0, 2.0], 1) == "2.0 ± 0.0 (2)"
    assert difference(2.0, 1.62) == "+0.38" and difference(None, 1.62) == "—"


def test_a_level_is_reached_at_the_first_evaluation_at_or_below_it() -> None:
    curve = {"step": [1, 2, 3, 4], "error": [0.5, None, 0.2, 0.1]}
    assert updates_to_reach(curve, "error", 0.2) == 3 and updates_to_reach(curve, "error", 0.05) is None
