"""What an answer costs is measured as a program and as the command line ask, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import answering as module
from experiments.cli import main
from tests.experiments.commands import refused


def test_answers_about_one_image_and_about_a_folder_are_timed_and_kept(
    digit_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "ALONE", 2)
    monkeypatch.setattr(module, "TURNS", 1)
    kept = tmp_path / "answering.json"
    main(["answering", str(digit_run), "--side", "40", "--images", "3", "--save", str(kept)])
    assert "ms an image" in capsys.readouterr().out
    found = json.loads(kept.read_text())
    assert found["images"] == 3 and len(found["ways"]) == 4
    for row in found["ways"].values():
        assert 0 < row["least"] <= row["processor"]
        assert row["milliseconds"] > 0


def test_what_writes_captions_is_not_timed(caption_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = refused(capsys, "answering", str(caption_run))
    assert "writes captions" in wrong
