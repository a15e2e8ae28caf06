"""What looking at an image costs by itself: time, and multiply-adds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode


def cost(calls: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of calls that are alike, the median; and million multiply-adds of the first one."""
    with torch.inference_mode():
        taken = [_seconds(call) for call in calls]
        with FlopCounterMode(display=False) as counter:
            calls[0]()
    return {"milliseconds": 1000 * median(taken), "multiply_adds": counter.get_total_flops() / 2e6}


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
