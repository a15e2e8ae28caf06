"""What an image costs is measured wherever a network runs, and is little enough to be watched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import exported as module
from experiments.exported import exported, in_browser, spread
from tests.models.networks import captioner, classifier
from tests.refusals import refusal
from wsram.cli import main
from wsram.models.pretrained import save_network
from wsram.terminal import Screen

pytest.importorskip("onnxruntime", reason="onnxruntime is of the export extra")


def test_looks_are_told_by_their_middle_and_where_nine_of_ten_lie() -> None:
    told = spread([float(n) for n in range(101)], 3.0)
    assert told == {"median": 50.0, "low": 5.0, "high": 95.0, "processor": 3.0, "looks": 101}


def test_a_look_in_a_browser_takes_less_than_50_ms_of_the_processor(tmp_path: Path) -> None:
    main(["export", "robust", "--to", str(tmp_path / "site")])
    found = in_browser(tmp_path / "site")
    if found is None:
        pytest.skip("needs playwright and a Chromium")
    assert 0 < found["processor"] < 50 and found["looks"] == module.IN_BROWSER


@pytest.mark.slow
def test_every_place_is_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WARM_UP", 1), ("TIMED", 2), ("IN_BROWSER", 2)):
        monkeypatch.setattr(module, name, value)
    for name, network in (("letters", classifier()), ("words", captioner())):
        (tmp_path / name).mkdir()
        save_network(network, tmp_path / name)
    found = exported((str(tmp_path / "letters"),), Screen(quiet=True), to=tmp_path / "speed.json")
    assert json.loads((tmp_path / "speed.json").read_text()) == found
    assert found["networks"]["letters"].keys() >= {"torch", "onnxruntime"}
    refusal(lambda: exported((str(tmp_path / "words"),), Screen(quiet=True)), "captions cannot be exported")
