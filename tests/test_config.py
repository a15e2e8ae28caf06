"""Settings: into JSON and back unchanged, and one line for whatever does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny import changed, settings, tiny_config
from wsram.config import ExplorationConfig, ModelConfig, TrainConfig, from_json, to_json
from wsram.errors import UserError
from wsram.recipes import RECIPES

SOURCE = Path("somewhere/config.json")

# A value of every setting that is not its default.
ODD: dict[str, Any] = {
    "dataset": "mnist",
    "scene": "cluttered-60",
    "data_dir": Path("some/folder with spaces"),
    "download": True,
    "holdout": 17,
    "distortion": 0.75,
    "glimpses": 3,
    "patch": 9,
    "scales": (2, 5),
    "sensor": "integer",
    "recurrence": "lstm",
    "encoder": "conv",
    "lower_units": 11,
    "upper_units": 12,
    "widths": (8, 24),
    "view": 13,
    "std_range": (0.125, 0.5),
    "name": "variational",
    "proposal": "policy",
    "control_variates": False,
    "samples": 7,
    "defensive": 0.25,
    "sleep": 0.0,
    "temperature": 1.5,
    "location_entropy": 0.01,
    "scale_entropy": 0.02,
    "coverage": 0.03,
    "steps": 4321,
    "batch": 21,
    "learning_rate": 0.007,
    "warmup": 31,
    "weight_decay": 0.009,
    "clip": 2.5,
    "glimpse_growth": 0.25,
    "sum_scale": True,
    "precision": "no",
    "seed": 99,
    "evaluate_every": 77,
    "patience": 3,
    "variance_draws": 4,
}


def test_a_value_other_than_the_default_is_known_for_every_setting() -> None:
    default, odd = dict(settings(TrainConfig())), dict(settings(changed(TrainConfig(), **ODD)))
    assert default.keys() == odd.keys() and len(odd) == len(ODD)
    # Sleep alone stays: it needs the inference network, which the odd proposal leaves out.
    assert [name for name in odd if odd[name] == default[name]] == ["sleep"]


@pytest.mark.parametrize("config", [*RECIPES.values(), changed(TrainConfig(), **ODD)], ids=[*RECIPES, "odd"])
def test_through_json_and_back(config: TrainConfig) -> None:
    assert from_json(TrainConfig, to_json(config), SOURCE) == config


def test_the_file_is_plain_json_that_a_person_can_read() -> None:
    text = to_json(changed(TrainConfig(), **ODD))
    read = json.loads(text)
    assert read["data"]["data_dir"] == "some/folder with spaces" and read["model"]["scales"] == [2, 5]
    assert read["data"].get("holdout") == 17 and json.loads(to_json(TrainConfig()))["data"]["holdout"] is None
    assert text.endswith("}\n") and len(text.splitlines()) > len(ODD)


def test_settings_that_a_file_does_not_have_take_their_defaults() -> None:
    config = from_json(TrainConfig, '{"schedule": {"steps": 5}, "model": {"patch": 9}}', SOURCE)
    assert config == changed(TrainConfig(), steps=5, patch=9)


def test_a_whole_number_will_do_where_a_fraction_is_meant() -> None:
    config = from_json(TrainConfig, '{"schedule": {"clip": 5}, "model": {"std_range": [1, 1]}}', SOURCE)
    assert (type(config.schedule.clip), *map(type, config.model.std_range)) == (float, float, float)


def put(*path: str | int, value: Any) -> Callable[[Any], Any]:
    """Change one place in the JSON of a config."""

    def change(config: Any) -> Any:
        at = config
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        return config

    return change


MISFITS = {
    "unknown setting": (put("momentum", value=0.9), "momentum"),
    "unknown setting in a section": (put("model", "depth", value=3), "depth"),
    "section that is a number": (put("data", value=3), "data"),
    "text for a number": (put("schedule", "steps", value="many"), "steps"),
    "fraction for a whole number": (put("schedule", "steps", value=1.5), "steps"),
    "true for a whole number": (put("schedule", "batch", value=True), "batch"),
    "nothing for a whole number": (put("schedule", "seed", value=None), "seed"),
    "text for a fraction": (put("schedule", "clip", value="5"), "clip"),
    "number for yes or no": (put("data", "download", value=1), "download"),
    "number for text": (put("data", "scene", value=3), "scene"),
    "number for a path": (put("data", "data_dir", value=3), "data_dir"),
    "text for an optional number": (put("data", "holdout", value="few"), "holdout"),
    "number for a list": (put("model", "scales", value=3), "scales"),
    "text within a list": (put("model", "scales", value=[1, "two"]), "scales"),
    "nothing within a list": (put("model", "std_range", value=[None, 1.0]), "std_range"),
    "one bound of two": (put("model", "std_range", value=[0.1]), "std_range"),
    "three bounds of two": (put("model", "std_range", value=[0.1, 0.2, 0.3]), "std_range"),
    "none of the choices": (put("schedule", "precision", value="fp8"), "precision"),
    "a list for a choice": (put("model", "encoder", value=["conv"]), "encoder"),
    "a list for everything": (lambda config: [config], "list"),
    "nothing for everything": (lambda config: None, "NoneType"),
}


@pytest.mark.parametrize("change, named", MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_named_in_one_line(change: Callable[[Any], Any], named: str) -> None:
    text = json.dumps(change(json.loads(to_json(TrainConfig()))))
    with pytest.raises(UserError, match=f"config.json.*{named}") as caught:
        from_json(TrainConfig, text, SOURCE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"steps": 5', "steps: 5", to_json(TrainConfig())[:-3]])
def test_text_that_is_not_json_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"config.json is not valid JSON") as caught:
        from_json(TrainConfig, text, SOURCE)
    assert "\n" not in str(caught.value)


def test_sections_can_be_read_by_themselves() -> None:
    assert from_json(ExplorationConfig, '{"coverage": 0.5}', SOURCE) == ExplorationConfig(coverage=0.5)
    assert from_json(ModelConfig, to_json(ModelConfig(patch=3)), SOURCE) == ModelConfig(patch=3)


BAD = {
    "steps": dict(steps=0),
    "batch": dict(batch=0),
    "warmup": dict(warmup=-1),
    "evaluate every": dict(evaluate_every=0),
    "learning rate": dict(learning_rate=-1e-3),
    "learning rate of nan": dict(learning_rate=float("nan")),
    "clip": dict(clip=-1.0),
    "glimpse growth": dict(glimpse_growth=1.5),
    "glimpse growth of nan": dict(glimpse_growth=float("nan")),
    "variance of one draw": dict(variance_draws=1),
    "variance of fewer": dict(variance_draws=-1),
    "samples": dict(samples=0),
    "temperature": dict(temperature=0.0),
    "temperature of nan": dict(temperature=float("nan")),
    "variational": dict(name="variational"),
    "variational-credit": dict(name="variational-credit"),
    "defensive": dict(defensive=1.0),
    "defensive below 0": dict(defensive=-0.1),
    "defensive of nan": dict(defensive=float("nan")),
    "defensive vimco": dict(name="vimco", defensive=0.1),
    "sleep": dict(sleep=1.5),
    "sleep below 0": dict(sleep=-0.5),
    "sleep of nan": dict(sleep=float("nan")),
    "sleep of a policy": dict(proposal="policy", sleep=0.5),
    "vimco that explores": dict(name="vimco", proposal="policy", temperature=2.0),
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_settings_that_cannot_train_are_refused_before_anything_is_made(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        tiny_config(None, **changes)
    assert "\n" not in str(caught.value)


def test_one_sample_will_do_without_control_variates() -> None:
    assert tiny_config(None, samples=1, control_variates=False).estimator.samples == 1
