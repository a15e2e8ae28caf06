"""What is said of reading is what the sensor reads; the command measures every way to look."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments.cli import main
from experiments.glimpsed import pixels_read
from tests.refusals import refused
from tests.tiny import tiny_config, trained
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.image_settings import ImageData


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_pixels_that_are_read_are_those_that_a_glimpse_depends_on(mode: str) -> None:
    sensor = Sensor(3, (1, 2, 3), mode)
    images = [torch.rand(1, 11, 17, requires_grad=True), torch.rand(1, 14, 9, requires_grad=True)]
    location = 2.4 * torch.rand(2, 4, 2) - 1.2  # some of them lie outside
    scale = torch.randint(3, (2, 4))
    pyramid = sensor.pyramid(images)
    total: Tensor = sum(sensor(pyramid, location[:, n], scale[:, n]).sum() for n in range(4))  # type: ignore[assignment]
    needed = torch.stack([(g != 0).double().mean() for g in torch.autograd.grad(total, images)])
    torch.testing.assert_close(pixels_read(sensor, 2 * pyramid.reach + 1, Action(location, scale)), needed)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of which one class is light and the other dark."""
    folder = tmp_path_factory.mktemp("squares")
    for n in range(40):
        path = folder / "images" / ("light" if n % 2 else "dark") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 2 * n + (150 if n % 2 else 0)).save(path)
    config = tiny_config("", network="efficientnet-lite0:1", patch=8, scales=(1, 2))
    images = ImageData(str(folder / "images"))
    pytest.importorskip("efficientnet_lite_pytorch", reason="the captions extra is not installed")
    trained(folder / "run", type(config)(**(vars(config) | {"data": images})))
    return folder


def test_the_command_measures_all_ways_to_look(squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["glimpsed", str(squares / "run"), "--save", str(squares / "found.json")])
    found = json.loads((squares / "found.json").read_text())
    looked, chance, guided, probe = found["ways"].values()
    assert found["images"] == 6 and found["glimpses"] == 2
    assert 0 < looked["read"] < looked["most_read"] + 1e-9 and looked["most_read"] < 2 * 18**2 / 40**2 + 1e-9
    assert chance["read"] > 0
    assert guided["read"] > 0 and guided["multiply_adds"] > looked["multiply_adds"]  # parts are considered, too
    assert probe["error"] == 0 and probe["read"] == 1
    # The stem alone: 20 by 20 places, 32 filters of 9 numbers; the block after it costs more.
    assert probe["multiply_adds"] > 20 * 20 * 32 * 9 / 1e6
    assert "a linear probe of the whole image" in capsys.readouterr().out


def test_a_probe_of_a_network_that_is_not_pretrained_is_refused(
    digit_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "glimpsed", str(digit_run), command=main, name="experiments")
    assert "not pretrained" in said and "--no-probe" in said
