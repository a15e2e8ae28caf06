"""The network that sees everything learns, and is measured on the images of the one that glances."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.cli import main
from experiments.yardstick import SixConvolutions
from tests.refusals import refused
from tests.tiny import tiny_config, trained
from wsram.image_settings import ImageData


def test_it_learns_what_the_images_show(digit_run: Path, tmp_path: Path) -> None:
    to = tmp_path / "found.json"
    main(["yardstick", str(digit_run), "--updates", "60", "--times", "3", "--rate", "0.01", "--save", str(to)])
    found = json.loads(to.read_text())
    glances, whole = found["ways"]["glances"], found["ways"]["sees everything"]
    assert whole["multiply_adds"] >= 3 * glances["multiply_adds"] and found["width"] % 4 == 0
    assert found["updates"] == 60 and found["set"] == "validation" and found["training_seconds"] > 0
    assert whole["error"] < 0.8  # chance is 0.9
    network = SixConvolutions(1, found["width"], 10)
    assert whole["parameters"] == sum(p.numel() for p in network.parameters())


def test_it_answers_for_images_of_any_size_and_number_of_channels() -> None:
    assert SixConvolutions(3, 4, 5).eval()(torch.rand(2, 3, 20, 33)).shape == (2, 5)


def test_images_of_several_sizes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(20):
        path = tmp_path / "images" / ("light" if n % 2 else "dark") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40 + n, 40), 2 * n + (150 if n % 2 else 0)).save(path)
    config = tiny_config("", patch=8)
    trained(tmp_path / "run", type(config)(**(vars(config) | {"data": ImageData(str(tmp_path / "images"))})))
    assert "not of one size" in refused(capsys, "yardstick", str(tmp_path / "run"), command=main, name="experiments")
