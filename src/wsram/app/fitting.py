"""Drawings and files as a network was trained to see them: a digit light on dark, as large as its scenes have it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from wsram.config import ClassificationConfig
from wsram.data.digits import SCENE
from wsram.data.given import ImageLike, given
from wsram.data.images import read_image, size_of
from wsram.data.scenes import SCENES, SceneSpec
from wsram.data.tiled import open_tiles
from wsram.errors import UserError, printable
from wsram.models.classifier import AttentionClassifier
from wsram.predictor import Predictor
from wsram.settings import from_json

PIXELS = 50_000_000
"""Of the largest image that is taken: as many as a good camera's."""
INK = 20 / 28
"""Of the side of a digit of MNIST: twenty of its 28 pixels are for ink."""
FAINT = 48
"""Bytes of grey below which nothing is taken for ink."""
DIGITS = tuple("0123456789")
NOTHING = "nothing is drawn yet: draw a digit on the black square"


@dataclass(frozen=True)
class Fitted:
    """What a network is given, and what was done to it before, a few words each."""

    image: ImageLike
    notes: tuple[str, ...] = ()


def scene_of(predictor: Predictor) -> SceneSpec | None:
    """The scenes that a network of digits was trained on; none of others, or where nothing says so."""
    network = predictor.network
    if not isinstance(network, AttentionClassifier) or network.channels != 1 or network.head.names[:10] != DIGITS:
        return None
    folder = predictor.folder
    # Beside a network that was passed on, or in the folder of the run whose checkpoint it is.
    for place in () if folder is None else (folder, folder.parent.parent):
        path = place / "training.json"
        if path.is_file():
            config = from_json(path.read_text(encoding="utf-8"), path)
            return SCENES.get(config.data.scene or SCENE) if isinstance(config, ClassificationConfig) else None
    return None


def read_drawing(drawn: str) -> np.ndarray:
    """What was drawn on the page, as grey: (height, width) bytes.

    Args:
        drawn: a PNG file as a data URL; empty where nothing is drawn.

    Raises:
        UserError: it is no such image, is too large, or there is nothing on it.
    """
    if not drawn:
        raise UserError(NOTHING)
    head, _, body = drawn.partition(",")
    try:
        image = Image.open(BytesIO(base64.b64decode(body, validate=True)), formats=["PNG"])
    except Exception as error:  # Pillow raises whatever the malformed bytes lead it to
        raise UserError(f"expected a drawing as the data URL of a PNG file, got another {head[:30]!r}") from error
    _check_size(image.height, image.width, "the drawing")
    grey = read_image(image, 1)[0].numpy()
    if int(grey.max()) - int(grey.min()) < FAINT:
        raise UserError(NOTHING)
    return grey


def fit_drawing(grey: np.ndarray, scene: SceneSpec | None) -> Fitted:
    """A drawing for a network: for one of digits the ink as large as in its scenes, at the place where it was drawn.

    Args:
        grey: (height, width) bytes.
        scene: that the network was trained on, if it was.
    """
    if scene is None:
        return Fitted(grey)
    light, notes = _light_on_dark(grey)
    rows, columns = (np.flatnonzero((light >= FAINT).any(axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    ratio = scene.canvas / max(light.shape)
    longest = max(bottom - top, right - left)
    ink = float(np.clip(longest * ratio, scene.min_side * INK, scene.max_side * INK))
    if not np.isclose(ink, longest * ratio, rtol=0.1):
        way = "shrunk" if ink < longest * ratio else "enlarged"
        notes = (*notes, f"{way} to {ink:.0f} of {scene.canvas} pixels, as digits were in training")
    crop = Image.fromarray(light[top:bottom, left:right])
    width, height = (max(1, round((end - start) * ink / longest)) for start, end in ((left, right), (top, bottom)))
    crop = crop.resize((width, height), Image.Resampling.BOX if ink < longest else Image.Resampling.BICUBIC)
    canvas = Image.new("L", (scene.canvas, scene.canvas))
    margin = round(ink / INK * (1 - INK) / 2)
    at = [
        round(np.clip((start + end) / 2 * ratio - side / 2, margin, scene.canvas - margin - side))
        for start, end, side in ((left, right, width), (top, bottom, height))
    ]
    canvas.paste(crop, (at[0], at[1]))
    return Fitted(np.asarray(canvas), notes)


def fit_file(path: Path, scene: SceneSpec | None) -> Fitted:
    """An image file for a network; for one of digits no larger than its scenes, and in the middle of one if smaller.

    Args:
        path: of the file.
        scene: that the network was trained on, if it was.

    Raises:
        UserError: it cannot be read as an image, or is too large; the file is called by its name alone.
    """
    try:
        tiles = open_tiles(path, 1)
        height, width = size_of(path)[:2] if tiles is None else (tiles.height, tiles.width)
        _check_size(height, width, path.name)
        if scene is None:
            return Fitted(path)
        pixels = given(path, 1, scene.canvas).pixels[0].numpy()
    except UserError as error:
        raise UserError(str(error).replace(printable(str(path)), printable(path.name))) from error
    light, notes = _light_on_dark(pixels)
    if max(height, width) > scene.canvas:
        notes = (*notes, f"shrunk to {max(pixels.shape)} pixels, the side of the scenes it was trained on")
    rows, columns = light.shape
    canvas = np.zeros((scene.canvas, scene.canvas), np.uint8)
    top, left = (scene.canvas - rows) // 2, (scene.canvas - columns) // 2
    canvas[top : top + rows, left : left + columns] = light
    return Fitted(canvas, notes)


def _check_size(height: int, width: int, name: str) -> None:
    """`UserError` if an image has too many pixels to be unpacked for everybody who asks."""
    if height * width > PIXELS:
        raise UserError(f"{name} has {width}×{height} pixels, more than {PIXELS:,}; make it smaller")


def _light_on_dark(grey: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turned around where the image's edge is light, and what to say of it."""
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(edge) <= 127:
        return grey, ()
    return 255 - grey, ("turned around: the network was trained on light digits on a dark ground",)
