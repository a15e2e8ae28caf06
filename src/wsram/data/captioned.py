"""Captioned images as a data set: one example for each time somebody described an image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from wsram.config import CaptionData
from wsram.data.captions import SPLITS, CaptionSet, load_captions, shared_images
from wsram.data.dataset import Batch, Spec, Splits
from wsram.data.features import Features, ImageBackbone, cache_key, extract_features, image_set, open_features
from wsram.data.vocabulary import Vocabulary
from wsram.errors import UserError
from wsram.terminal import Screen

CPU = torch.device("cpu")


@dataclass(frozen=True)
class CaptionDataset:
    """Captions as numbers, with the features of their images; see `wsram.data.dataset.Dataset`.

    features: of all images of all splits.
    vocabulary: the words.
    images: the split's images with their captions.
    rows: (captions,) int64, each one's image as a row of the features.
    tokens: (captions, T) int64: words, END, PAD.
    lengths: (captions,) int64, END counted.
    title: of the split.
    longest: in training captions are cut to so many words.
    device: where batches are made.
    """

    features: Features
    vocabulary: Vocabulary
    images: CaptionSet
    rows: Tensor
    tokens: Tensor
    lengths: Tensor
    title: str
    longest: int
    device: torch.device = CPU

    @property
    def spec(self) -> Spec:
        """Cells of so many channels, and words."""
        return Spec(self.features.array.shape[-1], "words", self.vocabulary.words)

    def __len__(self) -> int:
        """How many captions there are."""
        return len(self.rows)

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """Features (batch, cells, channels) and tokens (batch, T), cut to the longest of them that training reads."""
        index = index.cpu()
        width = int(self.lengths[index].max())
        if epoch is not None:
            width = min(width, self.longest)
        return Batch(self.features.take(self.rows[index]).to(self.device), self.tokens[index, :width].to(self.device))

    def views(self, index: Sequence[int]) -> Tensor:
        """Features (batch, cells, channels) of the images so numbered."""
        rows = self.features.index([self.images.images[n].path for n in index])
        return self.features.take(rows).to(self.device)

    def to(self, device: torch.device) -> CaptionDataset:
        """The same with batches on another device."""
        return replace(self, device=device)

    def with_words(self, words: Sequence[str]) -> CaptionDataset:
        """The same captions in the words of a network that learned from others."""
        other = _encoded(self.images, self.features, Vocabulary(tuple(words)), self.title, self.longest)
        return other.to(self.device)

    def fingerprint(self) -> str:
        """Of the images and what people said of them."""
        whole = hashlib.sha256(self.features.key.images.encode())
        for image in self.images.images:
            whole.update("\n".join((image.path.name, *image.captions)).encode())
        return whole.hexdigest()[:16]


def load_splits(data: CaptionData) -> dict[str, CaptionSet]:
    """All three splits; `UserError` if the settings name no captions or they cannot be read."""
    if not data.source:
        raise UserError("expected captions to work with, got none; name Flickr8k's folder or one of Karpathy's JSONs")
    return {split: load_captions(Path(data.source).expanduser(), split, data.images) for split in SPLITS}


def features_folder(data: CaptionData, splits: dict[str, CaptionSet]) -> tuple[Path, list[Path]]:
    """Where the features of these images are kept, and the images."""
    paths = [image.path for part in splits.values() for image in part.images]
    default = Path("features", f"{data.backbone}-{data.grid}-{image_set(paths)[:8]}".replace(":", "-"))
    return (data.features or default), paths


def make_features(data: CaptionData, backbone: ImageBackbone, screen: Screen) -> Features:
    """Extract the features of all images, once; a cache that is there already is opened."""
    folder, paths = features_folder(data, load_splits(data))
    return extract_features(folder, paths, backbone, screen)


def notes_of(splits: dict[str, CaptionSet]) -> tuple[str, ...]:
    """What was wrong with the data, a line each."""
    return tuple(dict.fromkeys(flaw for part in splits.values() for flaw in part.flaws)) + shared_images(splits)


def open_captions(data: CaptionData) -> Splits:
    """The captions that these settings name, whose features must have been extracted; `UserError` if they are not."""
    splits = load_splits(data)
    folder, paths = features_folder(data, splits)
    features = open_features(folder, cache_key(data.backbone, data.grid, paths))
    captions = [caption for image in splits["train"].images for caption in image.captions]
    vocabulary = Vocabulary.build(captions, data.min_count)

    def part(name: str, title: str) -> CaptionDataset:
        return _encoded(splits[name], features, vocabulary, title, data.longest)

    return Splits(
        part("train", "training captions"),
        part("dev", "validation captions"),
        lambda: part("test", "test captions"),
        notes_of(splits),
    )


def _encoded(
    images: CaptionSet, features: Features, vocabulary: Vocabulary, title: str, longest: int
) -> CaptionDataset:
    each = [(image.path, caption) for image in images.images for caption in image.captions]
    tokens, lengths = vocabulary.encode([caption for _, caption in each])
    rows = features.index([path for path, _ in each])
    return CaptionDataset(features, vocabulary, images, rows, tokens, lengths, title, longest)
