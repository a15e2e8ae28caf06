"""An experiment is many runs; a cell is one of them, in a folder of its own.

All of an experiment can be stopped at any moment and continued: finished cells are left alone, a cell stopped half-way
goes on from its checkpoint. Several processes may work on one experiment: each cell is in one's hands alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock, Timeout
from rich.console import Console

from wsram.config import CaptionConfig, TrainConfig
from wsram.errors import UserError
from wsram.runs import Run, load_state
from wsram.training import train

C = TypeVar("C", TrainConfig, CaptionConfig)


@dataclass(frozen=True)
class Cell(Generic[C]):
    """One training run of an experiment.

    group: the part of the experiment it belongs to.
    name: what tells it from others of the group; cells that differ in their seed alone share it.
    config: its settings, the seed among them.
    """

    group: str
    name: str
    config: C

    @property
    def seed(self) -> int:
        """Of its weights, examples and draws."""
        return self.config.schedule.seed

    def run(self, root: Path) -> Run[C]:
        """Its run below the experiment's folder: GROUP/NAME/seed-K."""
        return Run(root / self.group / self.name / f"seed-{self.seed}", self.config)


def finished(run: Run[Any]) -> bool:
    """Whether a run has made its last update, or has stopped early for want of a better evaluation."""
    if not run.has_checkpoint():
        return False
    state, schedule = load_state(run.latest_checkpoint()), run.config.schedule
    return bool(state["step"] >= schedule.steps or (schedule.patience and state.get("stale", 0) >= schedule.patience))


def run_cells(
    cells: Sequence[Cell[C]], root: Path, console: Console, measure: Callable[[Cell[C], Run[C]], None]
) -> list[str]:
    """Train, in order, every cell that is not finished, and measure those that are.

    Cells that another process has in hand come last, once it has let go of them: the same command started twice shares
    the work, and both end with all of it.

    Args:
        cells: what to run.
        root: folder of the experiment.
        console: says which cell of how many, and how long the rest may take.
        measure: called for each finished cell; writes what is missing into its folder.

    Returns:
        One line for each cell that failed; the others are there all the same.

    Raises:
        UserError: a cell's folder holds a run with other settings.
    """
    for cell in cells:
        _check_settings(cell.run(root))
    pace, failures = _Pace(), []

    def work(cell: Cell[C]) -> None:
        run = cell.run(root)
        if finished(run):
            last = run.metrics()[-1]
            pace.add(last["step"], last["seconds"])
        else:
            left = pace.left(sum(_updates_left(other.run(root)) for other in cells))
            console.print(f"Cell {cells.index(cell) + 1} of {len(cells)}: {run.folder} ({left})", highlight=False)
            began, to_do = time.perf_counter(), _updates_left(run)
            train(run, console, resume=(run.folder / "config.json").exists())
            pace.add(to_do, time.perf_counter() - began)
        measure(cell, run)

    def attempt(cell: Cell[C], wait: bool) -> bool:
        """Whether the cell was free, or has become so."""
        try:
            held = _in_hand(cell.run(root), wait)
            if held is None:
                return False
            with held:
                work(cell)
        except UserError as error:
            failures.append(f"{cell.run(root).folder}: {error}")
            console.print(f"Failed: {failures[-1]}", markup=False, highlight=False)
        return True

    in_other_hands = [cell for cell in cells if not attempt(cell, wait=False)]
    for cell in in_other_hands:
        console.print(f"Another process has it in hand, waiting: {cell.run(root).folder}", highlight=False)
        attempt(cell, wait=True)
    return failures


def _in_hand(run: Run[Any], wait: bool) -> AbstractContextManager[Any] | None:
    """A lock on a cell, let go of with the process however that ends; nothing if another process has it.

    It is beside the run's folder, not in it: a folder that is there has a run in it.
    """
    lock = FileLock(run.folder.with_suffix(".lock"))
    try:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        return lock.acquire(blocking=wait)
    except Timeout:
        return None
    except OSError as error:
        raise UserError(f"cannot write in {run.folder.parent}: {error.strerror}; choose another --folder") from error


def require_whole(failures: Sequence[str]) -> None:
    """`UserError` in one line if any cell failed."""
    if failures:
        more = f" (and {len(failures) - 1} more, named above)" if len(failures) > 1 else ""
        raise UserError(f"a cell failed{more}: {failures[0]}; the same command goes on with what is missing")


def record(
    cell: Cell[C], root: Path, files: Sequence[str], columns: Sequence[str], *, every_row: bool = False
) -> dict[str, Any] | None:
    """What is kept of a finished cell, small enough for a repository; nothing if it is not finished.

    Args:
        cell: the cell.
        root: folder of the experiment.
        files: JSON files of its folder to keep whole, where they are there, by name without suffix.
        columns: figures of metrics.jsonl to keep, where they are there.
        every_row: keep what was logged between evaluations too, not only at them.
    """
    run = cell.run(root)
    if not finished(run):
        return None
    metrics = run.metrics()
    evaluated = [row for row in metrics if every_row or row["step"] == metrics[-1]["step"] or _evaluated(row, run)]
    schedule = run.config.schedule
    return {
        "group": cell.group,
        "name": cell.name,
        "seed": cell.seed,
        "updates": metrics[-1]["step"],
        "seconds": metrics[-1]["seconds"],
        "batch": schedule.batch,
        "learning_rate": schedule.learning_rate,
        "samples": run.config.estimator.samples,
        "provenance": _json(run.folder / "provenance.json"),
        "curve": {name: [_short(row.get(name)) for row in evaluated] for name in columns if name in metrics[-1]},
    } | {name: _json(run.folder / f"{name}.json") for name in files if (run.folder / f"{name}.json").exists()}


def _evaluated(row: dict[str, Any], run: Run[Any]) -> bool:
    return bool(row["step"] % run.config.schedule.evaluate_every == 0)


def _short(value: Any) -> Any:
    """Numbers to six digits: a curve needs no more."""
    if isinstance(value, list):
        return [_short(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); remove the file and run the same command again") from error


def _updates_left(run: Run[Any]) -> int:
    if finished(run):
        return 0
    done = load_state(run.latest_checkpoint())["step"] if run.has_checkpoint() else 0
    return int(run.config.schedule.steps - done)


def _check_settings(run: Run[Any]) -> None:
    """`UserError` if the folder already holds a run that differs in more than where its data are."""
    if not (run.folder / "config.json").exists():
        return
    there = Run.open(run.folder, type(run.config)).config
    if _without_places(there) != _without_places(run.config):
        raise UserError(f"{run.folder} holds a run with other settings; choose another --folder, or remove it")


def _without_places(config: Any) -> Any:
    places = {name: None for name in ("data_dir", "captions", "images", "features") if hasattr(config.data, name)}
    return replace(config, data=replace(config.data, **places))


class _Pace:
    """How long an update takes, from the cells that are done."""

    def __init__(self) -> None:
        self.updates, self.seconds = 0, 0.0

    def add(self, updates: int, seconds: float) -> None:
        self.updates += updates
        self.seconds += seconds

    def left(self, updates: int) -> str:
        """In words, for so many updates that are still to be made."""
        if not self.updates:
            return "time left is known after the first"
        minutes = updates * self.seconds / self.updates / 60
        return f"about {minutes / 60:.1f} hours left" if minutes >= 90 else f"about {minutes:.0f} minutes left"
