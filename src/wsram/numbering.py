"""Glimpses in their order: squares with numbers and arrows between them, no number over another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#ffffff")
"""One for each glimpse in turn, distinguishable by readers with colour-blindness (Okabe & Ito 2008)."""
DARK = ("#0072b2", "#009e73", "#d55e00")
"""Those that white is read on."""
NEAR = 2.0
"""Radii of a number's disc that it may lie off its box before that speaks against it more than lines that cross."""
Box = tuple[float, float, float]
"""Left, top and side of a square."""


def draw_order(axes: Axes, boxes: Sequence[Box], size: tuple[int, int], radius: float, *, offset: float = 0.5) -> None:
    """Boxes on an image, each with its number, and arrows from number to number.

    Args:
        axes: show the image.
        boxes: (left, top, side) in the axes' coordinates, in order.
        size: (height, width) of the image.
        radius: of a number's disc.
        offset: where the image's left and top edge lie, before 0.
    """
    height, width = size
    places = [
        (x - offset, y - offset)
        for x, y in place_numbers([(left + offset, top + offset, side) for left, top, side in boxes], size, radius)
    ]
    dark = [patheffects.withStroke(linewidth=3, foreground="black")]
    for g, (left, top, side) in enumerate(boxes):
        colour = COLOURS[g % len(COLOURS)]
        axes.add_patch(
            Rectangle((left, top), side, side, fill=False, edgecolor=colour, linewidth=1.6, path_effects=dark, zorder=2)
        )
        axes.add_patch(
            Circle(places[g], radius, facecolor=colour, edgecolor="black", linewidth=1.0, zorder=4, clip_on=False)
        )
        axes.text(
            *places[g],
            str(g + 1),
            color="white" if colour in DARK else "black",
            fontsize=8,
            fontweight="bold",
            ha="center",
            va="center_baseline",
            zorder=5,
        )
    for g, (start, end) in enumerate(pairwise(places)):
        length = math.dist(start, end)
        if length > 2 * radius:  # a number that had to go that near needs no arrow to be found
            towards = [(b - a) / length * radius for a, b in zip(start, end, strict=True)]
            axes.add_patch(
                FancyArrowPatch(
                    (start[0] + towards[0], start[1] + towards[1]),
                    (end[0] - towards[0], end[1] - towards[1]),
                    arrowstyle="-|>",
                    mutation_scale=9,
                    shrinkA=0,
                    shrinkB=0,
                    color=COLOURS[(g + 1) % len(COLOURS)],
                    linewidth=1.3,
                    path_effects=dark,
                    zorder=3,
                    clip_on=False,
                )
            )
    axes.set(xlim=(-offset, width - offset), ylim=(height - offset, -offset))


def shade_around(axes: Axes, box: Box, size: tuple[int, int]) -> None:
    """Darken all of an image but a box, (left, top, side) in pixels from its left and top edge."""
    left, top, side = box
    height, width = size
    right, bottom = left + side, top + side
    for x, y, to_x, to_y in (
        (0.0, 0.0, float(width), top),
        (0.0, bottom, float(width), float(height)),
        (0.0, top, left, bottom),
        (right, top, float(width), bottom),
    ):
        dark = Rectangle((x, y), max(0, to_x - x), max(0, to_y - y), color="black", alpha=0.55, linewidth=0)
        axes.add_patch(dark)


def place_numbers(boxes: Sequence[Box], size: tuple[int, int], radius: float) -> list[tuple[float, float]]:
    """Where the number of each box goes: by its corner, no two over one another, and off the arrows between them.

    Args:
        boxes: (left, top, side) in pixels, the image's left and top edge at 0.
        size: (height, width) of the image, in pixels.
        radius: of a number's disc, in pixels.

    Returns:
        (x, y) of each disc's centre.

    Example:
        >>> place_numbers([(10.0, 10.0, 20)], (60, 60), 2.0)
        [(10.0, 10.0)]
    """
    placed: list[tuple[float, float]] = []
    for box in boxes:
        places = _places(box, size, radius)
        placed.append(min(places, key=lambda at: _badness(at, box, placed, radius)))
    return placed


def _places(box: Box, size: tuple[int, int], radius: float) -> list[tuple[float, float]]:
    """Around a box and, should it be crowded there, all over the image; of a very flat one also outside it."""
    left, top, side = box
    height, width = size
    room = [max(radius, (8 * radius - each) / 2) - radius for each in (width, height)]

    def inside(x: float, y: float) -> tuple[float, float]:
        x = min(max(x, radius - room[0]), max(width - radius + room[0], radius - room[0]))
        y = min(max(y, radius - room[1]), max(height - radius + room[1], radius - room[1]))
        return x, y

    steps = (0.0, 1.0, 0.5, 0.25, 0.75, 0.125, 0.375, 0.625, 0.875)
    around = [
        (left - out + u * (side + 2 * out), top - out + v * (side + 2 * out))
        for out in (0.0, 1.5 * radius, 3 * radius, 5 * radius)
        for u in steps
        for v in steps
        if {u, v} & {0.0, 1.0}
    ]
    whole = [(width * (i + 0.5) / 12, height * (j + 0.5) / 12) for i in range(12) for j in range(12)]
    return [inside(x, y) for x, y in (*around, *whole)]


def _badness(at: tuple[float, float], box: Box, placed: Sequence[tuple[float, float]], radius: float) -> float:
    """How much speaks against the next number's place: overlaps most, then arrows over numbers, crossings, the way."""
    left, top, side = box
    border = max(left - at[0], at[0] - left - side, top - at[1], at[1] - top - side)
    bad = abs(border) / radius + 0.1 * math.dist(at, (left, top)) / max(side, radius)
    bad += 60.0 * max(0.0, border / radius - NEAR)  # whatever it crosses, a number belongs to its box
    bad += sum(1000.0 for other in placed if math.dist(at, other) < 2.3 * radius)
    if not placed:
        return bad
    arrows, new = list(pairwise(placed)), (placed[-1], at)
    bad += 40.0 * (math.dist(*new) < 4.0 * radius)
    bad += sum(100.0 for arrow in arrows if _distance(at, *arrow) < 1.5 * radius)
    bad += sum(100.0 for other in placed[:-1] if _distance(other, *new) < 1.5 * radius)
    return bad + sum(20.0 for arrow in arrows[:-1] if _cross(arrow, new))


def _distance(point: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    """From a point to the line between two others."""
    along = (b[0] - a[0], b[1] - a[1])
    length = along[0] ** 2 + along[1] ** 2 or 1.0
    share = ((point[0] - a[0]) * along[0] + (point[1] - a[1]) * along[1]) / length
    share = min(max(share, 0.0), 1.0)
    return math.dist(point, (a[0] + share * along[0], a[1] + share * along[1]))


def _cross(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> bool:
    """Whether two lines between points cross."""
    (a, b), (c, d) = one, other
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Above 0 where a point c lies to one side of the line through a and b, below 0 on the other."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
