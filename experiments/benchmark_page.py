"""Records of speed as a table, as a picture, and against one another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from experiments.interleaved import Interval
from wsram.errors import UserError
from wsram.runs import read_json
from wsram.tables import Panel, Table, figure
from wsram.viewing import draw_panels

MARGIN = 1.05
"""How many times as slow or fast a work must be to be told: two processes of one commit differ by some percent."""
PRECISIONS = {"no": "float32", "bf16": "bfloat16"}
SHAPE = re.compile(r"(?P<count>\d+)×(?:(?P<channels>\d+)×)?(?P<side>\d+)²")
"""Of the images, in the name of a group."""
Record = Mapping[str, Any]


def load(path: Path) -> dict[str, Any]:
    """A record of `python -m experiments benchmark`; `UserError` if the file is missing or none."""
    expected = "name a file that the benchmark kept"
    record = read_json(path, expected)
    if not isinstance(record, dict) or not {"points", "ratios", "provenance"} <= record.keys():
        raise UserError(f"{path}: expected points, ratios and provenance, got others; {expected}")
    return record


def newest(folder: Path) -> dict[str, Any]:
    """The record in a folder that was made last; `UserError` if there is none."""
    records = [load(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise UserError(f"{folder} holds no record; run python -m experiments benchmark")
    return max(records, key=lambda record: record["date"])


def table(record: Record) -> Table:
    """Milliseconds of every work, and after those of a group its ratios, each with its interval; a column a setting."""
    settings = list(dict.fromkeys(map(_setting, record["points"])))
    cells: dict[str, dict[str, dict[str, str]]] = {}
    for point in record["points"]:
        row = cells.setdefault(point["group"], {}).setdefault(f"{point['work']}, ms", {})
        row[_setting(point)] = figure(*point["ms"])
    for ratio in record["ratios"]:
        row = cells[ratio["group"]].setdefault(f"→ {ratio['ratio']}", {})
        row[_setting(ratio)] = figure(*ratio["value"])
    rows = [
        [group, work, *(found.get(setting, "") for setting in settings)]
        for group, works in cells.items()
        for work, found in works.items()
    ]
    return Table("Medians with 95% intervals", ["", "", *settings], rows, words=2)


def _setting(found: Mapping[str, Any]) -> str:
    return f"{found['threads']} thread{'s' * (found['threads'] > 1)}, {PRECISIONS[found['precision']]}"


def draw(record: Record) -> Figure:
    """What four glimpses of a grey image cost as it grows, and how much faster than by hand training is."""
    costs: dict[str, dict[int, float]] = {}
    for point in _on_one(record["points"]):
        shape = SHAPE.search(point["group"])
        if shape and shape["channels"] == "1" and point["work"] in ("sensor", "grid_sample", "padded loop"):
            costs.setdefault(point["work"], {})[int(shape["side"])] = point["ms"][0] / int(shape["count"])
    gains: dict[str, dict[int, float]] = {}
    for ratio in _on_one(record["ratios"]):
        shape = SHAPE.search(ratio["group"])
        if shape and "/s at M" in ratio["ratio"]:
            gains.setdefault(ratio["ratio"], {})[int(shape["side"])] = ratio["value"][0]
    panels = []
    for title, y, found in (
        ("four glimpses of one image", "milliseconds", costs),
        ("training step", "times as fast", gains),
    ):
        curves = [(name, list(at), list(at.values())) for name, at in found.items()]
        panels.append(Panel(title, "side of the image, pixels", y, curves, log=True))
    drawn = draw_panels(panels)
    for axes in drawn.axes:
        if axes.lines:
            sides = sorted({int(side) for line in axes.lines for side in np.ravel(line.get_xdata())})
            axes.set_xscale("log")
            axes.set_xticks(sides, [f"{side:,}" for side in sides])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_formatter(NullFormatter())
    return drawn


def _on_one(found: Any) -> list[Mapping[str, Any]]:
    """Of one thread and float32."""
    return [each for each in found if (each["threads"], each["precision"]) == (1, "no")]


def compare(before: Record, after: Record) -> tuple[Table, list[str]]:
    """What became slower or faster from one record to the other beyond noise.

    Slower is a work whose 95% intervals have no value in common and whose medians differ by more than `MARGIN`, in
    milliseconds as well as in yardsticks; of two machines, whose milliseconds mean nothing, in yardsticks alone.

    Returns:
        A row for each work that both have and that changed, and the names of those that became slower.
    """
    same = _machine(before) == _machine(after)
    old, new = ({_key(point): point for point in record["points"]} for record in (before, after))
    rows, slower = [], []
    for key in [key for key in new if key in old]:
        changes = [_change(old[key][measure], new[key][measure]) for measure in ("ms", "yardsticks")]
        if not same:
            changes = changes[1:]
        if all(change > MARGIN for change in changes) or all(change < 1 / MARGIN for change in changes):
            became = "slower" if changes[0] > 1 else "faster"
            spans = [f"{figure(*point['ms'])}" for point in (old[key], new[key])]
            rows.append([", ".join(key), became, f"× {changes[-1]:.2f}", *spans])
            if became == "slower":
                slower.append(", ".join(key))
    title = f"{len(old.keys() & new.keys())} works compared{'' if same else ', of two machines: in yardsticks'}"
    return Table(title, ["", "became", "yardsticks", "ms before", "ms after"], rows, words=2), slower


def _key(point: Mapping[str, Any]) -> tuple[str, str, str]:
    return point["group"], point["work"], _setting(point)


def _machine(record: Record) -> str:
    return re.sub(r", \d+ threads", "", record["provenance"]["machine"])


def _change(old: list[float], new: list[float]) -> float:
    """How many times the old median the new one is; 1 where their intervals meet."""
    before, after = Interval(*old), Interval(*new)
    return after.median / before.median if after.apart(before) else 1.0
