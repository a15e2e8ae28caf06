"""How long and how fast a run learns: its rate, the order of its examples, and as many updates as fit a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from wsram.config import ScheduleConfig
from wsram.errors import UserError

WARM = 3
"""Updates before time is taken: the first ones ask for memory and choose how to compute."""
TIMED = 24
"""Updates that are timed, spread over the whole run, since later ones may take more glimpses."""


def fade(schedule: ScheduleConfig, step: int) -> float:
    """A cosine from 1 at update 0 to 0 at the end of training."""
    return 0.5 * (1 + math.cos(math.pi * step / schedule.updates))


def learning_rate(schedule: ScheduleConfig, step: int) -> float:
    """Adam's rate at update `step` (from 0): a linear rise over the warm-up, then a cosine to 0 at the last update."""
    return schedule.learning_rate * min(1.0, (step + 1) / max(1, schedule.peak)) * fade(schedule, step)


def batches(schedule: ScheduleConfig, count: int, start: int) -> Iterator[tuple[int, int, Tensor]]:
    """(step, epoch, index (batch,)) from update `start` on: each epoch a new order, what is left over dropped."""
    batch = min(schedule.batch, count)
    per_epoch = count // batch
    order, order_of = torch.empty(0), -1
    for step in range(start, schedule.updates):
        epoch, position = divmod(step, per_epoch)
        if epoch != order_of:
            generator = torch.Generator().manual_seed((schedule.seed * 1_000_003 + epoch) % 2**63)
            order, order_of = torch.randperm(count, generator=generator), epoch
        yield step, epoch, order[position * batch : (position + 1) * batch]


def paced(
    schedule: ScheduleConfig,
    minutes: float,
    update: Callable[[int], object],
    evaluate: Callable[[], object],
    agree: Callable[[float], float],
) -> tuple[ScheduleConfig, str]:
    """The schedule with the updates that fit into `minutes`, evaluations included, and why.

    It is looked at as often as before in all. Only the number depends on the machine: a run with that many `updates`
    is the same run.

    Args:
        schedule: whose updates are spread over the run as those of the new one will be.
        minutes: of training.
        update: makes the update of that number, and leaves the network as it was.
        evaluate: looks at the validation examples once.
        agree: what all processes take a number of seconds to be.

    Raises:
        UserError: not even ten updates fit.
    """
    looks = math.ceil(schedule.updates / schedule.evaluate_every)
    for step in range(min(WARM, schedule.updates)):
        update(step)
    of_update = agree(_seconds(lambda: [update(n * schedule.updates // TIMED) for n in range(TIMED)]) / TIMED)
    of_look = agree(_seconds(evaluate))
    updates = int((60 * minutes - looks * of_look) / of_update)
    if updates < 10:
        raise UserError(
            f"{minutes:g} minutes are too short: an update takes {of_update:.2g} s here and a look at the validation "
            f"examples {of_look:.2g} s, {looks} times; give it more --minutes, or a smaller --batch"
        )
    why = f"updates {updates:,}: so many fit into {minutes:g} minutes, at {1000 * of_update:.0f} ms each"
    return replace(schedule, minutes=None, updates=updates, evaluate_every=math.ceil(updates / looks)), why


def _seconds(work: Callable[[], object]) -> float:
    """Until all of it is done, what an accelerator was given included; what that had before is waited for first."""
    _wait()
    began = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
