"""Settings: into JSON and back unchanged, changed by name, and one line for whatever does not fit."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.refusals import refusal
from tests.tiny import settings, tiny_config
from wsram.config import (
    CONFIGS,
    LARGEST_SEED,
    CaptioningConfig,
    ClassificationConfig,
    Config,
    changed,
)
from wsram.recipes import RECIPES
from wsram.settings import from_json, to_json

SOURCE = Path("somewhere/training.json")

# Where any value other than the default will not do, or must go with the others.
ODD: dict[str, dict[str, Any]] = {
    "image-classification": dict(
        name="variational", scales=(2, 5), std_range=(0.125, 0.5), variance_draws=4, map_stride=13
    ),
    # Soft attention takes one sample.
    "image-to-text": dict(name="variational", samples=1, variance_draws=4),
}
# They need the inference network, which the odd proposal leaves out, the sensor that the odd one is not, and nothing to
# go on from.
ALWAYS_DEFAULT = {"distil", "pathwise", "sleep", "task"}


def odd_value(kind: Any, default: Any) -> Any:
    """A value of a setting's type that is not its default."""
    if typing.get_origin(kind) is typing.Annotated:
        return odd_value(typing.get_args(kind)[0], default)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        inner = next(of for of in typing.get_args(kind) if of is not type(None))
        return (
            odd_value(inner, default)
            if default is not None
            else odd_value(inner, {int: 16, float: 1.0, Path: Path()}.get(inner))
        )
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in typing.get_args(kind) if choice != default)
    if typing.get_origin(kind) is tuple:
        return tuple(odd_value(type(part), part) for part in default)
    if kind is bool:
        return not default
    if kind is int:
        return default // 2 + 1
    if kind is float:
        return default / 2 + 0.125
    return {str: "some/folder with spaces", Path: Path("some/folder")}[kind]


def odd_settings(kind: type[Config]) -> dict[str, Any]:
    """For every setting of a task, whatever its section, a value that is not its default."""
    found: dict[str, Any] = {}
    config = kind()
    for part in (config, *(part for part in vars(config).values() if dataclasses.is_dataclass(part))):
        hints = typing.get_type_hints(type(part), include_extras=True)
        for name, default in vars(part).items():
            if name not in ALWAYS_DEFAULT and not dataclasses.is_dataclass(default):
                found[name] = odd_value(hints[name], default)
    return found | ODD[config.task]


def odd(task: str) -> Config:
    return changed(CONFIGS[task](), **odd_settings(CONFIGS[task]))


@pytest.mark.parametrize("task", CONFIGS)
def test_a_value_other_than_the_default_is_known_for_every_setting(task: str) -> None:
    default, other = dict(settings(CONFIGS[task]())), dict(settings(odd(task)))
    assert default.keys() == other.keys() and odd(task).data.source != CONFIGS[task]().data.source
    same = [name for name in other if other[name] == default[name]]
    assert same == [name for name in ("pathwise", "sleep", "distil") if name in default]


@pytest.mark.parametrize("config", [*RECIPES.values(), *map(odd, CONFIGS)], ids=[*RECIPES, *CONFIGS])
def test_through_json_and_back(config: Config) -> None:
    again = from_json(to_json(config), SOURCE)
    assert again == config and type(again) is type(config)


def test_the_file_is_plain_json_that_a_person_can_read() -> None:
    text = to_json(changed(odd("image-classification"), validation=17))
    read = json.loads(text)
    assert read["data"]["source"] == "some/folder with spaces" and read["model"]["scales"] == [2, 5]
    assert read["data"]["validation"] == 17
    assert json.loads(to_json(ClassificationConfig()))["data"]["validation"] is None
    assert text.endswith("}\n") and len(text.splitlines()) > len(dict(settings(ClassificationConfig())))


def test_settings_that_a_file_does_not_have_take_their_defaults() -> None:
    text = '{"task": "image-classification", "schedule": {"updates": 5}, "model": {"patch": 9}}'
    assert from_json(text, SOURCE) == changed(ClassificationConfig(), updates=5, patch=9)
    assert from_json('{"task": "image-to-text"}', SOURCE) == CaptioningConfig()


def test_a_whole_number_will_do_where_a_fraction_is_meant() -> None:
    text = '{"task": "image-classification", "schedule": {"clip": 5}, "model": {"std_range": [1, 1]}}'
    config = from_json(text, SOURCE)
    assert isinstance(config, ClassificationConfig)
    assert (type(config.schedule.clip), *map(type, config.model.std_range)) == (float, float, float)


def test_only_what_is_named_is_changed() -> None:
    config = odd("image-classification")
    assert isinstance(config, ClassificationConfig) and config.glimpse_growth != 0.5
    new = changed(config, updates=5, glimpse_growth=0.5)
    assert changed(new, updates=config.schedule.updates, glimpse_growth=config.glimpse_growth) == config
    assert new.schedule.updates == 5 and new.glimpse_growth == 0.5 and new.model is config.model
    exploration = ClassificationConfig().exploration
    assert changed(config, exploration=exploration).exploration is exploration


@pytest.mark.parametrize("name", ["steps", "task_", "names"])
def test_a_setting_that_is_not_there_cannot_be_changed(name: str) -> None:
    with pytest.raises(TypeError, match=f"no setting is called {name}"):
        changed(ClassificationConfig(), updates=3, **{name: 1})


@pytest.mark.parametrize("task", CONFIGS)
def test_a_setting_has_one_place(task: str) -> None:
    """Else a change by its own name would be made in two."""
    config = CONFIGS[task]()
    sections = [part for part in vars(config).values() if hasattr(part, "__dataclass_fields__")]
    names = [name for part in (config, *sections) for name in vars(part)]
    assert len(names) == len(set(names))


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
    "text for a number": (put("schedule", "updates", value="many"), "updates"),
    "fraction for a whole number": (put("schedule", "updates", value=1.5), "updates"),
    "true for a whole number": (put("schedule", "batch", value=True), "batch"),
    "nothing for a whole number": (put("schedule", "seed", value=None), "seed"),
    "text for a fraction": (put("schedule", "clip", value="5"), "clip"),
    "a number without end for a fraction": (put("schedule", "clip", value=10**400), "clip"),
    "number for yes or no": (put("data", "download", value=1), "download"),
    "number for text": (put("data", "source", value=3), "source"),
    "text for an optional number": (put("data", "validation", value="few"), "validation"),
    "number for a list": (put("model", "scales", value=3), "scales"),
    "text within a list": (put("model", "scales", value=[1, "two"]), "scales"),
    "nothing within a list": (put("model", "std_range", value=[None, 1.0]), "std_range"),
    "one bound of two": (put("model", "std_range", value=[0.1]), "std_range"),
    "three bounds of two": (put("model", "std_range", value=[0.1, 0.2, 0.3]), "std_range"),
    "none of the choices": (put("schedule", "precision", value="fp8"), "precision"),
    "no scene of ours": (put("data", "scene", value="night"), "scene"),
    "a list for a choice": (put("model", "network", value=["conv"]), "network"),
    "no task": (lambda config: {name: part for name, part in config.items() if name != "task"}, "expected a task"),
    "another task": (put("task", value="image-to-image"), "image-to-image"),
    "a list for a task": (put("task", value=["image-to-text"]), "image-to-text"),
    "settings of the other task": (put("task", value="image-to-text"), "glimpse_growth"),
    "a list for everything": (lambda config: [config], "expected a task"),
    "nothing for everything": (lambda config: None, "expected a task"),
}


@pytest.mark.parametrize("change, named", MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_named_in_one_line(change: Callable[[Any], Any], named: str) -> None:
    text = json.dumps(change(json.loads(to_json(ClassificationConfig()))))
    refusal(lambda: from_json(text, SOURCE), SOURCE, named)


@pytest.mark.parametrize("value", [3, ["a"], True])
def test_a_path_is_text(value: Any) -> None:
    text = json.dumps(put("data", "features", value=value)(json.loads(to_json(CaptioningConfig()))))
    refusal(lambda: from_json(text, SOURCE), SOURCE, "features")


@pytest.mark.parametrize(
    "text", ["", "{", '{"task": "image-to-text"', "updates: 5", to_json(ClassificationConfig())[:-3], "[" * 100_000]
)
def test_text_that_is_not_json_is_refused_in_one_line(text: str) -> None:
    refusal(lambda: from_json(text, SOURCE), SOURCE, "is not valid JSON")


NAN, INF = float("nan"), float("inf")
# The settings, and what the line about them must say.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "updates": (dict(updates=0), "updates must be at least 1, got 0"),
    "batch": (dict(batch=0), "batch must be at least 1, got 0"),
    "warmup": (dict(warmup=-1), "warmup must be at least 0, got -1"),
    "evaluate every": (dict(evaluate_every=0), "evaluate every must be at least 1"),
    "patience": (dict(patience=-1), "patience must be at least 0"),
    "learning rate": (dict(learning_rate=-1e-3), "learning rate must be above 0"),
    "learning rate of nan": (dict(learning_rate=NAN), "learning rate must be a finite number, got nan"),
    "weight decay": (dict(weight_decay=-1.0), "weight decay must be at least 0"),
    "weight decay of nan": (dict(weight_decay=NAN), "weight decay must be a finite number"),
    "clip": (dict(clip=0.0), "clip must be above 0"),
    "seed below 0": (dict(seed=-1), "seed must be from 0"),
    "seed beyond 64 bits": (dict(seed=LARGEST_SEED + 1), "seed must be from 0"),
    "glimpse growth": (dict(glimpse_growth=1.5), "glimpse growth is a share"),
    "glimpse growth of nan": (dict(glimpse_growth=NAN), "glimpse growth is a share"),
    "variance of one draw": (dict(variance_draws=1), "at least 2 draws, got 1"),
    "variance of fewer": (dict(variance_draws=-1), "variance draws must be at least 0"),
    "samples": (dict(samples=0), "samples must be at least 1, got 0"),
    "one sample with control variates": (dict(samples=1), "at least 2 samples, got 1"),
    "temperature": (dict(temperature=0.0), "temperature must be above 0"),
    "temperature of nan": (dict(temperature=NAN), "temperature must be a finite number"),
    "temperature without end": (dict(temperature=INF), "temperature must be a finite number, got inf"),
    "location entropy": (dict(location_entropy=-0.1), "location entropy must be at least 0"),
    "location entropy of nan": (dict(location_entropy=NAN), "location entropy must be a finite number"),
    "scale entropy": (dict(scale_entropy=-0.1), "scale entropy must be at least 0"),
    "coverage": (dict(coverage=-1.0), "coverage must be at least 0"),
    "distortion": (dict(distortion=-0.5), "distortion must be at least 0"),
    "distortion without end": (dict(distortion=INF), "distortion must be a finite number"),
    "std range of nan": (dict(std_range=(NAN, 1.0)), "std range must be a finite number"),
    "defensive": (dict(defensive=1.0), "from 0 to below 1, got 1.0"),
    "defensive below 0": (dict(defensive=-0.1), "from 0 to below 1"),
    "defensive of nan": (dict(defensive=NAN), "defensive must be a finite number"),
    "sleep": (dict(sleep=1.5), "from 0 to 1, got 1.5"),
    "sleep below 0": (dict(sleep=-0.5), "from 0 to 1"),
    "sleep of nan": (dict(sleep=NAN), "sleep must be a finite number"),
    "a path of more than all": (dict(name="variational", proposal="policy", pathwise=1.5), "from 0 to 1, got 1.5"),
    "a path of q's glimpses": (dict(name="vimco", pathwise=0.5), "--proposal policy"),
    "a path under wake-sleep": (dict(name="wake-sleep", proposal="policy", pathwise=0.5), "or --pathwise 0"),
    "a path through the nearest": (
        dict(name="variational", proposal="policy", pathwise=0.5, sensor="nearest"),
        "--sensor bilinear",
    ),
    "sleep of a policy": (dict(proposal="policy", sleep=0.5), "--proposal inference"),
}
BAD_CAPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": (dict(temperature=-1.0), "temperature must be above 0"),
    "entropy": (dict(entropy=-0.1), "entropy must be at least 0"),
    "entropy without end": (dict(entropy=INF), "entropy must be a finite number"),
    "coverage": (dict(coverage=NAN), "coverage must be a finite number"),
    "dropout of nan": (dict(dropout=NAN), "dropout must be a finite number"),
    "a path": (dict(name="variational", proposal="policy", pathwise=0.5), "cannot be followed"),
    "resampling": (dict(name="wake-sleep-resampled"), "not resampled between words"),
    "counts": (dict(min_count=0), "min count must be at least 1"),
    "captions of no word": (dict(longest=0), "longest must be at least 1"),
    "soft attention with samples": (dict(attention="soft"), "soft attention draws nothing"),
}


@pytest.mark.parametrize("changes, named", BAD.values(), ids=BAD)
def test_settings_that_cannot_train_are_refused_before_anything_is_made(changes: dict[str, Any], named: str) -> None:
    refusal(lambda: tiny_config("digits", **changes), named)


@pytest.mark.parametrize("changes, named", BAD_CAPTIONS.values(), ids=BAD_CAPTIONS)
def test_settings_of_captions_that_cannot_train(changes: dict[str, Any], named: str) -> None:
    refusal(lambda: changed(CaptioningConfig(), **changes), named)


def test_a_file_of_settings_that_cannot_train_is_refused_too() -> None:
    text = json.dumps(put("schedule", "updates", value=0)(json.loads(to_json(ClassificationConfig()))))
    refusal(lambda: from_json(text, SOURCE), "updates must be at least 1")


def test_one_sample_will_do_without_control_variates() -> None:
    assert tiny_config("digits", samples=1, control_variates=False).estimator.samples == 1
