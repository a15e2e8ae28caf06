"""The pictures: that they are there, and that a drawn box covers exactly what the glimpse saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from wsram import plots
from wsram.actions import Action
from wsram.glimpse import Sensor
from wsram.plots import COLOURS, glimpse_box, plot_glimpses, plot_training

PNG = b"\x89PNG\r\n\x1a\n"


def picture(path: Path) -> Tensor:
    """A written picture as (height, width, channels), after checking that it is a PNG with something on it."""
    assert path.read_bytes().startswith(PNG)
    pixels = torch.from_numpy(plt.imread(path).copy())
    assert min(pixels.shape[:2]) > 100
    assert float(pixels[..., :3].std()) > 0.01
    return pixels


def pixels_read(sensor: Sensor, size: tuple[int, int], location: Tensor, scale: int) -> set[tuple[int, int]]:
    """(row, column) of the image's pixels that a glimpse depends on, found from its gradient."""
    image = torch.zeros(1, 1, *size, dtype=torch.float64, requires_grad=True)
    glimpse = sensor(sensor.pyramid(image), location.unsqueeze(0), torch.tensor([scale]))
    (slope,) = torch.autograd.grad(glimpse.sum(), image)
    # Rounding can leave a neighbouring pixel a share of about 1e-15.
    return {(row, column) for row, column in (slope[0, 0] > 1e-6).nonzero().tolist()}


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_the_box_covers_exactly_the_pixels_that_the_sensor_reads(data: st.DataObject) -> None:
    patch, scale = data.draw(st.integers(1, 6), "patch"), data.draw(st.integers(1, 4), "scale")
    smallest = max(2, patch)
    height, width = data.draw(st.integers(smallest, 30), "height"), data.draw(st.integers(smallest, 30), "width")
    sensor = Sensor(patch, (1, scale))
    # The glimpse's first cell is cell (column, row) of the level: then it covers whole pixels, some perhaps outside.
    column = data.draw(st.integers(-patch, width // scale), "column")
    row = data.draw(st.integers(-patch, height // scale), "row")
    source = [scale * (cell + (patch - 1) / 2) + (scale - 1) / 2 for cell in (column, row)]
    location = torch.tensor(source, dtype=torch.float64) * 2 / torch.tensor([width - 1, height - 1]) - 1

    left, top, side = glimpse_box(sensor, (height, width), location.tolist(), 1)

    assert side == patch * scale
    # In matplotlib's coordinates pixel i spans i - 1/2 to i + 1/2.
    assert (left, top) == pytest.approx((scale * column - 0.5, scale * row - 0.5), abs=1e-9)
    boxed = {(r, c) for r in range(height) for c in range(width) if left < c < left + side and top < r < top + side}
    assert pixels_read(sensor, (height, width), location, 1) == boxed


def looked(count: int, glimpses: int, scales: int) -> Action:
    generator = torch.Generator().manual_seed(0)
    return Action(
        torch.rand(count, glimpses, 2, generator=generator) * 2 - 1,
        torch.randint(scales, (count, glimpses), generator=generator),
    )


SCENES = {
    "one image": (1, 4, (1, 20, 20)),
    "nine glimpses": (2, 9, (1, 24, 24)),
    "colour": (3, 2, (3, 20, 20)),
    "wide": (1, 1, (1, 12, 40)),
    "tall colour": (5, 3, (3, 40, 12)),
    "eight": (8, 4, (1, 20, 20)),
}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures a plot closed, kept open for a look at what is on them."""
    kept: list[Figure] = []
    monkeypatch.setattr(plots.plt, "close", kept.append)
    yield kept
    monkeypatch.undo()
    for figure in kept:
        plt.close(figure)


@pytest.mark.parametrize("count, glimpses, shape", SCENES.values(), ids=SCENES)
def test_every_glimpse_is_drawn_where_it_was_taken(
    tmp_path: Path, figures: list[Figure], count: int, glimpses: int, shape: tuple[int, int, int]
) -> None:
    images, sensor, action = torch.rand(count, *shape), Sensor(5, (1, 2)), looked(count, glimpses, 2)
    titles = [f"number {n}" for n in range(count)]
    path = tmp_path / "glimpses.png"

    assert plot_glimpses(path, images, sensor, action, titles, heading="a heading") == path

    picture(path)
    (figure,) = figures
    assert figure.get_suptitle() == "a heading"
    scenes = [axes for axes in figure.axes if axes.get_title() in titles]
    patches = [axes for axes in figure.axes if axes not in scenes]
    assert [axes.get_title() for axes in scenes] == titles
    assert len(patches) == count * glimpses
    seen = sensor(sensor.pyramid(images), action.location.transpose(0, 1), action.scale.transpose(0, 1))
    for n, axes in enumerate(scenes):
        assert axes.get_images()[0].get_array().shape[:2] == shape[1:]
        boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert len(boxes) == glimpses
        for g, box in enumerate(boxes):
            scale = int(action.scale[n, g])
            left, top, side = glimpse_box(sensor, shape[1:], action.location[n, g].tolist(), scale)
            assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (left, top, side, side)
            small = patches[n * glimpses + g]
            assert small.get_title() == f"{g + 1}: ×{sensor.scales[scale]}"
            shown = torch.as_tensor(small.get_images()[0].get_array())
            expected = seen[g, n].clamp(0, 1)
            torch.testing.assert_close(shown, expected[0] if shape[0] == 1 else expected.movedim(0, -1))
        assert [text.get_text() for text in axes.texts] == [str(g + 1) for g in range(glimpses)]


def test_neighbouring_glimpses_have_different_colours() -> None:
    assert len(set(COLOURS)) == len(COLOURS) >= 2


def test_pictures_leave_no_figure_open(tmp_path: Path) -> None:
    before = plt.get_fignums()
    plot_glimpses(tmp_path / "a.png", torch.rand(1, 1, 8, 8), Sensor(3, (1,)), looked(1, 2, 1), ["a"])
    plot_training(tmp_path / "b.png", history(3), (1, 2))
    assert plt.get_fignums() == before


def history(count: int, error: float = 0.5) -> list[dict[str, Any]]:
    """Rows of metrics, every other one with an evaluation, the last always."""
    rows: list[dict[str, Any]] = []
    for n in range(1, count + 1):
        row = {"step": 50 * n, "bound": -2.3 / n, "log_evidence": -2.2 / n, "ess": 1.0 + n, "scale_usage": [0.25, 0.75]}
        rows.append(row | ({"error_mean_action": error / n} if n % 2 == 0 or n == count else {}))
    return rows


@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_curves_show_every_row(tmp_path: Path, figures: list[Figure], count: int) -> None:
    rows, path = history(count), tmp_path / "training.png"

    assert plot_training(path, rows, (1, 3)) == path

    picture(path)
    error, bounds, ess, usage = figures[0].axes
    (line,) = error.get_lines()
    evaluated = [row for row in rows if "error_mean_action" in row]
    assert list(line.get_xdata()) == [row["step"] for row in evaluated]
    assert list(line.get_ydata()) == pytest.approx([100 * row["error_mean_action"] for row in evaluated])
    names = ("bound", "log_evidence")
    assert [list(line.get_ydata()) for line in bounds.get_lines()] == [[row[name] for row in rows] for name in names]
    assert list(ess.get_lines()[0].get_ydata()) == [row["ess"] for row in rows]
    assert [text.get_text() for text in usage.get_legend().get_texts()] == ["×1", "×3"]


def test_a_network_without_errors_can_be_drawn(tmp_path: Path) -> None:
    """On an axis of logarithms zero has no place, which is no reason to fail."""
    picture(plot_training(tmp_path / "training.png", history(4, error=0.0), (1, 2)))
