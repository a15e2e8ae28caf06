"""How training ends before its end, and what is else when it goes on: signals, lost processes, another machine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from wsram.errors import UserError
from wsram.runs import Run


class Interrupted(Exception):
    """A signal asked training to stop; everything until then is kept.

    number: of the signal.
    command: what a person types to go on.
    """

    def __init__(self, number: int, command: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; everything is kept: go on with `{command}`")
        self.number, self.command = number, command


@contextmanager
def signals() -> Iterator[list[int]]:
    """Within it, signals that ask for an end are put on a list for training to heed; a second one ends it at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(asked: list[int], accelerator: Accelerator) -> int:
    """The signal that any of the processes was asked to stop by; 0 for none. All get the same answer."""
    mine = asked[0] if asked else 0
    if accelerator.num_processes == 1:
        return mine
    return int(accelerator.gather(torch.tensor([mine], device=accelerator.device)).max())


def require_finite(run: Run[Any], step: int, network: nn.Module, *figures: Tensor) -> None:
    """`UserError` if anything in figures or in the network is not finite after `step` updates; it says what is kept."""
    # The last update can ruin a network whose loss was still sound before it: look at what it left, too.
    if all(bool(each.isfinite().all()) for each in (*figures, *network.parameters())):
        return
    kept = f"the last good checkpoint is {run.latest_checkpoint()}" if run.checkpoints() else "no checkpoint yet"
    raise UserError(
        f"the loss or its gradient is no longer finite by update {step}; {kept}; try a lower --learning-rate or --clip"
    )


def of_others(error: RuntimeError) -> bool:
    """Whether an error says that other processes cannot be reached any more."""
    said = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(word in said for word in ("gloo", "nccl", "peer"))


def moved(then: Any, now: dict[str, Any]) -> tuple[str, ...]:
    """A line on what is not as it was before a run was stopped, and on what comes of it; none if nothing is."""
    then = then if isinstance(then, dict) else now
    odd = [f"{name} {then.get(name)} → {value}" for name, value in now.items() if then.get(name) != value]
    if not odd:
        return ()
    more = ", and what each process draws for itself is drawn," if then.get("processes") != now["processes"] else ""
    said = f"goes on where something else is so ({', '.join(odd)})"
    return (f"{said}: sums are rounded{more} otherwise than without the stop",)
