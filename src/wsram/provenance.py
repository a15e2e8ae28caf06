"""Where a number comes from: the command, commit, machine and versions that made it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from wsram import __version__


def provenance() -> dict[str, Any]:
    """What has to stand beside a published number, of this process and this moment.

    Returns:
        "command", as typed; "commit" of the source tree, with "+changes" if the package differs from it, or the
        version where there is no tree; "machine", "python" and "torch".
    """
    return {
        "command": " ".join(["wsram", *sys.argv[1:]]),
        "commit": _commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def machine() -> str:
    """The processor, how many threads torch uses of it, and the accelerator if there is one."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {torch.get_num_threads()} threads{accelerator}"


def _commit() -> str:
    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"
