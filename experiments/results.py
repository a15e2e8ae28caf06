"""Published results: tables made from the files of runs, never typed in.

A folder of results holds one folder for each published run, without its networks and without a path of the machine it
was made on. The results page, and the summary in the README, are made from them. What a figure needs beside it
(command, seed, commit, machine, protocol) is read from the same files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark_update import timed
from experiments.trials import wherever
from wsram.cards import EVALUATIONS, PICTURES, describe, without_paths, without_places
from wsram.config import Config, changed
from wsram.errors import UserError
from wsram.models.pretrained import network_folder
from wsram.runs import SETTINGS, Run, flush, load_state, read_json, read_text, write_whole
from wsram.settings import from_json, to_json
from wsram.tables import Table
from wsram.tasks import TASKS

BEGIN = "<!-- made by `python -m experiments results`: begin -->"
END = "<!-- made by `python -m experiments results`: end -->"
PROVENANCE, BENCHMARK = "provenance.json", "benchmark.json"
FIGURES = (*EVALUATIONS.values(), "diagnosis.json", "posterior.json", BENCHMARK)


def add_runs(folders: Sequence[Path], into: Path, *, replace: bool = False) -> list[Path]:
    """Publish runs, each in place of what was published of it before, whole; all of them or, if one is refused, none.

    Args:
        folders: of the runs.
        into: folder of results.
        replace: whether a run may take the place of another one that is published under its name.

    Returns:
        Where they are published.

    Raises:
        UserError: a folder without a trained run, figures of another update or of other settings, a name that another
            run has, or a place that cannot be written.
    """
    whole: dict[Path, dict[str, bytes]] = {}
    for folder in folders:
        target, files = into / folder.resolve().name, _publishable(folder)
        if target.exists() and not (target / SETTINGS).exists():
            raise UserError(f"{target} holds something else than a published run; rename {folder}")
        there = {name: _bytes(target / name) for name in (SETTINGS, PROVENANCE)} if target.exists() else None
        there = whole.get(target, there)
        if there is not None and not replace and _identity(there) != _identity(files):
            raise UserError(f"{target} holds another run than {folder}; rename the run, or say --replace")
        whole[target] = files
    for target, files in whole.items():
        try:
            _put(target, files)
        except OSError as error:
            raise UserError(
                f"cannot write {target} ({error.strerror}); make room or choose another --folder"
            ) from error
    return list(whole)


def _publishable(folder: Path) -> dict[str, bytes]:
    """The files of a run that are published, by name."""
    run = Run.open(folder)
    step = load_state(network_folder(folder))["step"]
    texts = {SETTINGS: to_json(without_places(run.config))}
    if made := _json(folder / PROVENANCE):
        texts[PROVENANCE] = json.dumps(made | {"command": without_paths(made["command"])}, indent=2) + "\n"
    for name in FIGURES:
        found = _json(folder / name)
        if found is None:
            continue
        if name in EVALUATIONS.values() and found["step"] != step:
            raise UserError(
                f"{folder / name} is of update {found['step']:,}, the network of {step:,}; evaluate the run again first"
            )
        if name == BENCHMARK and timed(from_json(json.dumps(found.get("config")), folder / name)) != timed(run.config):
            raise UserError(f"{folder / name} is of other settings than the run; remove it or make it again")
        texts[name] = json.dumps(found, indent=2) + "\n"
    pictures = {name: content for name in PICTURES if (content := _bytes(folder / name))}
    return {name: text.encode() for name, text in texts.items()} | pictures


def _identity(files: Mapping[str, bytes]) -> tuple[Any, Config]:
    """What tells a run from others: how it began, and its settings but for those that may change as it goes on."""
    began = json.loads(files.get(PROVENANCE) or b"null")
    return began, changed(wherever(from_json(files[SETTINGS].decode(), SETTINGS)), updates=1)


def _put(target: Path, files: dict[str, bytes]) -> None:
    """Replace a folder: it is built beside, and the old one stays until that is whole."""
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for name, content in files.items():
            (partial / name).write_bytes(content)
            flush(partial / name)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except OSError:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_page(page: Path, results: Path) -> None:
    """Write the tables of all runs in `results` into `page`, between the two marks it must already hold.

    Raises:
        UserError: the page is missing, has no marks or cannot be written.
    """
    sections = (f"### {folder.name}\n\n{describe(folder, page.parent)}" for folder in _published(results))
    _between_marks(page, "\n\n".join(sections))


def write_summary(page: Path, results: Path) -> None:
    """Write one row for each run in `results` that was measured on a test set into `page`, as `write_page` does."""
    rows = []
    for folder in _published(results):
        found, made = _json(folder / EVALUATIONS["test"]), _json(folder / PROVENANCE)
        if found and made:
            config = from_json(read_text(folder / SETTINGS, "restore it"), folder / SETTINGS)
            seconds = f"{found['training_seconds']:.0f} s, " if "training_seconds" in found else ""
            rows.append([f"`{made['command']}`", TASKS[config.task].headline(found), f"{seconds}{made['machine']}"])
    _between_marks(page, Table("", ["command", "on the test set", "training"], rows).markdown())


def check_marks(page: Path) -> tuple[str, str]:
    """What stands before and after the marks of a page; `UserError` if it is missing or has none."""
    text = read_text(page, "name a page that is there") if page.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{page} must exist and hold the two lines {BEGIN} and {END}; name another page")
    return before, after


def _between_marks(page: Path, content: str) -> None:
    before, after = check_marks(page)
    try:
        write_whole(page, f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")
    except OSError as error:
        raise UserError(f"cannot write {page} ({error.strerror}); it is left as it was") from error


def _published(results: Path) -> list[Path]:
    """The folders of published runs, by name; hidden ones were being replaced when that was stopped."""
    return sorted(path.parent for path in results.glob(f"*/{SETTINGS}") if not path.parent.name.startswith("."))


def _json(path: Path) -> Any:
    """What a file of a run holds, or nothing; a link, which might lead to what is not the run's, is nothing."""
    return read_json(path, "restore it") if _own(path) else None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes() if _own(path) else b""
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); restore it") from error


def _own(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
