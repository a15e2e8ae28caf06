"""What commands print: `python docs/hooks/outputs.py` runs them and keeps it in docs/outputs.json, which pages show.

They run in an empty folder beside `examples/seven.png`, on the processor, a minute or two in all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path

from wsram import cli

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "docs" / "outputs.json"
FIRST = ["wsram predict seven.png", "wsram look seven.png --to seven.gif", "wsram explain seven.png --label 7"]
COMMANDS = {
    "first": FIRST,
    "models": ["wsram models"],
    "predict": ["wsram predict seven.png", "wsram predict seven.png --samples 16", "wsram predict seven.png --json"],
    "look": ["wsram look seven.png --label 7"],
    "explain": ["wsram explain seven.png --label 7 --picture evidence.png"],
    "train": ["wsram train mnist5k --recipe demo --updates 20 --validation 200 --run runs/first"],
    "evaluate": ["wsram evaluate runs/first"],
    "release": ["wsram release runs/first --to digits"],
}
"""Command lines by the command whose section shows them; later ones find what former ones made."""


def said(command: str) -> str:
    """What a command prints, on a terminal wide enough."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(shlex.split(command)[1:])
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def main() -> None:
    """Run every command, and keep what they said."""
    os.environ["COLUMNS"] = "100"
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        shutil.copyfile(ROOT / "examples" / "seven.png", "seven.png")
        kept = {name: [[line, said(line)] for line in lines] for name, lines in COMMANDS.items()}
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
