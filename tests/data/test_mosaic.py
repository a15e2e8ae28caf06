"""Mosaics of photos: what lies where, which photo decides, and that values are those of the whole image."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.models.networks import classifier
from tests.photo_world import settings, write_photos
from tests.tiny import tiny_config, trained
from wsram.data import open_data
from wsram.data.mosaic import SCENES, Mosaic, Mosaics, Photos, scene_of
from wsram.errors import UserError
from wsram.glimpse.sensor import Sensor
from wsram.glimpse.source import averaged_down, in_unit
from wsram.tasks import TASKS
from wsram.tasks.measuring import evaluate_sampled
from wsram.tasks.troubles import look_again


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("world"))


def some(along: int = 3, side: int = 12) -> Mosaic:
    generator = torch.Generator().manual_seed(0)
    photos = Photos(torch.randint(256, (20, 3, side, side), dtype=torch.uint8, generator=generator))
    return Mosaic(photos, torch.randperm(20, generator=generator)[: along**2].view(along, along))


def whole(mosaic: Mosaic) -> torch.Tensor:
    """All pixels, photo by photo."""
    return torch.cat([torch.cat([mosaic.photos.pixels[n] for n in row], -1) for row in mosaic.places], -2)


def test_what_is_read_is_what_the_photos_show() -> None:
    mosaic = some()
    assert torch.equal(mosaic.read(0, 0, 36, 36), whole(mosaic))
    assert torch.equal(mosaic.read(5, 11, 20, 14), whole(mosaic)[:, 5:25, 11:25])


@pytest.mark.parametrize("side", [3, 9, 10])
def test_the_view_is_that_of_the_whole_image(side: int) -> None:
    mosaic = some()
    expected = averaged_down(in_unit(whole(mosaic)), side)
    torch.testing.assert_close(mosaic.view(side), expected, rtol=0, atol=1e-6)


def test_glimpses_are_those_of_the_whole_image() -> None:
    mosaic, sensor = some(), Sensor(5, (1, 2))
    location = 3 * torch.rand(30, 1, 2, generator=torch.Generator().manual_seed(1)) - 1.5
    scale = torch.arange(30).unsqueeze(1) % 2
    expected = sensor(sensor.pyramid(in_unit(whole(mosaic)).unsqueeze(0)), location, scale)
    assert torch.equal(sensor(sensor.pyramid([mosaic]), location, scale), expected)


def test_a_scene_is_what_three_captions_agree_on_and_none_denies() -> None:
    assert scene_of(["A skier", "Snow .", "a SNOWY hill", "A man", "A man"]) == "snow"
    assert scene_of(["A skier", "Snow .", "A man"]) is None  # two alone
    assert scene_of(["Snow", "Snow", "Snow on a beach"]) is None
    assert scene_of(["A man", "A street"]) == ""
    assert scene_of(["A man by a lake"]) is None  # akin to a scene


def test_one_photo_decides_and_all_others_are_bystanders(world: Path) -> None:
    splits = open_data(settings(world))
    assert any("18 photos (2 snow, 2 beach, 2 pool, 2 rock, 10 bystanders); 1 are ambiguous" in n for n in splits.notes)
    train = splits.train
    assert isinstance(train, Mosaics) and train.spec.size == (672, 672) and train.spec.names == tuple(SCENES)
    answers = set()
    for n in range(12):
        drawn = train.draw(n, 0)
        scenes = train.scenes[drawn.places]
        assert scenes[drawn.needle] == drawn.answer and int((scenes >= 0).sum()) == 1
        assert len(drawn.places.unique()) == 9
        answers.add(drawn.answer)
    assert len(answers) > 2


def test_every_epoch_has_mosaics_of_its_own_and_an_evaluation_always_the_same(world: Path) -> None:
    one, other = (open_data(settings(world), seed) for seed in (0, 1))

    def places(data: object, epoch: int | None) -> torch.Tensor:
        assert isinstance(data, Mosaics)
        return torch.stack([data.draw(n, epoch).places for n in range(6)])

    assert torch.equal(places(one.train, 3), places(open_data(settings(world), 0).train, 3))
    assert not torch.equal(places(one.train, 3), places(one.train, 4))
    assert not torch.equal(places(one.train, 3), places(other.train, 3))
    assert torch.equal(places(one.validation, None), places(other.validation, None))
    assert len(one.open_test()) == 500
    assert one.train.fingerprint() != one.validation.fingerprint() == other.validation.fingerprint()


def test_training_mosaics_are_made_of_mirror_images_too_where_asked(world: Path) -> None:
    plain, mirrored = (open_data(settings(world, mirrored=asked)) for asked in (False, True))
    assert isinstance(plain.train, Mosaics) and isinstance(mirrored.train, Mosaics)
    photos, both = plain.train.photos.pixels, mirrored.train.photos.pixels
    assert torch.equal(both[: len(photos)], photos) and torch.equal(both[len(photos) :], photos.flip(-1))
    assert torch.equal(mirrored.train.scenes, plain.train.scenes.repeat(2))
    drawn = torch.stack([mirrored.train.draw(n, 0).places for n in range(12)])
    assert int(drawn.max()) >= len(photos)
    assert mirrored.validation.fingerprint() == plain.validation.fingerprint()


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
)
def test_a_network_is_judged_on_them_wherever_it_is(world: Path, device: str) -> None:
    validation = open_data(settings(world)).validation.to(torch.device(device))
    network = classifier(names=tuple(SCENES), channels=3, scales=(8, 16)).to(device)
    figures = evaluate_sampled(network, validation, samples=2)
    assert figures.keys() > {"error_one_sample", "error_vote_2"} and all(map(math.isfinite, figures.values()))
    assert 0 <= look_again(network, validation, 2, nullcontext).leaving <= 1
    assert len(TASKS["image-classification"].look(network, validation, 3).subfigs) == 3


def test_too_few_photos_are_told(world: Path) -> None:
    with pytest.raises(UserError, match="10 bystanders, 2 of snow, 2 of beach, 2 of pool, 2 of rock; lower --photos"):
        open_data(settings(world, photos=4))
    with pytest.raises(UserError, match="--canvas is for megapixel scenes, and mosaic has mosaics"):
        open_data(settings(world, canvas=400))


def test_a_network_trains_on_them_and_its_frozen_parts_keep_no_gradient(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the captions extra is not installed")
    config = tiny_config("", network="efficientnet-lite0:3", patch=32, scales=(2,), policy="map", view=48, map_stride=8)
    config = type(config)(**(vars(config) | {"data": settings(world)}))
    network = trained(tmp_path / "run", config)
    learned = {name for name, each in network.named_parameters() if each.requires_grad}
    assert not any("blocks" in name or "stem" in name for name in learned)
    assert any(name.startswith("prediction.view_network.layers.2") for name in learned)
