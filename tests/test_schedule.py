"""As many updates as fit into so many minutes; and a run that was given minutes is the run of so many updates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import same_run, tiny_config, trained
from wsram import schedule
from wsram.cli import _parse_train
from wsram.config import ScheduleConfig, changed
from wsram.errors import UserError
from wsram.runs import Run
from wsram.schedule import paced


class Clock:
    """Time that passes when work is done, and not otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.steps, self.looks = 0.0, list[int](), 0
        monkeypatch.setattr(schedule.time, "perf_counter", lambda: self.now)

    def update(self, step: int) -> None:
        """One second for a glimpse: one at first, two from the middle of 1,000 updates on."""
        self.steps.append(step)
        self.now += 1 if step < 500 else 2

    def look(self) -> None:
        """Ten seconds."""
        self.looks += 1
        self.now += 10

    def fit(self, minutes: float, **changes: int) -> tuple[ScheduleConfig, str]:
        """What `minutes` make of 1,000 updates with five evaluations."""
        given = ScheduleConfig(**{"updates": 1000, "evaluate_every": 200} | changes)
        return paced(given, minutes, self.update, self.look, lambda seconds: seconds)


def test_as_many_updates_are_made_as_fit_beside_the_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found, why = clock.fit(10)
    assert found.updates == int((600 - 5 * 10) / 1.5)  # later updates take two glimpses, and were timed, too
    assert found.evaluate_every == 74 and found.minutes is None  # five times in all, as before
    assert "366" in why and "10 minutes" in why
    assert max(clock.steps) < 1000 and clock.looks == 1


def test_what_an_accelerator_has_yet_to_do_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is timed alone: three updates come before."""
    clock, given = Clock(monkeypatch), list[float]()

    def wait() -> None:
        clock.now += sum(given)
        given.clear()

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", wait)
    update, look = (lambda step: given.append(1.5)), (lambda: given.append(10.0))
    found, _ = paced(ScheduleConfig(updates=1000, evaluate_every=200), 10, update, look, lambda seconds: seconds)
    assert found.updates == int((600 - 5 * 10) / 1.5)


def test_the_slowest_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    given = ScheduleConfig(updates=1000, evaluate_every=1000)
    found, _ = paced(given, 10, clock.update, clock.look, lambda seconds: 2 * seconds)
    assert found.updates == int((600 - 20) / 3)


def test_too_little_time_is_refused_in_a_line_that_says_what_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"minutes are too short.*1.5 s.*10 s.*--minutes"):
        Clock(monkeypatch).fit(1)
    with pytest.raises(UserError, match="minutes must be above 0"):
        ScheduleConfig(minutes=0)


def test_a_run_of_minutes_is_the_run_of_as_many_updates(tmp_path: Path, digits: Path) -> None:
    timed = tiny_config(digits, minutes=0.05, updates=20, evaluate_every=10)
    trained(tmp_path / "timed", timed)
    made = Run.open(tmp_path / "timed").config
    assert made.schedule.minutes is None and made.schedule.updates >= 10
    counted = changed(timed, minutes=None, updates=made.schedule.updates, evaluate_every=made.schedule.evaluate_every)
    trained(tmp_path / "counted", counted)
    assert made == counted
    assert same_run(tmp_path / "timed", tmp_path / "counted")


def test_a_number_of_updates_takes_the_place_of_a_recipes_time() -> None:
    assert _parse_train(["mnist", "--recipe", "two-minutes"]).config.schedule.minutes is not None
    config = _parse_train(["mnist", "--recipe", "two-minutes", "--updates", "30"]).config
    assert (config.schedule.minutes, config.schedule.updates) == (None, 30)
