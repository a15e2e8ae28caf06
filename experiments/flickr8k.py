"""The paper's experiment on Flickr8k: captions by each method, their BLEU, and how fast the likelihood rises."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from wsram.caption_report import report_caption_evaluation
from wsram.config import CaptionConfig, EstimatorConfig
from wsram.errors import UserError
from wsram.experiments.cells import Cell, record, require_whole, run_cells
from wsram.experiments.flickr8k_page import CURVE, page
from wsram.experiments.pages import load, save
from wsram.runs import Run
from wsram.tasks.captions import features_of, load_splits

FILES = ("evaluation-dev", "evaluation-test")


@dataclass(frozen=True)
class CaptionBudget:
    """How much is spent.

    name: of the budget.
    steps: updates of each run, at most: it stops early when the development split gets no better.
    seeds: runs of each method, seeds 0, 1, ...
    warmup, evaluate_every, patience: as in `ScheduleConfig`.
    samples: sequences of cells for each caption, M, the same for every method with hard attention.
    beam: captions kept for each image while they grow.
    likelihood_samples: sequences that the final likelihood is estimated from.
    curve: updates that the curve of the training likelihood shows.
    """

    name: str
    steps: int
    seeds: int
    warmup: int
    evaluate_every: int
    patience: int
    samples: int = 5
    beam: int = 5
    likelihood_samples: int = 16
    curve: int = 10_000

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"an experiment needs at least 1 seed, got {self.seeds}")


BUDGETS: dict[str, CaptionBudget] = {
    "smoke": CaptionBudget("smoke", 20, 1, warmup=2, evaluate_every=20, patience=0, beam=2, likelihood_samples=2),
    "standard": CaptionBudget("standard", 2500, 3, warmup=200, evaluate_every=500, patience=0),
    "paper": CaptionBudget("paper", 30_000, 3, warmup=500, evaluate_every=1000, patience=5),
}

ESTIMATORS: Mapping[str, EstimatorConfig] = {
    "var": EstimatorConfig(name="variational", proposal="policy", control_variates=True),
    "var-plain": EstimatorConfig(name="variational", proposal="policy", control_variates=False),
    "ws-ram": EstimatorConfig(name="wake-sleep", proposal="policy", control_variates=True),
    "ws-ram-q": EstimatorConfig(name="wake-sleep", proposal="inference", control_variates=True),
    "ws-ram-q-credit": EstimatorConfig(name="wake-sleep-credit", proposal="inference", control_variates=True),
}
"""The methods with hard attention, by the names of their folders."""


def table_cells(base: CaptionConfig, budget: CaptionBudget) -> list[Cell[CaptionConfig]]:
    """Every method, all of the first seed before the second."""
    hard = {name: replace(settings, samples=budget.samples) for name, settings in ESTIMATORS.items()}
    soft = EstimatorConfig(name="wake-sleep", proposal="policy", control_variates=False, samples=1)
    cells = []
    for seed in range(budget.seeds):
        schedule = replace(
            base.schedule,
            steps=budget.steps,
            warmup=budget.warmup,
            evaluate_every=budget.evaluate_every,
            patience=budget.patience,
            seed=seed,
        )
        of_seed = replace(base, schedule=schedule)
        for name, settings in hard.items():
            cells.append(Cell("table", name, replace(of_seed, estimator=settings)))
        attention = replace(base.model, attention="soft")
        cells.append(Cell("table", "soft", replace(of_seed, model=attention, estimator=soft)))
    return cells


def _measure(budget: CaptionBudget, cell: Cell[CaptionConfig], run: Run[CaptionConfig]) -> None:
    """Write what is missing into a finished cell's folder; what is there is never measured again."""
    for split in ("dev", "test"):
        if not (run.folder / f"evaluation-{split}.json").exists():
            report_caption_evaluation(
                run.folder,
                Console(quiet=True),
                test=split == "test",
                samples=budget.likelihood_samples,
                beam=budget.beam,
                captions=cell.config.data.captions,
                features=cell.config.data.features,
            )


def reproduce(budget: CaptionBudget, base: CaptionConfig, console: Console, *, folder: Path, results: Path) -> Path:
    """Run what is not finished of the experiment, and make its page.

    Args:
        budget: how much is spent.
        base: data, network and rates; its estimator and the rest of its schedule are replaced.
        console: says how far it is.
        folder: of the runs.
        results: folder of the page, its figure and the small file they are made from.

    Returns:
        The page.

    Raises:
        UserError: data or features that cannot be had, a cell that failed, a folder that cannot be written or holds
            runs with other settings.
    """
    features = features_of(base.data, load_splits(base.data))  # a mistake is told once, not by every cell
    cells = table_cells(base, budget)
    failures = run_cells(cells, folder, console, lambda cell, run: _measure(budget, cell, run))
    kept = [record(cell, folder, FILES, CURVE, every_row=True) for cell in cells]
    made = {
        "experiment": "flickr8k",
        "budget": dataclasses.asdict(budget),
        "network": dataclasses.asdict(base.model),
        "data": {
            "encoder": base.data.encoder,
            "grid": base.data.grid,
            "cells": features.array.shape[1],
            "channels": features.array.shape[2],
            "learning_rate": base.schedule.learning_rate,
        },
        # A cell may be between its last update and its last measurement.
        "cells": [cell for cell in kept if cell is not None and FILES[-1] in cell],
    }
    written = save(results, made, page)
    console.print(f"Page: {written}", highlight=False)
    require_whole(failures)
    return written


def remake(results: Path) -> Path:
    """Make the page anew from the small file alone; `UserError` if that is missing or is none."""
    return save(results, load(results), page)
