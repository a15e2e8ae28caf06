"""What looking at an image costs by itself: time, multiply-adds, and memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from wsram.data import Dataset
from wsram.runtime import Autocast


def cost(calls: Sequence[Callable[[], object]], context: Autocast = nullcontext) -> dict[str, float]:
    """Milliseconds of calls that are alike, the median; and million multiply-adds of the first one.

    Args:
        calls: what is called, once each and the first one twice.
        context: the precision to compute in.
    """
    with torch.inference_mode(), context():
        taken = [_seconds(call) for call in calls]
        with FlopCounterMode(display=False) as counter:
            calls[0]()
    return {"milliseconds": 1000 * median(taken), "multiply_adds": counter.get_total_flops() / 2e6}


def cost_of_images(
    answer: Callable[[Any], object], dataset: Dataset, most: int, context: Autocast = nullcontext
) -> dict[str, float]:
    """The same of answers about a data set's first images, each by itself, and so many at most."""
    images = [dataset.batch(torch.tensor([n])).images for n in range(min(most, len(dataset)))]
    return cost([partial(answer, each) for each in images], context)


def most_memory(call: Callable[[], object], context: Autocast = nullcontext) -> float:
    """MiB that a call takes at the most beyond what the process held before it, measured in a copy of the process."""
    processes = multiprocessing.get_context("fork")
    ours, theirs = processes.Pipe()

    def measure() -> None:
        torch.set_num_threads(1)
        before = held()
        with torch.inference_mode(), context():
            call()
        theirs.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20)

    with suppress(OSError, AttributeError):  # of the GNU C library: what was freed is not to be taken for new
        ctypes.CDLL(None).malloc_trim(0)
    process = processes.Process(target=measure)
    process.start()
    theirs.close()
    found = float(ours.recv())
    process.join()
    return max(found, 0.0)


def held() -> int:
    """Bytes that this process holds."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
