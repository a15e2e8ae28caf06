"""Runs small enough for a test: a few made-up digits on disk, and networks of a few units."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before accelerate first asks: these tests compare bit for bit, so they run where every operation repeats itself.
os.environ["ACCELERATE_USE_CPU"] = "true"

import torch
from safetensors.torch import load_file
from torch import Tensor

from wsram.config import ClassificationConfig, ClassifierConfig, Config, EstimatorConfig, ScheduleConfig, changed
from wsram.image_settings import ImageData
from wsram.models.pretrained import Network
from wsram.runs import Run
from wsram.terminal import Screen
from wsram.training import train

DIGITS, TEST_DIGITS, VALIDATION = 76, 30, 16


def write_idx(path: Path, values: Tensor) -> None:
    """Write uint8 values in the IDX format: 00 00 08, the number of axes, their big-endian lengths, the bytes."""
    lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + lengths + values.numpy().tobytes())


def write_digits(folder: Path, count: int = DIGITS) -> Path:
    """Write MNIST's four files with made-up digits: each class its own pattern of 4 by 4 blocks, and some noise."""
    generator = torch.Generator().manual_seed(7)
    patterns = torch.randint(2, (10, 4, 4), generator=generator).repeat_interleave(7, 1).repeat_interleave(7, 2)
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", count), ("t10k", TEST_DIGITS)):
        labels = torch.arange(size) % 10
        noise = torch.randint(56, (size, 28, 28), generator=generator)
        write_idx(folder / f"{split}-images-idx3-ubyte", (199 * patterns[labels] + noise).to(torch.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte", labels.to(torch.uint8))
    return folder


def tiny_config(digits: Path | str, **changes: Any) -> ClassificationConfig:
    """A run of 6 updates, evaluated after every other one, on the digits in a folder."""
    small = ClassificationConfig(
        data=ImageData(str(digits), scene="translated", validation=VALIDATION),
        model=ClassifierConfig(glimpses=2, patch=8, scales=(1, 2), lower_units=16, upper_units=16, view=8),
        estimator=EstimatorConfig(samples=2),
        schedule=ScheduleConfig(updates=6, batch=8, learning_rate=3e-3, warmup=2, precision="no", evaluate_every=2),
    )
    return changed(small, **changes)


def trained(folder: Path, config: Config, *, resume: bool = False) -> Network:
    """Train into a folder without a word."""
    return train(Run(folder, config), Screen(quiet=True), resume=resume)


def settings(config: Config) -> Iterator[tuple[str, Any]]:
    """Every single setting that is an option: its name on the command line, without dashes, and its value."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                # The one name that says nothing without its section.
                name = "estimator" if (field.name, inner.name) == ("estimator", "name") else inner.name
                if name != "source":  # DATA, which has no dashes
                    yield name.replace("_", "-"), getattr(value, inner.name)
        elif field.name != "task":  # which is no choice
            yield field.name.replace("_", "-"), value


def flags(config: Config) -> list[str]:
    """The command line that says every single setting of a config: DATA first, which has no name."""
    words = [config.data.source]
    for name, value in settings(config):
        if isinstance(value, bool):
            words += [f"--{name}" if value else f"--no-{name}"]
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def checkpoint(folder: Path) -> Path:
    """A run's newest checkpoint."""
    return max((folder / "checkpoints").glob("step-*[0-9]"))


def weights(folder: Path) -> dict[str, Tensor]:
    """All numbers in the newest checkpoint, the optimizer's too."""
    newest = checkpoint(folder)
    found = {
        f"{kind}: {n}": t
        for kind in ("model", "optimizer")
        for n, t in load_file(newest / f"{kind}.safetensors").items()
    }
    assert found, newest
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without the one figure that no two runs share."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal to the last bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def same_run(ours: Path, theirs: Path) -> bool:
    """Whether two runs left the same weights, optimizer state and metrics, to the last bit."""
    return same_bits(weights(ours), weights(theirs)) and rows(ours) == rows(theirs)
