"""What a network is given of a drawing or a file: light on dark, as large as in training, and what was done is said."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.networks import classifier
from tests.refusals import refusal
from wsram.app import fitting
from wsram.app.fitting import fit_drawing, fit_file, read_drawing, scene_of
from wsram.config import ClassificationConfig, changed
from wsram.data.given import given
from wsram.data.scenes import SCENES, SceneSpec
from wsram.models.pretrained import RELEASED
from wsram.predictor import Predictor, from_pretrained
from wsram.settings import to_json

SCENE = SCENES["translated"]


def stroke(top: int, bottom: int, left: int = 90, right: int = 110, side: int = 280) -> np.ndarray:
    """A drawing of one upright bar."""
    grey = np.zeros((side, side), np.uint8)
    grey[top:bottom, left:right] = 255
    return grey


def as_url(array: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def extent(image: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is light."""
    rows, columns = (np.flatnonzero((image > 100).any(axis)) for axis in (1, 0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_a_large_drawing_is_shrunk_to_the_size_of_training_around_its_own_place() -> None:
    fitted = fit_drawing(stroke(20, 220), SCENE)
    assert isinstance(fitted.image, np.ndarray) and fitted.image.shape == (60, 60)
    top, bottom, left, right = extent(fitted.image)
    assert bottom - top == 20 and right - left == 2
    assert (top + bottom) / 2 == pytest.approx(120 * 60 / 280, abs=1)
    assert (left + right) / 2 == pytest.approx(100 * 60 / 280, abs=1)
    assert fitted.notes == ("shrunk to 20 of 60 pixels, as digits were in training",)


def test_a_small_drawing_in_a_corner_is_enlarged_and_stays_whole() -> None:
    fitted = fit_drawing(stroke(250, 278, 262, 276), SCENE)
    top, bottom, left, right = extent(np.asarray(fitted.image))
    assert bottom - top == pytest.approx(20, abs=1) and bottom <= 56 and right <= 56 and left > 40
    assert fitted.notes == ("enlarged to 20 of 60 pixels, as digits were in training",)


def test_a_drawing_of_a_size_that_training_had_keeps_it_without_a_word() -> None:
    fitted = fit_drawing(stroke(100, 184, 100, 130), SCENES["translated-scaled"])
    top, bottom, _, _ = extent(np.asarray(fitted.image))
    assert bottom - top == pytest.approx(30, abs=1) and fitted.notes == ()


def test_dark_on_light_is_turned_around_and_said() -> None:
    light, dark = fit_drawing(stroke(20, 220), SCENE), fit_drawing(255 - stroke(20, 220), SCENE)
    np.testing.assert_array_equal(np.asarray(light.image), np.asarray(dark.image))
    assert dark.notes[0].startswith("turned around") and dark.notes[1:] == light.notes


def test_what_was_not_trained_on_scenes_of_digits_gets_the_drawing_as_it_is() -> None:
    drawing = stroke(20, 220)
    fitted = fit_drawing(drawing, None)
    assert fitted.image is drawing and fitted.notes == ()


def test_a_drawing_is_read_from_a_data_url() -> None:
    drawing = stroke(20, 220)
    np.testing.assert_array_equal(read_drawing(as_url(drawing)), drawing)


noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        ("", "nothing is drawn yet"),
        (as_url(np.zeros((280, 280), np.uint8)), "nothing is drawn yet"),
        (as_url(np.full((280, 280), 255, np.uint8)), "nothing is drawn yet"),
        ("data:image/png;base64,AAAA", "data URL of a PNG file, got another 'data:image/png;base64'"),
        ("data:image/png;base64,@", "data URL of a PNG file"),
        (as_url(noise)[:1022], "expected a whole image in the image"),
        ("/etc/passwd", "data URL of a PNG file, got another '/etc/passwd'"),
        ("http://example.org/a.png", "data URL of a PNG file"),
    ],
)
def test_what_is_no_drawing_is_refused_in_a_line(drawn: str, said: str) -> None:
    refusal(lambda: read_drawing(drawn), said)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A photograph of a digit, dark on light and larger than a scene."""
    path = tmp_path / "four.png"
    Image.fromarray(255 - stroke(20, 220)).save(path)
    return path


def test_a_file_is_turned_around_and_shrunk_to_a_scene(file: Path) -> None:
    fitted = fit_file(file, SCENE)
    top, bottom, _, _ = extent(np.asarray(fitted.image))
    assert np.shape(fitted.image) == (60, 60) and bottom - top == pytest.approx(200 * 60 / 280, abs=1)
    assert [note.split()[0] for note in fitted.notes] == ["turned", "shrunk"]


def test_a_small_file_lies_in_the_middle_of_a_scene(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(stroke(4, 24, 12, 16, side=28)).save(path)
    fitted = fit_file(path, SCENE)
    assert extent(np.asarray(fitted.image)) == (20, 40, 28, 32) and fitted.notes == ()


@pytest.mark.parametrize("scene", [None, SCENE])
def test_an_array_is_a_file_like_any_other(tmp_path: Path, scene: SceneSpec | None) -> None:
    grey = 255 - stroke(20, 220)
    np.save(tmp_path / "a.npy", grey)
    Image.fromarray(grey).save(tmp_path / "a.png")
    array, file = (fit_file(tmp_path / name, scene) for name in ("a.npy", "a.png"))
    assert torch.equal(given(array.image, 1).pixels, given(file.image, 1).pixels) and array.notes == file.notes


def test_another_network_gets_the_file_itself(file: Path) -> None:
    assert fit_file(file, None).image == file


@pytest.mark.parametrize("scene", [None, SCENE])
def test_files_that_are_no_images_are_called_by_their_name_alone(tmp_path: Path, scene: object) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no image")
    message = refusal(lambda: fit_file(path, scene), "expected a whole image in notes.png")  # type: ignore[arg-type]
    assert str(tmp_path) not in message


def test_too_many_pixels_are_refused_before_they_are_unpacked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "PIXELS", 280 * 280 - 1)
    refusal(lambda: fit_file(file, None), "four.png has 280×280 pixels, more than 78,399")
    refusal(lambda: read_drawing(as_url(stroke(20, 220))), "the drawing has 280×280 pixels")
    np.save(file.with_name("a.npy"), stroke(20, 220))
    refusal(lambda: fit_file(file.with_name("a.npy"), None), "a.npy has 280×280 pixels, more than 78,399")


def test_the_scenes_of_a_network_are_those_it_was_trained_on(tmp_path: Path, digit_run: Path) -> None:
    assert scene_of(from_pretrained("translated", inference=False)) == SCENE
    assert scene_of(from_pretrained(digit_run, inference=False)) == SCENE  # a run's checkpoint, two folders below it
    assert scene_of(Predictor(classifier())) is None  # letters
    bare = tmp_path / "bare"
    shutil.copytree(RELEASED / "translated", bare, ignore=shutil.ignore_patterns("training.json"))
    assert scene_of(from_pretrained(bare, inference=False)) is None
    large = changed(ClassificationConfig(), scene="megapixel-majority")  # which are no scenes of one digit
    (bare / "training.json").write_text(to_json(large))
    assert scene_of(from_pretrained(bare, inference=False)) is None
