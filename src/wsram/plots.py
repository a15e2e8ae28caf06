"""Pictures: where a network looks, and how its training went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from wsram.actions import Action
from wsram.glimpse import Sensor

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#ffffff")
"""One for each glimpse in turn, distinguishable by readers with colour-blindness (Okabe & Ito 2008)."""
LINES = tuple(colour for colour in COLOURS if colour not in ("#f0e442", "#ffffff"))
"""Those of them that show on white."""


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


def plot_glimpses(
    path: Path, images: Tensor, sensor: Sensor, action: Action, titles: Sequence[str], *, heading: str = ""
) -> Path:
    """Draw each image with its glimpses on it, numbered and coloured in order, and the patches themselves below it.

    Args:
        path: the picture to write; its suffix chooses the format.
        images: (count, channels, height, width) in [0, 1], 1 or 3 channels.
        sensor: what cut the glimpses.
        action: location (count, glimpses, 2) and scale (count, glimpses).
        titles: one for each image.
        heading: over the whole picture.

    Returns:
        The path.
    """
    count, glimpses = action.scale.shape
    columns = min(4, count)
    rows = -(-count // columns)
    figure = plt.figure(figsize=(2.6 * columns, 3.5 * rows + 0.4), layout="constrained")
    figure.suptitle(heading)
    blocks = figure.subfigures(rows, columns, squeeze=False)
    pyramid = sensor.pyramid(images)
    # (glimpses, count) so that the sensor's batch axis is last.
    patches = sensor(pyramid, action.location.transpose(0, 1), action.scale.transpose(0, 1)).transpose(0, 1)
    for n in range(count):
        grid = blocks[n // columns][n % columns].add_gridspec(2, glimpses, height_ratios=[glimpses, 1])
        block = blocks[n // columns][n % columns]
        axes = block.add_subplot(grid[0, :])
        _show(axes, images[n])
        axes.set_title(titles[n], fontsize=9)
        for g in range(glimpses):
            colour = COLOURS[g % len(COLOURS)]
            left, top, side = glimpse_box(
                sensor, (images.shape[-2], images.shape[-1]), action.location[n, g].tolist(), int(action.scale[n, g])
            )
            axes.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=colour, linewidth=1.6))
            axes.text(left + 1, top + 1, str(g + 1), color=colour, fontsize=8, va="top", ha="left", clip_on=True)
            small = block.add_subplot(grid[1, g])
            _show(small, patches[n, g])
            small.set_title(f"{g + 1}: ×{sensor.scales[int(action.scale[n, g])]}", fontsize=7, pad=2)
            for spine in small.spines.values():
                spine.set(edgecolor=colour, linewidth=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _show(axes: Axes, image: Tensor) -> None:
    height, width = image.shape[-2:]
    pixels = image.detach().float().cpu().clamp(0, 1).numpy()
    axes.imshow(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def plot_training(path: Path, metrics: Sequence[dict[str, Any]], scales: Sequence[int]) -> Path:
    """Draw a run's metrics against updates: held-out error, bound and log-evidence, effective sample size, scales.

    Args:
        path: the picture to write.
        metrics: the rows of metrics.jsonl.
        scales: the sensor's scales, for the legend.

    Returns:
        The path.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharex=True)
    steps = [row["step"] for row in metrics]
    evaluated = [row for row in metrics if "error_mean_action" in row]
    error, bounds, ess, usage = axes.flat
    error.plot([r["step"] for r in evaluated], [100 * r["error_mean_action"] for r in evaluated], "o-", markersize=3)
    error.set(title="held-out error, mean action", ylabel="%")
    if any(row["error_mean_action"] > 0 for row in evaluated):  # zero has no place on an axis of logarithms
        error.set_yscale("log")
    for each in (error.yaxis.set_major_formatter, error.yaxis.set_minor_formatter):
        each(matplotlib.ticker.FormatStrFormatter("%g"))
    for name, label in (("bound", "variational bound F"), ("log_evidence", "log-evidence bound")):
        bounds.plot(steps, [row[name] for row in metrics], label=label)
    bounds.set(title="bounds on log p(y|I), training", ylabel="nats")
    bounds.legend()
    ess.plot(steps, [row["ess"] for row in metrics])
    ess.set(title="effective sample size", xlabel="updates", ylabel="samples")
    shares = list(zip(*(row["scale_usage"] for row in metrics), strict=True))
    usage.stackplot(steps, *shares, labels=[f"×{k}" for k in scales])
    usage.set(title="glimpse scales, training", xlabel="updates", ylabel="share", ylim=(0, 1))
    usage.legend(loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def plot_caption(path: Path, image: Tensor, words: Sequence[str], cells: Tensor, grid: int) -> Path:
    """Draw an image once for each word of its caption, with the cell lit that was attended to before the word.

    Args:
        path: the picture to write.
        image: (3, height, width) in [0, 1].
        words: of the caption.
        cells: (words,) the cell attended to before each.
        grid: cells along each side.

    Returns:
        The path.
    """
    columns = min(6, len(words) + 1)
    rows = -(-(len(words) + 1) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.9 * columns, 2.2 * rows), layout="constrained", squeeze=False)
    height, width = image.shape[-2:]
    for panel in axes.flat:
        panel.axis("off")
    _show(axes.flat[0], image)
    for panel, word, cell in zip(axes.flat[1:], words, cells.tolist(), strict=False):
        row, column = divmod(cell, grid)
        top, left = round(row * height / grid), round(column * width / grid)
        bottom, right = round((row + 1) * height / grid), round((column + 1) * width / grid)
        dimmed = 0.35 * image
        dimmed[:, top:bottom, left:right] = image[:, top:bottom, left:right]
        _show(panel, dimmed)
        panel.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=COLOURS[0])
        )
        panel.set_title(word, fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def plot_caption_training(path: Path, metrics: Sequence[dict[str, Any]]) -> Path:
    """Draw a captioner's metrics against updates: likelihood, BLEU, effective sample size, entropy of attention.

    Args:
        path: the picture to write.
        metrics: the rows of metrics.jsonl.

    Returns:
        The path.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharex=True)
    steps = [row["step"] for row in metrics]
    evaluated = [row for row in metrics if "nll_word" in row]
    at = [row["step"] for row in evaluated]
    nll, scores, ess, entropy = axes.flat
    nll.plot(steps, [row["nll_word_training"] for row in metrics], label="training, bound F")
    nll.plot(at, [row["bound_word"] for row in evaluated], "o-", markersize=3, label="dev, bound F")
    nll.plot(at, [row["nll_word"] for row in evaluated], "o-", markersize=3, label="dev, evidence bound")
    nll.set(title="negative log-likelihood of a word", ylabel="nats")
    nll.legend()
    for n in (1, 4):
        scores.plot(at, [row[f"bleu{n}_greedy"] for row in evaluated], "o-", markersize=3, label=f"BLEU-{n}")
    scores.set(title="dev, greedy captions, protocol papers", ylabel="%")
    scores.legend()
    ess.plot(steps, [row["ess"] for row in metrics])
    ess.set(title="effective sample size", xlabel="updates", ylabel="samples")
    entropy.plot(steps, [row["attention_entropy"] for row in metrics])
    entropy.set(title="entropy of attention", xlabel="updates", ylabel="nats")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


@dataclass(frozen=True)
class Panel:
    """One part of a figure of curves.

    title, x, y: what is written over it and along its axes.
    curves: (label, xs, ys) of each line; lines that share a label, seeds of one method say, share a colour.
    log: whether y is an axis of logarithms.
    """

    title: str
    x: str
    y: str
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]]
    log: bool = False


def plot_curves(path: Path, panels: Sequence[Panel]) -> Path:
    """Draw panels of curves, two in a row, with one legend for all.

    Args:
        path: the picture to write.
        panels: what to draw.

    Returns:
        The path.
    """
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10, 3.2 * rows + 0.6), layout="constrained", squeeze=False)
    labels = list(dict.fromkeys(label for panel in panels for label, _, _ in panel.curves))
    style = {label: (LINES[n % len(LINES)], ("-", "--")[n // len(LINES) % 2]) for n, label in enumerate(labels)}
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes.flat, panels, strict=False):
        for label, xs, ys in panel.curves:
            colour, line = style[label]
            (handles[label],) = axis.plot(xs, ys, line, color=colour, linewidth=1.2)
        axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        if panel.log and any(y > 0 for _, _, ys in panel.curves for y in ys):
            axis.set_yscale("log")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, max(1, len(handles))))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
