"""Megapixel MNIST: what lies where, what is asked, and that it is the same every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import write_digits
from wsram.data import open_data
from wsram.data.megapixel import QUESTIONS, TASKS, Megapixel, make_megapixel
from wsram.data.mnist import Digits, load_train
from wsram.data.scenes import uniform_hash
from wsram.errors import UserError
from wsram.image_settings import ImageData


def digits() -> Digits:
    """Forty digits whose every pixel is ten times the class, and at least 1."""
    labels = torch.arange(40) % 10
    return Digits((10 * labels + 1).to(torch.uint8).view(-1, 1, 1).expand(-1, 28, 28).contiguous(), labels)


def some(task: str = "megapixel-majority", **changes: object) -> Megapixel:
    settings: dict[str, object] = {"seed": 1, "canvas": 400, "noises": 6} | changes
    return make_megapixel(digits(), 12, task=task, **settings)  # type: ignore[arg-type]


def named(data: Megapixel) -> list[list[int]]:
    """The class of every digit of every image, read from the middle of the digit."""
    images = data.images().render()[:, 0]
    return [
        [round((float(image[row + 14, column + 14]) * 255 - 1) / 10) for row, column in corners.tolist()]
        for image, corners in zip(images, data.digits, strict=True)
    ]


def test_what_is_asked_is_answered_by_the_digits_that_are_there() -> None:
    for task in TASKS:
        data = some(task)
        for classes, corners, answer in zip(named(data), data.digits, data.answers, strict=True):
            if task == "megapixel-majority":
                assert classes.count(int(answer)) == 3
            elif task == "megapixel-max":
                assert max(classes) == int(answer)
            elif task == "megapixel-top":
                assert classes[int(corners[:, 0].argmin())] == int(answer)
            elif task == "megapixel-multi":
                assert set(classes) == set(answer.nonzero().flatten().tolist())
                assert data.spec.answer == "labels"


def test_all_questions_at_once_have_the_answers_of_each() -> None:
    whole = some("megapixel-all")
    present = [
        {name for name, there in zip(whole.spec.names, row, strict=True) if there} for row in whole.answers.tolist()
    ]
    assert whole.spec.answer == "labels" and len(whole.spec.names) == 40
    for question in QUESTIONS:
        alone = some(f"megapixel-{question}")
        for found, answer in zip(present, alone.answers, strict=True):
            digits_there = answer.nonzero().flatten().tolist() if question == "multi" else [int(answer)]
            assert {name for name in found if name.startswith(question)} == {f"{question} {n}" for n in digits_there}


def test_digits_do_not_overlap_and_scribbles_keep_off_the_edge() -> None:
    data = some(noises=30)
    apart = (data.digits.unsqueeze(1) - data.digits.unsqueeze(2)).abs().amax(-1)
    assert bool((apart[:, ~torch.eye(5, dtype=torch.bool)] >= 28).all())
    scribbles = data.corners[:, :30]  # below the digits, by default
    assert int(scribbles.min()) >= 28 and int(scribbles.max()) < 400 - 28


def test_the_order_says_what_covers_the_other() -> None:
    above, below = some(noises=400), some(noises=400, order="noise-last")
    assert torch.equal(above.digits, below.digits) and torch.equal(above.answers, below.answers)
    where = above.digits[0, 0].tolist()
    patches = [
        d.images(torch.tensor([0])).render()[0, 0, where[0] : where[0] + 28, where[1] : where[1] + 28]
        for d in (above, below)
    ]
    assert len(patches[0].unique()) == 1 < len(patches[1].unique())


def test_a_scribble_is_one_or_two_lines_of_bright_ink() -> None:
    data = some(noises=50)
    bank = data.bank[-50:]
    assert bank[bank > 0].min() >= 203 and bank.max() <= 255  # 0.8 of 255 and more
    ink = (bank > 0).sum((1, 2))
    assert int(ink.min()) >= 20 and int(ink.max()) <= 115


def test_the_draws_are_those_of_the_known_programs() -> None:
    """The first numbers of NumPy's generator seeded with 1, taken as the known programs take them."""
    data, labels = some(), digits().labels
    target = int(0.417022004702574 * 10)  # the first number of that generator
    assert int(data.answers[0]) == target and named(data)[0].count(target) == 3
    assert labels.tolist().count(target) == 4


def test_the_same_settings_make_the_same_images_and_others_do_not() -> None:
    assert some().fingerprint() == some().fingerprint()
    others = (some(seed=2), some(order="noise-last"), some("megapixel-max"), some(noises=7), some(canvas=401))
    assert len({some().fingerprint(), *(other.fingerprint() for other in others)}) == 6
    first, again = (some().batch(torch.tensor([3, 5]), epoch) for epoch in (0, None))
    assert torch.equal(first.images.view(20), again.images.view(20))  # type: ignore[union-attr]


@pytest.mark.parametrize("order", ["digits-last", "noise-last"])
def test_fresh_places_are_drawn_anew_for_every_epoch_and_answered_as_they_lie(order: str) -> None:
    still = some("megapixel-top", order=order, noises=30)
    data = replace(still, fresh=True, seed=7)
    index = torch.arange(len(data))
    uniform = uniform_hash(7, 2, index, data._draws)
    elsewhere = data.placed(uniform)
    assert torch.equal(elsewhere.images().view(20), data.batch(index, 2).images.view(20))  # type: ignore[union-attr]
    assert torch.equal(elsewhere.answers, data.batch(index, 2).answers)
    assert not torch.equal(elsewhere.digits, still.digits)
    assert torch.equal(elsewhere.named, still.named) and torch.equal(elsewhere.squares, still.squares)
    apart = (elsewhere.digits.unsqueeze(1) - elsewhere.digits.unsqueeze(2)).abs().amax(-1)
    assert bool((apart[:, ~torch.eye(5, dtype=torch.bool)] >= 28).all())
    scribbles = elsewhere.corners[:, :30] if order == "digits-last" else elsewhere.corners[:, 5:]
    assert int(scribbles.min()) >= 28 and int(scribbles.max()) < 400 - 28
    assert int(elsewhere.digits.min()) >= 0 and int(elsewhere.digits.max()) <= 400 - 28
    for row, corners, answer in zip(still.named, elsewhere.digits, elsewhere.answers, strict=True):
        assert int(row[corners[:, 0].argmin()]) == int(answer)
    if order == "digits-last":  # nothing covers the digits
        assert named(elsewhere) == still.named.tolist()
    batches = [data.batch(index, epoch).images.view(20) for epoch in (0, 1, None)]  # type: ignore[union-attr]
    assert not torch.equal(batches[0], batches[1])
    assert torch.equal(batches[2], still.images().view(20))  # as it is evaluated


def test_stretched_places_are_others_in_every_epoch_and_every_answer_stays() -> None:
    still = some("megapixel-all", noises=30)
    data = replace(still, elastic=0.5, seed=7)
    index = torch.arange(len(data))
    stretched = data.stretched(uniform_hash(8, 2, index, 11))
    assert torch.equal(stretched.images().view(20), data.batch(index, 2).images.view(20))  # type: ignore[union-attr]
    assert torch.equal(data.batch(index, 2).answers, still.answers)
    rows, before = stretched.corners[..., 0], still.corners[..., 0]
    above = before.unsqueeze(1) < before.unsqueeze(2)
    assert bool((rows.unsqueeze(1) <= rows.unsqueeze(2))[above].all())  # what lies above stays above, or level
    assert int(stretched.corners.min()) >= 0 and int(stretched.corners.max()) <= 400 - 28
    moved = (stretched.corners - still.corners).abs().float().mean((0, 1))
    assert 5 < moved[0] < 60 and moved[1] > 60  # rows a little, columns anywhere
    batches = [data.batch(index, epoch).images.view(20) for epoch in (0, 1, None)]  # type: ignore[union-attr]
    assert not torch.equal(batches[0], batches[1])
    assert torch.equal(batches[2], still.images().view(20))  # as it is evaluated


def test_places_that_are_neither_rolled_nor_stretched_stay() -> None:
    data = replace(some(), elastic=0.5)
    middle = torch.cat([torch.full((len(data), 10), 0.5), torch.zeros(len(data), 1)], 1)
    assert torch.equal(data.stretched(middle).corners, data.corners)


def test_a_stretch_as_long_as_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="from 0 to below 1"):
        ImageData(elastic=1.0)


def test_digits_that_find_no_place_stay() -> None:
    data = some()
    assert torch.equal(data.placed(torch.full((len(data), data._draws), 0.5)).digits, data.digits)


def test_opened_it_is_parted_into_training_validation_and_test_images(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits")
    settings = ImageData(str(folder), scene="megapixel-max", training_images=30, canvas=500, noises=5)
    splits = open_data(settings, 0)
    assert (len(splits.train), len(splits.validation)) == (27, 3)
    assert splits.train.spec.size == (500, 500) and splits.train.spec.answer == "class"
    fresh = open_data(replace(settings, fresh=True), 3)
    assert isinstance(fresh.train, Megapixel) and fresh.train.fresh and fresh.train.seed == 3
    assert isinstance(fresh.validation, Megapixel) and not fresh.validation.fresh
    elastic = open_data(replace(settings, elastic=0.5), 3)
    assert isinstance(elastic.train, Megapixel) and elastic.train.elastic == 0.5
    assert isinstance(elastic.validation, Megapixel) and not elastic.validation.elastic
    prints = [each.train.fingerprint() for each in (splits, fresh, elastic, open_data(settings, 3))]
    assert len(set(prints)) == 3 and prints[0] == prints[3]
    test = splits.open_test()
    assert isinstance(test, Megapixel) and len(test) == 1000
    whole = make_megapixel(load_train(str(folder)), 30, task="megapixel-max", seed=1, canvas=500, noises=5)
    assert isinstance(splits.validation, Megapixel)
    assert torch.equal(splits.validation.digits, whole.digits[27:])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"distortion": 0.5}, "--distortion is for scenes of one digit"),
        ({"clutter_blend": "add"}, "--clutter-blend is for scenes of one digit"),
        ({"validation": 30}, "validation images must be from 1 to 29"),
        ({"canvas": 100}, "canvas"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    folder = write_digits(tmp_path / "digits")
    settings: dict[str, object] = {"scene": "megapixel-top", "training_images": 30} | changes
    with pytest.raises(UserError, match=message):
        open_data(ImageData(str(folder), **settings), 0)  # type: ignore[arg-type]
