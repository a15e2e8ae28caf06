"""The experiments' command line, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main
from experiments.pages import PAGE, RESULTS
from tests.refusals import refused as refused_by
from wsram.runs import Run

refused = partial(refused_by, command=main, name="experiments")
"""The one line that a mistaken command line ends with."""


def page(root: Path) -> str:
    """The page in an experiment's folder."""
    return (root / "results" / PAGE).read_text()


def made(root: Path) -> dict[str, Any]:
    """What the page is made from."""
    return json.loads((root / "results" / RESULTS).read_text())


def read(folder: Path, name: str) -> Any:
    """A JSON file of a run."""
    return json.loads((folder / f"{name}.json").read_text())


def stop_at(patch: pytest.MonkeyPatch, trial: str, step: int) -> None:
    """Let the process be asked to stop, as by Ctrl-C, once the run whose folder ends so has written that checkpoint."""
    save = Run.save_checkpoint

    def stopping(self: Run[Any], at: int, write: Any, *, best: bool = False) -> Path:
        path = save(self, at, write, best=best)
        if str(self.folder).endswith(trial) and at == step:
            patch.setattr(Run, "save_checkpoint", save)
            os.kill(os.getpid(), signal.SIGINT)
        return path

    patch.setattr(Run, "save_checkpoint", stopping)
