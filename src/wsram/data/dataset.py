"""Examples by number: what every data set is to the rest of the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from wsram.glimpse.patchwork import Patchwork
from wsram.glimpse.pyramid import Images


@dataclass(frozen=True)
class Spec:
    """What the examples are, as far as a network must know.

    channels: of the images, or features of a cell.
    answer: the kind of answer, one of `wsram.models.heads.HEADS`, or "words".
    names: of the classes or labels, or the vocabulary.
    size: (height, width) of a typical image in pixels, where images are seen through glimpses.
    unit: mean and standard deviation of answers that are numbers.
    longest: pixels on the longer side that images were shrunk to.
    """

    channels: int
    answer: str
    names: tuple[str, ...]
    size: tuple[int, int] | None = None
    unit: tuple[float, float] = (0.0, 1.0)
    longest: int | None = None


@dataclass(frozen=True)
class Batch:
    """Some examples.

    images: what a network looks at.
    answers: (batch, ...) what it is asked for, as the head takes it.
    there: (batch,) int64, which of the examples that were asked for these are; None if all of them.
    lost: of each other one, why it cannot be had; in training alone.
    """

    images: Images | Patchwork
    answers: Tensor
    there: Tensor | None = None
    lost: tuple[str, ...] = ()


@runtime_checkable
class Dataset(Protocol):
    """Examples by number."""

    @property
    def spec(self) -> Spec:
        """What the examples are."""

    @property
    def title(self) -> str:
        """What they are called where figures are shown."""

    def __len__(self) -> int:
        """How many examples there are."""

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """Examples numbered `index` (batch,), int64, a pure function of the seed, epoch and index.

        Without an epoch they are as they are evaluated: the same for every run and every seed.
        """

    def to(self, device: torch.device) -> Dataset:
        """The same examples, whose batches are made on that device."""

    def fingerprint(self) -> str:
        """A short hash of the examples, by which a figure says what it was measured on."""


@dataclass(frozen=True)
class Splits:
    """A data set's parts.

    train: what a network learns from.
    validation: what is held out of that for choices.
    open_test: opens the test examples, for a final figure alone; `UserError` if there are none.
    notes: what was wrong with the data, a line each.
    """

    train: Dataset
    validation: Dataset
    open_test: Callable[[], Dataset]
    notes: tuple[str, ...] = ()
