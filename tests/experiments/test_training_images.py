"""Networks that were trained on other numbers of images stand beside one another, if they were asked the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.training_images import panels
from tests.experiments.commands import refused
from tests.tiny import tiny_config, trained, write_digits

SCENE = dict(scene="megapixel-all", canvas=400, noises=8, validation=5)


def test_each_network_is_as_measured_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = write_digits(tmp_path / "digits")
    for count in (30, 15):
        trained(tmp_path / str(count), tiny_config(digits, updates=2, training_images=count, **SCENE))
        main(["megapixel", str(tmp_path / str(count)), "--save", str(tmp_path / f"{count}.json")])
    runs = [str(tmp_path / str(count)) for count in (30, 15)]
    main(["training-images", *runs, "--save", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["training_images"] for row in found["networks"]] == [10, 25]  # ascending, without those held out
    for count, row in zip((15, 30), found["networks"], strict=True):
        alone = json.loads((tmp_path / f"{count}.json").read_text())
        assert row["errors"] == {question: of["error_after"][-1] for question, of in alone["questions"].items()}
        assert row["looked_at"] == alone["looked_at_after"][-1] and row["updates"] == 2
    wrong, missed = panels(found)
    shares = [100 * (1 - row["looked_at"]) for row in found["networks"]]
    assert missed.curves == [("digits", [10, 25], shares)]
    assert [label for label, *_ in wrong.curves] == ["majority", "max", "top", "multi"]
    assert (tmp_path / "found.png").exists()
    trained(tmp_path / "top", tiny_config(digits, updates=1, training_images=20, **SCENE | {"scene": "megapixel-top"}))
    assert "asked the same" in refused(capsys, "training-images", runs[0], str(tmp_path / "top"))
    assert "got none" in refused(capsys, "training-images")
