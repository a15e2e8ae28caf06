"""Pictures as values: where a network looks, and curves. Nothing is written where it was not told to be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter
from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.tables import Panel

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#ffffff")
"""One for each glimpse in turn, distinguishable by readers with colour-blindness (Okabe & Ito 2008)."""
LINES = tuple(colour for colour in COLOURS if colour not in ("#f0e442", "#ffffff"))
"""Those of them that show on white."""


def save(figure: Figure, path: Path, *, replace: bool = False, dpi: int = 130) -> Path:
    """Write a figure to a file, whose suffix chooses the format.

    Args:
        figure: what is drawn.
        path: the file; its folder is made if it is not there.
        replace: whether a file that is there already is ours to replace.
        dpi: pixels to the inch.

    Raises:
        UserError: the file is there already, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not replace:
            raise UserError(f"{path} exists already and is left as it is; remove it or name another folder")
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); name another place") from error
    return path


def glimpse_box(
    sensor: Sensor, size: tuple[int, int], location: Sequence[float], scale: int
) -> tuple[float, float, float]:
    """(left, top, side) in pixels of the square that a glimpse covers, in matplotlib's image coordinates.

    Args:
        sensor: cuts the glimpses.
        size: (height, width) of the image, in pixels.
        location: (x, y) in [-1, 1].
        scale: index into the sensor's scales.

    Example:
        >>> glimpse_box(Sensor(5, (1,)), (5, 5), (0.0, 0.0), 0)
        (-0.5, -0.5, 5)
    """
    height, width = size
    side = sensor.patch_size * sensor.scales[scale]
    x, y = location
    return (x + 1) / 2 * (width - 1) - side / 2, (y + 1) / 2 * (height - 1) - side / 2, side


def draw_glimpses(
    images: Sequence[Tensor], sensor: Sensor, action: Action, titles: Sequence[str], *, heading: str = ""
) -> Figure:
    """Each image with its glimpses on it, numbered and coloured in order, and the patches themselves below it.

    Args:
        images: each (channels, height, width) in [0, 1], 1 or 3 channels.
        sensor: what cut the glimpses.
        action: location (count, glimpses, 2) and scale (count, glimpses).
        titles: one for each image.
        heading: over the whole picture.
    """
    count, glimpses = action.scale.shape
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 3.5 * rows + 0.4), layout="constrained")
    figure.suptitle(heading, parse_math=False)
    blocks = figure.subfigures(rows, columns, squeeze=False)
    # (glimpses, count) so that the sensor's batch axis is last.
    pyramid = sensor.pyramid(images)
    patches = sensor(pyramid, action.location.transpose(0, 1), action.scale.transpose(0, 1)).transpose(0, 1)
    for n in range(count):
        block = blocks[n // columns][n % columns]
        grid = block.add_gridspec(2, glimpses, height_ratios=[glimpses, 1])
        axes = block.add_subplot(grid[0, :])
        show_image(axes, images[n])
        axes.set_title(titles[n], fontsize=9, parse_math=False)
        centres = []
        for g in range(glimpses):
            colour = COLOURS[g % len(COLOURS)]
            size = (images[n].shape[-2], images[n].shape[-1])
            left, top, side = glimpse_box(sensor, size, action.location[n, g].tolist(), int(action.scale[n, g]))
            axes.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=colour, linewidth=1.6))
            centres.append((left + side / 2, top + side / 2))
            # Each number has a place of its own along the top edge: boxes may lie over one another, numbers never do.
            axes.annotate(
                str(g + 1),
                (left, top),
                xytext=(3 + 8 * g, -3),
                textcoords="offset points",
                color=colour,
                fontsize=8,
                va="top",
                ha="left",
                annotation_clip=False,
            )
            small = block.add_subplot(grid[1, g])
            show_image(small, patches[n, g])
            small.set_title(f"{g + 1}: ×{sensor.scales[int(action.scale[n, g])]}", fontsize=7, pad=2)
            for spine in small.spines.values():
                spine.set(edgecolor=colour, linewidth=2)
        for g, (start, end) in enumerate(pairwise(centres)):
            arrow = {"arrowstyle": "->", "color": COLOURS[(g + 1) % len(COLOURS)], "linewidth": 1.0}
            axes.annotate("", end, start, arrowprops=arrow, annotation_clip=False)
    return figure


def show_image(axes: Axes, image: Tensor) -> None:
    """An image (channels, height, width) in [0, 1] filling its axes, without ticks."""
    height, width = image.shape[-2:]
    pixels = image.detach().float().cpu().clamp(0, 1).numpy()
    axes.imshow(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def draw_caption(image: Tensor, words: Sequence[str], cells: Tensor, grid: int) -> Figure:
    """An image once for each word of its caption, with the cell lit that was attended to before the word.

    Args:
        image: (3, height, width) in [0, 1].
        words: of the caption.
        cells: (words,) the cell attended to before each.
        grid: cells along each side.
    """
    columns = min(6, len(words) + 1)
    rows = -(-(len(words) + 1) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.2 * rows + 0.4), layout="constrained")
    figure.suptitle(" ".join(words[:-1]), parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    height, width = image.shape[-2:]
    for panel in axes.flat:
        panel.axis("off")
    show_image(axes.flat[0], image)
    for panel, word, cell in zip(axes.flat[1:], words, cells.tolist(), strict=False):
        row, column = divmod(cell, grid)
        top, left = round(row * height / grid), round(column * width / grid)
        bottom, right = round((row + 1) * height / grid), round((column + 1) * width / grid)
        dimmed = 0.35 * image
        dimmed[:, top:bottom, left:right] = image[:, top:bottom, left:right]
        show_image(panel, dimmed)
        panel.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=COLOURS[0])
        )
        panel.set_title(word, fontsize=11, parse_math=False)
    return figure


def draw_panels(panels: Sequence[Panel]) -> Figure:
    """Panels of curves, two in a row; a label that several panels have has one entry in one legend for all."""
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(10, 3.2 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    labels = [list(dict.fromkeys(label for label, _, _ in panel.curves)) for panel in panels]
    shared = list(dict.fromkeys(label for each in labels for label in each))
    one_legend = len(panels) > 1 and all(each == labels[0] for each in labels)
    handles = {}
    for axis, panel, own in zip(axes.flat, panels, labels, strict=False):
        order = shared if one_legend else own
        style = {label: (LINES[n % len(LINES)], ("-", "--")[n // len(LINES) % 2]) for n, label in enumerate(order)}
        if panel.stacked:
            xs = panel.curves[0][1] if panel.curves else []
            axis.stackplot(xs, *(ys for _, _, ys in panel.curves), labels=own, colors=[style[name][0] for name in own])
            axis.set_ylim(0, 1)
        else:
            for label, xs, ys in panel.curves:
                colour, line = style[label]
                marker = "o" if len(xs) <= 40 else ""
                (handles[label],) = axis.plot(
                    xs, ys, line, color=colour, linewidth=1.2, marker=marker, markersize=3, label=label
                )
        if not one_legend and len(own) > 1:
            seen = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
            axis.legend(list(seen.values()), list(seen), fontsize=8)
        axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        if panel.log and any(y > 0 for _, _, ys in panel.curves for y in ys):  # zero has no place on such an axis
            axis.set_yscale("log")
            for each in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                each(FormatStrFormatter("%g"))
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    if one_legend:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(3, len(handles)))
    return figure
