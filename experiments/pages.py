"""Pages of results: tables in Markdown, made from one JSON file that is small enough to keep in a repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsram.errors import UserError

RESULTS, PAGE = "results.json", "index.md"

Record = Mapping[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Example:
        >>> print(table(["method", "error"], [["VAR", "2.0"]]))
        | method | error |
        | --- | --- |
        | VAR | 2.0 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def difference(ours: float | None, published: float | None, digits: int = 2) -> str:
    """Ours minus theirs with its sign, or a dash where one is missing.

    Example:
        >>> difference(2.0, 1.62), difference(None, 1.62)
        ('+0.38', '—')
    """
    return "—" if ours is None or published is None else f"{ours - published:+.{digits}f}"


def origin(records: Sequence[Record]) -> str:
    """The line that stands beside a table: command, commit, machine, seeds, updates, samples and batch of its cells."""

    def every(value: Callable[[Record], Any], style: str = "{}") -> str:
        return ", ".join(style.format(one) for one in sorted({value(r) for r in records}))

    def made(key: str, style: str = "{}") -> str:
        return every(lambda r: r["provenance"][key], style)

    return (
        f"Made by {made('command', '`{}`')}; commit {made('commit')}; {made('machine')}; torch {made('torch')}; "
        f"seeds {every(lambda r: r['seed'])}; updates {every(lambda r: r['updates'], '{:,}')}; "
        f"samples {every(lambda r: r['samples'])}; batch {every(lambda r: r['batch'])}; "
        f"training seconds of a run {min(r['seconds'] for r in records):.0f} to "
        f"{max(r['seconds'] for r in records):.0f}."
    )


def of(records: Sequence[Record], group: str, name: str | None = None) -> list[Record]:
    """The cells of a group, or of one name in it, all seeds."""
    return [r for r in records if r["group"] == group and name in (None, r["name"])]


def updates_to_reach(curve: Mapping[str, Sequence[float]], figure: str, level: float) -> int | None:
    """The update of the first evaluation at which a figure, lower being better, is at or below a level; None if never.

    Example:
        >>> updates_to_reach({"step": [10, 20], "error": [0.5, 0.2]}, "error", 0.3)
        20
    """
    pairs = zip(curve["step"], curve[figure], strict=True)
    return next((int(step) for step, value in pairs if value is not None and value <= level), None)


def save(results: Path, made: Mapping[str, Any], page: Callable[[Mapping[str, Any], Path], str]) -> Path:
    """Write the small file and the page that is made from it; `UserError` if the folder cannot be written.

    Args:
        results: folder of both, made if it is not there.
        made: everything the page is made from.
        page: makes the page's text, and its figures in the folder it is given.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        # One cell to a line: small, and a change of one is a change of one line.
        head = {key: value for key, value in made.items() if key != "cells"}
        cells = ",\n".join(json.dumps(cell) for cell in made["cells"])
        (results / RESULTS).write_text(f'{json.dumps(head)[:-1]}, "cells": [\n{cells}\n]}}\n')
        (results / PAGE).write_text(page(load(results), results))
    except OSError as error:
        raise UserError(f"cannot write {results} ({error.strerror}); choose another folder with --results") from error
    return results / PAGE


def load(results: Path) -> dict[str, Any]:
    """The small file of a folder of results; `UserError` if it is missing or is none."""
    path = results / RESULTS
    try:
        made = json.loads(path.read_text())
        if not {"experiment", "budget", "cells"} <= made.keys():
            raise ValueError("expected experiment, budget and cells")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"cannot read results from {path} ({error}); run the experiment without --from-files"
        ) from error
    return dict(made)
