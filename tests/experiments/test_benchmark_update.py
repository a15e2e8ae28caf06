"""The update that is timed is the one that was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import benchmark_update as module
from experiments.benchmark_update import (
    BENCHMARKED,
    MADE_UP,
    benchmark_update,
    open_examples,
    operator_shares,
    timed,
)
from experiments.cli import main
from tests.experiments.commands import refused
from tests.tiny import flags, tiny_config
from wsram.config import ClassificationConfig, changed
from wsram.models.classifier import AttentionClassifier
from wsram.tasks import TASKS
from wsram.tasks.classification import Classification
from wsram.terminal import Screen


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MATMUL", 32)
    monkeypatch.setattr(module, "DIGITS", 20)
    monkeypatch.setattr(module, "operator_shares", lambda work, device: {"elementwise": 1.0})  # a profiler takes long


def tiny(**changes: Any) -> ClassificationConfig:
    """An update of made-up digits."""
    return tiny_config(MADE_UP, **{"validation": None, **changes})


def measured(config: ClassificationConfig) -> dict[str, Any]:
    config, examples = open_examples(config)
    return module.measure_update(config, examples, repeats=1)


def test_the_benchmark_says_ratios_and_keeps_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = benchmark_update(tiny(), Screen(), repeats=2, save=tmp_path / "b.json")
    said = capsys.readouterr().out
    assert found == json.loads((tmp_path / "b.json").read_text())
    for name, ratio in found["ratios"].items():
        assert f"{name.replace('_', ' ')}: {ratio:.3f}" in said and ratio > 0
    assert {"update_rate_over_matmul_rate", "placement_and_glimpses_over_update"} <= found["ratios"].keys()
    ms = found["measured"]["milliseconds"]
    assert ms["update"] == sum(ms[part] for part in ("placement", "forward", "backward", "optimizer"))
    assert found["config"]["data"]["source"] == MADE_UP and found["config"]["schedule"]["batch"] == 8
    assert found["provenance"]["machine"]


def test_shares_of_operators_sum_to_one_and_name_what_was_done() -> None:
    numbers = torch.randn(2, 200, 200)
    shares = operator_shares(lambda: numbers[0] @ numbers[1], torch.device("cpu"))
    assert sum(shares.values()) == pytest.approx(1) and shares["matrix products"] > max(shares["convolutions"], 0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": 3},
        {"batch": 16},
        {"sum_scale": True},
        {"sleep": 0.5},
        {"widths": (4, 8), "network": "conv"},
        {"proposal": "policy"},
    ],
    ids=str,
)
def test_every_setting_that_costs_operations_costs_them_here(changes: dict[str, Any]) -> None:
    assert measured(tiny(**changes))["operations"] != measured(tiny())["operations"]


def test_it_is_the_last_update_of_the_real_task_with_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument of the network's forward pass is what training passes to it at the end."""
    config = tiny(defensive=0.2, sleep=0.5, sum_scale=True, temperature=1.5, glimpse_growth=0.5, coverage=0.1)
    passed: list[dict[str, Any]] = []
    forward = AttentionClassifier.forward

    def seen(self: AttentionClassifier, *args: Any, **options: Any) -> Any:
        passed.append(options)
        return forward(self, *args, **options)

    added: list[float] = []
    add = Classification.additions

    def adding(self: Classification, config: ClassificationConfig, rollout: Any, fade: float) -> Any:
        terms = add(self, config, rollout, fade)
        added.append(float(torch.as_tensor(terms).detach()))
        return terms

    monkeypatch.setattr(AttentionClassifier, "forward", seen)
    monkeypatch.setattr(Classification, "additions", adding)
    measured(config)
    for options in passed:
        options.pop("generator")
    expected = dict(samples=2, with_inference=True, temperature=1.5, defensive=0.2, sum_scale=True, dreams=1)
    expected |= dict(centred=False, pathwise=0.0, resample=False)
    assert passed
    for options in passed:
        assert options == expected | {"glimpses": config.model.glimpses}
    assert len(added) == len(passed) and all(added)


def test_made_up_digits_are_distorted_augmented_and_left_out_as_training_does() -> None:
    index = torch.arange(8)
    images = {}
    for name, changes in {
        "plain": {},
        "distortion": {"distortion": 1.0},
        "noise": {"noise": 0.5},
        "empty": {"empty": 0.9},
    }.items():
        _, examples = open_examples(tiny(**changes))
        images[name] = examples.batch(index, 0).images
    assert all(not torch.equal(images["plain"], images[name]) for name in images if name != "plain")
    assert torch.equal(images["plain"], open_examples(tiny())[1].batch(index, 0).images)


def test_the_callers_random_numbers_are_left_as_they_were() -> None:
    before = torch.random.get_rng_state()
    measured(tiny())
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_recipe_that_takes_glimpses_can_be_timed() -> None:
    for name, recipe in BENCHMARKED.items():
        config, examples = open_examples(changed(recipe, source=MADE_UP))
        assert TASKS[config.task].build(config, examples.spec) is not None, name


def test_settings_that_cost_no_time_are_told_from_those_that_do() -> None:
    config = tiny()
    assert timed(changed(config, learning_rate=1.0, updates=9, seed=3, source="mnist", glimpse_growth=0.5)) == timed(
        config
    )
    for changes in ({"batch": 9}, {"samples": 3}, {"glimpses": 3}, {"distortion": 0.5}, {"precision": "bf16"}):
        assert timed(changed(config, **changes)) != timed(config)
    assert timed(replace(config, sum_scale=True)) != timed(config)


def test_real_digits_are_timed_where_they_are_named(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["benchmark-update", *flags(tiny_config(digits)), "--repeats", "1", "--save", str(tmp_path / "b.json")])
    assert "8 images × 2 samples × 2 glimpses" in capsys.readouterr().out
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["config"]["data"]["source"] == str(digits)
    assert found["provenance"]["command"].startswith("python -m experiments benchmark-update ")


def test_mistakes_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = flags(tiny())
    assert "repeats must be at least 1, got 0" in refused(capsys, "benchmark-update", *words, "--repeats", "0")
    (tmp_path / "file").touch()
    there = str(tmp_path / "file" / "b.json")
    assert "cannot make the folder" in refused(capsys, "benchmark-update", *words, "--repeats", "1", "--save", there)
    said = refused(capsys, "benchmark-update", "--recipe", "captions")
    assert "'captions'" in said and "quarter-hour" in said
    assert "nowhere" in refused(capsys, "benchmark-update", "nowhere")
