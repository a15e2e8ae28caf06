"""The command line: `wsram COMMAND`; `COMMANDS` lists them.

A mistake of the user's ends in one line and exit code 2; anything else that goes wrong is a defect and keeps its
traceback.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console

from wsram.config import CaptionConfig, CaptionDataConfig, TrainConfig
from wsram.errors import UserError
from wsram.recipes import CAPTION_RECIPES, RECIPES

C = TypeVar("C")


@dataclass(frozen=True)
class Train:
    """Train a network. Settings come from a recipe; any of them can be changed."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: RECIPES["quarter-hour"])
    recipe: str = "quarter-hour"
    """Named settings to start from: demo, paper, quarter-hour or best."""
    run: Path | None = None
    """New folder for config, metrics, checkpoints and pictures; by default runs/RECIPE-N."""
    resume: Path | None = None
    """Go on with the run in this folder, exactly where it stopped and with its own settings."""


@dataclass(frozen=True)
class Features:
    """Extract the features of all images of a captioned data set, once, into a cache that training reads."""

    data: Annotated[CaptionDataConfig, tyro.conf.arg(name="")] = field(default_factory=CaptionDataConfig)


@dataclass(frozen=True)
class TrainCaptions:
    """Train a captioner on features that `wsram features` extracted. Any setting of its recipe can be changed."""

    config: Annotated[CaptionConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: CAPTION_RECIPES["captions"]
    )
    recipe: str = "captions"
    """Named settings to start from: captions, captions-variational or captions-soft."""
    run: Path | None = None
    """New folder for config, metrics, checkpoints and pictures; by default runs/RECIPE-N."""
    resume: Path | None = None
    """Go on with the run in this folder, exactly where it stopped and with its own settings."""


@dataclass(frozen=True)
class Caption:
    """Say what images show, and draw where the captioner looked for each word."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files."""
    run: Path
    """Folder of the captioner's run."""
    beam: int = 5
    """Captions kept for each image while they grow; 1 is greedy."""
    pictures: Path = Path("captions")
    """Folder for the pictures, NAME.png for each image."""


@dataclass(frozen=True)
class Release:
    """Write what others need of a run into a folder: network, settings, provenance, and a model card."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    to: Path
    """New folder."""


@dataclass(frozen=True)
class Demo:
    """Train on the embedded digits for a few minutes, print the error on the held-out ones and draw where it looks."""

    run: Path | None = None
    """New folder for what it makes; by default runs/demo-N."""
    steps: int = RECIPES["demo"].schedule.steps
    """Updates."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a run: a classifier's error (mean action, one sample, a vote), or a captioner's BLEU and likelihood."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    test: bool = False
    """Measure on the test set, instead of the held-out part of the training set."""
    samples: int = 16
    """Sequences that vote, or that a likelihood is estimated from."""
    beam: int = 5
    """Captions kept for each image while they grow; of a captioner."""
    data_dir: Path | None = None
    """Folder of the IDX files, or captions, where they are no longer what the run was trained from."""
    features: Path | None = None
    """Folder of a captioner's features, where it has moved."""


@dataclass(frozen=True)
class Diagnose:
    """Compare the estimators on one batch of a run's checkpoint: effective sample size and gradient variance."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    samples: int = 5
    """Glimpse sequences for each image, M."""
    batch: int = 128
    """Images in the batch."""
    draws: int = 50
    """Gradient estimates whose variance is taken."""
    data_dir: Path | None = None
    """Folder of the IDX files, where it is no longer the one the run was trained from."""


@dataclass(frozen=True)
class Benchmark:
    """Time a training step and its parts against the machine's own rate of matrix products."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: RECIPES["quarter-hour"])
    repeats: int = 20
    """Steps timed; the median is printed."""
    save: Path | None = None
    """JSON file to keep the figures in."""


@dataclass(frozen=True)
class Results:
    """Make the results page from the files of published runs, after adding runs to them."""

    add: tuple[Path, ...] = ()
    """Run folders to publish: all but their checkpoints is copied."""
    folder: Path = Path("docs/results")
    """Where published runs are kept."""
    page: Path = Path("docs/results.md")
    """The page whose marked part is made anew."""
    summary: Path | None = None
    """A page whose marked part becomes one row for each run: the README, say."""


@dataclass(frozen=True)
class ReproduceMnist:
    """The paper's experiments on translated scaled MNIST: error of every method, exploration, curves, noise."""

    budget: Literal["smoke", "short", "standard", "paper"] = "smoke"
    """smoke: minutes; short, standard: hours on two cores; paper: as many updates as an accelerator makes in a day."""
    network: Literal["faithful", "best"] = "faithful"
    """The paper's fully connected network, or our best one."""
    data_dir: Path | None = None
    """Folder of the IDX files; else the user cache, or for the smoke budget the embedded digits."""
    seeds: int | None = None
    """Runs of each cell; by default the budget's."""
    only: Literal["tuning", "table1", "exploration", "credit"] | None = None
    """The one part to run; by default all."""
    folder: Path | None = None
    """Folder of the runs; by default runs/reproduce-mnist-BUDGET."""
    results: Path | None = None
    """Folder of the page; by default docs/results/mnist-BUDGET."""
    from_files: bool = False
    """Run nothing: make the page from its results.json alone."""


@dataclass(frozen=True)
class ReproduceFlickr8k:
    """The paper's captions: BLEU and likelihood of every method, on features that `wsram features` extracted."""

    budget: Literal["smoke", "standard", "paper"] = "smoke"
    """smoke: minutes; standard: as long as two cores need to train well; paper: five times the updates."""
    data: Annotated[CaptionDataConfig, tyro.conf.arg(name="")] = field(default_factory=CaptionDataConfig)
    seeds: int | None = None
    """Runs of each method; by default the budget's."""
    folder: Path | None = None
    """Folder of the runs; by default runs/reproduce-flickr8k-BUDGET."""
    results: Path | None = None
    """Folder of the page; by default docs/results/flickr8k-BUDGET."""
    from_files: bool = False
    """Run nothing: make the page from its results.json alone."""


@dataclass(frozen=True)
class Reproduce:
    """Reproduce the paper's experiments; stopped at any time, the same command goes on."""

    experiment: Annotated[
        Annotated[ReproduceMnist, tyro.conf.subcommand("mnist")]
        | Annotated[ReproduceFlickr8k, tyro.conf.subcommand("flickr8k")],
        tyro.conf.arg(name=""),
    ]
    """Which of them."""


def _new_run_folder(name: str) -> Path:
    return next(path for n in range(1, 10**6) if not (path := Path("runs") / f"{name}-{n}").exists())


def _start(
    args: Train | TrainCaptions, console: Console, kind: type[C], default: C, report: Callable[[Any, Console], None]
) -> None:
    """Train a new run or go on with one, and report on it once."""
    from accelerate import PartialState

    from wsram.runs import Run
    from wsram.training import train

    if args.resume is None:
        run: Run[Any] = Run(args.run or _new_run_folder(args.recipe), args.config)
    else:
        run = Run.open(args.resume, kind)
        if args.run is not None or args.config not in (run.config, default):
            raise UserError(
                f"--resume goes on with the settings in {args.resume / 'config.json'}; give no others with it"
            )
    console.print(f"Run: {run.folder} (if it stops, go on with `{run.resume_command}`)")
    train(run, console, resume=args.resume is not None)
    if PartialState().is_main_process:
        report(run, console)


def _train(args: Train, console: Console) -> None:
    from wsram.report import report_training

    _start(args, console, TrainConfig, RECIPES[Train.recipe], report_training)


def _train_captions(args: TrainCaptions, console: Console) -> None:
    from wsram.caption_report import report_caption_training

    _start(args, console, CaptionConfig, CAPTION_RECIPES[TrainCaptions.recipe], report_caption_training)


def _features(args: Features, console: Console) -> None:
    from wsram.caption_report import report_features

    report_features(args.data, console)


def _caption(args: Caption, console: Console) -> None:
    from wsram.caption_report import report_captions

    report_captions(args.run, args.images, console, beam=args.beam, pictures=args.pictures)


def _release(args: Release, console: Console) -> None:
    from wsram.release import report_release

    report_release(args.run, args.to, console)


def _demo(args: Demo, console: Console) -> None:
    from wsram.report import report_training
    from wsram.runs import Run
    from wsram.training import train

    recipe = RECIPES["demo"]
    config = replace(recipe, schedule=replace(recipe.schedule, steps=args.steps))
    run = Run(args.run or _new_run_folder("demo"), config)
    console.print("Training hard attention on 4,000 real digits, each at a random size and place in a 100x100 image.")
    train(run, console)
    report_training(run, console)


def _evaluate(args: Evaluate, console: Console) -> None:
    from wsram.caption_report import report_caption_evaluation
    from wsram.report import report_evaluation
    from wsram.runs import task_of

    if task_of(args.run) == "captions":
        report_caption_evaluation(
            args.run,
            console,
            test=args.test,
            samples=args.samples,
            beam=args.beam,
            captions=args.data_dir,
            features=args.features,
        )
    else:
        report_evaluation(args.run, console, test=args.test, samples=args.samples, data_dir=args.data_dir)


def _diagnose(args: Diagnose, console: Console) -> None:
    from wsram.report import report_diagnosis, report_posterior

    report_diagnosis(
        args.run, console, samples=args.samples, batch=args.batch, draws=args.draws, data_dir=args.data_dir
    )
    report_posterior(args.run, console, batch=args.batch, data_dir=args.data_dir)


def _benchmark(args: Benchmark, console: Console) -> None:
    from wsram.benchmark import report_benchmark

    report_benchmark(args.config, console, repeats=args.repeats, save=args.save)


def _results(args: Results, console: Console) -> None:
    from wsram.results import add_run, write_page, write_summary

    for run in args.add:
        console.print(f"Published: {add_run(run, args.folder)}")
    write_page(args.page, args.folder)
    console.print(f"Page: {args.page}")
    if args.summary is not None:
        write_summary(args.summary, args.folder)
        console.print(f"Summary: {args.summary}")


def _reproduce(args: Reproduce, console: Console) -> None:
    chosen = args.experiment
    if isinstance(chosen, ReproduceMnist):
        _reproduce_mnist(chosen, console)
    else:
        _reproduce_flickr8k(chosen, console)


def _reproduce_mnist(args: ReproduceMnist, console: Console) -> None:
    from wsram.experiments import mnist

    name = f"mnist-{args.budget}" + ("" if args.network == "faithful" else f"-{args.network}")
    results = args.results or Path("docs/results", name)
    if args.from_files:
        console.print(f"Page: {mnist.remake(results)}")
        return
    budget, base = mnist.BUDGETS[args.budget], mnist.NETWORKS[args.network]
    embedded = args.budget == "smoke" and args.data_dir is None
    data = replace(base.data, dataset="mnist5k" if embedded else "mnist", data_dir=args.data_dir)
    mnist.reproduce(
        budget if args.seeds is None else replace(budget, seeds=args.seeds),
        replace(base, data=data),
        console,
        only=args.only,
        folder=args.folder or Path("runs", f"reproduce-{name}"),
        results=results,
    )


def _reproduce_flickr8k(args: ReproduceFlickr8k, console: Console) -> None:
    from wsram.experiments import flickr8k

    name = f"flickr8k-{args.budget}"
    results = args.results or Path("docs/results", name)
    if args.from_files:
        console.print(f"Page: {flickr8k.remake(results)}")
        return
    budget = flickr8k.BUDGETS[args.budget]
    flickr8k.reproduce(
        budget if args.seeds is None else replace(budget, seeds=args.seeds),
        replace(CAPTION_RECIPES["captions"], data=args.data),
        console,
        folder=args.folder or Path("runs", f"reproduce-{name}"),
        results=results,
    )


COMMANDS: dict[str, tuple[type[Any], Callable[[Any, Console], None]]] = {
    "demo": (Demo, _demo),
    "train": (Train, _train),
    "features": (Features, _features),
    "train-captions": (TrainCaptions, _train_captions),
    "caption": (Caption, _caption),
    "release": (Release, _release),
    "evaluate": (Evaluate, _evaluate),
    "diagnose": (Diagnose, _diagnose),
    "benchmark": (Benchmark, _benchmark),
    "results": (Results, _results),
    "reproduce": (Reproduce, _reproduce),
}

WITH_RECIPES: dict[str, dict[str, Any]] = {"train": RECIPES, "train-captions": CAPTION_RECIPES}


def _parse(argv: list[str]) -> tuple[Callable[[Any, Console], None], Any]:
    """What to run and its arguments; `UserError` in place of the framed text in which tyro tells a mistake."""
    framed = io.StringIO()
    try:
        with contextlib.redirect_stderr(framed):
            return _parse_with_tyro(argv)
    except SystemExit as end:
        if end.code != 2:  # --help
            raise
        raise UserError(_unframed(framed.getvalue())) from end


def _unframed(text: str) -> str:
    """One line of a frame's text without its title, which says the same; its parts have rules between them."""
    lines = [line.strip("│ ") for line in text.splitlines() if not line.startswith("╭")]
    parts = [" ".join(part.split()).rstrip(".:") for part in " ".join(lines).strip("╰─╯ ").split("─")]
    return "; ".join(part for part in parts if part)


def _parse_with_tyro(argv: list[str]) -> tuple[Callable[[Any, Console], None], Any]:
    if argv and argv[0] in WITH_RECIPES:
        command, recipes = argv[0], WITH_RECIPES[argv[0]]
        kind, run = COMMANDS[command]

        # The recipe decides the defaults that the rest of the command line changes, so it is read first.
        @dataclass(frozen=True)
        class Recipe:
            recipe: str = kind.recipe

        recipe = tyro.cli(Recipe, args=argv[1:], return_unknown_args=True, add_help=False)[0].recipe
        if recipe not in recipes:
            raise UserError(f"unknown recipe {recipe!r}; choose one of {', '.join(recipes)}")
        default = kind(config=recipes[recipe], recipe=recipe)
        return run, tyro.cli(kind, args=argv[1:], default=default, prog=f"wsram {command}")
    kinds: dict[str, Callable[..., Any]] = {name: kind for name, (kind, _) in COMMANDS.items()}
    args = tyro.extras.subcommand_cli_from_dict(kinds, args=argv, prog="wsram")
    return next(run for kind, run in COMMANDS.values() if type(args) is kind), args


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with 0, or with 2 after one line on what the user should change."""
    console = Console(soft_wrap=True)
    try:
        run, args = _parse(sys.argv[1:] if argv is None else argv)
        run(args, console)
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"wsram: {error}", markup=False, highlight=False)
        sys.exit(2)
    except OSError as error:
        # The machine's, not ours: a full disk, a missing or unreadable file that no part of the program named better.
        place = f"{error.filename}: " if error.filename else ""
        Console(stderr=True, soft_wrap=True).print(
            f"wsram: {place}{error.strerror or error}; make room or name another place", markup=False, highlight=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
