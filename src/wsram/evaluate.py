"""Measuring a trained network, whatever its task: figures on a named set, kept with the run, and the run's pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsram.config import CaptionData, Config, changed
from wsram.data import Dataset, Splits
from wsram.data.listing import is_folder
from wsram.data.mnist import is_digits
from wsram.errors import UserError
from wsram.image_settings import ImageData, is_hub
from wsram.models.classifier import AttentionClassifier
from wsram.models.pretrained import CALIBRATION, Network, from_pretrained, network_folder
from wsram.runs import DATA, SETTINGS, Run, load_state, read_json, read_text, write_whole
from wsram.runtime import autocast, best_device
from wsram.settings import from_json
from wsram.tables import Panel
from wsram.tasks import TASKS, Options, Task
from wsram.terminal import Screen
from wsram.viewing import draw_panels, save

EXAMPLES = 8
"""Examples whose glimpses are drawn."""


@dataclass(frozen=True)
class Trained:
    """A trained network with all that is known of it.

    name: what it was asked for by.
    folder: of its files.
    run: the run it belongs to, whose folder may be written into; None for a network by itself.
    config: the settings it was trained with.
    network: in evaluation mode, on the best device.
    splits: the examples it is measured on.
    """

    name: str
    folder: Path
    run: Run[Any] | None
    config: Config
    network: Network
    splits: Splits

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return TASKS[self.config.task]

    def examples(self, *, test: bool = False) -> Dataset:
        """The validation or test examples, on the network's device, as it answers them."""
        dataset = self.splits.open_test() if test else self.splits.validation
        return self.task.fitting(self.network, dataset.to(next(self.network.parameters()).device))

    def own_data(self) -> bool | None:
        """Whether the examples are of the data set it was trained with; None where that was not written down."""
        path = (self.folder if self.run is None else self.run.folder) / DATA
        if not path.exists():
            return None
        known = read_json(path, "restore it")
        if not isinstance(known, dict):
            raise UserError(f"{path}: expected hashes of the data, got {known!r:.80}; restore it")
        return bool(known.get("validation") == self.splits.validation.fingerprint())


def open_trained(
    name: str | Path, *, source: str | None = None, features: Path | None = None, inference: bool = False
) -> Trained:
    """A trained network by name, with its data.

    Args:
        name: a folder of a run or a network, a released network, or a name of the Hub.
        source: the data, where they are not what the run was trained from.
        features: folder of a captioner's features, where it has moved.
        inference: load the inference network too, if there is one.

    Raises:
        UserError: no such network, or data that cannot be had or are of another kind.
    """
    folder = network_folder(name)
    run = Run.open(Path(name).expanduser()) if (Path(name).expanduser() / SETTINGS).exists() else None
    if run is not None and run.folder == folder:  # a network by itself, with the settings it was trained with
        config, run = run.config, None
    elif run is not None:
        config = run.config
    else:
        path = folder / SETTINGS
        config = from_json(read_text(path, f"{name} does not say how it was trained; name a run"), path)
    if source is not None:
        _require_digits(name, config.data, source)
    if features is not None and not hasattr(config.data, "features"):
        raise UserError(f"{name} looks at images, not at features; leave --features out")
    # Never online: what a file says of downloads was somebody else's wish.
    moved = {"source": source, "features": features, "download": False if hasattr(config.data, "download") else None}
    config = changed(config, **{setting: value for setting, value in moved.items() if value is not None})
    network = from_pretrained(name, inference=inference).to(best_device())
    return Trained(str(name), folder, run, config, network, TASKS[config.task].open(config))


def _require_digits(name: str | Path, made_for: ImageData | CaptionData, source: str) -> None:
    """`UserError` if a network was made for digits in scenes, and there are other images in their place."""
    digits = isinstance(made_for, ImageData) and made_for.scene not in (None, "mosaic")
    if digits and (is_folder(source) or is_hub(source)) and not is_digits(source):
        raise UserError(
            f"{name} is for digits in scenes, made of MNIST's four IDX files, got {source}; "
            "name a folder of those, or a network for such images"
        )


def evaluate(
    trained: Trained, screen: Screen, *, test: bool = False, options: Options | None = None, to: Path | None = None
) -> dict[str, Any]:
    """Show the figures of a network, and keep them in its run's folder as evaluation-SET.json.

    Args:
        trained: the network and its data.
        screen: where they are shown.
        test: measure on the test set rather than the validation examples.
        options: how; see `Options`.
        to: a file to keep them in instead; a network that is no run's, or other data, keeps none otherwise.

    Raises:
        UserError: no such data, options that do not fit, or a file that cannot be written.
    """
    name = "test" if test else "validation"
    if to is not None:
        require_file(to)  # before the work of minutes
    dataset = trained.examples(test=test)
    state = load_state(trained.folder)
    device = next(trained.network.parameters()).device
    context = autocast(trained.network.precision, device)
    figures = trained.task.evaluate(trained.network, dataset, options or Options(), context)
    record = {
        "set": name,
        "examples": len(dataset),
        "answer": dataset.spec.answer,
        "data": {"source": Path(trained.config.data.source).name, "hash": dataset.fingerprint()},
        "precision": trained.network.precision,
        "step": state["step"],
        "training_seconds": state["seconds"],
    } | figures
    table = trained.task.table({name: record})
    about = f"update {state['step']:,}, precision {record['precision']}"
    title = f"{trained.name}: {len(dataset):,} {dataset.title}; {about}"
    screen.show(replace(table, title=title))
    if to is None and trained.run is not None and trained.own_data() is not False:
        to = trained.run.folder / f"evaluation-{name}.json"
    elif to is None and trained.run is not None:
        screen.say("Not kept: these are not the data that the run was trained with; name a file with --save")
    if to is not None:
        keep(to, record, screen)
    return record


def calibrate(trained: Trained) -> None:
    """Let the validation examples say how sure the network may be, and keep that with the run."""
    context = autocast(trained.network.precision, next(trained.network.parameters()).device)
    values = trained.task.calibrate(trained.network, trained.examples(), context)
    if values is None or trained.run is None or not isinstance(trained.network, AttentionClassifier):
        return
    trained.network.calibrate(values)
    state = load_state(trained.folder)
    write_whole(trained.run.folder / CALIBRATION, json.dumps({"step": state["step"], "values": values}) + "\n")


def keep(path: Path, record: Any, screen: Screen, panels: Sequence[Panel] = ()) -> None:
    """Write figures to a JSON file, and a picture of curves beside it, and say so; `UserError` if that cannot be."""
    try:
        write_whole(path, json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); name another file with --save") from error
    screen.say(f"Saved: {path}")
    if panels:
        screen.say(f"Picture: {save(draw_panels(panels), path.with_suffix('.png'), replace=True)}")


def require_file(path: Path) -> None:
    """`UserError` unless figures can be kept in a file of that name, before anything is measured."""
    if path.is_dir():
        raise UserError(f"cannot write {path} (Is a directory); name another file with --save")
    if path.suffix == ".png":
        raise UserError(f"figures are written as JSON, a picture of them beside; name a .json with --save, got {path}")
    make_folder(path.parent)


def make_folder(path: Path, option: str = "--save") -> None:
    """The folder that something is to be kept in, before any work is done.

    Args:
        path: the folder, which is made if it is not there.
        option: that names it.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path} ({error.strerror}); name another with {option}") from error


def conclude(run: Run[Any], screen: Screen) -> None:
    """Say how good a finished run's network is, and draw its curves and where it looks into the run's folder."""
    trained = open_trained(run.folder)
    calibrate(trained)
    metrics, watched = run.metrics(), trained.task.watched
    state = load_state(trained.folder)
    found = next(row for row in metrics if row["step"] == state["step"])
    last = metrics[-1]
    screen.say(
        f"Validation {watched.replace('_', ' ')} {found[watched]:.4g} on {len(trained.splits.validation):,} examples, "
        f"after update {state['step']:,} of {last['step']:,} ({last['seconds']:.0f} s of training)."
    )
    panels = trained.task.panels(run.config, trained.network, metrics)
    curves = save(draw_panels(panels), run.folder / "training.png", replace=True)
    screen.say(f"Curves: {curves}")
    picture = trained.task.look(trained.network, trained.examples(), EXAMPLES)
    if picture is not None:
        screen.say(f"Where it looks: {save(picture, run.folder / 'glimpses.png', replace=True)}")
