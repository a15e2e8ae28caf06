"""What looking is made of: what a network remembers between glimpses, how an action is chosen, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from wsram.glimpse.actions import Action
from wsram.glimpse.policies import Cells, Policy, stacked

Choose = Callable[[Policy, Tensor, Tensor], Action]
"""Given the policy, its raw outputs and r2 before a glimpse, the action to take; all (batch) or (samples, batch)."""
Resample = Callable[[Tensor], Tensor]
"""Given the head's outputs (samples, batch, outputs) after a glimpse, the sequence (samples, batch) int64 that each one
goes on from."""


class Looked(NamedTuple):
    """What came of looking: distributions over the answers, and the actions and policies of every glimpse.

    outputs_after: (..., batch, glimpses, outputs) the head's distribution over answers, were glimpse n the last: for
        classes, log p(y | a_1..n, I) of each.
    action: location (..., batch, glimpses, 2), scale (..., batch, glimpses).
    policies: the distribution p(a_n | a_1..n-1, I) of each glimpse, in order; none where its mode alone was asked for.
    """

    outputs_after: Tensor
    action: Action
    policies: Sequence[Policy]

    @property
    def outputs(self) -> Tensor:
        """(..., batch, outputs) the head's distribution after the last glimpse."""
        return self.outputs_after[..., -1, :]

    @property
    def policy(self) -> Policy:
        """All of `policies` as one, batched (..., batch, glimpses)."""
        return stacked(self.policies, self.outputs_after.shape[:-2])


class Stopped(NamedTuple):
    """What came of looking until an answer was good enough; after that, the last of each is repeated.

    outputs_after: (batch, glimpses, outputs) see `Looked`; as many glimpses as the longest look took.
    action: location (batch, glimpses, 2), scale (batch, glimpses).
    taken: (batch,) int64, glimpses that were taken of each image.
    """

    outputs_after: Tensor
    action: Action
    taken: Tensor


class Memory(NamedTuple):
    """The states of both recurrent layers, the lower's () zero before the first glimpse; and a map's cells."""

    upper: Tensor
    lower: Tensor
    cells: Cells | None = None

    def heirs(self, ancestors: Tensor) -> Memory:
        """Of the sequences (samples, batch) that each one goes on from."""

        def of(state: Tensor) -> Tensor:
            return state.gather(0, ancestors.unsqueeze(-1).expand(*ancestors.shape, state.shape[-1]))

        cells = self.cells
        if cells is not None and cells.visited is not None:
            cells = replace(cells, visited=of(cells.visited))
        return Memory(of(self.upper), of(self.lower), cells)

    def select(self, index: Tensor) -> Memory:
        """Of the images numbered `index`."""
        cells = None if self.cells is None else self.cells.select(index)
        return Memory(self.upper[index], self.lower[index], cells)
