"""Works timed in turn, again and again: a slow moment of the machine touches all, and least their ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

Works = Mapping[str, Callable[[], object]]
"""What is timed, in this order; one may leave behind what the next one needs."""
Times = Mapping[str, np.ndarray[Any, Any]]
"""Milliseconds of each work, (rounds, repeats); the same repeat of two works was timed one after the other."""
DRAWS = 1000
"""Of the bootstrap."""
SIDE, LENGTH = 512, 1 << 22
"""Of the yardstick: matrices whose product is formed, and float32 numbers that are copied."""


class Interval(NamedTuple):
    """A median and where it lies with 95%."""

    median: float
    low: float
    high: float

    def apart(self, other: Interval) -> bool:
        """Whether the two have no value in common."""
        return self.low > other.high or other.low > self.high


def yardstick(device: torch.device) -> Callable[[], object]:
    """A work that stands for the machine: a matrix product, bound by arithmetic, and a copy, bound by memory."""
    square = torch.rand(2, SIDE, SIDE, device=device)
    near, far = torch.rand(2, LENGTH, device=device)

    def work() -> None:
        _ = square[0] @ square[1]
        far.copy_(near)

    return work


def passes(works: Works, repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each work in each repeat, all of them done in turn within a repeat.

    Of one thread they are the processor's, which does not count what else it does in between.
    """
    own = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if own else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            wait(device)
            began = clock()
            work()
            wait(device)
            taken[name].append(1e3 * (clock() - began))
    return taken


def interval(values: np.ndarray[Any, Any], seed: int = 0) -> Interval:
    """The median of values (rounds, repeats), and its 95% interval by a bootstrap of rounds, and of repeats in each.

    Rounds lie minutes apart, so what drifts slowly is in the interval.

    Example:
        >>> interval(np.array([[1.0, 2.0, 3.0]] * 4)).median
        2.0
    """
    rounds, repeats = values.shape
    generator = np.random.default_rng(seed)
    chosen = generator.integers(rounds, size=(DRAWS, rounds, 1))
    within = generator.integers(repeats, size=(DRAWS, rounds, repeats))
    medians = np.median(values[chosen, within].reshape(DRAWS, -1), 1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return Interval(float(np.median(values)), float(low), float(high))


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
