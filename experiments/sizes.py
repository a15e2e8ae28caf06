"""What looking costs as images grow: time and memory of glimpses, beside what one would use instead."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter
from torch import Tensor, nn

from experiments.costs import held
from experiments.pages import keep
from experiments.rivals import AttentionSampling, PatchSelection, WholeImage
from wsram.errors import UserError
from wsram.estimators import wake_sleep
from wsram.glimpse.source import Held
from wsram.models.classifier import AttentionClassifier
from wsram.provenance import provenance
from wsram.tables import Panel, Table
from wsram.terminal import Screen
from wsram.viewing import draw_panels, save

SIDES = (100, 300, 1000, 3000, 10_000)
"""Of the square grey images, in pixels."""
LEAST = 100
"""Pixels of the smallest image: patches of 50 must fit into it."""
MEMORY = 4 << 30
"""Bytes beyond which a point does not fit."""
TOO_LARGE = "more than 4 GiB"
LONGEST = 12.0
"""Seconds: what a smaller image says would take longer is not run."""
REPEATS, SPENT = 5, 2.0
"""Times that a point is measured, and seconds after which it is not measured again."""
NAMES = {
    "glimpses": "glimpses (4 of 16×16)",
    "cnn": "ResNet-18 over all pixels",
    "selection": "patch selection (IPS)",
    "sampling": "attention sampling",
}


def sizes(screen: Screen, folder: Path, *, sides: tuple[int, ...] = SIDES) -> dict[str, Any]:
    """Measure one image's prediction and training step by every method, each in a process of its own.

    Time is the processor's, of one thread, the median; memory the most beyond what the process held after an image of
    `LEAST` pixels, the image included, which lies in memory as bytes.

    Args:
        screen: where the table is shown.
        folder: of sizes.json and sizes.png.
        sides: of the images, ascending.

    Raises:
        UserError: sides that cannot be measured, or a file that cannot be written.
    """
    if not sides or min(sides) < LEAST or list(sides) != sorted(sides):
        raise UserError(f"expected sides of at least {LEAST} pixels, ascending, got {sides}")
    points: list[dict[str, Any]] = []
    for method in NAMES:
        for side in sides:
            for what in ("prediction", "training step"):
                point: dict[str, Any] = {"method": method, "side": side, "what": what}
                before = next((p for p in reversed(points) if p["method"] == method and p["what"] == what), None)
                points.append(point | _point(method, side, what, before))
    screen.show(_table(points))
    folder.mkdir(parents=True, exist_ok=True)
    record = {"points": points, "provenance": provenance(), "memory_limit": MEMORY, "longest": LONGEST}
    keep(folder / "sizes.json", record, screen)
    screen.say(f"Picture: {save(picture(points), folder / 'sizes.png', replace=True)}")
    return record


def picture(points: list[dict[str, Any]]) -> Figure:
    """Time and memory against the side of the image, a curve for each method."""
    panels = []
    for what in ("prediction", "training step"):
        for measure, y, unit in (("seconds", "seconds of one core", 1.0), ("bytes", "MiB", 1 / 2**20)):
            curves = []
            for method, name in NAMES.items():
                own = [p for p in points if (p["method"], p["what"]) == (method, what) and p.get(measure)]
                curves.append((name, [p["side"] for p in own], [p[measure] * unit for p in own]))
            panels.append(Panel(f"{what} of one image", "side, pixels", y, curves, log=True))
    figure = draw_panels(panels)
    for axes in figure.axes:
        if axes.lines:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            for axis in (axes.xaxis, axes.yaxis):  # powers of ten are enough
                axis.set_minor_formatter(NullFormatter())
    return figure


def _point(method: str, side: int, what: str, before: dict[str, Any] | None) -> dict[str, Any]:
    """A point's figures, or why it has none."""
    known = 0.0 if before is None else before.get("seconds", before.get("expected"))
    if known is None:
        return {"not_run": TOO_LARGE}
    expected = known * (side / before["side"]) ** 2 if before else 0.0
    if method != "glimpses" and expected > LONGEST:  # those do not grow with the number of pixels
        return {"not_run": f"about {expected:.0f} s", "expected": expected}
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(method, side, what, theirs))
    process.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        found = {"not_run": TOO_LARGE}  # ended by the system
    process.join()
    return found


def _measure(method: str, side: int, what: str, answer: Connection) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, run = METHODS[method]()
    network.train(what == "training step")
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def once(image: Tensor) -> None:
        if what == "prediction":
            with torch.inference_mode():
                run(network, image, False)
            return
        optimizer.zero_grad()
        run(network, image, True).backward()
        optimizer.step()

    once(torch.zeros(1, LEAST, LEAST, dtype=torch.uint8))  # what is loaded when it is first needed
    before = held()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY + before, MEMORY + before))
    try:
        image = torch.randint(256, (1, side, side), dtype=torch.uint8)
        once(image)
        taken: list[float] = []
        while len(taken) < REPEATS and sum(taken) < SPENT:
            start = time.process_time()
            once(image)
            taken.append(time.process_time() - start)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer.send({"seconds": statistics.median(taken), "repeats": len(taken), "bytes": max(most - before, 0)})
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower():
            raise
        answer.send({"not_run": TOO_LARGE})


def _glimpses() -> tuple[nn.Module, Callable[[Any, Tensor, bool], Tensor]]:
    network = AttentionClassifier(names=tuple("0123456789"), network="conv")

    def run(network: AttentionClassifier, image: Tensor, training: bool) -> Tensor:
        if not training:
            return network.predict([Held(image)]).outputs
        generator = torch.Generator().manual_seed(0)
        rollout = network([Held(image)], torch.tensor([3]), samples=5, generator=generator)
        return wake_sleep(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a).loss

    return network, run


def _rival(kind: type[nn.Module]) -> Callable[[], tuple[nn.Module, Callable[[Any, Tensor, bool], Tensor]]]:
    def run(network: nn.Module, image: Tensor, training: bool) -> Tensor:
        said = network(image)
        return nn.functional.cross_entropy(said, torch.tensor([3])) if training else said

    return lambda: (kind(), run)


METHODS = {
    "glimpses": _glimpses,
    "cnn": _rival(WholeImage),
    "selection": _rival(PatchSelection),
    "sampling": _rival(AttentionSampling),
}


def _table(points: list[dict[str, Any]]) -> Table:
    rows = []
    for what in ("prediction", "training step"):
        for method, name in NAMES.items():
            of = [p for p in points if (p["method"], p["what"]) == (method, what)]
            cells = [
                f"{1000 * p['seconds']:.3g} ms, {p['bytes'] / 2**20:.0f} MiB" if "seconds" in p else f"({p['not_run']})"
                for p in of
            ]
            rows.append([f"{name}, {what}", *cells])
    sides = [f"{side:,}²" for side in dict.fromkeys(p["side"] for p in points)]
    return Table("One image, one core", ["", *sides], rows)
