"""The pictures of looking: an order that can be read, beliefs, mistakes, maps, and all of it moving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from PIL import Image

from tests.refusals import refusal
from wsram.heat import draw_evidence
from wsram.numbering import COLOURS, draw_order, place_numbers
from wsram.stepping import draw_caption
from wsram.viewing import WRONG, Look, animate, draw_looking, save

SIDES = st.integers(10, 400)
RADIUS = 0.045


def boxes_on(height: int, width: int, count: int, seed: int) -> list[tuple[float, float, float]]:
    """Boxes on and partly beside an image, some of them one on the other."""
    numbers = np.random.default_rng(seed)
    longest = max(height, width)
    made = [
        (float(numbers.uniform(-0.3, 1) * width), float(numbers.uniform(-0.3, 1) * height), longest / 4 * int(k))
        for k in numbers.integers(1, 4, count)
    ]
    return [made[0] if numbers.random() < 0.4 else box for box in made]


@settings(max_examples=25)
@given(SIDES, SIDES, st.integers(1, 10), st.integers(0, 10_000))
def test_no_number_lies_over_another_wherever_the_glimpses_are(height: int, width: int, count: int, seed: int) -> None:
    radius = RADIUS * max(height, width)
    places = place_numbers(boxes_on(height, width, count, seed), (height, width), radius)
    assert len(places) == count
    for one, other in combinations(places, 2):
        assert math.dist(one, other) > 2 * radius
    # Beside the image only where it is too flat for them.
    slack = [max(0.0, (8 * radius - extent) / 2) + 1e-9 for extent in (width, height)]
    for x, y in places:
        assert -slack[0] <= x <= width + slack[0] and -slack[1] <= y <= height + slack[1]


def off_the_line(point: Sequence[float], a: Sequence[float], b: Sequence[float]) -> float:
    """The least distance of a point from the line between two others, by trying many."""
    shares = np.linspace(0, 1, 400)[:, None]
    return float(np.linalg.norm(np.array(a) + shares * (np.array(b) - a) - point, axis=1).min())


@pytest.mark.parametrize("seed", range(12))
def test_arrows_pass_beside_the_numbers_they_do_not_join(seed: int) -> None:
    radius = RADIUS * 100
    boxes = [(20.0, 30.0, 32.0)] * 6 if seed == 0 else boxes_on(100, 100, 6, seed)
    places = place_numbers(boxes, (100, 100), radius)
    for n, (start, end) in enumerate(pairwise(places)):
        for k, place in enumerate(places):
            if k not in (n, n + 1):
                assert off_the_line(place, start, end) > radius


def test_a_number_stands_by_its_own_box() -> None:
    boxes = [(10.0, 20.0, 30.0), (50.0, 55.0, 30.0), (60.0, 5.0, 20.0)]
    for (left, top, side), (x, y) in zip(boxes, place_numbers(boxes, (100, 100), 3.0), strict=True):
        assert max(left - x, x - left - side, top - y, y - top - side) == pytest.approx(0, abs=1e-9)


def drawn(figure_axes: Axes, kind: type) -> list:
    return [patch for patch in figure_axes.patches if type(patch) is kind]


def test_the_order_is_drawn_with_arrows_from_number_to_number() -> None:
    axes = Figure().add_subplot()
    boxes = boxes_on(60, 60, 4, 1)
    draw_order(axes, boxes, (60, 60), 2.0)
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3", "4"]
    discs, squares, arrows = (drawn(axes, kind) for kind in (Circle, Rectangle, FancyArrowPatch))
    assert len(discs) == len(squares) == 4 and len(arrows) == 3
    for g, (box, square, disc, text) in enumerate(zip(boxes, squares, discs, axes.texts, strict=True)):
        assert (square.get_x(), square.get_y(), square.get_width()) == box
        assert text.get_position() == disc.center and disc.get_radius() == 2.0
        assert to_hex(square.get_edgecolor()) == to_hex(disc.get_facecolor()) == COLOURS[g]
    for arrow, (start, end) in zip(arrows, pairwise(discs), strict=True):
        tail, head = arrow._posA_posB
        assert math.dist(tail, start.center) == pytest.approx(2) and math.dist(head, end.center) == pytest.approx(2)


NAMES = ("cat", "dog", "a word that is far too long to be written", "ant", "bee", "elk")
BELIEFS = [[0.1, 0.2, 0.3, 0.1, 0.2, 0.1], [0.6, 0.1, 0.05, 0.05, 0.1, 0.1], [0.9999, 0.0001, 0, 0, 0, 0]]


def looks(channels: int = 1) -> list[Look]:
    boxes = boxes_on(40, 60, 3, 2)
    return [Look(box, n + 1, torch.rand(channels, 5, 5), BELIEFS[n]) for n, box in enumerate(boxes)]


def told(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("channels", [1, 3])
def test_beside_the_image_stands_what_each_glimpse_showed_and_the_belief_after_it(channels: int) -> None:
    image, seen = torch.rand(channels, 20, 30), looks(channels)
    figure = draw_looking(image, (40, 60), seen, NAMES, title="a title")
    whole, *rest = figure.axes
    patches, bars = rest[::2], rest[1::2]
    assert told(figure) == ["a title"]
    assert tuple(whole.get_images()[0].get_extent()) == (0, 60, 40, 0)  # boxes are in pixels of the file
    assert [(r.get_x(), r.get_y(), r.get_width()) for r in drawn(whole, Rectangle)] == [look.box for look in seen]
    for n, (small, chart, look) in enumerate(zip(patches, bars, seen, strict=True)):
        assert small.get_title() == f"{n + 1}: ×{look.scale}"
        shown = np.asarray(small.get_images()[0].get_array())
        np.testing.assert_allclose(shown, look.patch[0] if channels == 1 else look.patch.movedim(0, -1))
        words = [text.get_text() for text in chart.texts]
        # The answer first, then what was likeliest on the way.
        assert words[::2][:3] == ["cat", "a word that is far …", "dog"]
        widths = [bar.get_width() for bar in drawn(chart, Rectangle)]
        assert widths[:3] == pytest.approx([look.belief[0], look.belief[2], look.belief[1]])
    assert ">99.9%" in [text.get_text() for text in bars[-1].texts]


def test_a_mistake_is_seen_as_one() -> None:
    for truth, colour in (("cat", "black"), ("dog", WRONG), (None, "black")):
        figure = draw_looking(torch.rand(1, 40, 60), (40, 60), looks(), NAMES, title="t", truth=truth)
        assert to_hex(figure.texts[0].get_color()) == to_hex(colour)
        listed = [text.get_text() for text in figure.axes[2].texts[::2]]
        assert truth is None or truth in listed[:2]


def test_of_an_animation_each_picture_shows_one_glimpse_more() -> None:
    whole = draw_looking(torch.rand(1, 40, 60), (40, 60), looks(), NAMES, title="t")
    for shown in range(4):
        figure = draw_looking(torch.rand(1, 40, 60), (40, 60), looks(), NAMES, title="t", truth="dog", shown=shown)
        image, *rest = figure.axes
        assert [text.get_text() for text in image.texts] == ["1", "2", "3"][:shown]
        assert [bool(axes.get_images()) for axes in rest[::2]] == [n < shown for n in range(3)]
        assert to_hex(figure.texts[0].get_color()) == "#000000"  # what comes of it is not told before the end
        assert tuple(figure.get_size_inches()) == tuple(whole.get_size_inches())


def test_only_what_the_last_glimpse_saw_is_lit() -> None:
    seen = looks()
    image = draw_looking(torch.rand(1, 40, 60), (40, 60), seen, NAMES, title="t", shown=2).axes[0]
    left, top, side = seen[1].box
    shades = [patch for patch in drawn(image, Rectangle) if patch.get_alpha()]
    for y in np.arange(0.5, 40):
        for x in np.arange(0.5, 60):
            inside = left < x < left + side and top < y < top + side
            covers = sum(
                s.get_x() < x < s.get_x() + s.get_width() and s.get_y() < y < s.get_y() + s.get_height() for s in shades
            )
            assert covers == (0 if inside else 1), (x, y)


def test_a_number_is_written_and_not_drawn_as_a_share() -> None:
    seen = [Look(look.box, look.scale, look.patch, [12.5 * n]) for n, look in enumerate(looks())]
    figure = draw_looking(torch.rand(1, 40, 60), (40, 60), seen, ("weight",), title="t", shares=False)
    assert [axes.texts[0].get_text() for axes in figure.axes[2::2]] == ["weight: 0", "weight: 12.5", "weight: 25"]


@pytest.mark.parametrize("size, count", [((10, 400), 2), ((400, 10), 3), ((60, 60), 1), ((60, 60), 14)])
def test_every_shape_of_image_can_be_drawn(tmp_path: Path, size: tuple[int, int], count: int) -> None:
    seen = [Look(box, 1, torch.rand(1, 3, 3), BELIEFS[0]) for box in boxes_on(*size, count, 3)]
    path = save(draw_looking(torch.rand(1, *size), size, seen, NAMES, title="t"), tmp_path / "a.png")
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 2


def test_pictures_move_one_after_the_other_without_end(tmp_path: Path) -> None:
    def frame(n: int) -> Figure:
        figure = Figure(figsize=(1, 1))
        figure.add_axes((0, 0, 1, 1)).imshow([[n / 3]], vmin=0, vmax=1, cmap="gray")
        return figure

    path = animate((frame(n) for n in range(4)), tmp_path / "new" / "moves.gif", seconds=[0.5, 0.5, 0.5, 2.0])

    with Image.open(path) as moving:
        assert moving.format == "GIF" and moving.n_frames == 4 and moving.info["loop"] == 0
        middle, times = [], []
        for n in range(4):
            moving.seek(n)
            times.append(moving.info["duration"])
            middle.append(moving.convert("L").getpixel((50, 50)))
    assert times == [500, 500, 500, 2000]
    assert middle == pytest.approx([0, 85, 170, 255], abs=3)
    before = path.read_bytes()
    refusal(lambda: animate([frame(0)], path, seconds=[1.0]), "exists already", path)
    assert path.read_bytes() == before
    refusal(lambda: animate([frame(0)], path / "below.gif", seconds=[1.0]), "cannot write")


def test_a_caption_is_written_word_by_word() -> None:
    cells = torch.tensor([0, 3, 1])
    for shown in range(4):
        figure = draw_caption(torch.rand(3, 20, 40), ["a", "dog", "(end)"], cells, 2, shown=shown)
        assert figure.get_suptitle().strip() == " ".join(["a", "dog"][:shown])
        visible = [axes.images[0].get_visible() for axes in figure.axes[1:4]]
        assert visible == [n < shown for n in range(3)]


def test_maps_lie_over_the_image_with_a_cross_at_their_maximum() -> None:
    heat = torch.zeros(4, 6, dtype=torch.float64)
    heat[1, 4], heat[3, 0] = 0.75, 0.25
    even = torch.full((4, 6), 1 / 24)
    figure = draw_evidence(torch.rand(1, 4, 6), (40, 60), [("one", heat), ("other", even)], title="it")
    original, first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["it", "one", "other"]
    assert len(original.images) == 1 and len(first.images) == len(second.images) == 2
    for image in first.images:
        assert tuple(image.get_extent()) == (0, 60, 40, 0)
    np.testing.assert_allclose(first.images[1].get_array(), heat / 0.75)
    (cross,) = first.get_lines()
    assert cross.get_xydata().tolist() == [[45.0, 15.0]]


def test_a_number_stays_by_its_box_on_a_large_image_whatever_its_arrow_crosses() -> None:
    corners = [
        (744, 1284), (488, 154), (636, 744), (914, 1219), (255, 1409), (446, 604), (438, 195), (1107, 252), (584, 1295),
        (1247, 1164),
    ]  # fmt: skip
    radius = 0.026 * 1500
    boxes = [(float(left), float(top), 40.0) for left, top in corners]
    for (left, top, side), (x, y) in zip(boxes, place_numbers(boxes, (1500, 1500), radius), strict=True):
        off = max(left - x, x - left - side, top - y, y - top - side)
        assert off <= 6 * radius
