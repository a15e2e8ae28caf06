"""Released networks are what their cards say: `python -m tests.verify [MNIST]` measures each anew, minutes a network.

Every figure of an evaluation that was kept must come out the same to the last digit that a table prints.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.released_figures import FOLDERS, ROOT
from wsram.cards import EVALUATIONS
from wsram.evaluate import evaluate, open_trained
from wsram.terminal import Screen

CLOSE = 5e-5
"""Half of the last digit that is printed, of an error in percent."""


def differing(folder: Path, source: str) -> list[str]:
    """Figures of a released network that are not those that were kept."""
    found = []
    for part, file in EVALUATIONS.items():
        if not (folder / file).exists():
            continue
        kept = json.loads((folder / file).read_text(encoding="utf-8"))
        measured = evaluate(open_trained(folder, source=source), Screen(), test=part == "test")
        found += [
            f"{folder.name}, {part}, {name}: kept {value}, measured {measured.get(name)}"
            for name, value in kept.items()
            if isinstance(value, float) and name != "training_seconds" and abs(value - measured[name]) > CLOSE
        ]
    return found


if __name__ == "__main__":
    digits = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("WSRAM_DATA", str(ROOT.parent / "shared/data/mnist"))
    odd = [line for folder in FOLDERS for line in differing(folder, digits)]
    print("\n".join(odd) or "Every figure is as it was kept.")
    sys.exit(bool(odd))
