"""The sensor against a slow reference that is obviously right, and its conventions one by one."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse.sensor import MODES, Sensor

Image = list[list[list[float]]]


def level_cell(image: Image, channel: int, row: int, column: int, k: int) -> float:
    """One cell of the level for scale k: the mean of k by k source pixels, those outside the image being zero."""
    total = 0.0
    for r in range(row * k, row * k + k):
        for c in range(column * k, column * k + k):
            if 0 <= r < len(image[0]) and 0 <= c < len(image[0][0]):
                total += image[channel][r][c]
    return total / k**2


def corner_of(x: float, y: float, k: int, patch: int, height: int, width: int) -> tuple[float, float]:
    """Level coordinates (column, row) of a glimpse's first pixel; a cell's centre has whole coordinates."""
    column, row = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
    # The centre of cell 0 lies at source coordinate (k - 1) / 2, that of a patch at (patch - 1) / 2 cells.
    return (column - (k - 1) / 2) / k - (patch - 1) / 2, (row - (k - 1) / 2) / k - (patch - 1) / 2


def slow_glimpse(image: Image, x: float, y: float, k: int, patch: int, mode: str) -> Image:
    """One glimpse (channels, patch, patch) of one image, one pixel after another."""
    left, top = corner_of(x, y, k, patch, len(image[0]), len(image[0][0]))
    glimpse = [[[0.0] * patch for _ in range(patch)] for _ in image]
    for channel in range(len(image)):
        for i in range(patch):
            for j in range(patch):
                row, column = top + i, left + j
                if mode == "nearest":
                    nearest = math.floor(row + 0.5), math.floor(column + 0.5)
                    glimpse[channel][i][j] = level_cell(image, channel, *nearest, k)
                    continue
                for r in (math.floor(row), math.floor(row) + 1):
                    for c in (math.floor(column), math.floor(column) + 1):
                        weight = (1 - abs(row - r)) * (1 - abs(column - c))
                        glimpse[channel][i][j] += weight * level_cell(image, channel, r, c, k)
    return glimpse


class Case(NamedTuple):
    """A sensor's arguments, images and glimpses to take of them."""

    patch: int
    scales: tuple[int, ...]
    mode: str
    images: Tensor
    location: Tensor
    scale: Tensor


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
SPECIAL = (-3.0, -1.0, -0.5, 0.0, 1.0, 2.0)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    patch = draw(st.integers(1, 4))
    scales = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True)))
    # Also smaller than a patch.
    height, width = (draw(st.integers(1, patch * min(scales) + 9)) for _ in range(2))
    mode = draw(st.sampled_from(MODES))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    batch, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3]))
    lead = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # Half precision has too few digits to say where a pixel is; networks keep locations in float32.
    exact = torch.promote_types(dtype, torch.float32)
    location = torch.rand(*lead, batch, 2, generator=generator, dtype=exact) * 6 - 3
    if mode == "bilinear":
        # The edges, the centre, and points far outside: places where the nearest pixel is a tie.
        special = torch.tensor(SPECIAL, dtype=exact)[torch.randint(len(SPECIAL), location.shape, generator=generator)]
        location = torch.where(torch.rand(location.shape, generator=generator) < 0.3, special, location)
    return Case(
        patch,
        scales,
        mode,
        torch.rand(batch, channels, height, width, generator=generator, dtype=torch.float64).to(dtype),
        location,
        torch.randint(len(scales), (*lead, batch), generator=generator),
    )


def near_a_tie(case: Case, x: float, y: float, k: int) -> bool:
    """Whether rounding errors may decide which pixel is nearest; any difference of one pixel is then as right."""
    height, width = case.images.shape[-2:]
    corner = corner_of(x, y, k, case.patch, height, width)
    return any(abs(c - 0.5 - round(c - 0.5)) < 1e-4 for c in corner)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(cases())
def test_glimpses_are_the_slow_references(case: Case) -> None:
    sensor = Sensor(*case[:3])
    images, location, scale = case[3:]
    glimpses = sensor(sensor.pyramid(images), location, scale)
    batch, channels = images.shape[:2]
    assert glimpses.shape == (*scale.shape, channels, sensor.patch_size, sensor.patch_size)
    assert glimpses.dtype == images.dtype
    flat = glimpses.reshape(-1, batch, *glimpses.shape[-3:])
    for where, which, seen in zip(location.view(-1, batch, 2), scale.view(-1, batch), flat, strict=True):
        for b in range(batch):
            (x, y), k = where[b].tolist(), sensor.scales[int(which[b])]
            if sensor.mode == "nearest" and near_a_tie(case, x, y, k):
                continue
            slow = slow_glimpse(images[b].tolist(), x, y, k, sensor.patch_size, sensor.mode)
            expected = torch.tensor(slow, dtype=torch.float64)
            tolerance = TOLERANCE[images.dtype]
            torch.testing.assert_close(seen[b].double(), expected, rtol=0, atol=tolerance)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(cases())
def test_glimpses_taken_together_are_those_taken_one_by_one(case: Case) -> None:
    sensor = Sensor(*case[:3])
    images, location, scale = case[3:]
    together = sensor(sensor.pyramid(images), location, scale)
    together = together.reshape(-1, *together.shape[-3:])
    location, scale = location.view(-1, *location.shape[-2:]), scale.view(-1, scale.shape[-1])
    for s in range(len(scale)):
        for b in range(len(images)):
            alone = sensor(sensor.pyramid(images[b : b + 1]), location[s, b : b + 1], scale[s, b : b + 1])
            # Not bit for bit: vectorised and scalar instructions round the last digit differently.
            torch.testing.assert_close(together[s * len(images) + b], alone[0])


@settings(derandomize=True, deadline=None, max_examples=50)
@given(cases(), st.floats(-100, 100), st.floats(-100, 100))
def test_glimpses_are_linear_in_the_image(case: Case, a: float, b: float) -> None:
    sensor = Sensor(*case[:3])
    images, location, scale = case[3:]
    images = images.double()
    other = torch.rand_like(images)
    mixed = sensor(sensor.pyramid(a * images + b * other), location, scale)
    separate = [sensor(sensor.pyramid(i), location, scale) for i in (images, other)]
    torch.testing.assert_close(mixed, a * separate[0] + b * separate[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("x", "y"), [(-1, -1), (1, -1), (-1, 1), (1, 1)])
def test_corners_are_the_centres_of_the_corner_pixels(mode: str, x: int, y: int) -> None:
    """(-1, -1) centres on pixel (0, 0), and x is the column, in an image that is not square."""
    image = torch.arange(1.0, 16.0).view(1, 1, 3, 5)
    sensor = Sensor(1, (1,), mode)
    seen = sensor(sensor.pyramid(image), torch.tensor([[float(x), float(y)]]), torch.tensor([0]))
    assert seen.item() == image[0, 0, 0 if y < 0 else 2, 0 if x < 0 else 4].item()


@pytest.mark.parametrize("mode", MODES)
def test_top_left_corner_shows_black_above_and_to_the_left(mode: str) -> None:
    image = torch.arange(1.0, 16.0).view(1, 1, 3, 5)
    sensor = Sensor(3, (1,), mode)
    seen = sensor(sensor.pyramid(image), torch.tensor([[-1.0, -1.0]]), torch.tensor([0]))
    assert seen[0, 0].tolist() == [[0, 0, 0], [0, 1, 2], [0, 6, 7]]


@pytest.mark.parametrize("mode", MODES)
def test_x_is_the_column(mode: str) -> None:
    image = torch.arange(1.0, 16.0).view(1, 1, 3, 5)
    sensor = Sensor(1, (1,), mode)
    pyramid = sensor.pyramid(image)
    seen = [sensor(pyramid, torch.tensor([[x / 2 - 1, 0.0]]), torch.tensor([0])).item() for x in range(5)]
    assert seen == [6, 7, 8, 9, 10]
    seen = [sensor(pyramid, torch.tensor([[0.0, float(y)]]), torch.tensor([0])).item() for y in (-1, 0, 1)]
    assert seen == [3, 8, 13]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", [1, 2, 5, 6])
def test_patch_as_large_as_the_image_shows_the_image(mode: str, side: int) -> None:
    images = torch.rand(2, 3, side, side, dtype=torch.float64)
    sensor = Sensor(side, (1,), mode)
    seen = sensor(sensor.pyramid(images), torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(seen, images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [2, 3, 4])
def test_coarse_patch_over_the_whole_image_is_its_average_pooling(mode: str, k: int) -> None:
    images = torch.rand(2, 3, 3 * k, 3 * k, dtype=torch.float64)
    sensor = Sensor(3, (1, k), mode)
    seen = sensor(sensor.pyramid(images), torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.long))
    torch.testing.assert_close(seen, torch.nn.functional.avg_pool2d(images, k), rtol=0, atol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    patch=st.integers(1, 5),
    k=st.integers(1, 4),
    x=st.floats(-0.4, 0.4),
    y=st.floats(-0.4, 0.4),
)
def test_glimpse_is_centred_where_it_was_asked_at_every_scale(patch: int, k: int, x: float, y: float) -> None:
    """In an image whose pixels say where they are, a glimpse's mean is its centre, and neighbours differ by k."""
    height, width = 72, 84  # whole cells at every scale, and room enough that no glimpse reaches the edge
    column = torch.arange(width, dtype=torch.float64).expand(height, width)
    row = torch.arange(height, dtype=torch.float64).unsqueeze(-1).expand(height, width)
    sensor = Sensor(patch, (k,))
    pyramid = sensor.pyramid(torch.stack([column, row]).unsqueeze(0))
    seen = sensor(pyramid, torch.tensor([[x, y]], dtype=torch.float64), torch.tensor([0]))[0]
    source = torch.tensor([(x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)], dtype=torch.float64)
    torch.testing.assert_close(seen.mean((-2, -1)), source, rtol=0, atol=1e-9)
    steps = [seen[0].diff(dim=-1), seen[1].diff(dim=-2)]
    assert all(torch.allclose(s, torch.full_like(s, k), atol=1e-9) for s in steps)


def test_half_way_between_two_pixels_the_nearest_mode_takes_the_later() -> None:
    image = torch.arange(1.0, 26.0).view(1, 1, 5, 5)
    sensor = Sensor(1, (1,), "nearest")
    # In a 5 pixel image locations are whole quarters of source pixels, exact in binary.
    seen = sensor(sensor.pyramid(image), torch.tensor([[-0.75, -1.0]]), torch.tensor([0]))
    assert seen.item() == 2
    seen = sensor(sensor.pyramid(image), torch.tensor([[-1.0, 0.25]]), torch.tensor([0]))
    assert seen.item() == 16
    # An even patch on the first pixel starts half a pixel before it: at -1/2, which rounds up to 0.
    sensor = Sensor(2, (1,), "nearest")
    seen = sensor(sensor.pyramid(image), torch.tensor([[-1.0, -1.0]]), torch.tensor([0]))
    assert seen[0, 0].tolist() == [[1, 2], [6, 7]]


def test_bilinear_mode_weighs_the_four_neighbours() -> None:
    image = torch.tensor([[0.0, 1.0], [10.0, 100.0]]).view(1, 1, 2, 2)
    sensor = Sensor(1, (1,))
    seen = sensor(sensor.pyramid(image), torch.tensor([[-0.5, 0.5]]), torch.tensor([0]))  # column 1/4, row 3/4
    assert seen.item() == pytest.approx(0.1875 * 0 + 0.0625 * 1 + 0.5625 * 10 + 0.1875 * 100)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("far", [3.0, 1e3, 1e9, 1e30, math.inf])
def test_far_outside_everything_is_black(mode: str, far: float) -> None:
    sensor = Sensor(3, (1, 2, 5), mode)
    location = torch.tensor([[far, 0.0], [-far, 0.0], [0.0, far], [0.0, -far], [far, -far]]).unsqueeze(1)
    for k in range(3):
        seen = sensor(sensor.pyramid(torch.ones(1, 1, 7, 6)), location, torch.full((5, 1), k))
        reaches_in = far == 3 and k == 2  # a patch of 15 source pixels, from a centre some 6 pixels outside
        assert reaches_in or torch.equal(seen, torch.zeros_like(seen))
        assert torch.isfinite(seen).all()


HALF = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])


@HALF
@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize("mode", MODES)
def test_locations_in_half_precision_are_worked_with_in_float32(
    mode: str, precision: torch.dtype, half: torch.dtype
) -> None:
    """In an image so large that half precision would miss the pixel by far, whatever the image's own precision."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, 301, 1500, generator=generator).to(precision)
    sensor = Sensor(4, (1, 3), mode)
    pyramid = sensor.pyramid(images)
    location = (torch.rand(50, 2, 2, generator=generator) * 2.4 - 1.2).to(half)
    scale = torch.randint(2, (50, 2), generator=generator)
    seen = sensor(pyramid, location, scale)
    assert seen.dtype == precision
    assert torch.equal(seen, sensor(pyramid, location.float(), scale))


@HALF
def test_a_location_in_half_precision_finds_the_very_pixel_it_says(half: torch.dtype) -> None:
    """In an image of 3,001 columns, each of which says where it is: half precision cannot count to most of them."""
    sensor = Sensor(1, (1,), "nearest")
    pyramid = sensor.pyramid(torch.arange(3001.0).expand(1, 1, 1, 3001))
    x = torch.arange(-64, 65) / 64  # exact in half precision
    location = torch.stack([x, torch.zeros_like(x)], -1).unsqueeze(1).to(half)
    seen = sensor(pyramid, location, torch.zeros(129, 1, dtype=torch.long))
    assert seen.flatten().tolist() == [math.floor((n / 64 + 1) / 2 * 3000 + 0.5) for n in range(-64, 65)]


@HALF
@pytest.mark.parametrize("mode", MODES)
def test_half_precision_far_outside_sees_black(mode: str, half: torch.dtype) -> None:
    far = torch.finfo(half).max
    location = torch.tensor([[[far, 0.0]], [[0.0, -far]], [[math.inf, -math.inf]]]).to(half)
    sensor = Sensor(3, (1, 2), mode)
    seen = sensor(sensor.pyramid(torch.ones(1, 1, 7, 6)), location, torch.ones(3, 1, dtype=torch.long))
    assert torch.equal(seen, torch.zeros_like(seen))


@pytest.mark.parametrize("mode", MODES)
def test_last_partial_cell_is_completed_with_black(mode: str) -> None:
    """Five pixels at scale 2: the third cell holds one column of the image and one column of black."""
    sensor = Sensor(1, (2,), mode)
    # Its centre is at source column 4.5, beyond the last pixel's centre at 4: location 4.5 / 4 * 2 - 1.
    location = torch.tensor([[1.25, -0.75]])
    assert sensor(sensor.pyramid(torch.ones(1, 1, 5, 5)), location, torch.tensor([0])).item() == 0.5


@pytest.mark.parametrize("mode", MODES)
def test_gradient_reaches_the_image_as_finite_differences_say(mode: str) -> None:
    sensor = Sensor(2, (1, 2), mode)
    location = torch.tensor([[[-0.9, 0.3], [0.1, -0.2]], [[1.3, 0.7], [0.4, 0.4]]], dtype=torch.float64)
    scale = torch.tensor([[0, 1], [1, 0]])
    images = torch.rand(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i: sensor(sensor.pyramid(i), location, scale), images)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_asks_for_a_gradient_by_itself(mode: str) -> None:
    sensor = Sensor(2, (1, 2), mode)
    seen = sensor(sensor.pyramid(torch.rand(2, 1, 4, 5)), torch.zeros(3, 2, 2), torch.zeros(3, 2, dtype=torch.long))
    assert not seen.requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_images_are_left_as_they_were(mode: str) -> None:
    images = torch.rand(2, 1, 6, 6)
    before = images.clone()
    sensor = Sensor(3, (1,), mode)
    sensor(sensor.pyramid(images), torch.zeros(2, 2), torch.zeros(2, dtype=torch.long)).mul_(0)
    assert torch.equal(images, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("mode", MODES)
def test_cuda_sees_what_the_cpu_sees(mode: str, dtype: torch.dtype) -> None:
    sensor = Sensor(4, (1, 2, 3), mode)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 17, 23, generator=generator).to(dtype)
    location = torch.rand(7, 5, 2, generator=generator, dtype=torch.float64) * 6 - 3
    scale = torch.randint(3, (7, 5), generator=generator)
    here = sensor(sensor.pyramid(images), location, scale)
    there = sensor(sensor.pyramid(images.cuda()), location.cuda(), scale.cuda())
    assert there.is_cuda and there.dtype == dtype
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("patch", "scales", "mode", "said"),
    [
        (0, (1,), "bilinear", "patch size must be at least 1 pixel, got 0"),
        (-2, (1,), "bilinear", "patch size must be at least 1 pixel, got -2"),
        (3, (), "bilinear", r"scales must be one or more whole numbers from 1 to 1048576, got \(\)"),
        (3, (1, 0), "bilinear", r"scales must be one or more whole numbers from 1 to 1048576, got \(1, 0\)"),
        (3, (-1,), "bilinear", r"scales must be one or more whole numbers from 1 to 1048576, got \(-1,\)"),
        (3, (1,), "integer", "unknown sensor mode 'integer'; choose one of bilinear, nearest"),
    ],
)
def test_sensor_that_cannot_be_is_refused(patch: int, scales: tuple[int, ...], mode: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sensor(patch, scales, mode)


@pytest.mark.parametrize(
    ("height", "width", "said"),
    [
        (5, 8, "a patch of 3 pixels at scale 2 spans 6 pixels, more than the 5x8 image"),
        (8, 5, "a patch of 3 pixels at scale 2 spans 6 pixels, more than the 8x5 image"),
    ],
)
def test_what_a_patch_does_not_fit_into_is_told(height: int, width: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sensor(3, (2, 4)).check(height, width)


@pytest.mark.parametrize("mode", MODES)
def test_an_image_smaller_than_a_patch_is_seen_whole_with_black_around_it(mode: str) -> None:
    sensor = Sensor(5, (1,), mode)
    image = torch.rand(1, 2, 3, 1)
    seen = sensor(sensor.pyramid(image), torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    assert torch.equal(seen, torch.nn.functional.pad(image, (2, 2, 1, 1)))


def test_only_the_finest_scale_has_to_fit() -> None:
    sensor = Sensor(3, (8, 2))
    sensor.check(6, 6)
    with pytest.raises(UserError, match="3 pixels at scale 2 spans 6 pixels"):
        sensor.check(6, 5)
    seen = sensor(sensor.pyramid(torch.ones(1, 1, 6, 6)), torch.zeros(1, 2), torch.tensor([0]))
    assert seen.shape == (1, 1, 3, 3)
    # One cell of 8 by 8 that holds the whole image; the glimpse's centre is a pixel from the cell's, 1/8 of a cell.
    assert seen.sum().item() == pytest.approx(36 / 64)
