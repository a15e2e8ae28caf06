"""The scripts that make data: what counts as a dog or a scene, and how cells are dealt out to folds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("captions", "dog", "scene"),
    [
        (["A dog runs", "Two dogs", "the dog's ball", "puppy on grass", "an animal in the grass"], "dog", "grass"),
        (["A dog runs", "Two dogs", "the dog's ball", "a child", "a child"], None, None),  # three of five
        (["A child"] * 4 + ["a child with a leash"], None, None),  # which hints at one
        (["A boy on the beach", "sand", "a boy", "a boy", "a boy"], "none", "sand"),
        (["Sand by the sea", "sand", "a boy", "a boy", "a boy"], "none", None),  # two scenes
    ],
)
def test_labels_come_from_what_captions_agree_on(captions: list[str], dog: str | None, scene: str | None) -> None:
    photos = script("photos")
    said = [photos.words(caption) for caption in captions]
    assert (photos.dog(said), photos.scene(said)) == (dog, scene)


def test_every_cell_is_for_test_in_one_fold_and_classes_are_spread_evenly() -> None:
    cells = script("solar_cells")
    groups = ["good"] * 100 + ["defective"] * 40
    folds = [cells.parts(groups, fold) for fold in range(5)]
    assert all([part[n] for part in folds].count("test") == 1 for n in range(140))
    for part in folds:
        counts = {name: [part[:100].count(name), part[100:].count(name)] for name in ("train", "val", "test")}
        assert counts == {"train": [70, 28], "val": [10, 4], "test": [20, 8]}
    assert cells.parts(groups, 0) == folds[0]
