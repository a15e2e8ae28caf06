"""The readers of bytes on inputs that coverage chooses: `python -m tests.guided -max_total_time=300`, by atheris.

It is a tool of its own (`pip install atheris`; it has no wheels for every Python), and finds what hypothesis' damaged
files do not come near. Whatever is read must be read, or refused by a `UserError` of one line.
"""

from __future__ import annotations

import contextlib
import gzip
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["wsram"]):
    from wsram.data.captions import load_captions
    from wsram.data.listing import read_table
    from wsram.data.mnist import read_idx
    from wsram.errors import UserError
    from wsram.settings import from_json
    from wsram.strict_json import loads

from tests.test_fuzz import ARRAY, CSV, JSONL, KARPATHY, idx

READERS: tuple[tuple[str, Callable[[Path], object]], ...] = (
    ("digits-idx3-ubyte", read_idx),
    ("digits-idx3-ubyte.gz", read_idx),
    ("table.csv", read_table),
    ("table.jsonl", read_table),
    ("captions.json", lambda path: load_captions(path, "train")),
    ("training.json", lambda path: from_json(path.read_text(encoding="utf-8", errors="replace"), path)),
)


def try_all(folder: Path, content: bytes) -> None:
    """Every reader on the same bytes."""
    for name, read in READERS:
        path = folder / name
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            assert "\n" not in str(error)
    with contextlib.suppress(ValueError):
        loads(content.decode("utf-8", "replace"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        seeds = Path(place) / "seeds"
        seeds.mkdir()
        for number, content in enumerate((idx(ARRAY), gzip.compress(idx(ARRAY)), CSV, JSONL, KARPATHY)):
            (seeds / str(number)).write_bytes(content)
        atheris.Setup([*sys.argv, str(seeds)], partial(try_all, Path(place)))
        atheris.Fuzz()
