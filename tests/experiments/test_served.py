"""What the app's answers cost is measured by asking it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs the app extra")

from experiments import served as module
from experiments.served import served, table
from tests.refusals import refusal
from wsram.terminal import Screen


def test_start_look_and_evidence_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WARM_UP", 1), ("TIMED", 1)):
        monkeypatch.setattr(module, name, value)
    found = served(("translated",), Screen(quiet=True), to=tmp_path / "app.json")
    assert (tmp_path / "app.json").exists() and [row[1] for row in table(found).rows] == [
        *("start", "watch it look", "show the evidence"),
    ]
    assert all(found["networks"]["translated"][what]["bytes"] > 1000 for what in ("look", "explain"))
    refusal(lambda: served(("nothing",), Screen(quiet=True)), "found none at nothing")
