"""Every class as often in training, however many examples it has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wsram.data.dataset import Batch, Dataset, Spec


@dataclass(frozen=True)
class Balanced:
    """A data set whose rare classes are shown again until they are as many as the largest.

    base: the examples.
    numbers: (count,) int64, the base's examples in the order they are shown.
    """

    base: Dataset
    numbers: Tensor

    @property
    def spec(self) -> Spec:
        """The base's."""
        return self.base.spec

    @property
    def title(self) -> str:
        """The base's."""
        return self.base.title

    def __len__(self) -> int:
        """How many examples there are, each class as many as the largest."""
        return len(self.numbers)

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """The base's examples."""
        return self.base.batch(self.numbers.to(index.device)[index], epoch)

    def to(self, device: torch.device) -> Balanced:
        """The same on another device."""
        return replace(self, base=self.base.to(device))

    def fingerprint(self) -> str:
        """The base's."""
        return self.base.fingerprint()


def balanced(base: Dataset, classes: Tensor) -> Balanced:
    """The data set with every class as often.

    Args:
        base: the examples.
        classes: (examples,) int64.
    """
    members = [(classes == each).nonzero().squeeze(-1) for each in classes.unique()]
    most = max(len(numbers) for numbers in members)
    return Balanced(base, torch.cat([numbers[torch.arange(most) % len(numbers)] for numbers in members]))
