"""`kill -9` at random: `python -m tests.torture [KILLS [PROCESSES]]`, of one process and of two that train together.

A run is killed at a moment drawn evenly over the time that a whole one trains, resumed and killed again until it comes
to its end, and compared with one that was never stopped: weights, optimizer and metrics must be equal to the last bit.
Of two processes one is killed, whichever is drawn, and the other must end within a minute.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.processes import start
from tests.tiny import flags, same_run, tiny_config, write_digits
from wsram.cli import main

PATIENCE = 60.0
"""Seconds that a process may outlive the one it trains with."""


def begin(words: list[str], count: int, said: Path) -> list[BaseProcess]:
    """Start so many processes that train together, as a launcher would."""
    if count == 1:
        return [start(main, words, said=said)]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = dict(WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    return [
        start(main, words, said=said.with_name(f"{said.name}-{n}"), RANK=str(n), LOCAL_RANK=str(n), **shared)
        for n in range(count)
    ]


def end(processes: list[BaseProcess], within: float) -> bool:
    """Wait for all to end, and say whether they did; none is left behind."""
    until = time.monotonic() + within
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
        process.join()
    return not alive


def torture(folder: Path, kills: int, processes: int = 1, updates: int = 100, seed: int = 0) -> int:
    """Kill until there were so many kills; how many runs came to their end, each like the one that was not killed.

    Raises:
        AssertionError: one did not, or a process outlived the other.
    """
    draw = random.Random(seed)
    config = tiny_config(write_digits(folder / "digits"), updates=updates, evaluate_every=updates // 20)
    said, whole = folder / "said", folder / "whole"
    assert end([start(len, (), said=said)], 3600)  # what all others are forked from has imported everything
    began = time.time()
    together = begin(["train", *flags(config), "--run", str(whole)], processes, said)
    assert end(together, 3600) and all(process.exitcode == 0 for process in together), said
    # Until the last update: what comes after is pictures.
    took, done, runs = (whole / "metrics.jsonl").stat().st_mtime - began, 0, 0
    while done < kills or not runs:
        parts = folder / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        while True:
            begun = (parts / "training.json").exists()
            words = ["train", "--resume", str(parts)] if begun else ["train", *flags(config), "--run", str(parts)]
            together = begin(words, processes, said)
            if done < kills:
                together[0].join(draw.uniform(0, took))
            victim = draw.choice(together)
            if done < kills and victim.is_alive() and victim.pid is not None:
                os.kill(victim.pid, signal.SIGKILL)
                done += 1
                victim.join()
                assert end(together, PATIENCE), f"a process outlived the one that was killed; it said {said}"
                continue
            assert end(together, 3600) and all(process.exitcode == 0 for process in together), said
            break
        assert same_run(whole, parts), parts
        runs += 1
        print(f"{done} of {kills} kills, {runs} runs that ended equal; a whole one trains for {took:.0f} s", flush=True)
    return runs


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    for count in map(int, sys.argv[2:] or (1, 2)):
        place = Path(tempfile.mkdtemp(prefix="torture-"))
        print(
            f"{count} process(es): {wanted} kills, {torture(place, wanted, count)} runs equal to the last bit",
            flush=True,
        )
        shutil.rmtree(place)
