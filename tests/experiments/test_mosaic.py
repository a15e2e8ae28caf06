"""A network that is taught by features reads pixels as it read features; the command measures it beside both ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments import mosaic
from experiments.cli import main
from experiments.mosaic_training import features_of, reading_features, teach
from tests.photo_world import settings, write_photos
from tests.refusals import refused
from wsram.data import open_data
from wsram.data.mosaic import Mosaics
from wsram.glimpse.actions import Action
from wsram.models.pretrained import from_pretrained
from wsram.terminal import Screen

SMALL = {
    "network": "efficientnet-lite0:3", "patch": 80, "scales": (2,), "view": 72, "map_stride": 24,
    "glimpses": 2, "lower_units": 16, "upper_units": 16, "widths": (8, 8), "photos": 3, "validation": 6,
    "training_images": 12, "batch": 4, "samples": 2, "updates": 4, "evaluate_every": 2, "precision": "no",
}  # fmt: skip


WHOLE = {"map_stride": 8, "map_apart": False}
"""A view whose cells are parts of photos, and see those around them."""


@pytest.fixture(scope="module", params=[{}, WHOLE], ids=["apart", "whole"])
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The photos, and a network that was taught by their features."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the captions extra is not installed")
    world = write_photos(tmp_path_factory.mktemp("world"))
    folder = tmp_path_factory.mktemp("networks") / "taught"
    teach(str(world), folder, Screen(quiet=True), mosaics=8, changes=SMALL | request.param)
    return world, folder


def test_features_stand_for_what_the_network_makes_of_pixels(taught: tuple[Path, Path]) -> None:
    world, folder = taught
    network = from_pretrained(folder)
    data = open_data(settings(world)).validation
    assert isinstance(data, Mosaics)
    features = features_of(folder.parent, network, data, 6, None)  # type: ignore[arg-type]
    kept = sorted(folder.parent.glob("*.safetensors"))
    assert [path.name.partition("-")[0] for path in kept] == ["glimpses"] * 2 + ["views"] * 2  # of both sets
    for path in kept:
        path.unlink()
    anew = features_of(folder.parent, network, data, 6, None)  # type: ignore[arg-type]
    assert all(torch.equal(kept, getattr(anew, name)) for name, kept in vars(features).items())
    index = torch.arange(6)
    images, encoded = data.batch(index).images, features.images(index, 224)
    with torch.no_grad():
        cells = network.prediction.begin(network.prediction.sensor.pyramid(images).view(72))[1]
        # Of glimpses at the very middles of photos, which lie on one photo each.
        location = (2 * torch.stack([index % 3, index // 3], -1) - 2) * (2 * 224 / (3 * 224 - 1)) / 2
        action = Action(location, torch.zeros(6, dtype=torch.long))
        of_pixels = network.prediction.glimpse_network(
            network.prediction.sensor(network.prediction.sensor.pyramid(images), *action), action
        )
        with reading_features(network):  # type: ignore[arg-type]
            again = network.prediction.begin(encoded.view(72))[1]
            of_features = network.prediction.glimpse_network(network.prediction.sensor(encoded, *action), action)
    torch.testing.assert_close(again.keys, cells.keys, rtol=1e-2, atol=1e-2)  # features are kept in half precision
    torch.testing.assert_close(again.offset, cells.offset, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(of_features, of_pixels, rtol=1e-3, atol=1e-3)


def test_the_command_measures_a_network_beside_every_photo_and_random_ones(
    taught: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(mosaic, "STEPS", 150)
    main(["mosaic", str(taught[1]), "--save", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    ways = found["ways"]
    assert found["mosaics"] == 6 and len(found["error_after"]) == len(found["looked_at_after"]) == 2
    assert ways["every photo"]["error"] == 0  # plain colours
    costs = [ways[way]["multiply_adds"] for way in ("as many random photos", "every photo")]
    assert costs[1] == pytest.approx(costs[0] * 9 / 2)
    assert ways["glimpses"]["multiply_adds"] > costs[0]  # as many glimpses, and the view
    assert "of what every photo gains over random ones" in capsys.readouterr().out


def test_a_network_of_other_images_is_refused(digit_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "mosaics" in refused(capsys, "mosaic", str(digit_run), command=main, name="experiments")
