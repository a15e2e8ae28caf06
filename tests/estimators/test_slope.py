"""The slope of credit: fitted to the other images, to the bit; shrunk by its own uncertainty; never worse than none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.estimators.by_hand import foreseen_by_hand, slope_by_hand
from tests.estimators.families import SEED, close
from wsram.estimators.base import before, foreseen, slope_of_others, sum_of_others

BATCH = pytest.mark.parametrize("batch", [1, 2, 8])
DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def centred(values: Tensor) -> Tensor:
    return values - values.mean(0)


def pairs(batch: int, seed: int, samples: int = 3, steps: int = 2) -> tuple[Tensor, Tensor]:
    """A regressor and a response that follows it in part, (samples, batch, steps) in float64."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(samples, batch, steps, generator=generator, dtype=torch.float64) for _ in range(2))
    return centred(x), centred(0.7 * x + noise)


# What has no part in a sum.


@DTYPE
def test_a_step_has_no_part_in_what_was_before_it(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 2.0, 3e30, -torch.inf, torch.nan], dtype=dtype)
    assert before(values)[:3].tolist() == [0.0, 1.0, 3.0]
    assert before(values)[4] == -torch.inf
    assert before(values[:, None], 0)[:3, 0].tolist() == [0.0, 1.0, 3.0]


@DTYPE
@BATCH
def test_an_image_has_no_part_in_the_sum_of_the_others(batch: int, dtype: torch.dtype) -> None:
    """Where the total less its own would be rounding errors alone."""
    for giant in range(batch):
        values = torch.ones(batch, 2, dtype=dtype)
        values[giant] = 1e30
        assert sum_of_others(values)[giant].tolist() == [batch - 1.0] * 2


@DTYPE
@BATCH
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4, torch.inf, torch.nan])
def test_an_images_own_samples_do_not_move_its_slope_by_a_bit(size: float, batch: int, dtype: torch.dtype) -> None:
    x, y = (t.to(dtype) for t in pairs(batch, 1))
    slope, others = slope_of_others(x, y)
    for image in range(batch):
        own_x, own_y = x.clone(), y.clone()
        own_x[:, image], own_y[:, image] = size * x[:, image].flip(0), size * y[:, image].roll(1, 0)
        again, others_again = slope_of_others(own_x, own_y)
        assert torch.equal(again[image], slope[image]) and torch.equal(others_again[image], others[image])


@pytest.mark.parametrize("spread", [1e-3, 1e-5, 1e-8])
def test_a_slope_beside_a_dominating_image_is_as_exact_as_any(spread: float) -> None:
    x, y = pairs(8, 1)
    x[:, 1:], y[:, 1:] = spread * x[:, 1:], spread * y[:, 1:]
    exact, _ = slope_of_others(x, y)
    assert 0.05 < exact[0].min() < 1
    close(slope_of_others(x.float(), y.float())[0][0].double(), exact[0], 1e-4)


# The slope.


@SEED
@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_slope_and_what_it_foretells_are_the_formulas(batch: int, seed: int) -> None:
    x, y = pairs(batch, seed)
    x[:, -1] *= 5
    slope, others = slope_of_others(x, y)
    told = foreseen(x, y)
    for n in range(2):
        values = [[list(column) for column in zip(*t[..., n].tolist(), strict=True)] for t in (x, y)]
        for b in range(batch):
            assert slope[b, n] == pytest.approx(slope_by_hand(*values, b), rel=1e-9, abs=1e-12)
            close(told[:, b, n], told.new_tensor(foreseen_by_hand(*values, b)), 1e-11)
    close(others, x.square().sum((0, 1)) - x.square().sum(0), 1e-11)


def test_images_that_agree_are_believed_and_those_that_disagree_are_not() -> None:
    x, _ = pairs(6, 1)
    close(slope_of_others(x, 0.6 * x)[0], torch.full((6, 2), 0.6, dtype=torch.float64), 1e-9)
    assert (slope_of_others(x, 3 * x)[0] == 1).all()  # as it stands, and no further
    assert not slope_of_others(x, -0.6 * x)[0].any()
    sign = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64).view(6, 1)
    assert slope_of_others(x / x.square().sum(0).sqrt(), sign * x)[0].max() < 0.05


def test_one_other_image_says_nothing_of_how_far_images_differ() -> None:
    x, _ = pairs(2, 1)
    assert not slope_of_others(x, x)[0].any()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e30])
def test_an_image_whose_sums_are_not_finite_has_no_part_in_the_slope(value: float) -> None:
    x, y = (t.float() for t in pairs(5, 1))
    without = [t[:, [0, 1, 3, 4]] for t in (x, y)]
    for values in (x, y):
        kept = values[1, 2, 0].clone()
        values[1, 2, 0] = value
        slope, others = slope_of_others(x, y)
        for got, expected in zip((slope, others), slope_of_others(*without), strict=True):
            torch.testing.assert_close(got[[0, 1, 3, 4], 0], expected[:, 0])
        assert torch.isfinite(slope).all()
        values[1, 2, 0] = kept


def test_a_past_beyond_what_the_others_reach_foretells_next_to_nothing() -> None:
    x, y = pairs(8, 1)
    ordinary = foreseen(x, y)[:, 0].norm()
    for size in (1e3, 1e6):
        far, large = x.clone(), y.clone()
        far[:, 0], large[:, 0] = size * x[:, 0], size * y[:, 0]
        assert 0 < foreseen(far, large)[:, 0].norm() < 100 * ordinary / size
    far[0, 0] = torch.inf
    assert not foreseen(far, large)[1:, 0].any() and not foreseen(far, large)[0, 0].any()


# What it does to the noise. Many batches at once, along the steps: each of them is a fit of its own.

Family = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the past, what comes after it, and the image's number (batch, 1), to the reward."""

FAMILIES: dict[str, Family] = {
    "informative": lambda past, after, image: past + after,
    "noise": lambda past, after, image: after,
    "misleading": lambda past, after, image: after - past,
    "one image in four misleading": lambda past, after, image: after + past * torch.where(image % 4 == 0, -1, 1),
}
FAMILY = pytest.mark.parametrize("family", FAMILIES)
SIZES = pytest.mark.parametrize(
    ("batch", "samples", "draws"),
    [(2, 2, 4000), (2, 5, 4000), (4, 2, 2000), (4, 5, 2000), (8, 2, 2000), (8, 5, 2000), (128, 2, 200), (128, 5, 100)],
)


def noise_left(family: Family, batch: int, samples: int, draws: int, scale: float = 1.0) -> float:
    """Of the squares of what multiplies the scores, the part that is left by what the past foretells."""
    generator = torch.Generator().manual_seed(0)
    past, after = (torch.randn(samples, batch, draws, generator=generator) for _ in range(2))
    image = torch.arange(batch).unsqueeze(-1)
    size = torch.where(image % 4 == 0, scale, 1.0)
    x, y = centred(size * past), centred(size * family(past, after, image))
    return float((y - foreseen(x, y)).square().sum() / y.square().sum())


@FAMILY
@SIZES
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_credit_adds_next_to_no_noise_whatever_the_past_says(
    family: str, batch: int, samples: int, draws: int, scale: float
) -> None:
    """Nor where one image in four is twenty times as large as the others.

    Of an image that is misled alone among few, the others cannot know: they agree.
    """
    alone = {4: 1.13, 8: 1.05}.get(batch, 1.03) if family == "one image in four misleading" else 1.03
    assert noise_left(FAMILIES[family], batch, samples, draws, scale) < alone


@pytest.mark.parametrize(
    ("batch", "samples", "draws", "most"),
    [(8, 2, 2000, 0.7), (8, 5, 2000, 0.6), (128, 2, 200, 0.52), (128, 5, 100, 0.51)],
)
def test_credit_keeps_most_of_what_an_informative_past_can_take(
    batch: int, samples: int, draws: int, most: float
) -> None:
    """The slope is 1 and takes half; with two images there is nothing to go by, and none is taken."""
    assert noise_left(FAMILIES["informative"], batch, samples, draws) < most
    assert noise_left(FAMILIES["informative"], 2, samples, 100) == 1.0
