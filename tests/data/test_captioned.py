"""Captioned images as a data set: an example for each caption, with its image's features, in the network's words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.refusals import refusal
from wsram.config import CaptionData
from wsram.data import Dataset, Splits, open_data
from wsram.data.vocabulary import END, PAD, SPECIALS, UNKNOWN

pytest.importorskip("PIL", reason="images need the captions extra")

from tests.caption_world import COLOURS, COUNTS, backbone
from wsram.data.captioned import CaptionDataset, features_folder, load_splits, make_features
from wsram.terminal import Screen


@pytest.fixture(scope="module")
def data(world: Path, features: Path) -> CaptionData:
    return CaptionData(str(world), features=features, min_count=2)


@pytest.fixture(scope="module")
def splits(data: CaptionData) -> Splits:
    return open_data(data)


@pytest.fixture(scope="module")
def train(splits: Splits) -> CaptionDataset:
    assert isinstance(splits.train, CaptionDataset)
    return splits.train


# Batches


def test_there_is_an_example_for_every_caption(splits: Splits, train: CaptionDataset) -> None:
    parts = {"train": splits.train, "dev": splits.validation, "test": splits.open_test()}
    assert {name: len(part) for name, part in parts.items()} == {name: 2 * count for name, count in COUNTS.items()}
    assert len({part.title for part in parts.values()}) == len({part.fingerprint() for part in parts.values()}) == 3
    for part in parts.values():
        assert isinstance(part, Dataset) and part.spec == train.spec
    assert train.spec.answer == "words" and train.spec.channels == 3
    assert train.spec.names == (*SPECIALS, "a", "square", "here", "is", *sorted(COLOURS))


def test_a_caption_comes_with_the_features_of_its_own_image(train: CaptionDataset) -> None:
    index = torch.tensor([5, 0, 90, 3])
    batch = train.batch(index)
    assert batch.images.shape == (4, 49, 3) and batch.images.dtype == torch.float32
    for n, cells, tokens in zip(index.tolist(), batch.images, batch.answers, strict=True):
        said = train.vocabulary.decode(tokens)
        assert said == (f"here is a {colour_of(n)} square" if n % 2 else f"a {colour_of(n)} square")
        brightest = tuple(round(255 * float(value)) for value in cells.amax(0))
        assert brightest == COLOURS[colour_of(n)]


def colour_of(caption: int) -> str:
    """Of the image with the training caption so numbered: two captions each, colours in turn."""
    return list(COLOURS)[caption // 2 % 4]


def test_tokens_are_as_wide_as_the_batchs_longest_caption(train: CaptionDataset) -> None:
    assert train.batch(torch.tensor([0, 2])).answers.shape == (2, 4)
    tokens = train.batch(torch.tensor([0, 1])).answers
    assert tokens.shape == (2, 6)
    assert tokens[0, 3:].tolist() == [END, PAD, PAD] and int(tokens[1, 5]) == END


def test_captions_are_cut_in_training_alone(train: CaptionDataset) -> None:
    short, index = replace(train, longest=3), torch.tensor([0, 1])
    whole = train.batch(index).answers
    assert torch.equal(short.batch(index, 0).answers, whole[:, :3])
    assert torch.equal(short.batch(index).answers, whole)
    assert torch.equal(train.batch(index, 0).answers, whole)


def test_a_batch_is_a_function_of_its_index_alone(data: CaptionData, train: CaptionDataset) -> None:
    index, other = torch.randperm(len(train), generator=torch.Generator().manual_seed(1)), open_data(data, seed=9).train
    state = torch.get_rng_state()
    whole = train.batch(index, 0)
    for epoch in (0, 7, None):
        batch = other.batch(index[:10], epoch)
        assert torch.equal(batch.images, whole.images[:10])
        width = batch.answers.shape[1]
        assert torch.equal(batch.answers, whole.answers[:10, :width]) and not bool(whole.answers[:10, width:].any())
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_seen_by_their_own_numbers(train: CaptionDataset) -> None:
    views = train.views([3, 0])
    assert torch.equal(views, train.batch(torch.tensor([6, 0])).images)


# Devices and names


def test_its_batches_are_made_where_it_was_sent(train: CaptionDataset) -> None:
    sent = train.to(torch.device("meta"))  # a device that every machine has
    batch = sent.batch(torch.arange(3))
    assert batch.images.device.type == batch.answers.device.type == sent.views([0]).device.type == "meta"
    assert sent.with_words(train.vocabulary.words).batch(torch.arange(3)).answers.device.type == "meta"
    assert train.batch(torch.arange(3)).images.device.type == "cpu"
    assert sent.fingerprint() == train.fingerprint()


def test_other_words_say_the_same_captions(train: CaptionDataset) -> None:
    other = train.with_words((*SPECIALS, "square", "red", "a"))
    assert other.spec.names[4:] == ("square", "red", "a") and other.title == train.title
    index = torch.tensor([0, 2])
    batch = other.batch(index)
    assert batch.answers.tolist() == [[6, 5, 4, END], [6, UNKNOWN, 4, END]]  # a red square, a green square
    assert torch.equal(batch.images, train.batch(index).images)
    assert other.fingerprint() == train.fingerprint()  # which is of what people said, whatever a network knows of it


def test_a_fingerprint_tells_images_and_captions_apart(train: CaptionDataset) -> None:
    first, *rest = train.images.images
    changes: dict[str, Any] = {
        "a caption": replace(train.images, images=(replace(first, captions=("A dog",)), *rest)),
        "captions put together": replace(
            train.images, images=(replace(first, captions=(" ".join(first.captions),)), *rest)
        ),
        "their order": replace(train.images, images=(*rest, first)),
        "one fewer": replace(train.images, images=tuple(rest)),
        "a name": replace(train.images, images=(replace(first, path=Path("other.png")), *rest)),
    }
    found = {replace(train, images=images).fingerprint() for images in changes.values()}
    key = replace(train.features.key, images="0" * 16)  # other pixels
    found.add(replace(train, features=replace(train.features, key=key)).fingerprint())
    assert len(found | {train.fingerprint()}) == len(changes) + 2
    moved = tuple(replace(image, path=Path("elsewhere", image.path.name)) for image in train.images.images)
    assert replace(train, images=replace(train.images, images=moved)).fingerprint() == train.fingerprint()


# Opening


def test_what_is_wrong_with_the_data_is_told_once(splits: Splits) -> None:
    told = "1 image(s) named by 1 caption line(s) of Flickr8k.token.txt do not exist: absent.png"
    assert splits.notes[0] == told and len(set(splits.notes)) == len(splits.notes)
    assert any(note.startswith("identical images in different splits: ") for note in splits.notes)


def test_words_are_those_of_the_training_captions_alone(data: CaptionData, train: CaptionDataset) -> None:
    assert open_data(replace(data, min_count=12)).train.spec.names == train.spec.names
    few = open_data(replace(data, min_count=48)).train.spec.names
    assert few == (*SPECIALS, "a", "square", "here", "is")  # each colour is there 24 times


def test_features_that_were_never_extracted_are_refused(data: CaptionData, tmp_path: Path) -> None:
    refusal(lambda: open_data(replace(data, features=tmp_path / "absent")), tmp_path / "absent", "extract the features")
    refusal(lambda: open_data(replace(data, backbone="efficientnet-lite0")), data.features, "efficientnet-lite0")
    refusal(lambda: open_data(replace(data, source="")), "Flickr8k", "Karpathy")
    refusal(lambda: open_data(replace(data, source=str(tmp_path / "absent"))), tmp_path / "absent")


def test_features_go_into_a_folder_that_their_backbone_and_images_name(
    data: CaptionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unnamed = replace(data, features=None)
    folder, paths = features_folder(unnamed, load_splits(unnamed))
    assert len(paths) == sum(COUNTS.values())
    assert folder.parent == Path("features") and folder.name.startswith("efficientnet-lite2-7-")
    made = make_features(unnamed, backbone(), Screen(quiet=True))
    assert (tmp_path / folder / "features.npy").is_file() and len(made.array) == len(paths)
    assert torch.equal(
        open_data(unnamed).train.batch(torch.arange(4)).images, open_data(data).train.batch(torch.arange(4)).images
    )
    other, _ = features_folder(replace(unnamed, backbone="timm:vgg16:-2", grid=14), load_splits(unnamed))
    assert other.name == folder.name.replace("efficientnet-lite2-7", "timm-vgg16--2-14")
    assert features_folder(data, load_splits(data))[0] == data.features
