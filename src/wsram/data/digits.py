"""Digits in scenes as a data set: each at a place and size of its own, new in every epoch, fixed for evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wsram.data.dataset import Batch, Spec, Splits
from wsram.data.mnist import Digits, load_digits, load_test
from wsram.data.scenes import SceneSpec, evaluation_scenes, make_scenes, scene_spec, uniform_hash
from wsram.image_settings import ImageData

SCENE = "translated-scaled"
"""What digits are placed in by default."""
EMPTY_STREAM = 0xE3A17
"""Sets the choice of empty scenes apart from what places digits."""


@dataclass(frozen=True)
class SceneDigits:
    """Digits placed in scenes; see `wsram.data.dataset.Dataset`.

    digits: what is placed.
    scene: where.
    title: of the set.
    seed: of the placements of training.
    distortion: of training digits; see `wsram.data.distortion.distort`.
    empty: share of training scenes without a digit, whose answer is the eleventh class, none.
    """

    digits: Digits
    scene: SceneSpec
    title: str
    seed: int = 0
    distortion: float = 0.0
    empty: float = 0.0

    @property
    def spec(self) -> Spec:
        """Ten classes on grey squares, and one for no digit if there are such scenes."""
        names = (*"0123456789", *(("none",) if self.empty else ()))
        return Spec(1, "class", names, (self.scene.canvas, self.scene.canvas))

    def __len__(self) -> int:
        """How many digits there are."""
        return len(self.digits)

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """Scenes (batch, 1, canvas, canvas) in [0, 1] and digits (batch,) int64."""
        index = index.to(self.digits.labels.device)
        labels = self.digits.labels[index]
        if epoch is None:
            return Batch(evaluation_scenes(self.digits.images, index, self.scene).images, labels)
        scenes = make_scenes(
            self.digits.images, index, self.scene, seed=self.seed, epoch=epoch, distortion=self.distortion
        )
        if not self.empty:
            return Batch(scenes.images, labels)
        bare = uniform_hash(self.seed ^ EMPTY_STREAM, epoch, index, 1)[:, 0] < self.empty
        return Batch(scenes.images * ~bare.view(-1, 1, 1, 1), labels.masked_fill(bare, 10))

    def to(self, device: torch.device) -> SceneDigits:
        """The same on another device."""
        return replace(self, digits=Digits(self.digits.images.to(device), self.digits.labels.to(device)))

    def fingerprint(self) -> str:
        """Of the digits, in their order, and the scene."""
        whole = hashlib.sha256(repr((self.scene, tuple(self.digits.images.shape))).encode())
        if self.scene.blend != "max":  # which is what hashes of before mean without saying it
            whole.update(self.scene.blend.encode())
        for part in (self.digits.images, self.digits.labels):
            whole.update(part.cpu().numpy().tobytes())
        return whole.hexdigest()[:16]


def open_digits(data: ImageData, seed: int) -> Splits:
    """The digits that these settings name, in their scenes; `UserError` if they cannot be had."""
    scene = scene_spec(data.scene or SCENE, data.clutter_blend)
    train, held_out = load_digits(data.source, validation=data.validation, download=data.download)
    return Splits(
        SceneDigits(train, scene, "training digits, placed anew in every epoch", seed, data.distortion, data.empty),
        SceneDigits(held_out, scene, "validation digits, one fixed scene each", empty=data.empty),
        lambda: SceneDigits(
            load_test(data.source, download=data.download), scene, "test digits, one fixed scene each", empty=data.empty
        ),
    )
