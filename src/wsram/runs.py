"""A run is a folder: config.json, provenance.json, metrics.jsonl, checkpoints/ and pictures; nothing is ever unpickled.

A checkpoint is a folder checkpoints/step-N with model.safetensors, optimizer.safetensors and state.json. It is written
under another name and renamed when complete, so a folder of that name is always whole, whatever happened meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsram.config import CaptionConfig, TrainConfig, from_json, to_json
from wsram.errors import UserError
from wsram.provenance import provenance

C = TypeVar("C")
K = TypeVar("K", TrainConfig, CaptionConfig)


@dataclasses.dataclass(frozen=True)
class Run(Generic[C]):
    """Where a run keeps what it makes, and the settings it was made with."""

    folder: Path
    config: C

    def begin(self, files: Mapping[str, str] | None = None) -> None:
        """Make the folder of a new run; `UserError` if it already holds one or cannot be written.

        Args:
            files: what else to write there, text by name: a vocabulary, say.
        """
        folder = self.folder
        try:
            if (folder / "config.json").exists():
                raise UserError(
                    f"{folder} already holds a run; continue it with `{self.resume_command}` or choose another folder"
                )
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            for name, text in (files or {}).items():
                _write_whole(folder / name, text)
            _write_whole(folder / "config.json", to_json(self.config))
            _write_whole(folder / "provenance.json", json.dumps(provenance(), indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write the run folder {folder} ({error.strerror}); choose another with --run"
            ) from error

    @staticmethod
    def open(folder: Path, kind: type[K]) -> Run[K]:
        """The run in a folder, with settings of that kind; `UserError` if there is none or they are of another."""
        path = folder / "config.json"
        try:
            text = path.read_text()
        except OSError as error:
            raise UserError(
                f"{folder} holds no run: cannot read {path} ({error.strerror}); name a run's folder"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not text ({error.reason}); restore it or start a new run") from error
        task = task_of(folder)
        if task != kind.task and task in (TrainConfig.task, CaptionConfig.task):
            raise UserError(f"expected a run that trains {kind.task}, got one of {task} in {folder}; name another run")
        return Run(folder, from_json(kind, text, path))

    @property
    def resume_command(self) -> str:
        """What a person types to go on with this run."""
        command = "train-captions" if isinstance(self.config, CaptionConfig) else "train"
        return f"wsram {command} --resume {self.folder}"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line: what training saw, every few updates."""
        return self.folder / "metrics.jsonl"

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl written so far."""
        if not self.metrics_path.exists():
            return []
        return list(_rows(self.metrics_path))

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl; `UserError` if the disk is full or not writable."""
        try:
            with self.metrics_path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.metrics_path} ({error.strerror}); free some space and continue with "
                f"`{self.resume_command}`"
            ) from error

    def forget_after(self, step: int) -> None:
        """Drop the rows of updates later than `step`, which a resumed run will make again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        _write_whole(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))

    def has_checkpoint(self) -> bool:
        """Whether there is a complete checkpoint."""
        return bool(self._checkpoints())

    def latest_checkpoint(self) -> Path:
        """The newest complete checkpoint; `UserError` if there is none."""
        found = self._checkpoints()
        if not found:
            raise UserError(f"{self.folder} has no checkpoint yet; train it first with `{self.resume_command}`")
        return found[-1]

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("step-*[0-9]"))

    def best_checkpoint(self) -> Path:
        """The checkpoint with the best evaluation, where training kept it; else the newest. `UserError` if none."""
        best = self.folder / "best"
        return best if best.exists() else self.latest_checkpoint()

    def save_best(self, model: nn.Module, state: dict[str, Any]) -> Path:
        """Write the network of the best evaluation so far to best/, in place of the one before.

        Raises:
            UserError: the disk is full or not writable; the checkpoints are still there.
        """

        def write(partial: Path) -> None:
            save_file(_contiguous(model.state_dict()), partial / "model.safetensors")
            _write_whole(partial / "state.json", json.dumps(state, indent=2) + "\n")

        return self._save(self.folder / "best", write)

    def save_checkpoint(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
        """Write a checkpoint of update `state["step"]`, then remove the older ones.

        Raises:
            UserError: the disk is full or not writable; earlier checkpoints are still there.
        """

        def write(partial: Path) -> None:
            save_file(_contiguous(model.state_dict()), partial / "model.safetensors")
            save_file(_flatten(optimizer.state_dict()["state"]), partial / "optimizer.safetensors")
            _write_whole(partial / "state.json", json.dumps(state, indent=2) + "\n")

        final = self._save(self.folder / "checkpoints" / f"step-{state['step']:09d}", write)
        for old in (self.folder / "checkpoints").glob("step-*"):
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
        return final

    def _save(self, final: Path, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a folder beside `final` that takes its place when it is whole."""
        partial = final.with_name(final.name + ".partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(
                f"cannot write the checkpoint {final} ({error}); earlier checkpoints are intact: "
                f"free some space and continue with `{self.resume_command}`"
            ) from error
        return final


def task_of(folder: Path) -> str | None:
    """What a run trains, "digits" or "captions", or nothing where that cannot be read: opening it then says why."""
    try:
        task = json.loads((folder / "config.json").read_text())["task"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(task)


def open_run(folder: Path) -> Run[TrainConfig] | Run[CaptionConfig]:
    """The run in a folder, whatever it trains; raises as `Run.open` does."""
    return Run.open(folder, CaptionConfig) if task_of(folder) == "captions" else Run.open(folder, TrainConfig)


def write_release(run: Run[Any], config: Any, model: nn.Module, target: Path) -> None:
    """Write a folder that others can open as a run, with its network alone, to the last bit.

    Args:
        run: where the network comes from; every small file in its folder goes along.
        config: the settings of the network that is released.
        model: that network.
        target: a folder that does not exist yet.

    Raises:
        UserError: the target exists or cannot be written.
    """
    if target.exists():
        raise UserError(f"{target} exists already; name a new folder")
    state = load_state(run.best_checkpoint())
    try:
        (target / "best").mkdir(parents=True)
        for path in run.folder.glob("*.*"):
            if path.is_file():
                shutil.copyfile(path, target / path.name)
        save_file(_contiguous(model.state_dict()), target / "best" / "model.safetensors")
        _write_whole(target / "best" / "state.json", json.dumps(state, indent=2) + "\n")
        _write_whole(target / "config.json", to_json(config))
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {target} ({error}); free some space or name another folder") from error


def load_model(model: nn.Module, checkpoint: Path, *, without: str | None = None) -> None:
    """Fill `model` from a checkpoint; `UserError` if it is unreadable or was made with another configuration.

    Args:
        model: the network.
        checkpoint: the folder.
        without: a part of the checkpoint that the network lacks: an inference network, where none is needed.
    """
    tensors = _load_tensors(checkpoint / "model.safetensors")
    if without is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{without}.")}
    own = model.state_dict()
    odd = sorted(name for name in own.keys() | tensors.keys() if not _same_shape(own.get(name), tensors.get(name)))
    if odd:
        here, there = (str(tuple(t[odd[0]].shape)) if odd[0] in t else "nothing" for t in (own, tensors))
        raise UserError(
            f"{checkpoint} is of another configuration: {odd[0]} should be {here}, the file holds {there}; "
            "use the config.json it was made with"
        )
    model.load_state_dict(tensors)


def load_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Fill `optimizer`, built over the same parameters in the same order, from a checkpoint."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _load_tensors(checkpoint / "optimizer.safetensors").items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What else a checkpoint knows: the update it was made after and the seconds of training until then."""
    path = checkpoint / "state.json"
    try:
        state = json.loads(path.read_text())
        return state | {"step": int(state["step"]), "seconds": float(state["seconds"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"cannot read {path}: expected the numbers step and seconds, got {type(error).__name__}: {error}; "
            f"restore it, or remove {checkpoint} and start again"
        ) from error


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path} ({error}); expected a safetensors file of this program") from error


def _same_shape(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors keeps no memory format; channels-last weights are written in the ordinary order.
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _flatten(state: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{n}.{key}": value.contiguous() for n, entry in state.items() for key, value in entry.items()}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            # A run killed while it wrote leaves half a line at the end; what came before it is good.
            return


def _write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old text or the new, never a part."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
