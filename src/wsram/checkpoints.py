"""What training goes on from: the network, the optimizer's moments, and how far it is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from wsram.errors import UserError
from wsram.models.pretrained import Network, fill, read_tensors, save_network
from wsram.runs import load_state, write_whole


@dataclass
class Progress:
    """Where a training run is; all of it goes through state.json, so that a resumed run loses nothing.

    step: updates made.
    seconds: of training alone, without evaluations.
    best, stale: the best figure watched, and evaluations since then.
    sums, count: of what is watched, over the updates since the last row of metrics.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    stale: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, watched: dict[str, Tensor]) -> None:
        """Take note of an update."""
        for name, value in watched.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def to_json(self, where: dict[str, Any] | None = None) -> str:
        """As state.json has it, with what it was made by: processes, threads, device and torch."""
        sums = {name: value.tolist() for name, value in self.sums.items()}
        kept = {name: value for name, value in vars(self).items() if name != "sums"} | {"sums": sums, "where": where}
        return json.dumps(kept | {"best": None if math.isinf(self.best) else self.best}) + "\n"

    @staticmethod
    def from_state(state: dict[str, Any], device: torch.device) -> Progress:
        """From what `load_state` read."""
        best = state.get("best")
        sums = {name: torch.tensor(value, device=device) for name, value in state.get("sums", {}).items()}
        return Progress(
            state["step"],
            state["seconds"],
            math.inf if best is None else best,
            state.get("stale", 0),
            sums,
            state.get("count", 0),
        )


def write_checkpoint(folder: Path, network: Network, optimizer: torch.optim.Optimizer, state: str) -> None:
    """Write all that training goes on from into a folder: the network, the optimizer's moments and the progress."""
    save_network(network, folder)
    moments = optimizer.state_dict()["state"]
    tensors = {f"{n}.{key}": value.contiguous() for n, entry in moments.items() for key, value in entry.items()}
    save_file(tensors, folder / "optimizer.safetensors")
    (folder / "optimizer.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
    write_whole(folder / "state.json", state)


def load_checkpoint(folder: Path, network: Network, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill network and optimizer, built as they were, from a checkpoint; its state is returned.

    Raises:
        UserError: the files are of another network, or incomplete.
    """
    state = load_state(folder)
    fill(network, read_tensors(folder / "model.safetensors"), folder / "model.safetensors")
    moments: dict[int, dict[str, Tensor]] = {}
    path = folder / "optimizer.safetensors"
    for name, tensor in read_tensors(path).items():
        of, _, key = name.partition(".")
        moments.setdefault(int(of) if of.isdecimal() else -1, {})[key] = tensor
    parameters = [
        parameter for group in optimizer.param_groups for parameter in group["params"]
    ]  # in their numbers' order
    expected = {"step", "exp_avg", "exp_avg_sq"}
    for number, entry in moments.items():
        known = 0 <= number < len(parameters) and set(entry) == expected
        if not known or any(entry[key].shape != parameters[number].shape for key in expected - {"step"}):
            raise UserError(f"{path} is of another network (entry {number}); use the checkpoint it was made with")
        for key in expected - {"step"}:  # fused Adam goes through the memory of all four as one
            entry[key] = torch.empty_like(parameters[number]).copy_(entry[key])
    if state["step"] and not moments:
        raise UserError(f"{path} holds no moments after {state['step']} updates; restore it")
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return state
