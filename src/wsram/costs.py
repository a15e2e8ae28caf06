"""What training will want of memory, found out from one example before anything is made."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from wsram.config import Config, changed
from wsram.data import Batch, Dataset, Spec
from wsram.errors import UserError
from wsram.models.pretrained import Network, sketched
from wsram.runtime import autocast, require_memory
from wsram.tasks import TASKS, Update

ADAM = 4
"""Numbers that training keeps for each weight: itself, its gradient and two moments."""
OBJECT = 512
"""Bytes that a tensor takes beside its numbers, with the step of the backward pass that needs it."""


def require_room_for_network(config: Config, spec: Spec, device: torch.device) -> None:
    """`UserError` unless a network of these settings, as training keeps it, can be in the device's memory."""
    try:
        sketch = sketched(lambda: TASKS[config.task].build(config, spec))
    except (RuntimeError, TypeError, OverflowError) as error:  # by which torch says that a number is no size
        reason = str(error).splitlines()[0]
        raise UserError(f"a network of these sizes is more than any memory holds ({reason}); ask for less") from error
    numbers = sum(parameter.numel() for parameter in sketch.parameters())
    require_memory(ADAM * 4 * numbers, device, f"training a network of {numbers:,} weights")


def require_room_for_update(config: Config, network: Network, examples: Dataset, processes: int = 1) -> None:
    """`UserError` unless what an update keeps for its backward pass can be in the memory of the network's device."""
    batch = -(-min(config.schedule.batch, len(examples)) // processes)
    samples, glimpses = config.estimator.samples, getattr(config.model, "glimpses", 1)
    what = f"an update of {batch:,} examples with {samples:,} samples"
    what += f" of {glimpses:,} glimpses" if hasattr(config.model, "glimpses") else ""
    # What is kept grows evenly with samples and glimpses, so a few of them say what many take.
    few, more = min(samples, 2), min(samples, 3)
    example = _first(examples)
    begun = one, tensors = _kept(config, network, example, few, 1)
    if samples > few:
        one += (samples - few) * (_kept(config, network, example, more, 1)[0] - one)
    if glimpses > 1:
        further = _kept(config, network, example, few, 2)
        one += samples * (glimpses - 1) * (further[0] - begun[0]) // few
        tensors += (glimpses - 1) * (further[1] - begun[1])
    require_memory(batch * one + OBJECT * tensors, next(network.parameters()).device, what)


def _first(examples: Dataset) -> Batch:
    """The first example that can be had."""
    for number in range(len(examples) - 1):
        with suppress(UserError):
            return examples.batch(torch.tensor([number]), 0)
    return examples.batch(torch.tensor([len(examples) - 1]), 0)


def _kept(config: Config, network: Network, example: Batch, samples: int, glimpses: int) -> tuple[int, int]:
    """Bytes of the tensors, apart from the network's own, that a rollout at an example keeps; how many."""
    looking = {"glimpses": glimpses, "glimpse_growth": 0.0} if hasattr(config.model, "glimpses") else {}
    tried: Any = changed(config, samples=samples, **looking)
    device = next(network.parameters()).device
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # which keeps the memory, and leads in no circle

    update = Update(0, 0, torch.Generator(device).manual_seed(0))
    with saved_tensors_hooks(keep, lambda tensor: tensor), autocast(tried.schedule.precision, device)():
        rollout = TASKS[tried.task].rollout(tried, network, example, update)
    del rollout  # whose graph held them until here
    return sum(kept.values()), len(kept)
