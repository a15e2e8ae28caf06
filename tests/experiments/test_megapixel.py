"""What counts as looking at a digit."""

from __future__ import annotations

import torch

from experiments.megapixel import overlap


def test_a_glimpse_holds_of_a_digit_what_lies_in_it() -> None:
    canvas, size = 101, 28
    corners = torch.tensor([[[10, 20], [60, 60]]])  # row and column; the first digit's middle is (23.5, 33.5)
    side = torch.full((1, 3), 32)

    def at(column: float, row: float) -> list[float]:
        return [column / 50 - 1, row / 50 - 1]

    location = torch.tensor([[at(33.5, 23.5), at(33.5 + 16, 23.5), at(90, 10)]])
    held = overlap(location, side, corners, canvas, size)
    torch.testing.assert_close(held[0, :, 0], torch.tensor([1.0, 0.5, 0.0]))
    assert not held[0, :, 1].any()
