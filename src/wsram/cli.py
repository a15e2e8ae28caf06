"""The command line: `wsram COMMAND`; `COMMANDS` lists them. Words to calls, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Generic

import tyro

from wsram import __version__, asking
from wsram.config import C, CaptionData, ClassificationConfig, Config, Tracker, asked
from wsram.errors import UserError
from wsram.image_settings import TABLES, is_hub
from wsram.launch import Commands, choose, launch, unframed
from wsram.recipes import RECIPES, require_heeded
from wsram.terminal import Screen

DEFAULT_RECIPE = "quarter-hour"


@dataclass(frozen=True)
class Train(Generic[C]):
    """Train a network on DATA. Settings come from a recipe; any of them can be changed."""

    config: Annotated[C, tyro.conf.arg(name="")]
    recipe: str = DEFAULT_RECIPE
    """Named settings to start from; `wsram models` lists them."""
    run: Path | None = None
    """New folder for settings, metrics, checkpoints and pictures; by default runs/RECIPE-N."""
    resume: Path | None = None
    """Go on with the run in this folder, exactly where it stopped and with its own settings."""
    tracker: tuple[Tracker, ...] = ()
    """Where figures, and pictures of looking, go besides the run's folder: one of these programs, or several."""


@dataclass(frozen=True)
class Demo:
    """Train on the embedded digits for a few minutes, print the error on the validation digits, draw where it looks."""

    run: Path | None = None
    """New folder for what it makes; by default runs/demo-N."""
    updates: int = RECIPES["demo"].schedule.updates
    """Optimizer steps."""


@dataclass(frozen=True)
class Features:
    """Extract the features of all images of a captioned data set, once, into a cache that training reads."""

    data: Annotated[CaptionData, tyro.conf.arg(name="")] = field(default_factory=CaptionData)


@dataclass(frozen=True)
class Evaluate:
    """Measure a network: a classifier's error (mode, one sample, a vote), or a captioner's BLEU and likelihood."""

    network: Annotated[str, tyro.conf.Positional]
    """Folder of a run or a network, a released network, or a name on the Hugging Face Hub."""
    data: Annotated[str | None, tyro.conf.Positional] = None
    """Where the data are, if they are not where the network was trained from."""
    test: bool = False
    """Measure on the test set, instead of the validation part of the training set."""
    samples: int | None = None
    """Sequences that vote, or that a likelihood is estimated from; by default 16."""
    beam: int | None = None
    """Captions kept for each image while they grow; of a captioner, by default 5."""
    features: Path | None = None
    """Folder of a captioner's features, where it has moved."""
    stop: bool = False
    """Measure instead what it saves, and costs, to stop looking once the network is sure; kept as stopping.json."""
    save: Path | None = None
    """JSON file to keep the figures in; by default evaluation-SET.json in a run's folder."""


@dataclass(frozen=True)
class Diagnose:
    """Compare the estimators on one batch: effective sample size, gradient variance, distance from the posterior."""

    network: Annotated[str, tyro.conf.Positional]
    """Folder of a run or a network, a released network, or a name on the Hugging Face Hub."""
    data: Annotated[str | None, tyro.conf.Positional] = None
    """Where the data are, if they are not where the network was trained from."""
    samples: int = 5
    """Action sequences for each example, M."""
    batch: int = 128
    """Examples in the batch."""
    draws: int | None = None
    """Gradients whose variance is taken, by default 100; with a precision at most so many, by default 1,000."""
    precision: float | None = None
    """Draw until half of every variance's 95% interval is at most this share of it, 0.1 say."""
    compare: str | None = None
    """Estimators alone, on the same draws, each against what it refines or the first: names with commas between."""
    groups: str | None = None
    """Groups of parameters, with commas between: prediction, which is slow, policy, inference; by default all."""
    features: Path | None = None
    """Folder of a captioner's features, where it has moved."""
    save: Path | None = None
    """Folder for diagnosis.json and posterior.json, made if it is not there; by default a run's own."""


@dataclass(frozen=True)
class Release:
    """Write what others need of a run into a folder: network, settings, provenance, and a model card."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    to: Path
    """New folder."""
    inference: bool = True
    """With the inference network, by which one can ask where the evidence for an answer is."""


@dataclass(frozen=True)
class Export:
    """Write a network for other programs: as ONNX or in PyTorch's own format, or as a page for any browser."""

    network: Annotated[str, tyro.conf.Positional]
    """Folder of a run or a network, a released network, or a name on the Hugging Face Hub."""
    to: Path
    """New file, .onnx or .pt2, which is checked against the network; or a new folder, for a page for browsers."""
    sampled: bool = False
    """Draw glimpses from the policy, by noise that is an input; by default they are where it is likeliest to look."""
    step: bool = False
    """Beside it two files more, by which a program takes one glimpse at a time and stops when it has seen enough."""


@dataclass(frozen=True)
class Models:
    """List the networks that come with the package, and the recipes to train others."""


def _train(args: Train[Config], screen: Screen) -> None:
    from accelerate import PartialState

    from wsram.evaluate import conclude
    from wsram.runs import Run
    from wsram.trackers import Trackers
    from wsram.training import train

    if args.resume is not None and args.run is not None:
        raise UserError("--resume goes on in the run's own folder; leave --run out")
    run = Run(args.resume or args.run or _new_run_folder(args.recipe), args.config)
    watcher = Trackers(args.tracker) if args.tracker else None
    train(run, screen, resume=args.resume is not None, watcher=watcher)
    if PartialState().is_main_process:
        conclude(Run.open(run.folder), screen)


def _demo(args: Demo, screen: Screen) -> None:
    recipe = RECIPES["demo"]
    config = replace(recipe, schedule=replace(recipe.schedule, updates=args.updates))
    screen.say("Training hard attention on 4,000 real digits, each at a random size and place in a 100x100 image.")
    _train(Train(config, "demo", args.run), screen)


def _features(args: Features, screen: Screen) -> None:
    from wsram.data.captioned import load_splits, make_features, notes_of
    from wsram.models.backbone import build_backbone

    for note in notes_of(load_splits(args.data)):
        screen.say(f"Note: {note}")
    features = make_features(args.data, build_backbone(args.data.backbone, args.data.grid), screen)
    images, cells, channels = features.array.shape
    screen.say(f"Features of {images:,} images, {cells} cells of {channels} channels each, are ready.")


def _evaluate(args: Evaluate, screen: Screen) -> None:
    from wsram.evaluate import evaluate, open_trained
    from wsram.tasks import Options

    if args.stop and (args.samples, args.beam) != (None, None):
        raise UserError("--stop looks once, where it is likeliest to; leave --samples and --beam out")
    trained = open_trained(args.network, source=args.data, features=args.features)
    if args.stop:
        from wsram.stopping import stopping

        stopping(trained, screen, test=args.test, to=args.save)
        return
    evaluate(trained, screen, test=args.test, options=Options(args.samples, args.beam), to=args.save)


def _diagnose(args: Diagnose, screen: Screen) -> None:
    from wsram.cards import diagnosis_tables, posterior_table, without_machine
    from wsram.diagnose import diagnose, posterior, reached
    from wsram.evaluate import keep, make_folder, open_trained

    trained = open_trained(args.network, source=args.data, features=args.features, inference=True)
    folder = args.save or (trained.run.folder if trained.run else None)
    if args.save is not None:
        if args.save.suffix == ".json":
            raise UserError(f"--save names a folder for diagnosis.json and posterior.json, got {args.save}")
        make_folder(args.save)
    found = diagnose(
        trained,
        samples=args.samples,
        batch=args.batch,
        draws=args.draws,
        precision=args.precision,
        compare=None if args.compare is None else [name.strip() for name in args.compare.split(",")],
        groups=None if args.groups is None else [name.strip() for name in args.groups.split(",")],
        screen=screen,
    )
    found = without_machine(found)
    for table in diagnosis_tables(found):
        screen.show(table)
    screen.say(reached(found))
    if folder is not None:
        keep(folder / "diagnosis.json", found, screen)
    if args.compare is not None:
        return
    distances = posterior(trained, batch=args.batch)
    screen.show(posterior_table(distances))
    if folder is not None:
        about = {name: found[name] for name in ("network", "data", "provenance")}
        keep(folder / "posterior.json", about | distances, screen)


def _release(args: Release, screen: Screen) -> None:
    from wsram.cards import release

    release(args.run, args.to, screen, inference=args.inference)


def _export(args: Export, screen: Screen) -> None:
    from wsram.export.files import export_file
    from wsram.export.page import export_page
    from wsram.models.pretrained import from_pretrained, network_folder

    network, to = from_pretrained(args.network, inference=False), args.to.expanduser()
    if to.suffix and not to.is_dir():
        export_file(network, to, screen, sampled=args.sampled, step=args.step)
    elif args.sampled or args.step:
        raise UserError("a page looks where it is likeliest to, all glimpses at once; leave --sampled and --step out")
    else:
        given = Path(args.network).expanduser()
        export_page(network, given if given.is_dir() else network_folder(args.network), to, screen)


def _models(args: Models, screen: Screen) -> None:
    from wsram.models.pretrained import released

    screen.say(f"Networks: {', '.join(released()) or 'none in this installation'}")
    screen.say(f"Recipes: {', '.join(RECIPES)}")


def _version(_: None, screen: Screen) -> None:
    screen.say(f"wsram {__version__}")


COMMANDS: Commands = {
    "demo": (Demo, _demo),
    "train": (Train[ClassificationConfig], _train),  # of whichever task the recipe is
    "evaluate": (Evaluate, _evaluate),
    "predict": (asking.Predict, asking.predict),
    "look": (asking.Look, asking.look),
    "explain": (asking.Explain, asking.explain),
    "app": (asking.App, asking.app),
    "diagnose": (Diagnose, _diagnose),
    "features": (Features, _features),
    "release": (Release, _release),
    "export": (Export, _export),
    "models": (Models, _models),
}


def _new_run_folder(name: str) -> Path:
    return next(path for n in range(1, 10**6) if not (path := Path("runs") / f"{name}-{n}").exists())


def parse(argv: list[str]) -> tuple[Callable[[Any, Screen], None], Any]:
    """What to run and its arguments; `UserError` for words that are no command."""
    if argv == ["--version"]:
        return _version, None
    with unframed():
        if argv and argv[0] == "train":
            return _train, _parse_train(argv[1:])
        return choose(COMMANDS, argv, "wsram")


@dataclass(frozen=True)
class _Start:
    """What decides the kind and defaults of all other settings, read first."""

    recipe: str | None = None
    resume: Path | None = None
    updates: int | None = None


def _parse_train(argv: list[str]) -> Train[Config]:
    known = [word for word in argv if word not in ("-h", "--help")]
    start = tyro.cli(_Start, args=known, return_unknown_args=True, add_help=False)[0]
    recipe = start.recipe or _recipe_for(known)
    if recipe not in RECIPES:
        raise UserError(f"unknown recipe {recipe!r}; choose one of {', '.join(RECIPES)}")
    config: Config = RECIPES[recipe]
    if start.resume is not None:
        from wsram.runs import Run

        if start.recipe is not None:
            raise UserError(
                f"--resume goes on with the run's own settings, not with those of {recipe}; leave --recipe out"
            )
        config = Run.open(start.resume.expanduser()).config
    # Else a recipe's time would outweigh the number that was asked for.
    default = config if start.updates is None else asked(config, updates=start.updates)
    of_task: Any = Train[type(config)]  # type: ignore[misc]
    given = tyro.cli(of_task, args=argv, default=Train(default, recipe), prog="wsram train")
    require_heeded(given.config, default)
    run, resume = (path and path.expanduser() for path in (given.run, given.resume))
    if resume is not None and (odd := _changed(config, given.config)):
        raise UserError(
            f"--resume goes on with the settings in {resume / 'training.json'}; only where the data are and a larger "
            f"--updates may be given with it, got another {', '.join(odd)}"
        )
    return Train(given.config, given.recipe, run, resume, given.tracker)


def _recipe_for(argv: list[str]) -> str:
    """The recipe that the data ask for: of digits, of captions, or of a folder of images."""
    words = (os.path.expanduser(word) for word in argv if not word.startswith("-"))
    folders = [Path(word) for word in words if os.path.exists(word)]  # which, unlike a path's own, takes any word
    if any((path / "Flickr8k_text").is_dir() or path.suffix == ".json" for path in folders):
        return "captions"
    images = any(path.suffix.lower() in TABLES or _has_classes(path) for path in folders)
    return "folder" if images or any(map(is_hub, argv)) else DEFAULT_RECIPE


def _has_classes(folder: Path) -> bool:
    idx = any(folder.glob("*-idx?-ubyte*")) if folder.is_dir() else True
    return not idx and not (folder / "training.json").exists() and any(path.is_dir() for path in folder.iterdir())


def _changed(there: Config, given: Config) -> list[str]:
    """Names of the settings that differ, but for those that a resumed run may change."""
    free = {"source", "images", "features", "download"}
    odd = []
    for section in vars(there):
        ours, theirs = getattr(there, section), getattr(given, section)
        if not hasattr(ours, "__dataclass_fields__"):
            odd += [section] if ours != theirs else []
            continue
        odd += [name for name, value in vars(ours).items() if value != getattr(theirs, name) and name not in free]
    return [name for name in odd if name != "updates" or given.schedule.updates < there.schedule.updates]


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see `launch`."""
    launch("wsram", sys.argv[1:] if argv is None else argv, parse)
