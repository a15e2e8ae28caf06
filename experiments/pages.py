"""Pages of results: text and figures made from one JSON file that is small enough to keep in a repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from wsram import evaluate
from wsram.cards import without_machine
from wsram.errors import UserError
from wsram.runs import read_json, write_whole
from wsram.tables import Panel, Table
from wsram.terminal import Screen

RESULTS, PAGE = "results.json", "index.md"

Record = Mapping[str, Any]
R = TypeVar("R", bound=Record)


def keep(path: Path, record: Record, screen: Screen, panels: Sequence[Panel] = ()) -> None:
    """As `wsram.evaluate.keep`, with no path of this machine in it."""
    evaluate.keep(path, without_machine(record), screen, panels)


def require_writable(to: Path | None) -> None:
    """`UserError`, before minutes are spent, if figures are to be kept in a file that cannot be."""
    if to is not None:
        evaluate.require_file(to)


def shown(found: R, table: Table, screen: Screen, to: Path | None, panels: Sequence[Panel] = ()) -> R:
    """Figures, once their table was shown and, if asked for, they were kept in a file, with a picture beside."""
    screen.show(table)
    if to is not None:
        keep(to, found, screen, panels)
    return found


def difference(ours: float | None, published: float | None, digits: int = 2) -> str:
    """Ours minus theirs with its sign, or a dash where one is missing.

    Example:
        >>> difference(2.0, 1.62), difference(None, 1.62)
        ('+0.38', '—')
    """
    return "—" if ours is None or published is None else f"{ours - published:+.{digits}f}"


def origin(records: Sequence[Record]) -> str:
    """The line that stands beside a table: command, commit, machine, precision, seeds and budget of its trials."""

    def every(value: Callable[[Record], Any], style: str = "{}") -> str:
        return ", ".join(style.format(one) for one in sorted({value(r) for r in records}))

    def made(key: str, style: str = "{}") -> str:
        return every(lambda r: r["provenance"][key], style)

    return (
        f"Made by {made('command', '`{}`')}; commit {made('commit')}; {made('machine')}; torch {made('torch')}; "
        f"precision {every(lambda r: r['precision'])}; seeds {every(lambda r: r['seed'])}; "
        f"updates {every(lambda r: r['updates'], '{:,}')}; samples {every(lambda r: r['samples'])}; "
        f"batch {every(lambda r: r['batch'])}; training seconds of a run {min(r['seconds'] for r in records):.0f} to "
        f"{max(r['seconds'] for r in records):.0f}."
    )


def of(records: Sequence[Record], group: str, name: str | None = None) -> list[Record]:
    """The trials of a group, or of one name in it, all seeds."""
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
    """Write the small file and the page that is made from it, each of them whole or not at all.

    Args:
        results: folder of both, made if it is not there.
        made: everything the page is made from.
        page: makes the page's text, and its figures in the folder it is given.

    Returns:
        The page.

    Raises:
        UserError: the folder cannot be written.
    """
    # One trial to a line: small, and a change of one is a change of one line.
    head = {key: value for key, value in made.items() if key != "trials"}
    trials = ",\n".join(json.dumps(trial) for trial in made["trials"])
    try:
        results.mkdir(parents=True, exist_ok=True)
        write_whole(results / RESULTS, f'{json.dumps(head)[:-1]}, "trials": [\n{trials}\n]}}\n')
        write_whole(results / PAGE, page(load(results), results))
    except OSError as error:
        raise UserError(f"cannot write {results} ({error.strerror}); choose another folder with --results") from error
    return results / PAGE


def load(results: Path) -> dict[str, Any]:
    """The small file of a folder of results; `UserError` if it is missing or is none."""
    again = "run the experiment without --from-files"
    made = read_json(results / RESULTS, again)
    if not isinstance(made, dict) or not {"experiment", "budget", "trials"} <= made.keys():
        raise UserError(f"{results / RESULTS}: expected experiment, budget and trials, got others; {again}")
    return made
