"""The commands of the benchmark: `python -m experiments benchmark`, `benchmark-compare` and `benchmark-update`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from wsram.cli import DEFAULT_RECIPE
from wsram.config import ClassificationConfig, changed
from wsram.errors import UserError
from wsram.launch import Commands
from wsram.terminal import Screen


@dataclass(frozen=True)
class Benchmark:
    """Time updates, predictions, the sensor and training beside the usual way, and keep the record of this commit."""

    only: tuple[Literal["update", "prediction", "sensor", "training"], ...] = (
        "update",
        "prediction",
        "sensor",
        "training",
    )
    """What is timed."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads that it is timed on; training beside the usual way on the first of them."""
    bf16: bool = False
    """Time bfloat16 also where the processor emulates it."""
    rounds: int = 6
    """Times that everything is gone through; 2 at least."""
    seconds: float = 0.6
    """Of a group of works in a round."""
    folder: Path = Path("docs/results/benchmark")
    """Folder of COMMIT.json and benchmark.png."""


@dataclass(frozen=True)
class BenchmarkCompare:
    """Say what became slower or faster from one record of the benchmark to another; ends with 1 if anything slower."""

    before: Annotated[Path, tyro.conf.Positional]
    """A record."""
    after: Annotated[Path, tyro.conf.Positional]
    """Another one."""


@dataclass(frozen=True)
class BenchmarkUpdate:
    """Time an update of training and its parts against the machine's own rate of matrix products.

    Its settings are those of `wsram train`; where no data are named, digits are made up.
    """

    config: Annotated[ClassificationConfig, tyro.conf.arg(name="")]
    recipe: str = DEFAULT_RECIPE
    """Named settings to start from."""
    repeats: int = 20
    """Updates timed; the median is printed."""
    save: Path | None = None
    """JSON file to keep the figures in."""


def _benchmark(args: Benchmark, screen: Screen) -> None:
    from experiments.benchmark import benchmark

    benchmark(
        screen,
        args.folder,
        only=args.only,
        threads=args.threads,
        bf16=args.bf16,
        rounds=args.rounds,
        seconds=args.seconds,
    )


def _benchmark_compare(args: BenchmarkCompare, screen: Screen) -> None:
    from experiments.benchmark_page import compare, load

    changes, slower = compare(load(args.before), load(args.after))
    screen.say(f"{changes.title}.")
    if changes.rows:
        screen.show(replace(changes, title=""))
    screen.say(f"{len(slower)} became slower beyond noise, {len(changes.rows) - len(slower)} faster.")
    if slower:
        sys.exit(1)


def _benchmark_update(args: BenchmarkUpdate, screen: Screen) -> None:
    from experiments.benchmark_update import benchmark_update

    benchmark_update(args.config, screen, repeats=args.repeats, save=args.save)


COMMANDS: Commands = {
    "benchmark": (Benchmark, _benchmark),
    "benchmark-compare": (BenchmarkCompare, _benchmark_compare),
    "benchmark-update": (BenchmarkUpdate, _benchmark_update),
}


@dataclass(frozen=True)
class _Start:
    """What decides the defaults of all other settings, read first."""

    recipe: str = DEFAULT_RECIPE


def parse_update(argv: list[str], program: str) -> tuple[Callable[[Any, Screen], None], BenchmarkUpdate]:
    """What runs `benchmark-update` and its arguments, whose defaults are the recipe's that is named among them."""
    from experiments.benchmark_update import BENCHMARKED, MADE_UP

    known = [word for word in argv if word not in ("-h", "--help")]
    recipe = tyro.cli(_Start, args=known, return_unknown_args=True, add_help=False)[0].recipe
    if recipe not in BENCHMARKED:
        raise UserError(
            f"expected a recipe that takes glimpses, got {recipe!r}; choose one of {', '.join(BENCHMARKED)}"
        )
    default = BenchmarkUpdate(changed(BENCHMARKED[recipe], source=MADE_UP), recipe)
    return _benchmark_update, tyro.cli(BenchmarkUpdate, args=argv, default=default, prog=f"{program} benchmark-update")
