"""Maps of shares over an image: where the evidence for an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from wsram.viewing import inches, show_image

HEAT, PEAK = "inferno", "#56b4e9"
"""The colours of a map, by matplotlib's name, and that of the cross where it is largest."""


class Shading(NamedTuple):
    """How a map of shares lies over an image.

    strength: (rows, columns) up to 1, where the map is largest; its colours are those of `HEAT`.
    cover: (rows, columns) how much of the image it hides.
    peak: (x, y) where it is largest, in shares of the width and the height.
    """

    strength: Tensor
    cover: Tensor
    peak: tuple[float, float]


def shading(heat: Tensor) -> Shading:
    """Of a map (rows, columns), none negative."""
    values = heat.detach().float().cpu()
    strength = values / values.max().clamp(min=1e-30)
    row, column = divmod(int(values.argmax()), values.shape[1])
    peak = (column + 0.5) / values.shape[1], (row + 0.5) / values.shape[0]
    return Shading(strength, 0.25 + 0.6 * strength, peak)


def draw_map(axes: Axes, image: Tensor, size: tuple[int, int], heat: Tensor) -> None:
    """A map of shares over a darkened image, and a cross where it is largest.

    Args:
        axes: to draw on.
        image: (channels, height, width) in [0, 1].
        size: (height, width) that both are drawn as.
        heat: (rows, columns), none negative.
    """
    height, width = size
    extent = (0, width, height, 0)
    show_image(axes, image, extent=extent)
    strength, cover, (x, y) = shading(heat)
    axes.imshow(strength.numpy(), cmap=HEAT, alpha=cover.numpy(), extent=extent, vmin=0, vmax=1)
    axes.plot(x * width, y * height, "+", color=PEAK, markersize=12, markeredgewidth=2)
    axes.set(xlim=(0, width), ylim=(height, 0))


def draw_evidence(
    image: Tensor, size: tuple[int, int], maps: Sequence[tuple[str, Tensor]], *, title: str = ""
) -> Figure:
    """An image, and over it once more each of some maps.

    Args:
        image: (channels, height, width) in [0, 1].
        size: (height, width) that it is drawn as.
        maps: title and shares (rows, columns) of each.
        title: of the image.
    """
    height, width = size
    across, down = 3.4 * min(1.0, width / height), 3.4 * min(1.0, height / width)
    step = max(across, 2.4) + 0.15  # titles need room too
    figure = Figure(figsize=(step * (1 + len(maps)) + 0.15, down + 0.8))
    whole = figure.get_size_inches()
    for n, words in enumerate((title, *(words for words, _ in maps))):
        axes = figure.add_axes(inches(0.15 + n * step + (step - 0.15 - across) / 2, 0.1, across, down, whole))
        if n:
            draw_map(axes, image, size, maps[n - 1][1])
        else:
            show_image(axes, image, extent=(0, width, height, 0))
        axes.set_title(words, fontsize=9, parse_math=False)
    return figure


def heat_picture(image: Tensor, size: tuple[int, int], heat: Tensor, side: int) -> Image.Image:
    """An image and over it a map of shares, nothing else: `draw_map`, but quick.

    Args:
        image: (channels, height, width) in [0, 1].
        size: (height, width) that it is drawn as.
        heat: (rows, columns) none negative; averaged where the image has fewer pixels.
        side: of the picture's longer side, in pixels.
    """
    strength, cover, (x, y) = shading(heat)
    strength, cover = adaptive_avg_pool2d(torch.stack((strength, cover)), (image.shape[-2], image.shape[-1]))
    colours = torch.from_numpy(colormaps[HEAT](strength.numpy())[..., :3]).float()
    share = cover.unsqueeze(-1)
    shown = image.detach().float().cpu().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)
    pixels = Image.fromarray(((1 - share) * shown + share * colours).mul(255).round().byte().numpy())
    down, across = (max(1, round(side * each / max(size))) for each in size)
    picture = pixels.resize((across, down), Image.Resampling.NEAREST if across > pixels.width else Image.Resampling.BOX)
    x, y = x * across, y * down
    arm, pen = 0.02 * side, ImageDraw.Draw(picture)
    pen.line((x - arm, y, x + arm, y), fill=PEAK, width=2)
    pen.line((x, y - arm, x, y + arm), fill=PEAK, width=2)
    return picture
