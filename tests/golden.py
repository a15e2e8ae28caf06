"""Four tiny runs and what they leave; `python -m tests.golden` writes it to golden.json, which a test compares."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.caption_world import tiny_captions, write_features, write_world
from tests.tiny import checkpoint, rows, tiny_config, trained, write_digits
from wsram.config import CaptionExploration, Config, EstimatorConfig, changed

FILE = Path(__file__).with_name("golden.json")


def configs(digits: Path, world: Path, features: Path) -> dict[str, Config]:
    """The runs by name: between them nearly every setting is another than by default."""
    small = tiny_config(digits)
    odd = changed(
        small, network="conv", recurrence="lstm", scene="cluttered-60", name="wake-sleep-credit", defensive=0.2,
        sleep=0.3, sum_scale=True, glimpse_growth=0.5, coverage=0.1, location_entropy=0.01, scale_entropy=0.1,
        temperature=1.3, distortion=0.5, patience=5, variance_draws=2, sensor="nearest",
    )  # fmt: skip
    soft = EstimatorConfig("wake-sleep", "policy", False, 1)
    return {
        "digits": small,
        "digits-odd": odd,
        "captions": tiny_captions(world, features, name="wake-sleep-credit", sleep=0.25),
        "captions-soft": changed(
            tiny_captions(world, features, estimator=soft, attention="soft"),
            exploration=CaptionExploration(entropy=0.01, coverage=0.1),
        ),
    }


def left_by(folder: Path, config: Config) -> dict[str, Any]:
    """The metrics of a run and the norm of each of its weights.

    But for the bias of keys: it moves all cells' scores by as much, so its gradient is rounding alone, which Adam makes
    steps of that differ from one processor to another.
    """
    trained(folder, config)
    weights = load_file(checkpoint(folder) / "model.safetensors")
    norms = {name: t.double().norm().item() for name, t in sorted(weights.items()) if not name.endswith("key.bias")}
    return {"rows": rows(folder), "norms": norms}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        digits, world, features = write_digits(root / "digits"), write_world(root / "world"), root / "features"
        write_features(tiny_captions(world, features))
        found = {name: left_by(root / name, config) for name, config in configs(digits, world, features).items()}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Saved: {FILE}")


if __name__ == "__main__":
    main()
