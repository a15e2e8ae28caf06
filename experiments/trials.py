"""An experiment is many runs; a trial is one of them, in a folder of its own.

All of an experiment can be stopped at any moment and continued: finished trials are left alone, a trial stopped
half-way goes on from its checkpoint. Several processes may work on one experiment: each trial is in one's hands alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from filelock import FileLock, Timeout

from wsram.config import C, Config, changed
from wsram.ending import Interrupted
from wsram.errors import UserError
from wsram.evaluate import Trained, open_trained
from wsram.provenance import provenance
from wsram.runs import SETTINGS, Run, load_state, read_json
from wsram.terminal import Screen
from wsram.training import train


@dataclass(frozen=True)
class Trial(Generic[C]):
    """One training run of an experiment.

    group: the part of the experiment it belongs to.
    name: what tells it from others of the group; trials that differ in their seed alone share it.
    config: its settings, the seed among them, with nothing left to the machine.
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


def begun(run: Run[Any]) -> bool:
    """Whether the folder holds a run that can be gone on with: one killed before its first checkpoint is none yet."""
    return (run.folder / SETTINGS).exists()


def finished(run: Run[Any]) -> bool:
    """Whether a run has made its last update, or has stopped early for want of a better evaluation.

    Raises:
        UserError: its checkpoints are damaged.
    """
    return begun(run) and _is_last(run, load_state(run.latest_checkpoint()))


def run_trials(
    trials: Sequence[Trial[C]], root: Path, screen: Screen, measure: Callable[[Trial[C], Run[C]], None]
) -> list[str]:
    """Train, in order, every trial that is not finished, and measure those that are.

    Trials that another process has in hand come last, once it has let go of them: the same command started twice shares
    the work, and both end with all of it.

    Args:
        trials: what to run.
        root: folder of the experiment.
        screen: says which trial of how many, and how long the rest may take.
        measure: called for each finished trial; writes what is missing into its folder.

    Returns:
        One line for each trial that failed; the others are there all the same.

    Raises:
        UserError: a trial's folder holds a run with other settings.
        Interrupted: a signal asked for it.
    """
    for trial in trials:
        _check_settings(trial.run(root))
    pace, failures = _Pace(), []

    def work(trial: Trial[C]) -> None:
        run = trial.run(root)
        if finished(run):
            last = last_row(run)
            pace.add(last["step"], last["seconds"])
        else:
            left = pace.left(sum(_updates_left(other.run(root)) for other in trials))
            screen.say(f"Trial {trials.index(trial) + 1} of {len(trials)}: {run.folder} ({left})")
            began, to_do = time.perf_counter(), _updates_left(run)
            train(run, screen, resume=begun(run))
            pace.add(to_do, time.perf_counter() - began)
        measure(trial, run)

    def attempt(trial: Trial[C], wait: bool) -> bool:
        """Whether the trial was free, or has become so."""
        try:
            held = _in_hand(trial.run(root), wait)
            if held is None:
                return False
            with held:
                work(trial)
        except UserError as error:
            failures.append(f"{trial.run(root).folder}: {error}")
            screen.say(f"Failed: {failures[-1]}")
        except Interrupted as stop:  # not one run is to be gone on with, but all of them
            raise Interrupted(stop.number, provenance()["command"]) from stop
        return True

    in_other_hands = [trial for trial in trials if not attempt(trial, wait=False)]
    for trial in in_other_hands:
        screen.say(f"Another process has it in hand, waiting: {trial.run(root).folder}")
        attempt(trial, wait=True)
    return failures


def _in_hand(run: Run[Any], wait: bool) -> AbstractContextManager[Any] | None:
    """A lock on a trial, let go of with the process however that ends; nothing if another process has it.

    It is beside the run's folder, not in it: a trial is in hand while it is measured, too, and its folder may be
    removed to have it made again.
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
    """`UserError` in one line if any trial failed."""
    if failures:
        more = f" (and {len(failures) - 1} more, named above)" if len(failures) > 1 else ""
        raise UserError(f"a trial failed{more}: {failures[0]}; the same command goes on with what is missing")


def open_trial(trial: Trial[C], run: Run[C], *, inference: bool = False) -> Trained:
    """The network of a finished trial with its data, which are where the trial says now.

    Raises:
        UserError: the data are not those that it was trained with.
    """
    features: Path | None = getattr(trial.config.data, "features", None)
    trained = open_trained(run.folder, source=trial.config.data.source, features=features, inference=inference)
    if trained.own_data() is False:
        raise UserError(f"{trial.config.data.source} holds other data than it was trained with; name those")
    return trained


def records(
    trials: Sequence[Trial[C]],
    root: Path,
    files: Sequence[str],
    columns: Callable[[Trial[C]], Sequence[str]],
    failures: list[str],
    *,
    every_row: bool = False,
) -> list[dict[str, Any]]:
    """What is kept of those trials that are finished, small enough for a repository.

    Args:
        trials: the trials.
        root: folder of the experiment.
        files: JSON files of a trial's folder to keep whole, where they are there, by name without suffix.
        columns: figures of a trial's metrics.jsonl to keep, where they are there.
        failures: a line for each trial that failed; those whose files are damaged are added.
        every_row: keep what was logged between evaluations too, not only at them.
    """
    found = []
    for trial in trials:
        try:
            found.append(_record(trial.run(root), trial, files, columns(trial), every_row))
        except UserError as error:
            line = f"{trial.run(root).folder}: {error}"
            failures += [] if line in failures else [line]
    return [record for record in found if record is not None]


def _record(
    run: Run[C], trial: Trial[C], files: Sequence[str], columns: Sequence[str], every_row: bool
) -> dict[str, Any] | None:
    if not finished(run):
        return None
    schedule, last = run.config.schedule, last_row(run)
    kept = [
        row
        for row in run.metrics()
        if every_row or row["step"] == last["step"] or row["step"] % schedule.evaluate_every == 0
    ]
    return {
        "group": trial.group,
        "name": trial.name,
        "seed": trial.seed,
        "updates": last["step"],
        "seconds": last["seconds"],
        "batch": schedule.batch,
        "learning_rate": schedule.learning_rate,
        "samples": run.config.estimator.samples,
        "precision": schedule.precision,
        "provenance": _file(run, "provenance"),
        "curve": {name: [_short(row.get(name)) for row in kept] for name in columns if name in last},
    } | {name: _file(run, name) for name in files if (run.folder / f"{name}.json").exists()}


def last_row(run: Run[Any]) -> dict[str, Any]:
    """What a finished run logged last; `UserError` if that is gone."""
    rows = run.metrics()
    if not rows:
        raise UserError(f"{run.metrics_path} is missing or empty; restore it, or remove {run.folder} to train it again")
    return rows[-1]


def _short(value: Any) -> Any:
    """Numbers to six digits: a curve needs no more."""
    if isinstance(value, list):
        return [_short(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _file(run: Run[Any], name: str) -> Any:
    return read_json(run.folder / f"{name}.json", "remove the file and run the same command again")


def _is_last(run: Run[Any], state: dict[str, Any]) -> bool:
    schedule = run.config.schedule
    return bool(state["step"] >= schedule.updates or (schedule.patience and state.get("stale", 0) >= schedule.patience))


def _updates_left(run: Run[Any]) -> int:
    """As many as its newest checkpoint says, damaged or not: it is no more than a guess at the time that is left."""
    try:
        state = load_state(run.checkpoints()[-1]) if begun(run) else {"step": 0}
        return 0 if _is_last(run, state) else int(run.config.schedule.updates - state["step"])
    except (UserError, IndexError):
        return run.config.schedule.updates


def _check_settings(run: Run[Any]) -> None:
    """`UserError` if the folder already holds a run that differs in more than where its data are."""
    if begun(run) and wherever(Run.open(run.folder).config) != wherever(run.config):
        raise UserError(f"{run.folder} holds a run with other settings; choose another --folder, or remove it")


def wherever(config: Config) -> Config:
    """The settings without where the data are and whether they may be fetched."""
    places = {"source": "", "images": None, "features": None, "download": False}
    return changed(config, **{name: value for name, value in places.items() if hasattr(config.data, name)})


class _Pace:
    """How long an update takes, from the trials that are done."""

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
