"""Processes of their own that start at once: each is forked from one that has imported everything, and nothing more."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = ("wsram.cli", "wsram.training", "wsram.evaluate", "tensorboard.compat.proto", "tests.tiny")


def start(target: Callable[..., object], *args: Any, said: Path, **environment: str) -> BaseProcess:
    """Call a function of a module in a process of its own, as a stranger would: without checked annotations.

    Args:
        target: ends the process by returning, or by SystemExit.
        args: its arguments.
        said: file that gets standard output and error.
        environment: variables of that process.
    """
    # For the server that is started with the first of them.
    os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    process = multiprocessing.get_context("forkserver").Process(target=_call, args=(target, args, said, environment))
    process.start()
    return process


def _call(target: Callable[..., object], args: tuple[Any, ...], said: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    code = 1
    try:
        target(*args)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
