"""What trackers are told of a run, and what is said where one is missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.networks import classifier
from tests.refusals import refusal, refused
from tests.tasks.test_troubles import Dots
from tests.tiny import rows, same_run, tiny_config
from wsram.data import Batch
from wsram.runs import Run
from wsram.terminal import Screen
from wsram.trackers import Trackers, _evidence
from wsram.training import train


def test_tensorboard_gets_every_row_and_pictures_of_every_evaluation(
    digits: Path, digit_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    monkeypatch.setattr("wsram.trackers.EXAMPLES", 1)
    monkeypatch.setattr("wsram.trackers.SAMPLES", 4)
    run = Run(tmp_path / "run", tiny_config(digits, evaluate_every=3))
    train(run, Screen(quiet=True), watcher=Trackers(["tensorboard", "tensorboard"]))

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.folder / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    assert {"glimpses", "evidence"} == set(found.Tags()["images"])
    for name in ("glimpses", "evidence"):
        assert [image.step for image in found.Images(name)] == [3, 6]
        assert all(image.width > 100 for image in found.Images(name))
    kept = {row["step"]: row["bound"] for row in rows(run.folder)}
    assert {each.step: each.value for each in found.Scalars("bound")} == pytest.approx(kept)


def test_being_watched_changes_nothing(digits: Path, digit_run: Path, tmp_path: Path) -> None:
    """Although pictures draw random numbers, to the last bit."""

    class Watching(Trackers):
        def begin(self, folder: Path, step: int) -> None:
            shown.append(f"begin {step}")

        def _picture(self, name: str, figure: Any, step: int) -> None:
            shown.append(f"{name} {step}")

        def end(self) -> None:
            shown.append("end")

    shown: list[str] = []
    train(Run(tmp_path / "run", tiny_config(digits)), Screen(quiet=True), watcher=Watching([]))
    assert same_run(tmp_path / "run", digit_run)
    assert shown[0] == "begin 0" and shown[-1] == "end" and shown.count("evidence 4") == 1


def test_of_an_image_too_large_to_be_mapped_no_evidence_is_drawn() -> None:
    class Large(Dots):
        def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
            return Batch(torch.zeros(1, 1, 4097, 4096), torch.tensor([0]))

    assert _evidence(classifier(), Large()) is None


def test_other_trackers_are_told_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackio, by what is used of its package."""
    told: list[Any] = []
    module: Any = ModuleType("trackio")
    module.__spec__ = SimpleNamespace()
    module.Image = lambda pixels: ("image", pixels.shape, pixels.dtype)
    module.init = lambda **words: (
        told.append(words)
        or SimpleNamespace(log=lambda values, step: told.append((step, values)), finish=lambda: told.append("finished"))
    )
    monkeypatch.setitem(__import__("sys").modules, "trackio", module)
    trackers = Trackers(["trackio"])
    trackers.begin(tmp_path / "run-7", 3)
    trackers.log({"bound": -1.5}, 4)
    from matplotlib.figure import Figure

    trackers._picture("glimpses", Figure(figsize=(1, 2), dpi=50), 4)
    trackers.end()
    trackers.end()
    begun, (step, values), (at, picture), finished = told
    assert begun == {"project": "wsram", "name": "run-7"} and (step, values) == (4, {"bound": -1.5})
    assert at == 4 and picture == {"glimpses": ("image", (100, 50, 3), np.dtype("uint8"))} and finished == "finished"


def test_a_tracker_that_is_not_installed_is_told_before_anything_begins(
    capsys: pytest.CaptureFixture[str], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if shutil.which("mlflow"):
        pytest.skip("mlflow is installed")
    message = refused(capsys, "train", str(digits), "--tracker", "mlflow", "tensorboard")
    assert "--tracker mlflow needs a package that is not installed; `pip install mlflow`" in message
    assert "one of" not in message and not list(tmp_path.iterdir())
    assert "tensorboard" in refused(capsys, "train", str(digits), "--tracker", "paper")
    refusal(lambda: Trackers(["paper"]), "tensorboard, trackio, wandb, mlflow", "'paper'")
