"""What every task is to the rest of the program: an entry of one dict, without a state of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from wsram.config import EstimatorConfig
from wsram.data import Batch, Dataset, Spec, Splits
from wsram.estimators import ESTIMATORS
from wsram.models.rollout import Rollout
from wsram.runtime import Autocast
from wsram.tables import Panel, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Update:
    """One process' share of an update.

    step: its number, from 0.
    epoch: how often all examples were seen before.
    generator: for everything drawn; one that knows of the other processes, if there are any.
    """

    step: int
    epoch: int
    generator: torch.Generator


def centred(settings: EstimatorConfig) -> bool:
    """Whether the estimator has a use for the policy's mean log-probability under what proposes."""
    return settings.proposal == "inference" and settings.control_variates and ESTIMATORS[settings.name].centred


@dataclass(frozen=True)
class Options:
    """How a network is measured; what does not fit a task is refused by it.

    samples: sequences that vote, or that a likelihood is estimated from; by default the task's.
    beam: captions kept for each image while they grow; by default the task's.
    """

    samples: int | None = None
    beam: int | None = None


Tell = Callable[[str, int, int], None]
"""Is told what is being done before training, and how much of how much is."""


@runtime_checkable
class Task(Protocol):
    """Everything that training, evaluation and pages have to know of what is trained; `config` is of the task's kind.

    name: as the Hugging Face Hub names it.
    watched: the figure of `validate` that says how good the network is; lower is better.
    """

    name: str
    watched: str

    def open(self, config: Any) -> Splits:
        """The examples; `UserError` if they cannot be had."""

    def choose(self, config: Any, splits: Splits) -> tuple[Any, tuple[str, ...]]:
        """The settings with every choice made that was left to the data, and what was chosen, a line each."""

    def fitting(self, network: Any, dataset: Dataset) -> Dataset:
        """The examples as this network answers; `UserError` if it was made for others."""

    def build(self, config: Any, spec: Spec) -> Any:
        """The network, freshly initialised from torch's global generator; `UserError` if it does not fit the data."""

    def begin(self, config: Any, network: Any, examples: Dataset, tell: Tell) -> tuple[str, ...]:
        """Fill a new run's network with what it is to begin from, and say what that was, a line each."""

    def rollout(self, config: Any, model: nn.Module, batch: Batch, update: Update) -> Rollout[Any, Any]:
        """Sampled action sequences for examples; `model` is what `build` made, perhaps wrapped."""

    def additions(self, config: Any, rollout: Rollout[Any, Any], fade: float) -> Tensor | float:
        """What is added to the estimator's loss, nats: exploration terms, times `fade`, and what else is taught."""

    def measures(self, rollout: Rollout[Any, Any]) -> dict[str, Tensor]:
        """What else to watch at every update: scalars, or vectors of shares; detached."""

    def validate(self, config: Any, network: Any, dataset: Dataset, step: int, autocast: Autocast) -> dict[str, float]:
        """Figures on validation examples after update `step` of training."""

    def troubles(
        self, config: Any, network: Any, dataset: Dataset, row: Mapping[str, Any], autocast: Autocast
    ) -> dict[str, str]:
        """What goes wrong in a known way at the evaluation that made `row` of metrics.jsonl: lines, by name."""

    def evaluate(self, network: Any, dataset: Dataset, options: Options, autocast: Autocast) -> dict[str, Any]:
        """All figures of a trained network on examples."""

    def calibrate(self, network: Any, dataset: Dataset, autocast: Autocast) -> list[float] | None:
        """What validation examples say of how sure the network may be, as its `calibrate` takes it."""

    def parameter_groups(self, network: Any) -> dict[str, list[nn.Parameter]]:
        """The network's parameters by what they do, the groups that gradients are compared in."""

    def about(self, config: Any) -> str:
        """What a run was trained on, in a few words."""

    def table(self, records: Mapping[str, Mapping[str, Any]]) -> Table:
        """What `evaluate` found, by the name of the set."""

    def headline(self, record: Mapping[str, Any]) -> str:
        """The one figure of `evaluate` that stands for all."""

    def merits(self, answer: str, record: Mapping[str, Any]) -> dict[str, float]:
        """Figures of `evaluate` for a kind of answer, by the names that the Hugging Face Hub has for metrics."""

    def panels(self, config: Any, network: Any, metrics: Sequence[Mapping[str, Any]]) -> list[Panel]:
        """The network's training as curves, from the rows of metrics.jsonl."""

    def look(self, network: Any, dataset: Dataset, count: int) -> Figure | None:
        """Where a network looks at the first examples, or nothing if that takes more than they hold."""
