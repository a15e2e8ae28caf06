"""Distortions of digits by moments: what turns, what moves, and what stays."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wsram.data.distortion import BEND, CONTROL, DRAWS, ROTATION, distort
from wsram.data.scenes import uniform_hash


def drawn(count: int, epoch: int = 0) -> Tensor:
    return uniform_hash(0, epoch, torch.arange(count), DRAWS)


def blob() -> Tensor:
    """A smooth spot off the middle, (1, 28, 28): its moments say how it was moved."""
    at = (torch.arange(28) + 0.5) / 14 - 1
    return torch.exp(-(((at - 0.3) / 0.15) ** 2 + ((at.unsqueeze(-1) + 0.2) / 0.15) ** 2)).unsqueeze(0)


def centre(image: Tensor) -> Tensor:
    at = (torch.arange(28) + 0.5) / 14 - 1
    return torch.stack([(image * at).sum(), (image * at.unsqueeze(-1)).sum()]) / image.sum()


def test_nothing_drawn_leaves_digits_as_they_are() -> None:
    digits = torch.rand(3, 28, 28)
    for same in (distort(digits, torch.full((3, DRAWS), 0.5), 1.0), distort(digits, drawn(3), 0.0)):
        torch.testing.assert_close(same, digits, rtol=0, atol=1e-4)  # positions are rounded


def test_rotation_turns_about_the_middle_by_at_most_its_bound() -> None:
    uniform = torch.full((1, DRAWS), 0.5)
    uniform[:, 0] = 1.0
    was, now = centre(blob()[0]), centre(distort(blob(), uniform, 1.0)[0])
    turned = math.atan2(*now.flip(0).tolist()) - math.atan2(*was.flip(0).tolist())
    assert math.isclose(abs(turned), ROTATION, rel_tol=0.01)
    assert math.isclose(now.norm(), was.norm(), rel_tol=0.01)


def test_bending_moves_what_is_near_the_point_that_is_pulled() -> None:
    uniform = torch.full((1, DRAWS), 0.5)
    uniform[:, 4 : 4 + CONTROL**2] = 1.0  # all points, along x: a shift to the left
    shift = centre(distort(blob(), uniform, 1.0)[0]) - centre(blob()[0])
    torch.testing.assert_close(shift, torch.tensor([-BEND, 0.0]), atol=2e-3, rtol=0)
