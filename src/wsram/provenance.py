"""Where a number comes from: the command, commit, machine and versions that made it."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

from wsram import __version__

_command: ContextVar[str | None] = ContextVar("command", default=None)


@contextmanager
def commanded(program: str, words: Sequence[str]) -> Iterator[None]:
    """Within it, what is made was asked for by this command line."""
    token = _command.set(shlex.join([*program.split(), *words]))
    try:
        yield
    finally:
        _command.reset(token)


def provenance() -> dict[str, Any]:
    """What has to stand beside a published number, of this process and this moment.

    Returns:
        "command", quoted for a shell, or that a program called; "commit" of the source tree, with "+changes" if the
        package differs from it, or the version where there is no tree; "machine", "python" and "torch".
    """
    import torch

    return {
        "command": _command.get() or "called from a program",
        "commit": _commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def machine() -> str:
    """The processor, how many threads torch uses of it, and the accelerator if there is one."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        model = names[0] if names else model
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {torch.get_num_threads()} threads{accelerator}"


def _commit() -> str:
    """The commit this package is of, never that of a repository in which it merely lies."""

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # fails where this very file is not the repository's
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        pass
    try:
        origin = json.loads(metadata.distribution("wsram").read_text("direct_url.json") or "{}")
        return str(origin["vcs_info"]["commit_id"])[:12]
    except (metadata.PackageNotFoundError, ValueError, KeyError):
        return f"unknown (version {__version__})"
