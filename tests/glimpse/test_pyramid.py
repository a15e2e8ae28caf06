"""Pyramids of images of one size and of several: what lies where, and that no image sees another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse.pyramid import Images, Layout, Pyramid, average_pool
from wsram.glimpse.sensor import MODES, Sensor

RAGGED = ((7, 9), (12, 5), (30, 41), (7, 9), (5, 64))
"""Heights and widths of a batch: two alike, wide, tall, and more than ten times as large as the smallest."""


def images_of(sizes: Sequence[tuple[int, int]], channels: int = 2, seed: int = 0) -> list[Tensor]:
    """Images (channels, height, width) of noise, in float64 and never black: what is zero is outside."""
    generator = torch.Generator().manual_seed(seed)
    return [0.5 + torch.rand(channels, h, w, generator=generator, dtype=torch.float64) for h, w in sizes]


class Case(NamedTuple):
    """A sensor's arguments, images of several sizes and glimpses to take of them."""

    patch: int
    scales: tuple[int, ...]
    mode: str
    images: list[Tensor]
    location: Tensor
    scale: Tensor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    patch = draw(st.integers(1, 4))
    scales = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True)))
    sides = st.integers(1, patch * min(scales) + 20)  # also smaller than a patch
    sizes = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=5))
    lead = draw(st.sampled_from([(), (3,), (2, 2)]))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    # A third of these centres lie in the image: most glimpses reach over an edge, and many see nothing of it at all.
    location = torch.rand(*lead, len(sizes), 2, generator=generator, dtype=torch.float64) * 4 - 2
    return Case(
        patch,
        scales,
        draw(st.sampled_from(MODES)),
        images_of(sizes, draw(st.sampled_from([1, 3])), seed),
        location,
        torch.randint(len(scales), (*lead, len(sizes)), generator=generator),
    )


def alone(sensor: Sensor, image: Tensor, location: Tensor, scale: Tensor) -> Tensor:
    """(..., channels, patch, patch) the glimpses (...) of one image that is a batch by itself."""
    return sensor(sensor.pyramid(image.unsqueeze(0)), location.unsqueeze(-2), scale.unsqueeze(-1)).squeeze(-4)


def same(sensor: Sensor, ours: Tensor, theirs: Tensor) -> None:
    """Equal pixels; of interpolated ones the last digit may differ, which vector instructions round otherwise."""
    if sensor.mode == "nearest":
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-15)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(cases())
def test_every_image_of_a_ragged_batch_gives_the_glimpses_it_gives_alone(case: Case) -> None:
    sensor = Sensor(*case[:3])
    images, location, scale = case[3:]
    together = sensor(sensor.pyramid(images), location, scale)
    assert together.shape == (*scale.shape, images[0].shape[0], case.patch, case.patch)
    for b, image in enumerate(images):
        same(sensor, together[..., b, :, :, :], alone(sensor, image, location[..., b, :], scale[..., b]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", range(3))
def test_no_image_of_a_ragged_batch_is_seen_by_another_at_any_scale_off_any_edge(k: int, mode: str) -> None:
    """Each image is of a value of its own; a glimpse that walks from outside to outside sees that and black alone."""
    sensor = Sensor(3, (1, 2, 5), mode)
    images = [torch.full((2, h, w), float(n + 1), dtype=torch.float64) for n, (h, w) in enumerate(RAGGED)]
    last = torch.tensor([[w - 1.0, h - 1.0] for h, w in RAGGED], dtype=torch.float64)  # centres of the last pixels
    # Farther from the image than this a patch sees nothing, neither of a last, partial cell nor by interpolation.
    reach = sensor.scales[k] * (sensor.patch_size / 2 + 1.5)
    step = torch.linspace(-1, 2, 61, dtype=torch.float64)
    at = torch.cartesian_prod(step, step).unsqueeze(1)
    source = 2 * reach * at.clamp(max=0) + last * at.clamp(0, 1) + 2 * reach * (at - 1).clamp(min=0)
    location, scale = 2 * source / last - 1, torch.full(source.shape[:-1], k)
    seen = sensor(sensor.pyramid(images), location, scale)
    outside = ((source < -reach) | (source > last + reach)).any(-1)
    assert 0 < int(outside.sum()) < outside.numel() and not bool(seen[outside].any())
    for n, image in enumerate(images):
        own = seen[:, n]
        assert bool((own >= 0).all()) and n + 0.5 < float(own.amax()) <= n + 1 + 1e-12
        same(sensor, own, alone(sensor, image, location[:, n], scale[:, n]))


@pytest.mark.parametrize("mode", MODES)
def test_a_list_of_images_of_one_size_is_the_batch_of_them(mode: str) -> None:
    images = images_of([(9, 14)] * 4)
    sensor = Sensor(4, (1, 2, 3), mode)
    location = torch.rand(25, 4, 2, dtype=torch.float64) * 4 - 2
    scale = torch.randint(3, (25, 4))
    of_list, of_batch = sensor.pyramid(images), sensor.pyramid(torch.stack(images))
    same(sensor, sensor(of_list, location, scale), sensor(of_batch, location, scale))
    assert torch.equal(of_list.pixels, of_batch.pixels)
    for table in fields(Layout):
        assert torch.equal(getattr(of_list.layout, table.name), getattr(of_batch.layout, table.name)), table.name
    assert (of_list.channels, of_list.margin, len(of_list)) == (of_batch.channels, of_batch.margin, len(of_batch))


@pytest.mark.parametrize("side", [1, 3, 8, 25])
def test_the_view_of_every_image_is_its_own(side: int) -> None:
    """Smaller than some of the images and larger than others."""
    images = images_of(RAGGED)
    view = Sensor(3, (1, 2)).pyramid(images).view(side)
    assert view.shape == (len(images), 2, side, side)
    for image, ours in zip(images, view, strict=True):
        assert torch.equal(ours, Sensor(3, (1, 2)).pyramid(image.unsqueeze(0)).view(side)[0])
        assert torch.equal(ours, F.adaptive_avg_pool2d(image, side))
    of_batch = Sensor(3, (1, 2)).pyramid(torch.stack(images[::3])).view(side)  # two of one size
    assert torch.equal(of_batch, view[::3])


@pytest.mark.parametrize("mode", MODES)
def test_gradient_reaches_each_image_of_a_ragged_batch_as_finite_differences_say(mode: str) -> None:
    sensor = Sensor(2, (1, 2), mode)
    location = torch.tensor(
        [[[-0.9, 0.3], [0.1, -0.2], [0.0, 1.2]], [[1.3, 0.7], [0.4, 0.4], [-0.6, -0.1]]], dtype=torch.float64
    )
    scale = torch.tensor([[0, 1, 1], [1, 0, 0]])
    images = [image.requires_grad_() for image in images_of([(3, 5), (3, 3), (2, 4)], channels=1)]
    assert torch.autograd.gradcheck(lambda *i: sensor(sensor.pyramid(i), location, scale), images)
    assert torch.autograd.gradcheck(lambda *i: sensor.pyramid(i).view(2), images)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_of_an_image_comes_from_its_own_glimpses_alone(mode: str) -> None:
    images = [image.requires_grad_() for image in images_of(RAGGED)]
    sensor = Sensor(3, (1, 3), mode)
    location = torch.rand(6, len(images), 2, dtype=torch.float64) - 0.5
    seen = sensor(sensor.pyramid(images), location, torch.randint(2, (6, len(images))))
    for n in range(len(images)):
        reached = torch.autograd.grad(seen[:, n].sum(), images, retain_graph=True)
        assert [bool(g.any()) for g in reached] == [m == n for m in range(len(images))]


def level(pyramid: Pyramid, image: int, channel: int, scale: int) -> Tensor:
    """One level (height, width) with a pixel of what lies around it, read from the buffer by what is written of it."""
    channel_at = int(pyramid.layout.channels[image, channel])
    start, height, width = pyramid.layout.levels[image, scale].tolist()
    step = width + pyramid.margin
    assert start - step - 1 >= 0  # the row of zeros above, and a zero before it, are the channel's own
    first = channel_at + start - 1
    return torch.stack([pyramid.pixels[first + row * step :][: width + 2] for row in range(-1, height + 1)])


def test_every_level_lies_where_the_layout_says_with_zeros_around_it() -> None:
    images, scales = images_of(RAGGED), (3, 1, 4)
    pyramid = Sensor(2, scales).pyramid(images)
    layout = pyramid.layout
    assert len(pyramid) == len(images) and pyramid.channels == 2
    assert layout.sizes.tolist() == [[w, h] for h, w in RAGGED]
    assert layout.images.tolist() == list(range(len(images)))
    assert layout.bases.tolist() == layout.channels[:, 0, 0].tolist()
    assert layout.strides.tolist() == layout.channels.diff(dim=1).flatten().tolist()
    assert int(layout.bases[-1] + 2 * layout.strides[-1]) == len(pyramid.pixels)
    kept = 0
    for n, image in enumerate(images):
        assert layout.factors.tolist() == list(scales)
        for channel in range(2):
            for s, k in enumerate(scales):
                pooled = average_pool(image[channel], k)
                assert torch.equal(level(pyramid, n, channel, s), F.pad(pooled, (1, 1, 1, 1)))
                kept += pooled.numel()
    assert int(pyramid.pixels.count_nonzero()) == kept


def test_a_layout_that_was_first_asked_for_in_inference_serves_training_too() -> None:
    """Layouts are kept from one batch to the next of the same sizes: here of sizes that no other test has."""
    images = [image.requires_grad_() for image in images_of([(11, 23), (19, 6)])]
    sensor, scale = Sensor(3, (1, 2)), torch.tensor([0, 1])
    location = torch.full((2, 2), 0.1, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        before = sensor(sensor.pyramid(images), location, scale).clone()
    seen = sensor(sensor.pyramid(images), location, scale)
    assert torch.equal(seen, before)
    assert all(bool(g.any()) for g in torch.autograd.grad(seen.square().sum(), [*images, location]))


def test_a_layout_that_is_kept_is_that_of_its_own_sizes_channels_and_scales() -> None:
    """What differs in one thing alone from what was seen before is laid out anew."""
    (first, second), location = images_of([(9, 14), (14, 9)], channels=3), torch.zeros(1, 2, dtype=torch.float64)
    for image in (first, second, first[:1], second[:2], first[..., :13], first):
        for sensor in (Sensor(3, (1, 2)), Sensor(3, (1, 3)), Sensor(4, (1, 2)), Sensor(4, (1,))):
            pyramid = sensor.pyramid(image.unsqueeze(0))
            for s, k in enumerate(sensor.scales):
                channels = [level(pyramid, 0, c, s)[1:-1, 1:-1] for c in range(len(image))]
                assert torch.equal(torch.stack(channels), average_pool(image, k))
            seen = sensor(pyramid, location, torch.tensor([0]))
            assert seen.shape == (1, len(image), sensor.patch_size, sensor.patch_size) and bool((seen > 0).all())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 7))
def test_average_pooling_completes_the_last_cells_with_black(height: int, width: int, k: int) -> None:
    (image,) = images_of([(height, width)], seed=height)
    completed = F.pad(image, (0, -width % k, 0, -height % k))
    torch.testing.assert_close(average_pool(image, k), F.avg_pool2d(completed, k), rtol=1e-14, atol=0)


def test_images_of_a_list_are_left_as_they_were() -> None:
    images = images_of(RAGGED)
    before = [image.clone() for image in images]
    sensor = Sensor(3, (1, 2))
    sensor.pyramid(images).pixels.mul_(0)
    assert all(torch.equal(image, was) for image, was in zip(images, before, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", MODES)
def test_cuda_sees_of_a_ragged_batch_what_the_cpu_sees(mode: str) -> None:
    images, sensor = images_of(RAGGED), Sensor(3, (1, 2, 5), mode)
    location = torch.rand(20, len(images), 2, dtype=torch.float64) * 4 - 2
    scale = torch.randint(3, (20, len(images)))
    here, there = sensor.pyramid(images), sensor.pyramid([image.cuda() for image in images])
    assert there.device.type == "cuda"
    seen = sensor(there, location.cuda(), scale.cuda())
    torch.testing.assert_close(seen.cpu(), sensor(here, location, scale), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(there.view(4).cpu(), here.view(4), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(1, 8, 8), r"floating-point tensor .* of shape \(1, 8, 8\)"),
        (torch.zeros(2, 2, 1, 8, 8), "floating-point tensor"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "floating-point tensor .* got torch.uint8"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.long), "floating-point tensor .* got torch.int64"),
        ([torch.zeros(1, 8, 8), torch.zeros(8, 8)], "or a list of them"),
        ([torch.zeros(1, 8, 8), torch.zeros(2, 1, 8, 8)], "or a list of them"),
        ([torch.zeros(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8)], "got torch.uint8"),
        ([torch.zeros(1, 8, 8), torch.zeros(3, 9, 9)], r"one number of channels, got \[1, 3\]"),
        ([], "one number of channels"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images: Images, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        Sensor(3, (2, 4)).pyramid(images)
    assert "\n" not in str(raised.value)
