"""The command line of the experiments: `python -m experiments COMMAND`. Words to calls, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro

from experiments import benchmark_cli, large_cli
from experiments.measured import Measured
from wsram.config import CaptionData, CaptioningConfig, Precision, changed
from wsram.launch import Commands, choose, launch, unframed
from wsram.recipes import RECIPES
from wsram.terminal import Screen

PROGRAM = "python -m experiments"


@dataclass(frozen=True)
class Mnist:
    """The paper's experiments on translated scaled MNIST: error of every method, exploration, curves, noise.

    Stopped at any time, the same command goes on.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = ""
    """mnist (in the user cache), mnist5k or a folder of MNIST's IDX files; by default mnist5k for smoke, else mnist."""
    budget: Literal["smoke", "short", "standard", "long", "paper"] = "smoke"
    """smoke: minutes; short, standard, long: hours of two cores; paper: what an accelerator makes in a day."""
    network: Literal["faithful", "best"] = "faithful"
    """The paper's fully connected network, or our best one."""
    precision: Precision = "auto"
    """As in `wsram train`."""
    seeds: int | None = None
    """Runs of each method; by default the budget's."""
    only: Literal["tuning", "table1", "exploration", "credit"] | None = None
    """The one part to run; by default all."""
    folder: Path | None = None
    """Folder of the runs; by default runs/mnist-BUDGET."""
    results: Path | None = None
    """Folder of the page; by default docs/results/mnist-BUDGET."""
    rates_from: Path | None = None
    """Folder of other results, whose learning rates are taken; by default they are tuned."""
    extend: bool = False
    """Leave alone the trials that the results hold already, wherever they were run, and add others."""
    from_files: bool = False
    """Run nothing: make the page from its results.json alone."""
    so_far: bool = False
    """Run nothing: make the page of the trials that are finished, whoever has the others in hand."""


@dataclass(frozen=True)
class Flickr8k:
    """The paper's captions: BLEU and likelihood of every method, on features that `wsram features` extracted.

    Stopped at any time, the same command goes on.
    """

    data: Annotated[CaptionData, tyro.conf.arg(name="")] = field(default_factory=CaptionData)
    budget: Literal["smoke", "standard", "paper"] = "smoke"
    """smoke: minutes; standard: as long as two cores need to train well; paper: twelve times the updates."""
    precision: Precision = "auto"
    """As in `wsram train`."""
    seeds: int | None = None
    """Runs of each method; by default the budget's."""
    folder: Path | None = None
    """Folder of the runs; by default runs/flickr8k-BUDGET."""
    results: Path | None = None
    """Folder of the page; by default docs/results/flickr8k-BUDGET."""
    from_files: bool = False
    """Run nothing: make the page from its results.json alone."""


@dataclass(frozen=True)
class Results:
    """Make the results page from the files of published runs, after adding runs to them."""

    add: tuple[Path, ...] = ()
    """Run folders to publish; everything but their networks is copied."""
    replace: bool = False
    """Let a run take the place of another one that is published under its name."""
    folder: Path = Path("docs/results")
    """Where published runs are kept."""
    page: Path = Path("docs/results.md")
    """The page whose marked part is made anew."""
    summary: Path | None = None
    """A page whose marked part becomes one row for each run: the README, say."""


@dataclass(frozen=True)
class Pointing:
    """Play the pointing game: whether the map of the evidence for a digit, and two others, point at that digit."""

    network: Annotated[str, tyro.conf.Positional]
    """Folder of a run or a network that was trained on digits in scenes, or a released one."""
    data: Annotated[str | None, tyro.conf.Positional] = None
    """The digits, if they are not where the network was trained from."""
    images: int = 200
    """Scenes of each kind."""
    samples: int = 500
    """Sequences of glimpses for a map, and predictions for one of occlusion."""
    save: Path | None = None
    """JSON file to keep the shares in."""


@dataclass(frozen=True)
class Robust:
    """Measure a network that names digits inverted, on grey, in noise, dim, small, large, and on nothing."""

    measured: Annotated[Measured, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Answering:
    """Measure what an answer costs: about one image inside a program, and about a folder, its parts apart."""

    network: Annotated[str, tyro.conf.Positional]
    """Folder of a run or a network that names what it sees, or a released one."""
    side: int = 100
    """Of the images, in pixels."""
    images: int = 1024
    """In the folder."""
    compiled: bool = False
    """Have torch compile the network for one image, too, which takes a minute or more."""
    save: Path | None = None
    """JSON file to keep the figures in."""


@dataclass(frozen=True)
class Exported:
    """Measure what one image costs where a network runs: in this package, in onnxruntime, and in its page."""

    networks: Annotated[tuple[str, ...], tyro.conf.Positional] = (
        "translated",
        "checkpoints/translated-scaled",
        "robust",
    )
    """Folders of runs or networks that name what they see on grey images, or released ones."""
    save: Path | None = None
    """JSON file to keep the figures in."""


@dataclass(frozen=True)
class Served:
    """Measure how long one waits for the app: to start, to look at a drawing, to show where the evidence is."""

    networks: Annotated[tuple[str, ...], tyro.conf.Positional] = ("translated", "robust")
    """Folders of runs or networks of digits, or released ones."""
    save: Path | None = None
    """JSON file to keep the figures in."""


@dataclass(frozen=True)
class Glimpsed:
    """Measure what a network reads of images of one's own and costs, beside random glimpses and a linear probe."""

    measured: Annotated[Measured, tyro.conf.arg(name="")]
    probe: bool = True
    """Fit a linear probe to whole images, which takes as long as reading all of them once."""
    side: int | None = None
    """Of the square that whole images are squashed to for the probe, in pixels; by default they keep their size."""


@dataclass(frozen=True)
class Yardstick:
    """Train a convolutional network that sees all of every image, beside one that glances at the same images."""

    measured: Annotated[Measured, tyro.conf.arg(name="")]
    times: float = 10.0
    """It is as wide as makes it so many times the multiply-adds of the other, at least."""
    updates: int = 6000
    """Of it, in batches of as many images as the other was trained with."""
    rate: float = 3e-3
    """Peak of Adam's rate; it rises over the warm-up and then falls to 0 along a cosine."""
    seed: int = 0
    """Of the initial weights and the order of the images."""


def _mnist(args: Mnist, screen: Screen) -> None:
    from experiments import mnist

    name = f"mnist-{args.budget}" + ("" if args.network == "faithful" else f"-{args.network}")
    results = args.results or Path("docs/results", name)
    if args.from_files:
        screen.say(f"Page: {mnist.remake(results)}")
        return
    budget, base = mnist.BUDGETS[args.budget], mnist.NETWORKS[args.network]
    source = args.data or ("mnist5k" if args.budget == "smoke" else "mnist")
    mnist.reproduce(
        budget if args.seeds is None else replace(budget, seeds=args.seeds),
        changed(base, source=source, precision=args.precision),
        screen,
        only=args.only,
        folder=args.folder or Path("runs", name),
        results=results,
        rates_from=args.rates_from,
        extend=args.extend,
        so_far=args.so_far,
    )


def _flickr8k(args: Flickr8k, screen: Screen) -> None:
    from experiments import flickr8k

    name = f"flickr8k-{args.budget}"
    results = args.results or Path("docs/results", name)
    if args.from_files:
        screen.say(f"Page: {flickr8k.remake(results)}")
        return
    budget = flickr8k.BUDGETS[args.budget]
    flickr8k.reproduce(
        budget if args.seeds is None else replace(budget, seeds=args.seeds),
        changed(cast(CaptioningConfig, RECIPES["captions"]), data=args.data, precision=args.precision),
        screen,
        folder=args.folder or Path("runs", name),
        results=results,
    )


def _results(args: Results, screen: Screen) -> None:
    from experiments.results import add_runs, check_marks, write_page, write_summary

    for page in (args.page, args.summary):
        if page is not None:  # before anything is published that no page could show
            check_marks(page)
    for target in add_runs(args.add, args.folder, replace=args.replace):
        screen.say(f"Published: {target}")
    write_page(args.page, args.folder)
    screen.say(f"Page: {args.page}")
    if args.summary is not None:
        write_summary(args.summary, args.folder)
        screen.say(f"Summary: {args.summary}")


def _pointing(args: Pointing, screen: Screen) -> None:
    from experiments.pointing import pointing

    pointing(args.network, args.data, screen, images=args.images, samples=args.samples, to=args.save)


def _robust(args: Robust, screen: Screen) -> None:
    from experiments.robustness import robustness

    asked = args.measured
    robustness(asked.network, asked.data, screen, test=asked.test, to=asked.save)


def _answering(args: Answering, screen: Screen) -> None:
    from experiments.answering import answering

    answering(args.network, screen, side=args.side, images=args.images, compiled=args.compiled, to=args.save)


def _exported(args: Exported, screen: Screen) -> None:
    from experiments.exported import exported

    exported(args.networks, screen, to=args.save)


def _served(args: Served, screen: Screen) -> None:
    from experiments.served import served

    served(args.networks, screen, to=args.save)


def _glimpsed(args: Glimpsed, screen: Screen) -> None:
    from experiments.glimpsed import glimpsed

    asked = args.measured
    glimpsed(asked.network, asked.data, screen, test=asked.test, side=args.side, probe=args.probe, to=asked.save)


def _yardstick(args: Yardstick, screen: Screen) -> None:
    from experiments.yardstick import yardstick

    of, how = args.measured, {name: getattr(args, name) for name in ("times", "updates", "rate", "seed")}
    yardstick(of.network, of.data, screen, test=of.test, to=of.save, **how)


COMMANDS: Commands = {
    "mnist": (Mnist, _mnist),
    "flickr8k": (Flickr8k, _flickr8k),
    "results": (Results, _results),
    **benchmark_cli.COMMANDS,
    "pointing": (Pointing, _pointing),
    "robust": (Robust, _robust),
    "yardstick": (Yardstick, _yardstick),
    **large_cli.COMMANDS,
    "exported": (Exported, _exported),
    "served": (Served, _served),
    "glimpsed": (Glimpsed, _glimpsed),
    "answering": (Answering, _answering),
}


def parse(argv: list[str]) -> tuple[Callable[[Any, Screen], None], Any]:
    """What to run and its arguments; `UserError` for words that are no command."""
    with unframed():
        if argv and argv[0] == "benchmark-update":
            return benchmark_cli.parse_update(argv[1:], PROGRAM)
        return choose(COMMANDS, argv, PROGRAM)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see `wsram.launch.launch`."""
    launch(PROGRAM, sys.argv[1:] if argv is None else argv, parse)
