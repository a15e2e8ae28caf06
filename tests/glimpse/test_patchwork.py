"""What is drawn where it is looked at is what would have been drawn whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse import Sensor
from wsram.glimpse.patchwork import Patchwork, patchwork

CANVAS, SIZE = 61, 9


def some(batch: int = 3, count: int = 20) -> tuple[Patchwork, Tensor]:
    """Crowded images, so that squares lie over squares; and the same drawn square by square, (batch, 1, h, w)."""
    generator = torch.Generator().manual_seed(0)
    squares = torch.rand(batch, count, SIZE, SIZE, generator=generator)
    corners = torch.randint(CANVAS - SIZE + 1, (batch, count, 2), generator=generator)
    corners[:, 0], corners[:, 1] = 0, CANVAS - SIZE  # the very corners
    whole = torch.zeros(batch, 1, CANVAS, CANVAS)
    for n in range(batch):
        for square, (row, column) in zip(squares[n], corners[n].tolist(), strict=True):
            whole[n, 0, row : row + SIZE, column : column + SIZE] = square
    return patchwork(squares, corners, CANVAS), whole


def test_the_whole_image_is_its_squares_laid_one_over_the_other() -> None:
    images, whole = some()
    assert torch.equal(images.render(), whole)


@pytest.mark.parametrize("side", [1, 4, 7, 12, 20, 60, 61])
def test_the_view_is_that_of_the_whole_image(side: int) -> None:
    images, whole = some()
    torch.testing.assert_close(images.view(side), F.adaptive_avg_pool2d(whole, side), rtol=0, atol=1e-6)


def test_the_view_is_the_same_where_products_are_of_half_precision() -> None:
    images, _ = some()
    with torch.autocast("cpu", torch.bfloat16):
        found = images.view(12)
    assert torch.equal(found, images.view(12))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_glimpses_are_those_of_the_whole_image(mode: str) -> None:
    images, whole = some()
    sensor = Sensor(5, (1, 2, 3), mode)
    generator = torch.Generator().manual_seed(1)
    location = 3 * torch.rand(40, 3, 2, generator=generator) - 1.5  # also beyond the edges
    scale = torch.randint(3, (40, 3), generator=generator)
    expected = sensor(sensor.pyramid(whole), location, scale)
    torch.testing.assert_close(sensor(sensor.pyramid(images), location, scale), expected, rtol=0, atol=1e-6)


def test_an_image_without_squares_is_black_wherever_one_looks() -> None:
    images = patchwork(torch.zeros(2, 0, SIZE, SIZE), torch.zeros(2, 0, 2, dtype=torch.long), CANVAS)
    assert not images.view(8).any() and not images.render().any()


def test_some_of_the_images_are_those_images() -> None:
    images, whole = some()
    assert torch.equal(images.select(torch.tensor([2, 0])).render(), whole[[2, 0]])
    assert len(images.select(torch.tensor([1]))) == 1
    assert torch.equal(torch.stack(list(images)), whole)  # type: ignore[call-overload]


def test_contrast_of_images_that_are_never_whole_is_refused() -> None:
    with pytest.raises(UserError, match="drawn where they are looked at"):
        Sensor(5, (1,), contrast=True).pyramid(some()[0])
