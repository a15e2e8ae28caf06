"""What the training loop trains: for each kind of settings its examples, its networks, and what is measured of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from wsram.config import CaptionConfig, TrainConfig
from wsram.evaluation import Autocast
from wsram.rollout import Rollout


@dataclass(frozen=True)
class Update:
    """One process' share of an update.

    step: its number, from 0.
    epoch: how often all examples were seen before.
    index: (batch,) int64, the examples, on the device.
    generator: for everything drawn.
    """

    step: int
    epoch: int
    index: Tensor
    generator: torch.Generator


@runtime_checkable
class Task(Protocol):
    """Everything that the loop has to know of what it trains.

    examples: how many there are to train on.
    watched: the figure of `evaluate` that says how good the network is; lower is better.
    """

    examples: int
    watched: str

    def build(self) -> nn.Module:
        """The networks, freshly initialised from torch's global generator; `UserError` if they do not fit the data."""
        ...

    def files(self) -> dict[str, str]:
        """What a run's folder needs beside its settings, text by name."""
        ...

    def rollout(self, model: nn.Module, update: Update) -> Rollout[Any, Any]:
        """Sampled action sequences for the update's examples; `model` is what `build` made, perhaps wrapped."""
        ...

    def exploration(self, rollout: Rollout[Any, Any]) -> Tensor | float:
        """Exploration terms to be added to the loss, at full weight; nats."""
        ...

    def measures(self, rollout: Rollout[Any, Any]) -> dict[str, Tensor]:
        """What else to watch at every update: scalars, or vectors of shares; detached."""
        ...

    def evaluate(self, network: nn.Module, step: int, autocast: Autocast) -> dict[str, float]:
        """Figures on held-out examples after update `step`."""
        ...

    def parameter_groups(self, network: nn.Module) -> dict[str, list[nn.Parameter]]:
        """The network's parameters by what they do, the groups that gradients are compared in."""
        ...


def build_task(config: Any, device: torch.device) -> Task:
    """The task that these settings describe, its examples on the device.

    Raises:
        UserError: data that cannot be had.
    """
    from wsram.tasks.captions import CaptionTask  # here, since these modules import this one
    from wsram.tasks.digits import DigitTask

    kinds: dict[type, Callable[[Any, torch.device], Task]] = {TrainConfig: DigitTask, CaptionConfig: CaptionTask}
    return kinds[type(config)](config, device)
