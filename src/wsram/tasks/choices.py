"""Settings that images ask for: how large glimpses are, how coarse, how many, and how long to train."""

from __future__ import annotations

import math
from typing import Any

from wsram.config import ClassificationConfig, changed
from wsram.data import Splits
from wsram.models.trunk import is_trunk
from wsram.recipes import RECIPES

ROOM = 24_000_000
"""Numbers that a batch of images may hold, so that a few copies of it fit into memory."""
EPOCHS = 60
"""Times that every image is seen, within the bounds below."""
LEAST_UPDATES, MOST_UPDATES = 1500, 12_000


def choose_by_images(config: ClassificationConfig, splits: Splits) -> tuple[ClassificationConfig, tuple[str, ...]]:
    """The settings with patch, scales, view, batch, updates and evaluations that fit the images, and why.

    What differs from the recipe `folder` was asked for and stays.

    Args:
        config: the settings.
        splits: the data.
    """
    height, width = splits.train.spec.size or (224, 224)
    shorter = min(height, width)
    usual = RECIPES["folder"]

    def asked(name: str) -> Any:
        """What was asked for instead of the recipe's, or None."""
        own, default = (getattr(c.model if hasattr(c.model, name) else c.schedule, name) for c in (config, usual))
        return None if own == default else own

    # A glimpse at the finest scale sees a tenth of the shorter side, at the coarsest about half of it. A pretrained
    # network was taught what things look like on many pixels, and sees nothing on few.
    pretrained = is_trunk(config.model.network)
    least, unit, most, widest = (32, 16, 64, 64) if pretrained else (16, 8, 32, 40)
    patch = asked("patch") or max(least, min(most, unit * round(shorter / 80)))
    scales = tuple(2**n for n in range(max(1, 1 + math.floor(math.log2(max(1.0, 0.75 * shorter / patch))))))
    stride = config.model.map_stride if config.model.policy == "map" else 1
    cells = -(-max(16, min(widest, shorter // 4)) // stride)  # whole ones
    pixels = splits.train.spec.channels * height * width
    batch = asked("batch") or 2 ** max(2, min(6, int(math.log2(max(4, ROOM // pixels)))))
    count = len(splits.train)
    updates = asked("updates") or max(LEAST_UPDATES, min(MOST_UPDATES, EPOCHS * count // min(batch, count)))
    wanted: dict[str, tuple[Any, str]] = {
        "patch": (patch, f"a typical image is {width} by {height} pixels"),
        "scales": (scales[:4], f"a glimpse spans {patch} to {patch * scales[:4][-1]} of {shorter} pixels"),
        "view": (cells * stride, "enough to see where something is, too little to see what"),
        "batch": (batch, f"an image has {pixels:,} numbers"),
        "updates": (updates, f"{count:,} training images are seen about {updates * min(batch, count) // count} times"),
        "evaluate_every": (max(50, updates // 20), "twenty looks at the validation images"),
    }
    said, chosen = [], {}
    for name, (value, why) in wanted.items():
        if asked(name) is None:
            chosen[name] = value
            said.append(f"{name.replace('_', ' ')} {_shown(value)}: {why}")
    return changed(config, choose=False, **chosen), tuple(said)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value:,}"
