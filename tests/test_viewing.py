"""The pictures: that they are there, and that a drawn box covers exactly what the glimpse saw."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from tests.refusals import refusal
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.stepping import draw_caption
from wsram.tables import Panel
from wsram.viewing import COLOURS, LINES, WRONG, draw_glimpses, draw_panels, glimpse_box, save

PNG = b"\x89PNG\r\n\x1a\n"


def picture(path: Path) -> np.ndarray:
    """A written picture, after checking that it is a PNG with something on it."""
    assert path.read_bytes().startswith(PNG)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 100
    assert pixels.std() > 2
    return pixels


def pixels_read(sensor: Sensor, size: tuple[int, int], location: Tensor, scale: int) -> set[tuple[int, int]]:
    """(row, column) of the image's pixels that a glimpse depends on, found from its gradient."""
    image = torch.zeros(1, 1, *size, dtype=torch.float64, requires_grad=True)
    glimpse = sensor(sensor.pyramid(image), location.unsqueeze(0), torch.tensor([scale]))
    (slope,) = torch.autograd.grad(glimpse.sum(), image)
    # Rounding can leave a neighbouring pixel a share of about 1e-15.
    return {(row, column) for row, column in (slope[0, 0] > 1e-6).nonzero().tolist()}


@settings(max_examples=40)
@given(st.data())
def test_the_box_covers_exactly_the_pixels_that_the_sensor_reads(data: st.DataObject) -> None:
    patch, scale = data.draw(st.integers(1, 6), "patch"), data.draw(st.integers(2, 4), "scale")
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
    "one image": (4, [(1, 20, 20)]),
    "nine glimpses": (9, [(1, 24, 24)]),
    "wide and tall colour": (2, [(3, 12, 40), (3, 40, 12)]),
    "more than a row": (1, [(1, 12, 12)] * 5),
}


@pytest.mark.parametrize("glimpses, shapes", SCENES.values(), ids=SCENES)
def test_every_glimpse_is_drawn_where_it_was_taken(glimpses: int, shapes: list[tuple[int, int, int]]) -> None:
    count = len(shapes)
    images, sensor, action = [torch.rand(shape) for shape in shapes], Sensor(5, (1, 2)), looked(count, glimpses, 2)
    titles = [f"number {n}" for n in range(count)]

    figure = draw_glimpses(images, sensor, action, titles, heading="a heading", wrong=[True] + [False] * (count - 1))

    assert figure.get_suptitle() == "a heading"
    scenes = [axes for axes in figure.axes if axes.get_title() in titles]
    patches = [axes for axes in figure.axes if axes not in scenes]
    assert [axes.get_title() for axes in scenes] == titles
    assert [axes.title.get_color() for axes in scenes] == [WRONG] + ["black"] * (count - 1)
    assert len(patches) == count * glimpses
    for n, axes in enumerate(scenes):
        size = shapes[n][1:]
        assert axes.get_images()[0].get_array().shape[:2] == size
        boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert len(boxes) == glimpses
        pyramid = sensor.pyramid(images[n].unsqueeze(0))
        for g, box in enumerate(boxes):
            scale = int(action.scale[n, g])
            expected_box = glimpse_box(sensor, size, action.location[n, g].tolist(), scale)
            assert (box.get_x(), box.get_y(), box.get_width()) == pytest.approx(expected_box)
            assert to_hex(box.get_edgecolor()) == COLOURS[g % len(COLOURS)]
            small = patches[n * glimpses + g]
            assert small.get_title() == f"{g + 1}: ×{sensor.scales[scale]}"
            shown = torch.as_tensor(np.asarray(small.get_images()[0].get_array()))
            seen = sensor(pyramid, action.location[n, g].unsqueeze(0), action.scale[n, g].unsqueeze(0))[0].clamp(0, 1)
            torch.testing.assert_close(shown, seen[0] if len(seen) == 1 else seen.movedim(0, -1))
        assert [text.get_text() for text in axes.texts] == [str(g + 1) for g in range(glimpses)]


def test_neighbouring_glimpses_have_different_colours() -> None:
    assert len(set(COLOURS)) == len(COLOURS) >= 2


def test_pictures_need_no_backend_and_leave_no_figure_open(tmp_path: Path) -> None:
    code = """
import sys, torch
from pathlib import Path
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.tables import Panel
from wsram.viewing import draw_glimpses, draw_panels, save
action = Action(torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.long))
save(draw_glimpses([torch.rand(1, 8, 8)], Sensor(3, (1,)), action, ["a"]), Path(sys.argv[1]) / "a.png")
save(draw_panels([Panel("t", "x", "y", [("a", [1.0], [2.0])])]), Path(sys.argv[1]) / "b.png")
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = os.environ | {"MPLBACKEND": "module://nonsense", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)


def test_a_file_that_is_there_is_replaced_only_where_that_was_said(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "figure.png"
    assert save(curves(), path) == path  # whose folder is made
    picture(path)
    path.write_text("somebody's")
    refusal(lambda: save(curves(), path), path, "exists already")
    assert path.read_text() == "somebody's"
    save(curves(), path, replace=True)
    picture(path)


def test_a_figure_that_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refusal(lambda: save(curves(), tmp_path / "file" / "figure.png"), tmp_path / "file", "name another place")


def curves() -> Figure:
    return draw_panels([Panel("title", "x", "y", [("a", [1.0, 2.0], [3.0, 4.0])])])


def legend_of(owner: Axes | Figure) -> list[str]:
    legends = owner.legends if isinstance(owner, Figure) else [legend for legend in [owner.get_legend()] if legend]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_curve_is_drawn_in_its_panel(count: int) -> None:
    panels = [
        Panel(f"title {n}", "updates", f"value {n}", [("a", [1, 2, 3], [n, 1, 2]), ("b", [2], [7])])
        for n in range(count)
    ]
    figure = draw_panels(panels)
    drawn, spare = figure.axes[:count], figure.axes[count:]
    for axes, panel in zip(drawn, panels, strict=True):
        assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (panel.title, panel.x, panel.y)
        lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]
        assert lines == [(list(xs), list(ys)) for _, xs, ys in panel.curves]
    assert not any(axes.axison for axes in spare)


def test_labels_of_all_panels_stand_once_in_one_legend() -> None:
    panels = [Panel(f"{n}", "x", "y", [("a", [1], [1]), ("a", [1], [2]), ("b", [1], [3])]) for n in range(3)]
    figure = draw_panels(panels)
    assert legend_of(figure) == ["a", "b"]
    assert not any(legend_of(axes) for axes in figure.axes)
    for axes in figure.axes[:3]:  # seeds of one method share a colour
        assert [line.get_color() for line in axes.get_lines()] == [LINES[0], LINES[0], LINES[1]]


def test_panels_of_different_labels_have_legends_of_their_own() -> None:
    one = Panel("one", "x", "y", [("a", [1], [1]), ("a", [1], [2]), ("b", [1], [3])])
    figure = draw_panels([one, Panel("other", "x", "y", [("c", [1], [1])])])
    assert not legend_of(figure)
    assert [legend_of(axes) for axes in figure.axes] == [["a", "b"], []]  # one curve needs no key


def test_a_zero_on_an_axis_of_logarithms_is_no_reason_to_fail(tmp_path: Path) -> None:
    some = Panel("some", "x", "y", [("a", [1, 2, 3], [10.0, 0.0, 0.1])], log=True)
    none = Panel("none", "x", "y", [("a", [1, 2], [0.0, 0.0])], log=True)
    figure = draw_panels([some, none])
    picture(save(figure, tmp_path / "figure.png"))
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    assert all(math.isfinite(bound) for axes in figure.axes for bound in axes.get_ylim())


def test_a_long_title_of_one_of_many_images_is_broken() -> None:
    long = "majority 1, max 9, top 1, multi 1, multi 5, multi 9"
    figure = draw_glimpses([torch.rand(1, 12, 12)], Sensor(5, (1, 2)), looked(1, 2, 2), [long])
    assert figure.axes[0].get_title() == "majority 1, max 9, top 1, multi 1,\nmulti 5, multi 9"


def test_an_axis_of_logarithms_over_decades_names_no_two_values_at_one_place() -> None:
    figure = draw_panels([Panel("", "", "", [("read", [1, 2], [0.07, 6.7])], log=True)])
    axis = figure.axes[0].yaxis
    low, high = figure.axes[0].get_ylim()
    named = sorted(at for at in axis.get_minorticklocs() if low <= at <= high)
    assert [round(at, 3) for at in named] == [0.2, 0.5, 2, 5]


def test_shares_lie_one_on_top_of_the_other() -> None:
    panel = Panel("use", "x", "share", [("×1", [1, 2], [0.25, 0.5]), ("×3", [1, 2], [0.75, 0.5])], stacked=True)
    (axes, _) = draw_panels([panel]).axes
    low, high = axes.collections
    assert low.get_paths()[0].get_extents().y1 == pytest.approx(0.5)
    assert high.get_paths()[0].get_extents().bounds == pytest.approx((1, 0.25, 1, 0.75))
    assert axes.get_ylim() == (0, 1)
    assert legend_of(axes) == ["×1", "×3"]


def test_a_panel_without_curves_is_drawn_empty(tmp_path: Path) -> None:
    empty = [
        Panel("none", "x", "y", []),
        Panel("none", "x", "y", [], stacked=True),
        Panel("none", "x", "y", [], log=True),
    ]
    picture(save(draw_panels(empty), tmp_path / "figure.png"))


@pytest.mark.parametrize("name", [r"cost $5 \frac$", "$x$", "a_b^c $", "{}"])
def test_a_name_is_drawn_as_it_is_and_not_as_mathematics(tmp_path: Path, name: str) -> None:
    action = Action(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long))
    figure = draw_glimpses([torch.rand(1, 40, 40)], Sensor(3, (1,)), action, [name], heading=name)
    picture(save(figure, tmp_path / "glimpses.png"))
    assert name in [axes.get_title() for axes in figure.axes]
    caption = draw_caption(torch.rand(3, 14, 14), [name, "."], torch.tensor([0, 5]), 7)
    picture(save(caption, tmp_path / "caption.png"))
    shown = [name, name, name]
    panel = draw_panels([Panel(name, name, name, [(label, [1], [1]) for label in (name, "b")])])
    assert legend_of(panel.axes[0]) == [name, "b"]
    picture(save(panel, tmp_path / "panels.png"))
    axes = panel.axes[0]
    assert [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()] == shown


def test_a_picture_that_could_not_be_written_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure()

    def full(path: Path, **kwargs: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(figure, "savefig", full)
        refusal(lambda: save(figure, tmp_path / "a.png"), "No space left")
    assert save(figure, tmp_path / "a.png").exists()
