"""Numbers at the edge: infinite and undefined log-probabilities concern their own image, and end where limits say."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.estimators.enumeration import Tables, gradient
from tests.estimators.families import CONTROL, EACH, P, Q, Y, close
from wsram.estimators import (
    Estimate,
    Estimator,
    defensive_mixture,
    variational,
    variational_credit,
    vimco,
    wake_sleep,
    wake_sleep_credit,
    wake_sleep_resampled,
)
from wsram.estimators.base import log_ratio_of, mean_of_others, product, share

SAMPLES, BATCH, STEPS = 4, 5, 3
IMAGE = 2
OTHERS = [0, 1, 3, 4]
VARIATIONAL = (variational, variational_credit)


class Taken(NamedTuple):
    """An estimate and the coefficients that it takes, (samples, batch, steps) for each log-probability."""

    estimate: Estimate
    coefficients: Tables


def values(seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [0.5 * torch.randn(SAMPLES, BATCH, STEPS, generator=generator, dtype=torch.float64) - 1 for _ in range(3)]


def taken(each: Estimator, given: list[Tensor], control_variates: bool) -> Taken:
    leaves = [t.clone().requires_grad_() for t in given]
    estimate = each(*leaves, control_variates=control_variates)
    return Taken(
        estimate, Tables(*(-t.shape[1] * g for t, g in zip(given, gradient(estimate.loss, *leaves), strict=True)))
    )


def with_value(group: int, samples: list[int], value: float, step: int | slice = 1) -> list[Tensor]:
    """The values, one of which is another in some samples of one image."""
    given = values()
    given[group][samples, IMAGE, step] = value
    return given


def same(one: Tables, other: Tables, images: list[int]) -> None:
    for a, b in zip(one, other, strict=True):
        close(a[:, images], b[:, images], 1e-7)


def ends_at(got: Tensor, limit: Tensor) -> None:
    """The limit, taken at a log-probability of -1e9: infinite (or undefined) where that is giant, else the same."""
    giant = limit.abs() > 1e4
    assert not torch.isfinite(got[giant]).any()
    close(got[~giant], limit[~giant], 1e-6)


@EACH
@CONTROL
@pytest.mark.parametrize("group", [Y, P], ids=["label", "action"])
@pytest.mark.parametrize("samples", [[1], [0, 1]], ids=["one", "two"])
def test_an_impossible_sample_is_the_limit_of_improbable_ones(
    each: Estimator, control_variates: bool, group: int, samples: list[int]
) -> None:
    got = taken(each, with_value(group, samples, -math.inf), control_variates)
    limit = taken(each, with_value(group, samples, -1e9), control_variates)
    for ours, theirs in zip(got.coefficients, limit.coefficients, strict=True):
        ends_at(ours[:, IMAGE], theirs[:, IMAGE])
    close(got.estimate.weights, limit.estimate.weights, 1e-9)
    close(got.estimate.log_evidence, limit.estimate.log_evidence, 1e-9)
    # The bound's reward of -inf is no slope's to follow; what is finite in the limit counts for the other images.
    given = [t[:, OTHERS] for t in values()]
    if each is variational_credit and group == Y:
        expected = taken(each, given, control_variates).coefficients
        for ours, theirs in zip(got.coefficients, expected, strict=True):
            close(ours[:, OTHERS], theirs, 1e-9)
    else:
        same(got.coefficients, limit.coefficients, OTHERS)


@EACH
@CONTROL
def test_a_sample_that_weighs_nothing_leaves_the_loss_finite(each: Estimator, control_variates: bool) -> None:
    """0 · (-inf) counts as 0; only a bound on F that is itself infinite says so."""
    for group in (Y, P):
        loss = taken(each, with_value(group, [1], -math.inf), control_variates).estimate.loss
        assert torch.isfinite(loss) == (each not in VARIATIONAL or group == P)


@EACH
@pytest.mark.parametrize("group", [Y, P], ids=["label", "action"])
def test_an_image_that_no_sample_can_explain_has_even_evidence(each: Estimator, group: int) -> None:
    """Nothing tells its samples apart but the ratios, if they are possible: w = ψ. Its gradient is finite."""
    every = list(range(SAMPLES))
    got = taken(each, with_value(group, every, -math.inf, slice(None)), True)
    log_ratio = (values()[P] - values()[Q]).sum(-1)[:, IMAGE]
    expected = torch.softmax(log_ratio if group == Y else values()[Y].sum(-1)[:, IMAGE] * 0, 0)
    assert got.estimate.log_evidence[IMAGE] == -math.inf
    close(got.estimate.weights[:, IMAGE], expected, 1e-12)
    assert all(torch.isfinite(c).all() for c in got.coefficients)
    assert torch.isfinite(got.estimate.log_evidence[OTHERS]).all()
    if each not in (variational_credit, wake_sleep_credit):  # whose slopes are of all images
        same(got.coefficients, taken(each, values(), True).coefficients, OTHERS)


@EACH
@CONTROL
@pytest.mark.parametrize("group", [Y, P, Q], ids=["label", "action", "proposal"])
def test_nan_stays_in_its_image(each: Estimator, control_variates: bool, group: int) -> None:
    """And is not hidden there; the other images' gradients are those of a batch without it."""
    got = taken(each, with_value(group, [1], math.nan), control_variates)
    without = taken(each, [t[:, OTHERS] for t in values()], control_variates)
    for ours, expected in zip(got.coefficients, without.coefficients, strict=True):
        close(ours[:, OTHERS], expected, 1e-12)
    assert torch.isnan(got.estimate.loss) and torch.isnan(got.estimate.weights[:, IMAGE]).all()
    close(got.estimate.weights[:, OTHERS], without.estimate.weights, 1e-12)


@EACH
@CONTROL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratios", [[1e4, 0, 0, 0], [-1e4, 0, 0, 0], [1e4, -1e4, 1e4, -1e4], [1e4] * 4, [-1e4] * 4])
def test_ratios_beyond_all_bounds_stay_finite(
    each: Estimator, control_variates: bool, dtype: torch.dtype, ratios: list[float]
) -> None:
    """In every precision, with a coefficient no larger than the log-probabilities themselves."""
    given = values()
    given[P][:, IMAGE, 1] += torch.tensor(ratios, dtype=torch.float64)
    got = taken(each, [t.to(dtype) for t in given], control_variates)
    assert torch.isfinite(got.estimate.loss)
    assert all(torch.isfinite(c).all() and c.abs().max() < 3e4 for c in got.coefficients)
    close(got.estimate.weights.double().sum(0), torch.ones(BATCH, dtype=torch.float64), 1e-2)


@EACH
@CONTROL
def test_one_sample_with_all_the_weight_takes_all_of_the_labels_gradient(
    each: Estimator, control_variates: bool
) -> None:
    got = taken(each, with_value(P, [1], 1e4), control_variates)
    one = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    close(got.estimate.weights[:, IMAGE], one, 1e-12)
    close(got.coefficients.y[:, IMAGE], one.unsqueeze(-1).expand(-1, STEPS), 1e-12)
    if each not in (*VARIATIONAL, vimco, wake_sleep_resampled) and control_variates:
        close(got.coefficients.p[:, IMAGE, 0], torch.zeros(SAMPLES, dtype=torch.float64), 1e-12)  # w = ψ


@pytest.mark.parametrize("each", [wake_sleep, *VARIATIONAL])
def test_rewards_of_any_size_fit_into_half_precision(each: Estimator) -> None:
    """Squares of a few hundred do not fit into float16."""
    given = values()
    given[Y] *= 200
    exact = taken(each, given, True)
    half = taken(each, [t.half() for t in given], True)
    for ours, expected in zip(half.coefficients, exact.coefficients, strict=True):
        assert (ours.double() - expected).abs().max() < 0.02 * max(1.0, float(expected.abs().max()))


def test_a_mixture_with_a_policy_for_which_a_step_is_impossible_is_the_proposals_part() -> None:
    log_p, log_q = values()[0][:, :1], values()[1][:, :1]
    log_p[0, 0, 1] = -math.inf
    mixture = defensive_mixture(log_p, log_q, 0.25)
    assert torch.isfinite(mixture).all()
    close(mixture[0, 0].sum(), log_q[0, 0].sum() + math.log(0.75), 1e-12)


def test_what_does_not_count_may_be_anything() -> None:
    infinite, nothing = torch.tensor([-math.inf, 2.0]), torch.tensor([0.0, 3.0])
    assert product(nothing, infinite).tolist() == [0.0, 6.0]
    assert log_ratio_of(infinite, infinite).tolist() == [0.0, 0.0]
    assert share(torch.full((4, 1), -math.inf)).flatten().tolist() == [0.25] * 4
    ratio = torch.tensor([[0.0], [-math.inf], [-math.inf]])
    # The first one's others are impossible both: none counts more than the other.
    assert mean_of_others(torch.tensor([[-math.inf], [2.0], [4.0]]), ratio).flatten().tolist()[0] == 3.0
    assert mean_of_others(torch.tensor([[1.0], [-math.inf], [4.0]]), ratio).flatten().tolist()[1:] == [1.0, 1.0]
