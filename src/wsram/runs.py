"""A run is a folder: training.json, provenance.json, metrics.jsonl, checkpoints/ and pictures; nothing is unpickled.

A checkpoint is a folder checkpoints/step-N (or best/step-N) of files and their hashes. It is written under another
name, flushed to the disk and only then renamed, and older ones are removed after that: at every instant there is a
whole one, and a damaged one is told apart by its hashes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from wsram.config import Config
from wsram.errors import UserError
from wsram.provenance import provenance
from wsram.settings import from_json, to_json
from wsram.strict_json import loads

C = TypeVar("C", bound=Config)

SETTINGS, METRICS, HASHES, DATA = "training.json", "metrics.jsonl", "hashes.json", "data.json"
LOCK, MADE = ".lock", "provenance.json"
BEGINNING = {LOCK, MADE, DATA, METRICS, "checkpoints"}
"""What a new run's folder may hold before its settings, the last to be written."""
KEPT = 2
"""Checkpoints that stay: the newest, and the one before, should that be damaged."""
ASIDE = ".old"
"""What the name of a checkpoint ends with while another of the same update takes its place."""


@dataclass(frozen=True)
class Run(Generic[C]):
    """Where a run keeps what it makes, and the settings it was made with."""

    folder: Path
    config: C

    def require_new(self) -> None:
        """`UserError` if the folder holds anything but a run, or what one left that was stopped while it began."""
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        odd = {name for name in there if name.removesuffix(".partial") not in {*BEGINNING, SETTINGS}}
        if SETTINGS not in there and (odd or (there and LOCK not in there)):
            raise UserError(
                f"expected a new folder for a run, got {self.folder}, which holds {min(odd or there)}; choose another "
                "with --run"
            )

    def begin(self, write: Callable[[Path], None], data: dict[str, str]) -> None:
        """Make the folder of a new run; a folder with settings in it has a checkpoint too.

        Args:
            write: writes the files of the checkpoint before the first update.
            data: a hash of each part of the data.

        Raises:
            UserError: the folder already holds a run, or cannot be written.
        """
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / SETTINGS).exists():
                raise UserError(
                    f"{folder} already holds a run; continue it with `{self.resume_command}` or choose another folder"
                )
            self.metrics_path.unlink(missing_ok=True)
            write_whole(folder / MADE, json.dumps(provenance(), indent=2) + "\n")
            write_whole(folder / DATA, json.dumps(data) + "\n")
            self.save_checkpoint(0, write)
            self.keep_settings()
        except OSError as error:
            raise UserError(
                f"cannot write the run folder {folder} ({error.strerror}); choose another with --run"
            ) from error

    def keep_settings(self) -> None:
        """Write the settings down; a resumed run may be longer, or have its data elsewhere."""
        write_whole(self.folder / SETTINGS, to_json(self.config))

    @staticmethod
    def open(folder: Path) -> Run[Any]:
        """The run in a folder; `UserError` if there is none."""
        path = folder / SETTINGS
        return Run(folder, from_json(read_text(path, f"{folder} holds no run; name a run's folder"), path))

    def check_data(self, data: dict[str, str]) -> None:
        """`UserError` unless the data are those that the run began with, by the hash of each part."""
        path = self.folder / DATA
        began_with = read_json(path, "restore it")
        if not isinstance(began_with, dict):
            raise UserError(f"{path}: expected hashes of the data, got {began_with!r:.80}; restore it")
        for part, found in data.items():
            if began_with.get(part) != found:
                raise UserError(
                    f"the {part} examples are not those that the run in {self.folder} began with; restore them, name "
                    "where they are now, or start a new run"
                )

    def lock(self) -> FileLock:
        """Held while a process trains into the folder; `UserError` if another does."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = FileLock(self.folder / LOCK)
            held.acquire(blocking=False)
        except Timeout as error:
            raise UserError(
                f"another process is training in {self.folder}; wait for it, or choose another folder"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write the run folder {self.folder} ({error.strerror}); choose another with --run"
            ) from error
        return held

    @property
    def resume_command(self) -> str:
        """What a person types to go on with this run."""
        return f"wsram train --resume {self.folder}"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line: what training saw, every few updates."""
        return self.folder / METRICS

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl written so far; `UserError` names a damaged one."""
        return list(_rows(self.metrics_path)) if self.metrics_path.exists() else []

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl; `UserError` if the disk is full or not writable."""
        try:
            with self.metrics_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.metrics_path} ({error.strerror}); free some space and continue with "
                f"`{self.resume_command}`"
            ) from error

    def forget_after(self, step: int) -> None:
        """Drop the rows of updates later than `step`, which a resumed run will make again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        write_whole(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))

    def checkpoints(self) -> list[Path]:
        """The checkpoints training can go on from, oldest first, whether damaged or not."""
        return _steps(self.folder / "checkpoints")

    def latest_checkpoint(self) -> Path:
        """The newest checkpoint that is as it was written; `UserError` if there is none."""
        return newest_whole(
            self.checkpoints(), f"{self.folder} has no checkpoint to go on from; restore one or start a new run"
        )

    def best_checkpoint(self) -> Path:
        """The checkpoint with the best evaluation, where training kept it; else the newest. `UserError` if none."""
        best = _steps(self.folder / "best")
        return newest_whole(best, "") if best else self.latest_checkpoint()

    def save_checkpoint(self, step: int, write: Callable[[Path], None], *, best: bool = False) -> Path:
        """Keep a checkpoint of update `step`, then remove those that are no longer needed.

        Args:
            step: the update.
            write: writes the checkpoint's files into the folder it is given.
            best: the network of the best evaluation so far, in place of the one before; not what training goes on from.

        Raises:
            UserError: the disk is full or not writable; earlier checkpoints are still there.
        """
        place = self.folder / ("best" if best else "checkpoints")
        final = place / f"step-{step:09d}"
        partial, aside = (final.with_name(final.name + suffix) for suffix in (".partial", ASIDE))
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            hashes = {path.name: digest(path) for path in sorted(partial.iterdir())}
            (partial / HASHES).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
            for path in (*partial.iterdir(), partial):
                flush(path)
            if final.exists():  # damaged, or trained again after the one before it was used
                shutil.rmtree(aside, ignore_errors=True)
                final.rename(aside)
            partial.rename(final)
            flush(place)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(
                f"cannot write the checkpoint {final} ({error}); earlier checkpoints are intact: "
                f"free some space and continue with `{self.resume_command}`"
            ) from error
        shutil.rmtree(aside, ignore_errors=True)
        for old in _steps(place)[: -1 if best else -KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return final


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What else a checkpoint knows: the update it was made after and the seconds of training until then."""
    path = checkpoint / "state.json"
    try:
        state = loads(path.read_text(encoding="utf-8"))
        step, seconds = int(state["step"]), float(state["seconds"])
        if step < 0 or not 0 <= seconds < math.inf:
            raise ValueError(f"{step} and {seconds}")
        return state | {"step": step, "seconds": seconds}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"cannot read {path}: expected the numbers step and seconds, got {type(error).__name__}: {error}; "
            f"restore it, or remove {checkpoint} and start again"
        ) from error


def damage(folder: Path) -> str | None:
    """What is wrong with a folder of files and hashes, or None if every file is as it was written."""
    try:
        hashes = loads((folder / HASHES).read_text(encoding="utf-8"))
        for path in folder.glob("*.safetensors"):
            if path.name not in hashes:
                return f"{path.name} has no hash"
        for name, expected in hashes.items():
            if digest(folder / name) != expected:
                return f"{name} is not as it was written"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def newest_whole(found: list[Path], none: str) -> Path:
    """The last of the folders that is undamaged; `UserError` with the text `none`, or with what is wrong with them."""
    wrong = []
    for folder in reversed(found):
        problem = damage(folder)
        if problem is None:
            return folder
        wrong.append(f"{folder} is damaged ({problem})")
    raise UserError("; ".join(wrong) + "; restore it or start a new run" if wrong else none)


def read_text(path: Path, otherwise: str) -> str:
    """A small text file, with or without a byte-order mark; `UserError` says why not, and `otherwise`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {otherwise}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text ({error.reason}); restore it") from error


def read_json(path: Path, otherwise: str) -> Any:
    """What a JSON file holds; `UserError` says why it cannot be read, and `otherwise`."""
    text = read_text(path, otherwise)
    try:
        return loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); {otherwise}") from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the target's name once all is written, and of which nothing is left if something is wrong.

    Raises:
        UserError: the target is there, and no empty folder, or cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already; name a new folder")
    partial = Path(f"{target.resolve()}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {target} ({error}); free some space or name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # if it is there still, something was wrong


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old text or the new, never a part, also after a power loss."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":  # which opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _steps(place: Path) -> list[Path]:
    found = [*place.glob("step-*[0-9]"), *place.glob(f"step-*[0-9]{ASIDE}")]
    return sorted(found, key=lambda path: (path.name.removesuffix(ASIDE), path.suffix != ASIDE))


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = loads(line)
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise ValueError("it is no row of an update")
            yield row
        except ValueError as error:
            if number == len(lines):  # a run killed while it wrote leaves half a line at the end
                return
            raise UserError(f"{path}: line {number} is damaged ({error}); mend or remove that line") from error
