"""Pictures as values: where a network looks, and curves. Nothing is written where it was not told to be."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FormatStrFormatter, LogLocator
from PIL import Image
from torch import Tensor

from wsram.errors import UserError
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.numbering import COLOURS, Box, draw_order, shade_around
from wsram.tables import Panel, percent, shortened

WRONG = "#d55e00"
"""The colour of a mistake."""
LETTER, SMALL_LETTER = 0.085, 0.067
"""Inches that a letter of a title takes, on average: over one image, and over one of many."""
WIDE = 2.6
"""Inches that one of many images takes."""
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
    return _written(path, lambda: figure.savefig(path, dpi=dpi), replace=replace)


def png(figure: Figure, *, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG file, at so many pixels to the inch."""
    file = BytesIO()
    with _any_letters():
        figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def require_picture(path: Path) -> None:
    """`UserError` unless a new picture can be written there, before the work that it is to show."""
    kinds = sorted(FigureCanvasAgg.get_supported_filetypes() | {"gif": ""})
    if path.suffix[1:].lower() not in kinds:
        raise UserError(f"expected a picture's name, which ends in .png or .gif say, got {path.name!r}; name another")
    if path.exists():
        raise UserError(f"{path} exists already and is left as it is; remove it or name another folder")


def _written(path: Path, write: Callable[[], None], *, replace: bool) -> Path:
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if there and not replace:
            raise UserError(f"{path} exists already and is left as it is; remove it or name another folder")
        with _any_letters():
            write()
    except OSError as error:
        if not there:
            with suppress(OSError):
                path.unlink(missing_ok=True)  # half a picture would be in the way of the next try
        raise UserError(f"cannot write {path} ({error.strerror or error}); name another place") from error
    return path


@contextmanager
def _any_letters() -> Iterator[None]:
    """Within it, letters that no font here has are drawn as boxes without a word: names may be in any script."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


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
    images: Sequence[Tensor],
    sensor: Sensor,
    action: Action,
    titles: Sequence[str],
    *,
    wrong: Sequence[bool] = (),
    heading: str = "",
) -> Figure:
    """Each image with its glimpses on it, numbered and coloured in order, and the patches themselves below it.

    Args:
        images: each (channels, height, width) in [0, 1], 1 or 3 channels.
        sensor: what cut the glimpses.
        action: location (count, glimpses, 2) and scale (count, glimpses).
        titles: one for each image.
        wrong: whose titles are of a mistake, and coloured so; by default none.
        heading: over the whole picture.
    """
    count, glimpses = action.scale.shape
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDE * columns, 3.5 * rows + 0.4), layout="constrained")
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
        title = fill(titles[n], round(WIDE / SMALL_LETTER))
        axes.set_title(title, fontsize=9, parse_math=False, color=WRONG if any(wrong[n : n + 1]) else "black")
        size = (images[n].shape[-2], images[n].shape[-1])
        boxes = [
            glimpse_box(sensor, size, action.location[n, g].tolist(), int(action.scale[n, g])) for g in range(glimpses)
        ]
        draw_order(axes, boxes, size, 0.045 * max(size))
        for g in range(glimpses):
            small = block.add_subplot(grid[1, g])
            show_image(small, patches[n, g])
            factor = sensor.scales[int(action.scale[n, g])]
            small.set_title(f"{g + 1}: ×{factor}" if len(sensor.scales) > 1 else f"{g + 1}", fontsize=7, pad=2)
            frame(small, COLOURS[g % len(COLOURS)])
    return figure


def frame(axes: Axes, colour: str) -> None:
    """Give axes a frame of that colour, or of grey for white, which would not be seen on paper."""
    for spine in axes.spines.values():
        spine.set(edgecolor=colour if colour != "#ffffff" else "#999999", linewidth=2)


@dataclass(frozen=True)
class Look:
    """One glimpse, as it is drawn.

    box: (left, top, side) in pixels, the image's left and top edge at 0.
    scale: image pixels under one pixel of the glimpse.
    patch: (channels, side, side) what it showed, in [0, 1].
    belief: of each name, after it.
    """

    box: Box
    scale: int
    patch: Tensor
    belief: Sequence[float]


def draw_looking(
    image: Tensor,
    size: tuple[int, int],
    looks: Sequence[Look],
    names: Sequence[str],
    *,
    title: str,
    truth: str | None = None,
    shown: int | None = None,
    shares: bool = True,
) -> Figure:
    """An image with its glimpses in order, and beside it what each glimpse showed and what was believed after it.

    Args:
        image: (channels, height, width) in [0, 1], 1 or 3 channels.
        size: (height, width) that it is drawn as, which boxes are pixels of.
        looks: the glimpses.
        names: of what is believed.
        title: over the picture, of one or two lines, more where they are too long for it.
        truth: the right one of the names, if it is known; a title of a mistake is coloured so.
        shown: so many glimpses at first, the last of them lit: one picture of an animation. By default all.
        shares: whether beliefs are probabilities, drawn as bars, or a number.
    """
    count = len(looks) if shown is None else shown
    height, width = size
    across = 4.6 * min(1.0, width / height)
    down = max(4.6 * min(1.0, height / width), 0.5)
    row = max(0.62, min(1.2, down / len(looks)))
    tall = max(down, row * len(looks))
    room = 0.15 + 0.075 * max(len(shortened(name)) for name in names)
    wide = across + row + room + 2.0
    title = "\n".join(fill(line, round((wide - 0.3) / LETTER)) for line in title.split("\n"))
    figure = Figure(figsize=(wide, tall + 0.6 + 0.2 * title.count("\n")))
    whole = figure.get_size_inches()
    at = figure.add_axes(inches(0.15, 0.15 + (tall - down) / 2, across, down, whole))
    show_image(at, image, extent=(0, width, height, 0))
    final = looks[-1].belief
    said = max(range(len(names)), key=lambda n: final[n])
    known = None if truth is None else names.index(truth)
    mistaken = shown is None and known is not None and known != said
    figure.text(
        0.15 / whole[0], 1 - 0.16 / whole[1], title, va="top", fontsize=11, parse_math=False,
        color=WRONG if mistaken else "black",
    )  # fmt: skip
    if shown:
        shade_around(at, looks[shown - 1].box, size)
    draw_order(at, [look.box for look in looks[:count]], size, 0.026 * max(size), offset=0.0)
    # The likeliest at the end, then what was likeliest on the way; the truth in any case.
    ranked = sorted(range(len(names)), key=lambda n: (n != said, n != known, -max(look.belief[n] for look in looks)))
    listed = ranked[: 3 if row < 0.9 else 4]
    for g, look in enumerate(looks):
        base = 0.15 + tall - (g + 1) * row
        high = 0.78 * row
        small = figure.add_axes(inches(across + 0.35, base + 0.04, high, high, whole))
        bars = figure.add_axes(inches(across + 0.3 + row + room, base + 0.04, 1.05, high, whole))
        bars.axis("off")
        if g >= count:
            small.axis("off")
            continue
        colour = COLOURS[g % len(COLOURS)]
        show_image(small, look.patch)
        small.set_title(f"{g + 1}: ×{look.scale}", fontsize=7, pad=2)
        frame(small, colour)
        if not shares:
            bars.text(0, 0.5, f"{names[0]}: {look.belief[0]:.4g}", va="center", fontsize=9, parse_math=False)
            continue
        bars.set(xlim=(0, 1), ylim=(len(listed) - 0.5, -0.5))
        for k, n in enumerate(listed):
            share = look.belief[n]
            tone = "#0072b2" if n == said else "#009e73" if n == known else "#aaaaaa"
            bars.barh(k, share, color=tone, height=0.72)
            bars.text(-0.06, k, shortened(names[n]), ha="right", va="center_baseline", fontsize=7, parse_math=False)
            bars.text(share + 0.04, k, percent(share), va="center_baseline", fontsize=7, color="#333333")
    return figure


def animate(frames: Iterable[Figure], path: Path, *, seconds: Sequence[float], dpi: int = 100) -> Path:
    """Write pictures as an animated GIF that goes on without end.

    Args:
        frames: the pictures, all of one size.
        path: the file; its folder is made if it is not there.
        seconds: that each is shown.
        dpi: pixels to the inch.

    Raises:
        UserError: the file is there already, or cannot be written.
    """

    def pixels(figure: Figure) -> Image.Image:
        figure.set_dpi(dpi)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    with _any_letters():
        first, *rest = (pixels(figure) for figure in frames)
    told: dict[str, Any] = {"save_all": True, "append_images": rest, "loop": 0}

    def write() -> None:
        first.save(path, format="GIF", duration=[round(1000 * each) for each in seconds], **told)

    return _written(path, write, replace=False)


def inches(left: float, bottom: float, width: float, height: float, whole: Any) -> tuple[float, float, float, float]:
    """A rectangle in inches as shares of a figure's width and height."""
    return left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]


def show_image(axes: Axes, image: Tensor, *, extent: tuple[float, float, float, float] | None = None) -> None:
    """An image (channels, height, width) in [0, 1] filling its axes, without ticks.

    Its edges are at `extent`, (left, right, bottom, top); by default pixel i's centre is at i.
    """
    height, width = image.shape[-2:]
    pixels = image.detach().float().cpu().clamp(0, 1).numpy()
    shown = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    left, right, bottom, top = extent or (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(
        shown, cmap="gray", vmin=0, vmax=1, extent=(left, right, bottom, top), aspect="auto" if extent else None
    )
    axes.set(xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top))


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
        if panel.stacked and panel.curves:
            xs = panel.curves[0][1]
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
        positive = [y for _, _, ys in panel.curves for y in ys if y > 0]  # zero has no place on an axis of logarithms
        if panel.log and positive:
            axis.set_yscale("log")
            if max(positive) > 10 * min(positive):  # labels of all nine would lie on one another
                axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            for each in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                each(FormatStrFormatter("%g"))
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    if one_legend:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(3, len(handles)))
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names are shown as they are
    return figure
