"""Costs against the size of an image are measured, each in a process of its own, and what does not fit is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import sizes as module
from experiments.rivals import AttentionSampling, PatchSelection, WholeImage
from experiments.sizes import NAMES, sizes
from tests.refusals import refusal
from wsram.terminal import Screen


@pytest.mark.parametrize("kind", [WholeImage, PatchSelection, AttentionSampling])
def test_every_weight_of_what_is_compared_with_learns(kind: type[torch.nn.Module]) -> None:
    network = kind()
    network(torch.randint(256, (1, 160, 160), dtype=torch.uint8)).logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    if kind is AttentionSampling:
        assert network.score[0].weight.grad.abs().sum() > 0


def test_selection_keeps_the_patches_it_attends_to_most() -> None:
    network = PatchSelection(kept=2).eval()
    image = torch.randint(256, (1, 150, 150), dtype=torch.uint8)
    one = network(image)
    assert torch.allclose(network(image), one) and one.shape == (1, 10)


def test_points_that_would_take_too_long_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, str]] = []

    def point(method: str, side: int, what: str, before: dict[str, Any] | None) -> dict[str, Any]:
        asked.append((method, side, what))
        if before is not None and method == "cnn":
            return {"not_run": "about 99 s"}
        return {"seconds": 0.01, "repeats": 1, "bytes": 1 << 20}

    monkeypatch.setattr(module, "_point", point)
    sizes(Screen(quiet=True), tmp_path, sides=(100, 200))
    found = json.loads((tmp_path / "sizes.json").read_text())
    assert len(found["points"]) == len(asked) == 2 * 2 * len(NAMES) and (tmp_path / "sizes.png").exists()
    refusal(lambda: sizes(Screen(quiet=True), tmp_path, sides=(300, 200)), "ascending")
    before = {"seconds": 5.0, "side": 100}
    monkeypatch.undo()
    known = module._point("cnn", 300, "prediction", before)
    assert known == {"not_run": "about 45 s", "expected": 45.0}
    assert module._point("cnn", 600, "prediction", known | {"side": 300})["not_run"] == "about 180 s"
    full = {"not_run": module.TOO_LARGE, "side": 300}
    assert module._point("cnn", 900, "prediction", full) == {"not_run": module.TOO_LARGE}
