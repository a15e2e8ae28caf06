"""Random numbers for a batch of examples that several processes share: each takes those of its own examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class SharedGenerator(torch.Generator):
    """A generator that is the same on every process, for batches whose example n is process n modulo `processes`'s.

    By `drawn` it gives what one process with the whole batch would draw; otherwise, the same on every process.

    Args:
        seed: the same on every process, from 0.
        device: where numbers are wanted.
        process: this one's number, from 0.
        processes: how many share a batch, each an equal part of it.
    """

    process: int
    processes: int

    def __new__(cls, seed: int, device: torch.device, process: int, processes: int) -> SharedGenerator:
        """One that is seeded already."""
        generator = super().__new__(cls, device)  # type: ignore[call-arg]  # as torch's own stub has it
        generator.manual_seed(seed)
        generator.process, generator.processes = process, processes
        return generator


def drawn(fill: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Random numbers (..., batch, n) for the examples of this process.

    Args:
        fill: `torch.rand`, `torch.randn` or what is called as they are.
        shape: (..., batch, n).
        generator: of this process, or one that several share.
        like: says the device and the type.
    """
    kind: dict[str, Any] = {"generator": generator, "device": like.device, "dtype": like.dtype}
    if not isinstance(generator, SharedGenerator):
        return fill(shape, **kind)
    *lead, batch, n = shape
    return fill((*lead, batch * generator.processes, n), **kind)[..., generator.process :: generator.processes, :]


def exponential(shape: Sequence[int], *, generator: torch.Generator, **kind: Any) -> Tensor:
    """Numbers of the exponential distribution of rate 1, as `torch.rand` gives those of the uniform one."""
    return torch.empty(tuple(shape), **kind).exponential_(generator=generator)


def own_stream(generator: torch.Generator) -> torch.Generator:
    """A generator of this process alone, where how many numbers are drawn depends on its examples."""
    if not isinstance(generator, SharedGenerator):
        return generator
    return torch.Generator(generator.device).manual_seed(generator.initial_seed() + generator.process)
