"""Trials of an experiment: each in one's hands alone, gone on with where there is something to go on with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from experiments import trials as module
from experiments.trials import Trial, begun, finished, records, require_whole, run_trials
from tests.experiments.commands import stop_at
from tests.refusals import refusal
from tests.tiny import rows, same_bits, same_run, tiny_config, weights
from wsram.config import ClassificationConfig, changed
from wsram.ending import Interrupted
from wsram.provenance import commanded
from wsram.runs import HASHES, SETTINGS
from wsram.terminal import Screen

QUIET = Screen(quiet=True)


def tiny_trials(digits: Path, *, updates: int = 2) -> list[Trial[ClassificationConfig]]:
    """Three of them, that differ in their seed."""
    config = tiny_config(digits, updates=updates)
    return [Trial("group", "name", changed(config, seed=seed)) for seed in range(3)]


def copied(trial: Trial[ClassificationConfig], run: Path, root: Path) -> Path:
    """The folder of a trial that `run` has finished already."""
    shutil.copytree(run, trial.run(root).folder)
    return trial.run(root).folder


def nothing(trial: Any, run: Any) -> None:
    """Measure nothing."""


def test_a_trial_in_another_process_hands_comes_last(tmp_path: Path, digits: Path) -> None:
    trials = tiny_trials(digits)
    order: list[int] = []
    lock = FileLock(trials[0].run(tmp_path).folder.with_suffix(".lock"))
    Path(lock.lock_file).parent.mkdir(parents=True)
    lock.acquire()

    def measure(trial: Any, run: Any) -> None:
        order.append(trial.seed)
        if len(order) == 2:
            lock.release()  # as the other process does once it is done with it

    assert run_trials(trials, tmp_path, QUIET, measure) == []
    assert order == [1, 2, 0]


def test_a_trial_killed_before_its_first_checkpoint_is_trained_anew(
    tmp_path: Path, digits: Path, digit_run: Path
) -> None:
    trial = Trial("group", "name", tiny_config(digits))
    killed = copied(trial, digit_run, tmp_path)
    for path in killed.glob("checkpoints/*"):
        shutil.rmtree(path)
    (killed / SETTINGS).unlink()
    (killed / "metrics.jsonl").write_text('{"half": ')
    assert not begun(trial.run(tmp_path)) and not finished(trial.run(tmp_path))
    assert run_trials([trial], tmp_path, QUIET, nothing) == []
    assert same_run(killed, digit_run)


def test_a_stopped_experiment_says_its_own_command_and_not_that_of_a_run(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, "seed-1", 2)
    with commanded("python -m experiments", ["mnist", "here"]), pytest.raises(Interrupted) as stopped:
        run_trials(tiny_trials(digits, updates=4), tmp_path, QUIET, nothing)
    assert "go on with `python -m experiments mnist here`" in str(stopped.value)
    assert [path.name for path in sorted(tmp_path.glob("group/name/seed-?"))] == ["seed-0", "seed-1"]


def test_a_run_that_stopped_early_is_finished(tmp_path: Path, digits: Path, digit_run: Path) -> None:
    trial = Trial("group", "name", tiny_config(digits))
    copied(trial, digit_run, tmp_path)
    longer = replace(trial, config=changed(trial.config, updates=9, patience=4)).run(tmp_path)
    assert finished(trial.run(tmp_path)) and not finished(longer)
    newest = longer.latest_checkpoint()

    def stale(folder: Path) -> None:
        for path in newest.iterdir():
            shutil.copy(path, folder)
        (folder / HASHES).unlink()
        state = folder / "state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"best": 1.0, "stale": 4}))

    longer.save_checkpoint(6, stale)
    assert finished(longer)


def test_damaged_files_fail_one_trial_and_are_named_once(tmp_path: Path, digits: Path, digit_run: Path) -> None:
    trials = [Trial("group", name, tiny_config(digits)) for name in ("damaged", "emptied", "whole")]
    damaged, emptied, _ = (copied(trial, digit_run, tmp_path) for trial in trials)
    for path in damaged.glob("checkpoints/*/model.safetensors"):
        path.write_bytes(b"cut")
    (emptied / "metrics.jsonl").unlink()
    failures = run_trials(trials, tmp_path, QUIET, nothing)
    assert [name in line for name, line in zip(("damaged", "emptied"), failures, strict=True)] == [True, True]
    kept = records(trials, tmp_path, (), lambda trial: ("step", "ess"), failures)
    assert [each["name"] for each in kept] == ["whole"] and len(failures) == 2
    assert "a trial failed (and 1 more, named above)" in refusal(lambda: require_whole(failures), failures[0])


def test_what_is_kept_of_a_trial_is_what_its_files_say(tmp_path: Path, digits: Path, digit_run: Path) -> None:
    trial = Trial("group", "name", tiny_config(digits))
    folder = copied(trial, digit_run, tmp_path)
    (folder / "looking.json").write_text('{"coverage": 0.5}')
    (kept,) = records([trial], tmp_path, ("looking", "absent"), lambda trial: ("step", "ess", "never"), [])
    logged = rows(folder)
    assert kept["curve"] == {"step": [2, 4, 6], "ess": pytest.approx([row["ess"] for row in logged], rel=1e-5)}
    assert kept["looking"] == {"coverage": 0.5} and "absent" not in kept
    assert (kept["updates"], kept["batch"], kept["samples"], kept["precision"]) == (6, 8, 2, "no")
    assert kept["provenance"] == json.loads((folder / "provenance.json").read_text())


def test_other_settings_are_refused_and_nothing_is_touched(tmp_path: Path, digits: Path, digit_run: Path) -> None:
    trial = Trial("group", "name", tiny_config(digits))
    folder = copied(trial, digit_run, tmp_path)
    before = weights(folder)
    other = replace(trial, config=changed(trial.config, learning_rate=0.1))
    refusal(lambda: run_trials([other], tmp_path, QUIET, nothing), folder, "other settings")
    moved = replace(trial, config=changed(trial.config, source=str(tmp_path / "elsewhere")))
    assert run_trials([moved], tmp_path, QUIET, nothing) == []
    assert same_bits(weights(folder), before)


def test_the_time_left_is_told_from_the_trials_that_are_done(
    tmp_path: Path,
    digits: Path,
    digit_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done, new = Trial("group", "done", tiny_config(digits)), Trial("group", "new", tiny_config(digits, updates=4))
    folder = copied(done, digit_run, tmp_path)
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged[-1]["seconds"] = 6 * 90.0  # a minute and a half for an update
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    monkeypatch.setattr(module, "train", lambda run, screen, resume: None)
    run_trials([done, new], tmp_path, Screen(), nothing)
    assert f"Trial 2 of 2: {new.run(tmp_path).folder} (about 6 minutes left)" in capsys.readouterr().out
