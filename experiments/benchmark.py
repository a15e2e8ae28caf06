"""Speed as a record: everything timed in turn, beside what one would use instead, kept as one file for each commit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmark_page import draw, table
from experiments.benchmark_works import KINDS, Group
from experiments.interleaved import Interval, Times, Works, interval, passes, yardstick
from experiments.pages import keep
from wsram.errors import UserError, require_at_least
from wsram.evaluate import make_folder
from wsram.provenance import provenance
from wsram.runtime import best_device, best_precision, keep_freed_memory
from wsram.terminal import Screen
from wsram.viewing import save

FOLDER = Path("docs/results/benchmark")
"""Of the records, COMMIT.json, and their picture."""
YARDSTICK = "yardstick"
"""The work that is timed in every repeat of all others; see `experiments.interleaved.yardstick`."""
MOST = 20
"""Repeats of a round, at most."""
ON_ONE = ("training",)
"""Kinds that are timed on one thread alone."""


def benchmark(
    screen: Screen,
    folder: Path,
    *,
    only: Sequence[str] = tuple(KINDS),
    threads: Sequence[int] = (1, 2),
    bf16: bool = False,
    rounds: int = 6,
    seconds: float = 0.6,
) -> dict[str, Any]:
    """Time everything, say it as a table, and keep the record and the picture of it.

    Each group of works is timed in turn within each repeat, beside a yardstick of the machine, and all groups are gone
    through again in every round. The caller's random numbers and threads are left as they were.

    Args:
        screen: where it is said.
        folder: of COMMIT.json and benchmark.png.
        only: kinds of works, keys of `KINDS`.
        threads: numbers of threads; more than the machine has are left out.
        bf16: time bfloat16 also where it is emulated.
        rounds: times that everything is gone through.
        seconds: for a group in a round; each work is timed once in any case.

    Returns:
        "points", the milliseconds of each work and how many times the yardstick's they are, and "ratios", both as
        (median, low, high) with a bootstrap's 95% interval; what was left out and why; and what made it.

    Raises:
        UserError: fewer than 2 rounds or 1 thread, an unknown kind, or a folder that cannot be written.
    """
    require_at_least(2, rounds=rounds)  # one says nothing of how they differ
    require_at_least(1, threads=min(threads, default=0))
    if not only or not set(only) <= KINDS.keys():
        raise UserError(f"expected kinds among {', '.join(KINDS)}, got {', '.join(only) or 'none'}")
    make_folder(folder, "--folder")
    device, skipped = best_device(), {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if too_many := [n for n in threads if n > cores]:
        skipped[f"{', '.join(map(str, too_many))} threads"] = f"this process has {cores} cores"
    precisions = ["no"]
    if bf16 or best_precision(device) == "bf16":
        precisions.append("bf16")
    else:
        skipped["bf16"] = "this processor emulates it"
    began = datetime.now(UTC)
    points, ratios = [], []
    fitting = [n for n in threads if n <= cores]
    for setting, group, times in _timed(screen, only, fitting, precisions, rounds, seconds, device):
        works = {name: values for name, values in times.items() if name not in (*group.hidden, YARDSTICK)}
        for name, values in works.items():
            over = _rounded(interval(values / times[YARDSTICK]))
            figures = {"ms": _rounded(interval(values)), "yardsticks": over, "times": values.size}
            points.append({"group": group.name, "work": name, **setting, **figures})
        for name, ratio in group.ratios.items():
            value = _rounded(interval(ratio.factor * times[ratio.over] / times[ratio.under]))
            ratios.append({"group": group.name, "ratio": name, **setting, "value": value})
    record: dict[str, Any] = {
        "provenance": provenance(),
        "date": began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - began).total_seconds()),
        "rounds": rounds,
        "skipped": skipped,
        "points": points,
        "ratios": ratios,
    }
    screen.show(table(record))
    for what, why in skipped.items():
        screen.say(f"Left out: {what}, since {why}")
    keep(folder / f"{record['provenance']['commit']}.json", record, screen)
    screen.say(f"Picture: {save(draw(record), folder / 'benchmark.png', replace=True)}")
    return record


def _timed(
    screen: Screen,
    only: Sequence[str],
    threads: Sequence[int],
    precisions: Sequence[str],
    rounds: int,
    seconds: float,
    device: torch.device,
) -> Iterator[tuple[dict[str, Any], Group, Times]]:
    """Every group under every setting, with the times of its works, of their sums and of the yardstick."""
    keep_freed_memory()
    found: list[tuple[dict[str, Any], Group, Works, int]] = []
    taken: list[dict[str, list[float]]] = []
    with torch.random.fork_rng(), _threads():
        measure = yardstick(device)
        for kind, precision, make in [(k, p, m) for k in only for p in precisions for m in KINDS[k]]:
            group = make(precision, device)
            works: Works = {YARDSTICK: measure, **group.works}
            for n in threads[:1] if kind in ON_ONE else threads:
                torch.set_num_threads(n)
                passes(works, 1, device)  # warms caches and kernels up
                once = sum(times[0] for times in passes(works, 1, device).values())
                repeats = max(1, min(MOST, int(1000 * seconds / once)))
                found.append(({"threads": n, "precision": precision}, group, works, repeats))
        for number in range(rounds):
            screen.say(f"Round {number + 1} of {rounds}")
            for setting, _, works, repeats in found:
                torch.set_num_threads(setting["threads"])
                taken.append(passes(works, repeats, device))
    for at, (setting, group, works, _) in enumerate(found):
        each = taken[at :: len(found)]
        times = {name: np.array([one[name] for one in each]) for name in works}
        sums = {name: np.sum([times[part] for part in parts], 0) for name, parts in group.sums.items()}
        yield setting, group, times | sums


@contextmanager
def _threads() -> Iterator[None]:
    """Within it, torch's threads may be set."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rounded(values: Interval) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
