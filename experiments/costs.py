"""What looking at an image costs by itself: time, and multiply-adds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from wsram.data import Dataset


def cost(calls: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of calls that are alike, the median; and million multiply-adds of the first one."""
    with torch.inference_mode():
        taken = [_seconds(call) for call in calls]
        with FlopCounterMode(display=False) as counter:
            calls[0]()
    return {"milliseconds": 1000 * median(taken), "multiply_adds": counter.get_total_flops() / 2e6}


def cost_of_images(answer: Callable[[Any], object], dataset: Dataset, most: int) -> dict[str, float]:
    """The same of answers about a data set's first images, each by itself, and so many at most."""
    return cost([partial(answer, dataset.batch(torch.tensor([n])).images) for n in range(min(most, len(dataset)))])


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
