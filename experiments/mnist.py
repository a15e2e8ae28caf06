"""The paper's experiments on translated scaled MNIST: Table 1, exploration, curves, noise; and credit, ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from wsram.config import EstimatorConfig, ExplorationConfig, Proposal, TrainConfig
from wsram.data.mnist import load_test
from wsram.data.scenes import evaluation_scenes, scene_spec
from wsram.diagnostics import location_coverage, scale_usage
from wsram.errors import UserError
from wsram.evaluation import ROWS
from wsram.experiments.cells import Cell, finished, record, require_whole, run_cells
from wsram.experiments.mnist_page import CURVE, page
from wsram.experiments.pages import load, save
from wsram.recipes import RECIPES
from wsram.report import (
    autocast_of,
    device_of,
    load_network,
    report_diagnosis,
    report_evaluation,
    report_posterior,
)
from wsram.runs import Run
from wsram.tasks.digits import load_digits_of, on

Part = Literal["tuning", "table1", "exploration", "credit"]
Network = Literal["faithful", "best"]

NETWORKS: dict[Network, TrainConfig] = {"faithful": RECIPES["paper"], "best": RECIPES["quarter-hour"]}
"""faithful: the paper's, ReLU recurrence and fully connected glimpses; best: ours, small convolutions."""

FILES = ("evaluation-held-out", "evaluation-test", "diagnosis", "posterior", "looking")
MEASURED_LAST = FILES[-1]
TUNING = "tuning.json"


@dataclass(frozen=True)
class MnistBudget:
    """How much is spent.

    name: of the budget.
    steps: updates of each run of Table 1 and of exploration.
    tuning_steps: updates of each run that a learning rate is chosen by.
    rates: learning rates to choose from.
    seeds: runs of each cell, seeds 0, 1, ...
    batch, warmup, evaluate_every: as in `ScheduleConfig`.
    samples: glimpse sequences for each image, M, the same for every method.
    draws: gradients whose variance is taken, at each evaluation and for the comparison on one network.
    votes: sequences that vote in the final evaluation.
    """

    name: str
    steps: int
    tuning_steps: int
    rates: tuple[float, ...]
    seeds: int
    batch: int
    warmup: int
    evaluate_every: int
    samples: int = 5
    draws: int = 20
    votes: int = 4

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"an experiment needs at least 1 seed, got {self.seeds}")


BUDGETS: dict[str, MnistBudget] = {
    "smoke": MnistBudget("smoke", 60, 20, (1e-3, 4e-3), seeds=1, batch=64, warmup=5, evaluate_every=30, draws=4),
    # For the network whose updates cost three times those of the faithful one, and that needs fewer of them.
    "short": MnistBudget(
        "short", 1200, 500, (1e-3, 2e-3, 4e-3, 8e-3), seeds=3, batch=128, warmup=100, evaluate_every=300
    ),
    "standard": MnistBudget(
        "standard", 3500, 1000, (1e-3, 2e-3, 4e-3, 8e-3), seeds=3, batch=128, warmup=200, evaluate_every=500
    ),
    "paper": MnistBudget(
        "paper", 100_000, 10_000, (5e-4, 1e-3, 2e-3, 4e-3), seeds=3, batch=128, warmup=1000, evaluate_every=5000
    ),
}

# The weights are ours; the paper names the heuristics.
HEURISTICS: dict[str, ExplorationConfig] = {
    "none": ExplorationConfig(),
    "temperature": ExplorationConfig(temperature=1.5),
    "coverage": ExplorationConfig(coverage=0.1),
    "entropy": ExplorationConfig(location_entropy=0.01, scale_entropy=0.1),
    "all": ExplorationConfig(temperature=1.5, coverage=0.1, location_entropy=0.01, scale_entropy=0.1),
}


@dataclass(frozen=True)
class Method:
    """One of the methods that are compared.

    name: in folders.
    estimator, proposal: as in `EstimatorConfig`.
    heuristics: what keeps it looking around in Table 1, one of `HEURISTICS`.
    """

    name: str
    estimator: str
    proposal: Proposal
    heuristics: str


METHODS = (
    Method("var", "variational", "policy", "all"),
    Method("ws-ram", "wake-sleep", "policy", "none"),
    Method("ws-ram-q", "wake-sleep", "inference", "none"),
)

# Credit for single glimpses, each with heuristics that Table 1 or exploration has its method with, to compare.
CREDITED = (
    Method("var-credit", "variational-credit", "policy", "temperature"),
    Method("ws-ram-q-credit", "wake-sleep-credit", "inference", "none"),
)


def _named(method: Method, control_variates: bool) -> str:
    return f"{method.name}-{'cv' if control_variates else 'plain'}"


def _config(
    base: TrainConfig,
    budget: MnistBudget,
    method: Method,
    control_variates: bool,
    heuristics: str,
    rate: float,
    seed: int,
) -> TrainConfig:
    settings = EstimatorConfig(
        name=method.estimator, proposal=method.proposal, control_variates=control_variates, samples=budget.samples
    )
    schedule = replace(
        base.schedule,
        steps=budget.steps,
        batch=budget.batch,
        warmup=budget.warmup,
        evaluate_every=budget.evaluate_every,
        learning_rate=rate,
        seed=seed,
        variance_draws=budget.draws,
    )
    return replace(base, estimator=settings, exploration=HEURISTICS[heuristics], schedule=schedule)


def tuning_cells(base: TrainConfig, budget: MnistBudget) -> list[Cell[TrainConfig]]:
    """Short runs of every method at every learning rate, with one seed."""
    cells = []
    for method in METHODS:
        for control_variates in (False, True):
            for rate in budget.rates:
                config = _config(base, budget, method, control_variates, method.heuristics, rate, seed=0)
                short = replace(
                    config.schedule,
                    steps=budget.tuning_steps,
                    warmup=min(budget.warmup, budget.tuning_steps // 5),
                    variance_draws=0,
                )
                cells.append(
                    Cell("tuning", f"{_named(method, control_variates)}/{rate:g}", replace(config, schedule=short))
                )
    return cells


def main_cells(
    base: TrainConfig, budget: MnistBudget, rates: Mapping[str, float], only: Part | None = None
) -> list[Cell[TrainConfig]]:
    """Table 1, exploration and credit, all of the first seed before the second.

    Exploration leaves out the two cells that Table 1 already holds: VAR with all heuristics, WS-RAM without any.
    Credit has the learning rate that was tuned without it.
    """
    cells = []
    for seed in range(budget.seeds):
        for method in METHODS:
            for control_variates in (False, True):
                name = _named(method, control_variates)
                config = _config(base, budget, method, control_variates, method.heuristics, rates[name], seed)
                cells.append(Cell("table1", name, config))
        for method in METHODS[:2]:
            rate = rates[_named(method, True)]
            cells += [
                Cell("exploration", f"{method.name}-{name}", _config(base, budget, method, True, name, rate, seed))
                for name in HEURISTICS
                if name != method.heuristics
            ]
        for method in CREDITED:
            rate = rates[f"{method.name.removesuffix('-credit')}-cv"]
            cells.append(
                Cell("credit", method.name, _config(base, budget, method, True, method.heuristics, rate, seed))
            )
    return [cell for cell in cells if only in (None, cell.group)]


def choose_rates(cells: Sequence[Cell[TrainConfig]], folder: Path) -> dict[str, float]:
    """For each method the learning rate with the least held-out error, written to the folder's tuning.json.

    Equal errors are told apart by the likelihood. A rate whose run failed is out.

    Raises:
        UserError: all of a method's runs failed.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for cell in cells:
        run = cell.run(folder)
        tried = found.setdefault(cell.name.split("/")[0], [])
        if finished(run):
            last = run.metrics()[-1]
            tried.append(
                {"rate": cell.config.schedule.learning_rate}
                | {name: last[name] for name in ("error_mean_action", "nll_mean_action")}
            )
    for name, tried in found.items():
        if not tried:
            raise UserError(f"no learning rate works for {name}: every run in {folder / 'tuning' / name} failed")
    chosen = {
        name: min(tried, key=lambda row: (row["error_mean_action"], row["nll_mean_action"]))["rate"]
        for name, tried in found.items()
    }
    (folder / TUNING).write_text(json.dumps({"chosen": chosen, "tried": found}, indent=2) + "\n")
    return chosen


def read_rates(folder: Path) -> dict[str, float] | None:
    """The learning rates that were chosen, if they have been; `UserError` if the file is no such choice."""
    path = folder / TUNING
    if not path.exists():
        return None
    try:
        rates = {name: float(rate) for name, rate in json.loads(path.read_text())["chosen"].items()}
        if rates.keys() != {_named(m, cv) for m in METHODS for cv in (False, True)}:
            raise ValueError(f"it names {', '.join(rates)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no learning rates ({error}); remove it to choose them again") from error
    return rates


def measure_looking(run: Run[TrainConfig], config: TrainConfig) -> dict[str, Any]:
    """Where a finished network looks, one sequence drawn from its policy for each held-out digit.

    Returns:
        "scale_usage", the share of glimpses at each scale; "coverage", see `location_coverage`.
    """
    device = device_of()
    network = load_network(run).to(device).eval()
    held_out = on(device, load_digits_of(config)[1])
    generator = torch.Generator(device).manual_seed(0)
    scales, locations = [], []
    with torch.no_grad(), autocast_of(config.schedule, device)():
        for part in torch.arange(len(held_out.labels), device=device).split(ROWS):
            images = evaluation_scenes(held_out.images, part, scene_spec(config.data.scene)).images
            action = network.predict(images, samples=1, generator=generator).action
            scales.append(action.scale.flatten())
            locations.append(action.location.reshape(-1, 2).float())
    usage = scale_usage(torch.cat(scales), len(config.model.scales))
    return {"scale_usage": usage.tolist(), "coverage": location_coverage(torch.cat(locations))}


def _measure(budget: MnistBudget, cell: Cell[TrainConfig], run: Run[TrainConfig]) -> None:
    """Write what is missing into a finished cell's folder; what is there is never measured again."""
    quiet = Console(quiet=True)
    data = run.config.data
    table1 = cell.group == "table1"
    for name, wanted in (("held-out", True), ("test", table1 and data.dataset == "mnist")):
        if wanted and not (run.folder / f"evaluation-{name}.json").exists():
            report_evaluation(run.folder, quiet, test=name == "test", samples=budget.votes, data_dir=data.data_dir)
    # One network under every estimator: only so does a ratio of variances compare estimators alone.
    if cell.name == "ws-ram-q-cv" and not (run.folder / "diagnosis.json").exists():
        report_diagnosis(
            run.folder,
            quiet,
            samples=budget.samples,
            batch=budget.batch,
            draws=budget.draws,
            data_dir=data.data_dir,
        )
    if table1 and not (run.folder / "posterior.json").exists():
        report_posterior(run.folder, quiet, batch=budget.batch, data_dir=data.data_dir)
    looking = run.folder / f"{MEASURED_LAST}.json"
    if not looking.exists():
        looking.write_text(json.dumps(measure_looking(run, cell.config), indent=2) + "\n")


def reproduce(
    budget: MnistBudget, base: TrainConfig, console: Console, *, only: Part | None, folder: Path, results: Path
) -> Path:
    """Run what is not finished of the experiments, and make their page.

    Args:
        budget: how much is spent.
        base: data and network; its estimator, exploration and schedule are replaced.
        console: says how far it is.
        only: the one part to run; by default all.
        folder: of the runs.
        results: folder of the page, its figures and the small file they are made from.

    Returns:
        The page.

    Raises:
        UserError: data that cannot be had, a cell that failed, no learning rates chosen yet, a folder that cannot be
            written or holds runs with other settings.
    """
    load_digits_of(base)  # what is wrong with the data is said once, not by every cell
    if base.data.dataset == "mnist":
        load_test("mnist", data_dir=base.data.data_dir, download=base.data.download)
    tuning = tuning_cells(base, budget)
    rates = read_rates(folder)
    if rates is None:
        if only not in (None, "tuning"):
            raise UserError(f"no learning rates are chosen in {folder} yet; run without --only, or with --only tuning")
        run_cells(tuning, folder, console, lambda cell, run: None)
        rates = choose_rates(tuning, folder)
    failures = []
    if only != "tuning":
        failures = run_cells(
            main_cells(base, budget, rates, only), folder, console, lambda cell, run: _measure(budget, cell, run)
        )
    cells = [*tuning, *main_cells(base, budget, rates)]
    kept = [record(cell, folder, FILES, CURVE if cell.group == "table1" else CURVE[:4]) for cell in cells]
    # A cell may have been stopped, or be in another process' hands, between its last update and its last measurement.
    whole = [cell for cell in kept if cell is not None and (cell["group"] == "tuning" or MEASURED_LAST in cell)]
    made = {
        "experiment": "mnist",
        "budget": dataclasses.asdict(budget),
        "network": {
            name: getattr(base.model, name)
            for name in ("recurrence", "encoder", "lower_units", "upper_units", "glimpses", "patch", "scales")
        },
        "data": {"dataset": base.data.dataset, "scene": base.data.scene},
        "heuristics": {name: dataclasses.asdict(weights) for name, weights in HEURISTICS.items()},
        "heuristics_of_table1": {method.name: method.heuristics for method in METHODS},
        "heuristics_of_credit": {method.name: method.heuristics for method in CREDITED},
        "chosen": rates,
        "cells": whole,
    }
    written = save(results, made, page)
    console.print(f"Page: {written}", highlight=False)
    require_whole(failures)
    return written


def remake(results: Path) -> Path:
    """Make the page anew from the small file alone; `UserError` if that is missing or is none."""
    return save(results, load(results), page)
