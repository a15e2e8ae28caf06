"""A network of one size of images is measured on others as it is, where its view can grow with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.canvases import panels
from experiments.cli import main
from tests.experiments.commands import refused
from tests.tiny import tiny_config, trained, write_digits

SCENE = dict(scene="megapixel-all", canvas=400, noises=8, training_images=20, validation=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on images of 400 pixels: one with a map, one without."""
    folder = tmp_path_factory.mktemp("canvases")
    digits = write_digits(folder / "digits")
    pointing: dict[str, Any] = dict(network="conv", policy="map", map_stride=2, view=40)
    trained(folder / "map", tiny_config(digits, updates=1, **SCENE, **pointing))
    trained(folder / "gaussian", tiny_config(digits, updates=1, **SCENE))
    return folder


def test_where_it_was_trained_it_is_as_measured_there_and_elsewhere_the_view_grows(folder: Path) -> None:
    main(["megapixel", str(folder / "map"), "--save", str(folder / "there.json")])
    main(["canvases", str(folder / "map"), "--sides", "400", "600", "--save", str(folder / "sides.json")])
    there, found = (json.loads((folder / name).read_text()) for name in ("there.json", "sides.json"))
    same, larger = found["sides"]
    assert same["errors"] == {question: of["error_after"][-1] for question, of in there["questions"].items()}
    assert same["looked_at"] == there["looked_at_after"][-1] and same["pixels_read"] == there["pixels_read"]
    assert (larger["side"], larger["scribbles"], larger["images"]) == (600, 18, 5)
    assert larger["pixels_read"] == pytest.approx(same["pixels_read"] * (400 / 600) ** 2)
    assert (folder / "sides.png").exists()
    wrong, read = panels(found)
    assert [label for label, *_ in wrong.curves] == ["majority", "max", "top", "multi", "digits not looked at"]
    assert read.curves == [("read", [400, 600], [100 * same["pixels_read"], 100 * larger["pixels_read"]])]


def test_views_that_do_not_grow_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run, side in (("map", "410"), ("map", "5"), ("gaussian", "600")):
        said = refused(capsys, "canvases", str(folder / run), "--sides", side)
        assert f"does not become one of {side} pixels" in said
    assert "got none" in refused(capsys, "canvases", str(folder / "map"), "--sides")
