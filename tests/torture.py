"""`kill -9` at random: `python -m tests.torture`, of one process and of two that train together.

A run is killed at a moment drawn evenly over the time that a whole one trains, one time in five while it still starts,
resumed and killed again until it comes to its end, and compared with one that was never stopped: weights, optimizer and
metrics must be equal to the last bit. Of two processes one is killed, whichever is drawn, and the other must end within
a minute.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

from tests.processes import start
from tests.tiny import flags, same_run, tiny_config, write_digits
from wsram.cli import main

PATIENCE = 60.0
"""Seconds that a process may outlive the one it trains with."""
STARTING = 0.2
"""Share of kills whose moment is counted from the start, which for several processes takes longer than training."""


def without_pictures(words: list[str]) -> None:
    """The command without what it measures and draws at its end, which takes longer than training."""
    with mock.patch("wsram.evaluate.conclude"):
        main(words)


def begin(words: list[str], count: int, said: Path) -> list[BaseProcess]:
    """Start so many processes that train together, as a launcher would."""
    if count == 1:
        return [start(without_pictures, words, said=said)]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = dict(WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    return [
        start(
            without_pictures, words, said=said.with_name(f"{said.name}-{n}"), RANK=str(n), LOCAL_RANK=str(n), **shared
        )
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


def await_training(processes: list[BaseProcess], said: Path) -> None:
    """Wait until they train, which one of them says, or one has ended."""
    while all(process.is_alive() for process in processes) and not trains(said):
        time.sleep(0.02)


def trains(said: Path) -> bool:
    """Whether a run has begun or gone on, which is said once all of its processes have met."""
    return any(path.stat().st_size for path in said.parent.glob(f"{said.name}*"))


def torture(folder: Path, kills: int, processes: int = 1, updates: int = 40, seed: int = 0) -> int:
    """Kill until there were so many kills; how many runs came to their end, each like the one that was not killed.

    Raises:
        AssertionError: one did not, or a process outlived the other.
    """
    draw = random.Random(seed)
    config = tiny_config(write_digits(folder / "digits"), updates=updates, evaluate_every=updates // 20)
    said, whole = folder / "said", folder / "whole"
    assert end([start(len, (), said=said)], 3600)  # what all others are forked from has imported everything
    together = begin(["train", *flags(config), "--run", str(whole)], processes, said)
    await_training(together, said)
    began = time.monotonic()
    assert end(together, 3600) and all(process.exitcode == 0 for process in together), said
    took, done, runs, training = time.monotonic() - began, 0, 0, 0
    while done < kills or not runs:
        parts = folder / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        while True:
            begun = (parts / "training.json").exists()
            words = ["train", "--resume", str(parts)] if begun else ["train", *flags(config), "--run", str(parts)]
            for old in said.parent.glob(f"{said.name}*"):
                old.unlink()
            together = begin(words, processes, said)
            if done < kills:
                if draw.random() >= STARTING:
                    await_training(together, said)
                together[0].join(draw.uniform(0, took))
            victim = draw.choice(together)
            if done < kills and victim.is_alive() and victim.pid is not None:
                os.kill(victim.pid, signal.SIGKILL)
                done += 1
                victim.join()
                # Before they have met torch waits half an hour for the other, whom a launcher would end at once.
                met = trains(said)
                assert end(together, PATIENCE if met else 0.0) or not met, f"one outlived the other, see {said}-*"
                training += met
                if done % 10 == 0:
                    print(f"{done} of {kills} kills, {training} in training", flush=True)
                continue
            assert end(together, 3600) and all(process.exitcode == 0 for process in together), said
            break
        assert same_run(whole, parts), parts
        runs += 1
        print(f"{done} of {kills} kills, {runs} runs that ended equal; a whole one trains for {took:.0f} s", flush=True)
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill trainings at random moments, resume them, compare the ends.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    for count in asked.processes:
        place = Path(tempfile.mkdtemp(prefix="torture-"))
        runs = torture(place, asked.kills, count, seed=asked.seed)
        print(f"{count} process(es): {asked.kills} kills, {runs} runs equal to the last bit", flush=True)
        shutil.rmtree(place)
