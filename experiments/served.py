"""What the app's answers cost: how long it takes to start, to look at a drawing, and to show where the evidence is."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from experiments.exported import spread
from experiments.pages import require_writable, shown
from wsram.app.serving import load_gradio, serving
from wsram.errors import UserError
from wsram.provenance import provenance
from wsram.tables import Table
from wsram.terminal import Screen

WARM_UP, TIMED = 3, 20
"""Answers before the first that counts, and answers that count."""
SEVEN = [(98, 70), (182, 70), (126, 210)]
ASKED = {"look": 0, "explain": "its own answer"}
"""What is asked of the app, and the last thing that it is told: the number of glimpses, or the label."""


def served(names: tuple[str, ...], screen: Screen, *, to: Path | None = None) -> dict[str, Any]:
    """Show the milliseconds of the app's answers about a drawn seven, by one thread, as a client of it waits for them.

    The client is in the same process, so that the processor's milliseconds are those of both.

    Args:
        names: of networks, each asked in an app of its own.
        screen: where the table is shown.
        to: a JSON file to keep the figures in.

    Raises:
        UserError: no such network, or the app extra is not installed.
    """
    require_writable(to)
    gradio = load_gradio()
    import gradio_client  # which comes with it

    import wsram.app.page  # noqa: F401  # what is loaded once does not count

    torch.set_num_threads(1)
    rows = {}
    for name in names:
        began, spent = time.perf_counter(), time.process_time()
        with serving([name], port=0) as address:
            taken: dict[str, Any] = {"start": {"seconds": time.perf_counter() - began}}
            taken["start"]["processor"] = time.process_time() - spent
            client = gradio_client.Client(address, verbose=False)
            for what, last in ASKED.items():
                given = ("a drawing", drawing(), None, Path(name).name, "none", last)
                taken[what] = _timed(partial(client.predict, *given, api_name=f"/{what}"))
        rows[Path(name).name] = taken
    found = {"networks": rows, "provenance": {"gradio": gradio.__version__} | provenance()}
    return shown(found, table(found), screen, to)


def table(found: dict[str, Any]) -> Table:
    """A row for each network and question, and for its start."""
    rows = []
    for name, taken in found["networks"].items():
        start = taken["start"]
        rows.append(
            [f"`{name}`", "start", f"{1000 * start['seconds']:,.0f}", "", f"{1000 * start['processor']:,.0f}", ""]
        )
        for what, said in (("look", "watch it look"), ("explain", "show the evidence")):
            of = taken[what]
            nine = f"{of['low']:.0f} to {of['high']:.0f}"
            rows.append([f"`{name}`", said, f"{of['median']:.0f}", nine, f"{of['processor']:.0f}", str(of["looks"])])
    header = ["network", "what", "median", "nine of ten", "of the processor", "answers"]
    return Table("Milliseconds that a client of the app waits, one thread", header, rows, words=2)


def drawing() -> str:
    """A seven, as the page sends it: a PNG file as a data URL."""
    image = Image.new("L", (280, 280))
    ImageDraw.Draw(image).line(SEVEN, fill=255, width=20, joint="curve")
    file = BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _timed(ask: Callable[[], tuple[str, str]]) -> dict[str, float]:
    for _ in range(WARM_UP):
        line, html = ask()
        if not html:
            raise UserError(f"the app did not answer: {line}")
    taken, spent = [], time.process_time()
    for _ in range(TIMED):
        began = time.perf_counter()
        ask()
        taken.append(1000 * (time.perf_counter() - began))
    return spread(taken, 1000 * (time.process_time() - spent) / TIMED) | {"bytes": len(html)}
