"""A pretrained network is shown the places that glimpses and cells show, and tells more of them afterwards."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.networks import classifier
from tests.models.test_trunk import trunks
from tests.refusals import refusal
from tests.tiny import tiny_config, trained
from wsram.config import ClassificationConfig, changed
from wsram.data import open_data
from wsram.glimpse.source import Held
from wsram.models.pretrained import load_network
from wsram.models.trunk import fill_pretrained
from wsram.runs import Run
from wsram.tasks import distilling
from wsram.tasks.distilling import SIDE, cells_in, distil, glimpses_in, readers_of
from wsram.terminal import Screen
from wsram.training import train

KIND = "efficientnet-lite0:4"
APART: dict[str, Any] = dict(network=KIND, patch=8, policy="map", view=40, map_stride=20, map_apart=True)


@pytest.fixture(autouse=True)
def _packages() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the captions extra is not installed")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few places, of small pictures."""
    for name, value in dict(PLACES=72, HELD=12, BATCH=12, SIDE=64).items():
        monkeypatch.setattr(distilling, name, value)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_places_are_those_that_glimpses_and_cells_show() -> None:
    network = classifier(**APART, scales=(1, 3), contrast=False)
    image = torch.rand(1, 40, 80)
    glimpses, cells = readers_of(network)
    assert (glimpses.what, glimpses.side, cells.what, cells.side) == ("glimpses", 8, "cells", 20)
    sensor, source = network.prediction.sensor, Held(image)
    pyramid = sensor.pyramid(image.unsqueeze(0))
    seen = set()
    for place in glimpses.places(source, 40, generator()):
        k = place.height // 8
        seen.add(k)
        assert 0 <= place.top <= 40 - place.height and 0 <= place.left <= 80 - place.width
        middle = torch.tensor([[place.left + place.width / 2, place.top + place.height / 2]])
        location = (middle - 0.5 - pyramid.reach) / pyramid.reach
        expected = sensor(pyramid, location, torch.tensor([sensor.scales.index(k)]))[0]
        # A coarse glimpse between the pyramid's cells is interpolated; here it is the mean of its own pixels.
        if place.top % k == place.left % k == 0:
            torch.testing.assert_close(glimpses.small(distilling._read(source, place)), expected)
    assert seen == {1, 3}
    view = pyramid.view(40)[0]
    quarters = [view[:, row : row + 20, column : column + 20] for row in (0, 20) for column in (0, 20)]
    found = [cells.small(distilling._read(source, place)) for place in cells.places(source, 9, generator())]
    assert len(found) == 4  # all there are
    for cell in found:
        assert sum(torch.allclose(cell, quarter) for quarter in quarters) == 1


def test_cells_meet_where_sides_do_not_divide() -> None:
    places = cells_in(3, Held(torch.rand(1, 10, 20)), 9, generator())
    rows = sorted({(place.top, place.height) for place in places})
    columns = sorted({(place.left, place.width) for place in places})
    assert rows == [(0, 4), (3, 4), (6, 4)] and columns == [(0, 7), (6, 8), (13, 7)]  # as adaptive averages have them


def test_a_glimpse_wider_than_the_image_has_all_of_it_and_black_around() -> None:
    image = Held(torch.ones(1, 12, 40))
    (place, *others) = glimpses_in(classifier(patch=8, scales=(2,)).prediction.sensor, image, 20, generator())
    pixels = distilling._read(image, place)
    assert pixels.shape == (1, 16, 16) and float(pixels.sum()) == 12 * 16
    assert len({each.top for each in others}) == 5  # from -4 to 0


def test_what_is_told_of_small_pictures_becomes_what_is_told_of_large_ones(digits: Path, few: None) -> None:
    network = classifier(**APART)
    fill_pretrained(network)
    images = open_data(tiny_config(digits).data).train
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    told = []
    lines = distil(network, images, epochs=3, seed=0, tell=lambda *words: told.append(words))
    assert len(lines) == 2 and "120 places at 64 pixels" in lines[0] and "cells of 20 pixels" in lines[1]
    assert {what.partition(":")[0] for what, _, _ in told} == {"shown at 64 pixels", "learns to see small"}
    assert all(0 <= done < whole for _, done, whole in told)
    # All of both trunks learned, and nothing else; they are as frozen as they were.
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    own = {id(parameter) for trunk in trunks(network) for parameter in trunk.parameters()}
    named = dict(network.named_parameters())
    assert moved == {name for name, parameter in named.items() if id(parameter) in own}
    assert not any(named[name].requires_grad for name in moved)
    again = classifier(**APART)
    fill_pretrained(again)
    assert distil(again, images, epochs=3, seed=0, tell=lambda *_: None) == lines
    for ours, theirs in zip(trunks(network), trunks(again), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_what_was_shown_is_told_better(digits: Path, few: None) -> None:
    """Too few places to learn what others look like, so those that are asked about are copies of those shown."""
    network = classifier(**APART)
    fill_pretrained(network)
    reader = readers_of(network)[1]
    images = open_data(tiny_config(digits).data).train
    small, large = distilling.shown(reader, network, images, generator(), lambda *_: None)
    assert small.shape == (120, 1, 20, 20) and large.shape == (120, 2 * reader.trunk.channels)
    small, large = small[:60].repeat(5, 1, 1, 1), large[:60].repeat(5, 1)
    before, after = distilling.taught(reader, small, large, "no", 4, generator(), lambda *_: None)
    assert 0 <= 1 - after < (1 - before) / 2


def test_a_run_begins_with_what_was_learned(tmp_path: Path, digits: Path, few: None) -> None:
    config = tiny_config(digits, network=KIND, updates=1, distil=1)
    run = trained(tmp_path / "run", config)
    begun = load_network(tmp_path / "run" / "checkpoints" / "step-000000000")
    plain: Any = classifier(network=KIND, patch=8)
    fill_pretrained(plain)

    def stem(network: Any) -> Tensor:
        return trunks(network.prediction.glimpse_network)[0].stem.weight

    assert torch.equal(stem(begun), stem(run)) and not torch.equal(stem(begun), stem(plain))
    trained(tmp_path / "run", changed(config, updates=2), resume=True)  # is not taught again
    assert torch.equal(stem(load_network(tmp_path / "run" / "checkpoints" / "step-000000002")), stem(begun))


def test_nothing_is_left_of_a_run_that_is_stopped_before_it_begins(
    tmp_path: Path, digits: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*words: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return shown(*words)

    shown = distilling.shown
    monkeypatch.setattr(distilling, "shown", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(Run(tmp_path / "run", tiny_config(digits, network=KIND, distil=1)), Screen(quiet=True))
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_distilled_is_refused(tmp_path: Path, digits: Path) -> None:
    config = tiny_config(digits, distil=1)
    refusal(lambda: trained(tmp_path / "run", config), "nothing to distil", f"less than {SIDE} pixels", "--distil")
    refusal(lambda: changed(config, start_from="robust"), "--distil", "--start-from")
    refusal(lambda: ClassificationConfig(distil=-1), "distil must be at least 0, got -1")
    assert not (tmp_path / "run").exists()
