"""Scenes against independent references: placement by a plain splitmix64, resizing by torch, clutter by counting.

Nothing here is random from run to run: what is drawn comes from hashes and fixed seeds, so the statistical bounds,
each about five standard deviations wide, hold or fail for good.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.refusals import refusal
from wsram.data.scenes import SCENES, Scenes, SceneSpec, evaluation_scenes, make_scenes, place, scene_spec, uniform_hash
from wsram.image_settings import Blend

INT64 = st.integers(-(2**63), 2**63 - 1)
NAMED = pytest.mark.parametrize("name", SCENES)


def some_digits(count: int, height: int = 28, width: int = 28) -> Tensor:
    """Noise, which unlike handwriting shows every wrong pixel."""
    return torch.randint(256, (count, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def assert_uniform(cells: Tensor, count: int) -> None:
    """Pearson's chi-square of whole numbers that should be uniform over `count` values, within 5 deviations."""
    observed = torch.bincount(cells.flatten(), minlength=count).double()
    assert len(observed) == count
    expected = cells.numel() / count
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    assert abs(statistic - (count - 1)) < 5 * math.sqrt(2 * (count - 1)), statistic


# The hash


def mix(x: int) -> int:
    """splitmix64's finaliser on Python's own integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


GOLDEN = 0x9E3779B97F4A7C15


def reference(seed: int, epoch: int, index: int, draw: int) -> float:
    key = mix((mix((seed * GOLDEN + 1) % 2**64) + epoch * GOLDEN) % 2**64)
    state = mix((key + index * GOLDEN) % 2**64)
    return (mix((state + draw * GOLDEN) % 2**64) >> 11) / 2**53


def test_the_reference_is_splitmix64() -> None:
    """The published first outputs of the generator seeded with 1234567."""
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [mix((1234567 + n * GOLDEN) % 2**64) for n in range(1, 5)] == outputs


@given(INT64, INT64, st.lists(INT64, min_size=1, max_size=4), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_the_hash_equals_the_reference_exactly(seed: int, epoch: int, index: list[int], draws: int) -> None:
    ours = uniform_hash(seed, epoch, torch.tensor(index), draws)
    assert ours.dtype == torch.float64
    assert ours.tolist() == [[reference(seed, epoch, i, draw) for draw in range(draws)] for i in index]


def test_the_hash_keeps_the_shape_and_any_integer_type_of_the_index() -> None:
    index = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    assert torch.equal(uniform_hash(7, 1, index, 4), uniform_hash(7, 1, torch.arange(6), 4).reshape(2, 3, 4))


def test_the_hash_is_uniform() -> None:
    u = uniform_hash(0, 0, torch.arange(50_000), 4)
    assert u.min() >= 0 and u.max() < 1
    for draw in range(4):
        assert_uniform((u[:, draw] * 64).long(), 64)
    # The low digits, too: they decide where a digit goes once its size has used up the high ones.
    assert_uniform((u * 2**20).frac().mul(64).long(), 64)


def test_the_hash_is_independent_across_all_that_it_is_a_function_of() -> None:
    index = torch.arange(50_000)
    u = uniform_hash(3, 5, index, 2)
    others = {
        "draw": u[:, 1],
        "index": uniform_hash(3, 5, index + 1, 1)[:, 0],
        "epoch": uniform_hash(3, 6, index, 1)[:, 0],
        "seed": uniform_hash(4, 5, index, 1)[:, 0],
        "seed and epoch exchanged": uniform_hash(5, 3, index, 1)[:, 0],
    }
    for other in others.values():
        # Jointly uniform over 16 × 16 cells: more than uncorrelated.
        assert_uniform((u[:, 0] * 16).long() * 16 + (other * 16).long(), 256)


# Placement


@NAMED
@given(
    seed=st.integers(0, 2**40), epoch=st.integers(-1, 2**20), order=st.permutations(range(12)), size=st.integers(1, 12)
)
@settings(max_examples=10, deadline=None)
def test_a_scene_depends_on_seed_epoch_and_index_alone(
    name: str, seed: int, epoch: int, order: list[int], size: int
) -> None:
    digits, spec = some_digits(12), SCENES[name]
    whole = make_scenes(digits, torch.arange(12), spec, seed=seed, epoch=epoch)
    index = torch.tensor(order[:size])
    part = make_scenes(digits, index, spec, seed=seed, epoch=epoch)
    for placed in ("side", "left", "top"):
        assert torch.equal(getattr(part, placed), getattr(whole, placed)[index])
    close(part.images, whole.images[index])  # a matrix product may round differently in another batch


@NAMED
def test_scenes_are_unit_images_of_their_canvas(name: str) -> None:
    spec = SCENES[name]
    scenes = make_scenes(some_digits(20), torch.arange(20), spec, seed=0)
    assert scenes.images.shape == (20, 1, spec.canvas, spec.canvas)
    assert scenes.images.dtype == torch.float32
    assert scenes.images.min() >= 0 and scenes.images.max() <= 1 + 1e-6
    assert scenes.side.shape == scenes.left.shape == scenes.top.shape == (20,)


def test_bytes_and_unit_numbers_give_the_same_scene() -> None:
    digits, spec = some_digits(20), SCENES["cluttered-60"]
    scenes = [make_scenes(each, torch.arange(20), spec, seed=0).images for each in (digits, digits.double() / 255)]
    close(*scenes)


@NAMED
@pytest.mark.parametrize("other", [{"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}, {"seed": 0, "epoch": -1}])
def test_other_epochs_and_seeds_place_anew(name: str, other: dict[str, int]) -> None:
    digits, index, spec = some_digits(500, 2, 2), torch.arange(500), replace(SCENES[name], clutter=0)
    first = make_scenes(digits, index, spec, seed=0, epoch=0)
    second = make_scenes(digits, index, spec, **other)
    same = (first.left == second.left) & (first.top == second.top) & (first.side == second.side)
    # There are at least 33² places, so chance alone keeps fewer than one in a thousand.
    assert same.sum() <= 5


def test_evaluation_scenes_are_a_family_that_no_training_epoch_draws() -> None:
    digits, index, spec = some_digits(30), torch.arange(30), SCENES["cluttered-60"]
    fixed = evaluation_scenes(digits, index, spec)
    assert torch.equal(fixed.images, evaluation_scenes(digits, index, spec).images)
    for epoch in range(3):
        training = make_scenes(digits, index, spec, seed=0, epoch=epoch)
        assert not torch.equal(training.left, fixed.left)


def many(spec: SceneSpec, count: int) -> Scenes:
    """Placements of many tiny digits; the images are left out, since they would take up gigabytes."""
    digits = torch.ones(count, 1, 1)
    parts = [make_scenes(digits, index, spec, seed=0) for index in torch.arange(count).split(500)]
    joined = [torch.cat([getattr(part, name) for part in parts]) for name in ("side", "left", "top")]
    return Scenes(torch.empty(0), *joined)


def test_the_side_is_uniform_over_its_range_and_the_digit_inside_the_canvas() -> None:
    spec = SCENES["translated-scaled"]
    scenes = many(spec, 8000)
    assert_uniform(scenes.side - spec.min_side, spec.max_side - spec.min_side + 1)
    for start in (scenes.left, scenes.top):
        assert (start >= 0).all() and (start + scenes.side <= spec.canvas).all()
        # Every place that the side leaves is equally likely: both ends are reached, and quarters are balanced.
        room = spec.canvas - scenes.side
        assert (start == 0).any() and (start == room).any()
        share = (start + 0.5) / (room + 1)
        assert abs(share.mean() - 0.5) < 5 * math.sqrt(1 / 12 / len(share))


def test_a_digit_of_one_size_is_uniform_over_all_places() -> None:
    scenes = many(SCENES["translated"], 12_000)
    assert (scenes.side == 28).all()
    assert_uniform(scenes.left * 33 + scenes.top, 33**2)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 6), st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_nothing_is_drawn_outside_the_digit_and_the_whole_digit_is(
    seed: int, least: int, more: int, slack: int
) -> None:
    spec = SceneSpec(canvas=least + more + slack, min_side=least, max_side=least + more)
    scenes = make_scenes(torch.ones(5, 4, 4), torch.arange(5), spec, seed=seed)
    for image, side, left, top in zip(scenes.images[:, 0], scenes.side, scenes.left, scenes.top, strict=True):
        assert least <= side <= least + more
        lit = image > 0
        inside = torch.zeros_like(lit)
        inside[top : top + side, left : left + side] = True
        assert torch.equal(lit, inside)


# Sizes


def at(digits: Tensor, side: int, left: int = 3, top: int = 5, canvas: int = 70) -> Tensor:
    """Every digit drawn at the same size and place; only its square, (batch, side, side)."""
    spec = SceneSpec(canvas=canvas, min_side=side, max_side=side)
    number = torch.full((len(digits),), 1)
    image = place(digits, spec, side * number, left * number, top * number)
    assert image.shape == (len(digits), 1, canvas, canvas)
    square = image[:, 0, top : top + side, left : left + side]
    torch.testing.assert_close(square.sum(), image.sum())
    return square


def exact_area(digits: Tensor, side: int) -> Tensor:
    """The mean over each of side × side equal areas: every pixel split into side × side, then whole blocks averaged."""
    height, width = digits.shape[-2:]
    fine = digits.repeat_interleave(side, -2).repeat_interleave(side, -1)
    return F.avg_pool2d(fine, (height, width))


def test_at_its_own_size_a_digit_is_itself() -> None:
    digits = some_digits(3).double()
    assert torch.equal(at(digits, 28), digits)


def test_half_size_is_torchs_area_average() -> None:
    digits = some_digits(3).double()
    close(at(digits, 14), F.interpolate(digits.unsqueeze(1), (14, 14), mode="area").squeeze(1))


@given(st.integers(1, 28))
@settings(max_examples=28, deadline=None)
def test_a_smaller_digit_is_the_exact_area_average(side: int) -> None:
    digits = some_digits(2).double()
    small = at(digits, side)
    torch.testing.assert_close(small, exact_area(digits, side), rtol=1e-9, atol=1e-9)
    # So light is preserved: each pixel stands for (28 / side)² of the digit's own.
    torch.testing.assert_close(small.sum((-2, -1)) * (28 / side) ** 2, digits.sum((-2, -1)))


def bilinear(digits: Tensor, side: int) -> Tensor:
    """torch's bilinear sampling at the centres of side × side pixels, black outside the digit."""
    centre = (torch.arange(side, dtype=digits.dtype) + 0.5) / side * 2 - 1
    grid = torch.stack(torch.meshgrid(centre, centre, indexing="xy"), -1).expand(len(digits), -1, -1, -1)
    return F.grid_sample(digits.unsqueeze(1), grid, "bilinear", "zeros", align_corners=False).squeeze(1)


@given(st.integers(28, 60))
@settings(max_examples=33, deadline=None)
def test_a_larger_digit_is_bilinear_on_a_black_ground(side: int) -> None:
    digits = some_digits(2).double()
    torch.testing.assert_close(at(digits, side), bilinear(digits, side), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("side", [29, 42, 56])
def test_a_larger_digit_with_a_black_frame_is_torchs_own_enlargement(side: int) -> None:
    digits = F.pad(some_digits(2, 26, 26).double(), (1, 1, 1, 1))
    enlarged = F.interpolate(digits.unsqueeze(1), (side, side), mode="bilinear", align_corners=False).squeeze(1)
    torch.testing.assert_close(at(digits, side), enlarged, rtol=1e-9, atol=1e-9)


def test_digits_that_are_not_square_are_squeezed_into_their_square() -> None:
    digits = some_digits(2, 20, 28).double()
    torch.testing.assert_close(at(digits, 14), exact_area(digits, 14), rtol=1e-9, atol=1e-9)


def test_left_counts_columns_and_top_counts_rows() -> None:
    spec = SceneSpec(canvas=9, min_side=2, max_side=2)
    digit = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    image = place(digit, spec, torch.tensor([2]), left=torch.tensor([6]), top=torch.tensor([1]))
    expected = torch.zeros(9, 9)
    expected[1, 6], expected[1, 7], expected[2, 6], expected[2, 7] = 0.1, 0.2, 0.3, 0.4
    close(image[0, 0], expected)


# Clutter

CLUTTERED = pytest.mark.parametrize("name", [name for name, spec in SCENES.items() if spec.clutter])


def only(lit: int, count: int = 200) -> Tensor:
    """(count, 28, 28): one digit all white, the others black."""
    return (torch.arange(count) == lit).float().reshape(-1, 1, 1).expand(-1, 28, 28)


@CLUTTERED
def test_clutter_leaves_the_placement_and_never_darkens_the_digit(name: str) -> None:
    digits, index, spec = some_digits(50), torch.arange(50), SCENES[name]
    scenes = make_scenes(digits, index, spec, seed=0)
    plain = make_scenes(digits, index, replace(spec, clutter=0), seed=0)
    for placed in ("side", "left", "top"):
        assert torch.equal(getattr(scenes, placed), getattr(plain, placed))
    assert (scenes.images >= plain.images).all()
    assert (scenes.images > plain.images).flatten(1).any(1).all()


@CLUTTERED
def test_brightness_stops_at_one(name: str) -> None:
    white = torch.full((40, 28, 28), 255, dtype=torch.uint8)
    images = make_scenes(white, torch.arange(40), SCENES[name], seed=0).images
    assert torch.equal(images.unique(), torch.tensor([0.0, 1.0]))


@CLUTTERED
def test_clutter_comes_from_other_digits_alone(name: str) -> None:
    spec = SCENES[name]
    for number in range(0, 200, 20):
        index = torch.tensor([number])
        cluttered, plain = (make_scenes(only(number), index, each, seed=0) for each in (spec, replace(spec, clutter=0)))
        assert torch.equal(cluttered.images, plain.images)


def one_pixel(spec: SceneSpec, **changes: int) -> SceneSpec:
    """The same clutter in scenes whose own digit is a single pixel, so that it hides next to nothing."""
    return replace(spec, min_side=1, max_side=1, **changes)


def own_pixel(scenes: Scenes) -> Tensor:
    """Where each scene of `one_pixel` has its digit: (batch, canvas, canvas), true at one pixel."""
    own = torch.zeros_like(scenes.images[:, 0], dtype=torch.bool)
    own[torch.arange(len(own)), scenes.top, scenes.left] = True
    return own


def test_every_other_digit_is_equally_likely_to_be_the_clutter() -> None:
    """Each of forty digits has its own grey, so the one piece of clutter shows which it was cut from."""
    digits = ((torch.arange(40) + 1.0) / 40).reshape(-1, 1, 1).expand(-1, 28, 28)
    spec, index = one_pixel(SCENES["cluttered-60"], clutter=1), torch.arange(40)
    steps = []
    for epoch in range(25):
        scenes = make_scenes(digits, index, spec, seed=0, epoch=epoch)
        source = (scenes.images[:, 0].masked_fill(own_pixel(scenes), 0).amax((1, 2)) * 40).round().long() - 1
        steps.append((source - index) % 40 - 1)
    assert torch.cat(steps).unique().tolist() == list(range(39))
    assert_uniform(torch.cat(steps), 39)


def test_a_piece_is_cut_whole_from_a_digit_at_its_own_size() -> None:
    """With a digit's pixels numbered in reading order, a piece's rows differ by 28 and its columns by 1."""
    digits = ((torch.arange(28 * 28) + 1.0).reshape(28, 28) / 1000).expand(400, -1, -1)
    spec = one_pixel(SCENES["cluttered-60"], clutter=1)
    scenes = make_scenes(digits, torch.arange(400), spec, seed=0)
    apart = (scenes.images > 0).flatten(1).sum(1) == 64 + 1  # the digit's own pixel is not on the piece
    assert apart.sum() > 380
    corners = []
    for image in scenes.images[:, 0].masked_fill(own_pixel(scenes), 0)[apart]:
        rows, columns = image.nonzero(as_tuple=True)
        piece = (image[rows[0] : rows[0] + 8, columns[0] : columns[0] + 8] * 1000).round().long() - 1
        assert torch.equal(piece, piece[0, 0] + 28 * torch.arange(8).unsqueeze(1) + torch.arange(8))
        corners.append(divmod(int(piece[0, 0]), 28))
    # A piece of 8 pixels can begin at any of the first 21 rows and columns.
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(21))


@CLUTTERED
def test_there_are_as_many_pieces_as_stated_uniform_over_the_canvas(name: str) -> None:
    """Lit pixels against their expectation: a piece of 8×8 covers each pixel with a chance that can be counted."""
    spec, count = one_pixel(SCENES[name]), 1000
    scenes = make_scenes(torch.ones(count, 28, 28), torch.arange(count), spec, seed=0)
    lit = scenes.images[:, 0].masked_fill(own_pixel(scenes), 0).double()
    assert torch.equal(lit.unique(), torch.tensor([0.0, 1.0]))
    starts = spec.canvas - 8 + 1
    pixel = torch.arange(spec.canvas, dtype=torch.float64)
    axis = (pixel.clamp(max=starts - 1) - (pixel - 7).clamp(min=0) + 1) / starts
    chance = (1 - (1 - torch.outer(axis, axis)) ** spec.clutter) * (1 - 1 / spec.canvas**2)
    # Half a scene more allows for the corners, where a count of few is far from normally distributed.
    deviation = (chance * (1 - chance) / count).sqrt()
    assert ((lit.mean(0) - chance).abs() < 5 * deviation + 0.5 / count).all()
    # One image's lit pixels: their sum's own deviation, and at most one more pixel for each image's digit.
    total = lit.sum((1, 2))
    assert (total <= 64 * spec.clutter).all()
    assert abs(total.mean() - chance.sum()) < 5 * total.std() / math.sqrt(count)


@CLUTTERED
def test_added_clutter_is_the_sum_of_pieces_and_digit_up_to_one(name: str) -> None:
    """Pieces of one grey tell by their brightness how many lie over one another."""
    spec = one_pixel(scene_spec(name, "add"), clutter=60)
    grey = torch.full((50, 28, 28), 0.25)
    scenes = make_scenes(grey, torch.arange(50), spec, seed=0)
    quarters = (scenes.images * 4).round() / 4
    close(scenes.images, quarters)
    assert quarters.unique().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    brightest = make_scenes(grey, torch.arange(50), replace(spec, blend="max"), seed=0)
    for placed in ("side", "left", "top"):
        assert torch.equal(getattr(scenes, placed), getattr(brightest, placed))
    own = own_pixel(scenes)
    close(brightest.images[:, 0][own], torch.full((50,), 0.25))
    assert (quarters[:, 0][own] > 0.25).any()


def test_added_clutter_may_be_of_the_digit_itself() -> None:
    spec, index = one_pixel(scene_spec("cluttered-60", "add"), clutter=1), torch.arange(20)
    digits = ((torch.arange(20) + 1.0) / 40).reshape(-1, 1, 1).expand(-1, 28, 28)
    steps = []
    for epoch in range(50):
        scenes = make_scenes(digits, index, spec, seed=0, epoch=epoch)
        source = (scenes.images[:, 0].masked_fill(own_pixel(scenes), 0).amax((1, 2)) * 40).round().long() - 1
        steps.append((source - index) % 20)
    assert_uniform(torch.cat(steps), 20)


@pytest.mark.parametrize("blend", ["max", "add"])
def test_scenes_are_the_same_in_whatever_precision_they_are_looked_at(blend: Blend) -> None:
    digits, index, spec = some_digits(20), torch.arange(20), scene_spec("cluttered-60", blend)
    whole = make_scenes(digits, index, spec, seed=0, distortion=0.5).images
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(make_scenes(digits, index, spec, seed=0, distortion=0.5).images, whole)


# Names


def test_scenes_have_names_and_other_names_are_refused() -> None:
    assert all(scene_spec(name) == spec for name, spec in SCENES.items())
    refusal(lambda: scene_spec("translated-rotated"), "'translated-rotated'", *SCENES)
    refusal(lambda: scene_spec("translated", "add"), "translated has no clutter", "cluttered-60", "cluttered-100")


@NAMED
def test_every_digit_fits_its_canvas(name: str) -> None:
    spec = SCENES[name]
    assert 1 <= spec.min_side <= spec.max_side <= spec.canvas
    assert spec.clutter_side <= 28


# Distortion


def test_training_scenes_are_distorted_the_same_way_again_and_placed_as_without() -> None:
    digits, index, spec = some_digits(40), torch.arange(10, 30), SCENES["cluttered-60"]
    plain = make_scenes(digits, index, spec, seed=3, epoch=2)
    ours = make_scenes(digits, index, spec, seed=3, epoch=2, distortion=1.0)
    assert torch.equal(ours.left, plain.left) and torch.equal(ours.top, plain.top)
    assert not torch.equal(ours.images, plain.images)
    again = make_scenes(digits, index[5:6], spec, seed=3, epoch=2, distortion=1.0)
    close(again.images[0], ours.images[5])
    assert ours.images.min() >= 0 and ours.images.max() <= 1
    other = make_scenes(digits, index, spec, seed=3, epoch=3, distortion=1.0)
    assert not torch.equal(ours.images, other.images)
