"""The usual way to write a glimpse network cuts what ours cuts, and learns."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmark_works import sampled
from experiments.unbatched import RecurrentAttention, crop, glimpses
from wsram.glimpse.sensor import Sensor

SIDE, PATCH = 40, 4


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_glimpses_by_hand_are_ours_also_beyond_the_edge(scale: int) -> None:
    """Where both begin at one pixel: theirs measure from edge to edge, ours from centre to centre of pixels."""
    k = (1, 2, 3)[scale]
    images = torch.rand(5, 2, SIDE, SIDE)
    cell = torch.tensor([[0, 0], [3, 5], [-2, 1], [SIDE // k - 2, 0], [SIDE // k - 4, SIDE // k - 2]])
    theirs = 2 * (cell * k + PATCH * k / 2 + 0.25) / SIDE - 1
    ours = 2 * ((cell + (PATCH - 1) / 2) * k + (k - 1) / 2) / (SIDE - 1) - 1
    sensor = Sensor(PATCH, (1, 2, 3), "nearest")
    cut = sensor(sensor.pyramid(images), ours, torch.full((5,), scale))
    assert cut[2].eq(0).any() and cut[0].gt(0).all()
    assert torch.allclose(glimpses(images, theirs, PATCH, [k] * 5), cut, atol=1e-6)


def test_grid_sample_is_ours_where_nothing_is_averaged() -> None:
    images, location = torch.rand(6, 2, SIDE, SIDE + 7), torch.rand(6, 2) * 2.4 - 1.2
    sensor = Sensor(16, (1, 2))
    ours = sensor(sensor.pyramid(images), location, torch.zeros(6, dtype=torch.long))
    assert torch.allclose(sampled(images, location, torch.ones(6)), ours, atol=1e-5)


def test_squares_of_several_sides_are_cut_from_one_padded_batch() -> None:
    squares = crop(torch.rand(2, 1, 10, 10), torch.zeros(2, 2), [4, 8])
    assert [tuple(square.shape) for square in squares] == [(1, 4, 4), (1, 8, 8)]


def test_every_weight_of_it_learns_what_lies_where_it_looks() -> None:
    network = RecurrentAttention(classes=2, glimpses=2, patch=4, scales=2, hidden=16)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    labels = torch.arange(32) % 2
    images = labels.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).float()
    for step in range(25):
        optimizer.zero_grad()
        loss, right = network(images, labels)
        loss.backward()
        if step == 0:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
        optimizer.step()
    assert right > 0.95
