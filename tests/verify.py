"""Released networks are what their cards say: `python -m tests.verify [MNIST]` measures each anew, minutes a network.

Every figure of an evaluation that was kept must come out the same to the last digit that a table prints. Captions need
`$WSRAM_FLICKR8K` and, in `$WSRAM_FEATURES`, what `wsram features` made of it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.released_figures import FOLDERS, ROOT
from wsram.cards import EVALUATIONS
from wsram.errors import UserError
from wsram.evaluate import evaluate, open_trained
from wsram.terminal import Screen

CLOSE = 5e-5
"""Half of the last digit that is printed, of an error in percent."""
DATA = ROOT.parent / "shared" / "data"


def numbers(record: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every real number in a record, by the names that lead to it; those of a curve follow from the others."""
    if isinstance(record, float) and name != "training_seconds":
        yield name, record
    elif isinstance(record, dict):
        for key in record.keys() - {"risk_coverage"}:
            yield from numbers(record[key], f"{name} {key}".strip())
    elif isinstance(record, list):
        for number, value in enumerate(record):
            yield from numbers(value, f"{name} {number}")


def differing(folder: Path, source: str) -> list[str]:
    """Figures of a released network that are not those that were kept, or why they could not be measured."""
    found = []
    captions = json.loads((folder / "training.json").read_text(encoding="utf-8"))["task"] == "image-to-text"
    for part, file in EVALUATIONS.items():
        if not (folder / file).exists():
            continue
        kept = json.loads((folder / file).read_text(encoding="utf-8"))
        try:
            trained = open_trained(
                folder,
                source=os.environ.get("WSRAM_FLICKR8K", str(DATA / "flickr8k")) if captions else source,
                features=Path(os.environ.get("WSRAM_FEATURES", "features")) if captions else None,
            )
        except UserError as error:
            found.append(f"{folder.name}, {part}: not measured, {error}")
            continue
        measured = dict(numbers(evaluate(trained, Screen(), test=part == "test")))
        for name, value in numbers(kept):
            close = 0.05 if "bleu" in name else CLOSE  # of a score in percent one digit is printed
            if not abs(value - measured.get(name, float("nan"))) <= close:
                found.append(f"{folder.name}, {part}, {name}: kept {value}, measured {measured.get(name)}")
    return found


if __name__ == "__main__":
    digits = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("WSRAM_DATA", str(DATA / "mnist"))
    odd = 0
    for folder in FOLDERS:
        found = differing(folder, digits)
        odd += len(found)
        print("\n".join(found) or f"{folder.name}: every figure is as it was kept", flush=True)
    sys.exit(bool(odd))
