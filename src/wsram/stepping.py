"""One image step by step: the glimpse or the cell that a network has just looked at is lit."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from wsram.numbering import COLOURS, Box, draw_order, shade_around
from wsram.viewing import show_image

DIMMED = 0.35
"""Of the light of what is not attended to."""
SIDE = 4.6
"""Inches of an image's longer side."""


def draw_trace(image: Tensor, size: tuple[int, int], boxes: Sequence[Box], *, shown: int | None = None) -> Figure:
    """An image and on it its glimpses in order, nothing else.

    Args:
        image: (channels, height, width) in [0, 1], 1 or 3 channels.
        size: (height, width) that it is drawn as, which boxes are pixels of.
        boxes: (left, top, side) of each glimpse, the image's left and top edge at 0.
        shown: so many at first, the last of them lit: one picture of an animation. By default all.
    """
    height, width = size
    figure, axes = _alone(size)
    show_image(axes, image, extent=(0, width, height, 0))
    if shown:
        shade_around(axes, boxes[shown - 1], size)
    draw_order(axes, boxes[:shown], size, 0.03 * max(size), offset=0.0)
    return figure


def draw_cell(image: Tensor, cell: int | None, grid: int, *, dimmed: bool = False) -> Figure:
    """An image alone, and of it one cell lit.

    Args:
        image: (3, height, width) in [0, 1].
        cell: the number of the lit one, row by row from the top left; if none, all of the image is as it is.
        grid: cells along each side.
        dimmed: all is dark where no cell is lit.
    """
    figure, axes = _alone((image.shape[-2], image.shape[-1]))
    if cell is None:
        show_image(axes, DIMMED * image if dimmed else image)
    else:
        _light(axes, image, cell, grid)
    return figure


def draw_caption(image: Tensor, words: Sequence[str], cells: Tensor, grid: int, *, shown: int | None = None) -> Figure:
    """An image once for each word of its caption, with the cell lit that was attended to before the word.

    Args:
        image: (3, height, width) in [0, 1].
        words: of the caption.
        cells: (words,) the cell attended to before each.
        grid: cells along each side.
        shown: so many words at first: one picture of an animation. By default all.
    """
    count = len(words) if shown is None else shown
    columns = min(6, len(words) + 1)
    rows = -(-(len(words) + 1) // columns)
    height, width = image.shape[-2:]
    tall = 1.75 * min(1.6, height / width) + 0.45
    figure = Figure(figsize=(1.9 * columns, tall * rows + 0.4), layout="constrained")
    figure.suptitle(" ".join(words[: min(count, len(words) - 1)]) or " ", parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.axis("off")
    show_image(axes.flat[0], image)
    for n, (panel, word, cell) in enumerate(zip(axes.flat[1:], words, cells.tolist(), strict=False)):
        box = _light(panel, image, cell, grid)
        title = panel.set_title(word, fontsize=11, parse_math=False)
        for artist in (title, *panel.images, box):  # what is yet to come keeps its place
            artist.set_visible(n < count)
    return figure


def _light(axes: Axes, image: Tensor, cell: int, grid: int) -> Rectangle:
    """Show an image, all but one cell darkened; the frame of that cell."""
    height, width = image.shape[-2:]
    row, column = divmod(cell, grid)
    top, left = round(row * height / grid), round(column * width / grid)
    bottom, right = round((row + 1) * height / grid), round((column + 1) * width / grid)
    dark = DIMMED * image
    dark[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    show_image(axes, dark)
    box = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=COLOURS[0])
    axes.add_patch(box)
    return box


def _alone(size: tuple[int, int]) -> tuple[Figure, Axes]:
    """A figure in the shape of an image, and axes that fill it."""
    height, width = size
    figure = Figure(figsize=(max(0.5, SIDE * min(1.0, width / height)), max(0.5, SIDE * min(1.0, height / width))))
    return figure, figure.add_axes((0, 0, 1, 1), frameon=False)
