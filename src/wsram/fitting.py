"""Training on images that a program holds: they are kept as files beside the run, a run like any other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsram.config import asked, changed
from wsram.data.given import ImageLike, as_png
from wsram.errors import UserError
from wsram.evaluate import conclude
from wsram.predictor import Predictor, from_pretrained
from wsram.recipes import RECIPES, require_heeded
from wsram.runs import SETTINGS, Run, new_folder, write_whole
from wsram.terminal import Screen
from wsram.training import train

TABLE = "images.jsonl"
FLOATS, WHOLE = (float, np.floating), (int, np.integer)
"""Types of numbers."""


def fit(
    images: Sequence[ImageLike],
    labels: Sequence[Any] | np.ndarray,
    folder: str | Path,
    *,
    recipe: str = "folder",
    screen: Screen | None = None,
    **settings: Any,
) -> Predictor:
    """Train a network on images and what is to be said of them, and open it.

    What is not a file yet is written to FOLDER-images, eight bits to a value; of each class 15% of the images are held
    out for validation and 15% for test, by their content. Then it is as after `wsram train`: the run can be evaluated,
    resumed and asked by its folder. A call that is refused leaves nothing behind.

    Args:
        images: files, what Pillow opened, arrays or tensors, of any sizes.
        labels: one for each image: a class, by its name or number; a number to be estimated, where all are numbers and
            one at least is floating-point; or several names that hold at once.
        folder: of the run, which is made.
        recipe: settings to start from, a key of `wsram.RECIPES`.
        screen: where progress is told; by default the terminal.
        settings: what is to differ from the recipe, by the options' names with underscores.

    Raises:
        UserError: another number of labels than images, images or labels that cannot be read, a folder that holds a
            run or images already, or whatever training refuses.
        TypeError: no setting has that name.

    Example:
        >>> import tempfile
        >>> dark, light = np.zeros((40, 20, 20), np.uint8), np.full((40, 20, 20), 200, np.uint8)
        >>> images = [*(dark + np.arange(40, dtype=np.uint8)[:, None, None]), *light]
        >>> settings = dict(updates=2, evaluate_every=2, glimpses=2, patch=8)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     quiet = Screen(quiet=True)
        ...     predictor = fit(images, ["dark"] * 40 + ["light"] * 40, f"{place}/run", screen=quiet, **settings)
        >>> predictor.names
        ('dark', 'light')
    """
    if recipe not in RECIPES:
        raise UserError(f"expected a recipe, one of {', '.join(RECIPES)}, got {recipe!r}; name one of them")
    if "source" in settings:
        raise UserError("images and labels are what is trained on, got a source as well; leave it out")
    folder = Path(folder).expanduser()
    if not folder.name:
        raise UserError(f"expected a new folder for the run, got {str(folder)!r}; name one")
    if (folder / SETTINGS).exists():
        raise UserError(f"{folder} already holds a run; choose another folder")
    home = folder.with_name(f"{folder.name}-images")
    config = asked(RECIPES[recipe], **settings)
    require_heeded(config, RECIPES[recipe])
    table = write_table(images, labels, home)
    run = Run(folder, changed(config, source=str(table)))
    screen = Screen() if screen is None else screen
    try:
        train(run, screen)
    except BaseException:  # also an interruption
        if not (folder / SETTINGS).exists():  # no run has begun, which would need the images
            shutil.rmtree(home, ignore_errors=True)
        raise
    conclude(Run.open(folder), screen)
    return from_pretrained(folder)


def write_table(images: Sequence[ImageLike], labels: Sequence[Any] | np.ndarray, folder: Path) -> Path:
    """Write images that are no files yet, and a table of all of them, into a new folder.

    Returns:
        The table, as `wsram train` takes it.

    Raises:
        UserError: as `fit` has it.
    """
    if len(images) != len(labels):
        raise UserError(f"expected a label for each image, got {len(labels)} labels and {len(images)} images")
    if os.path.lexists(folder):
        raise UserError(f"expected a new folder for the images, got {folder}, which is there; choose another")
    numbers = any(isinstance(label, FLOATS) for label in labels) and all(
        isinstance(label, FLOATS + WHOLE) for label in labels
    )
    rows = []
    with new_folder(folder) as partial:
        for n, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = Path(image).expanduser().absolute() if isinstance(image, str | Path) else Path(f"{n:06}.png")
            if not isinstance(image, str | Path):
                as_png(image).save(partial / path)
            rows.append(json.dumps({"path": str(path), "label": _plain(label, numbers)}))
        write_whole(partial / TABLE, "\n".join(rows) + "\n")
    return folder / TABLE


def _plain(label: Any, numbers: bool) -> str | float | list[str]:
    """A label as a table has it: a class's number is its name, unless `numbers` are to be estimated."""
    if isinstance(label, str):
        if "|" in label:  # which parts several names in a table
            raise UserError(
                f"expected a class's name without |, got {label[:80]!r}; rename it, or give several names as a list"
            )
        return str(label)
    if numbers or isinstance(label, FLOATS):
        return float(label)
    if isinstance(label, (*WHOLE, np.bool_)):
        return str(label)
    if isinstance(label, Sequence):
        return [str(each) for each in label]
    raise UserError(f"expected a label that is a name, a number or several names, got {str(label)[:80]}; convert it")
