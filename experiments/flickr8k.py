"""The paper's experiment on Flickr8k: captions by each method, their BLEU, and how fast the likelihood rises."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.flickr8k_page import CURVE, page
from experiments.pages import load, save
from experiments.trials import Trial, open_trial, records, require_whole, run_trials
from wsram.config import CaptioningConfig, EstimatorConfig, changed
from wsram.errors import require_at_least
from wsram.evaluate import evaluate
from wsram.runs import Run
from wsram.tasks import TASKS, Options
from wsram.terminal import Screen
from wsram.training import resolved

FILES = ("evaluation-validation", "evaluation-test")


@dataclass(frozen=True)
class CaptionBudget:
    """How much is spent.

    name: of the budget.
    updates: of each run, at most: it stops early when the validation captions get no likelier.
    seeds: runs of each method, seeds 0, 1, ...
    warmup, evaluate_every, patience: as in `ScheduleConfig`.
    samples: sequences of cells for each caption, M, the same for every method with hard attention.
    beam: captions kept for each image while they grow.
    likelihood_samples: sequences that the final likelihood is estimated from.
    curve: updates that the curve of the training likelihood shows.
    """

    name: str
    updates: int
    seeds: int
    warmup: int
    evaluate_every: int
    patience: int
    samples: int = 5
    beam: int = 5
    likelihood_samples: int = 16
    curve: int = 10_000

    def __post_init__(self) -> None:
        require_at_least(1, seeds=self.seeds)


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


def table_trials(base: CaptioningConfig, budget: CaptionBudget) -> list[Trial[CaptioningConfig]]:
    """Every method, all of the first seed before the second."""
    trials = []
    for seed in range(budget.seeds):
        of_seed = changed(
            base,
            updates=budget.updates,
            warmup=budget.warmup,
            evaluate_every=budget.evaluate_every,
            patience=budget.patience,
            seed=seed,
        )
        for name, settings in ESTIMATORS.items():
            trials.append(Trial("table", name, changed(of_seed, estimator=replace(settings, samples=budget.samples))))
        soft = EstimatorConfig("wake-sleep", "policy", control_variates=False, samples=1)
        trials.append(Trial("table", "soft", changed(of_seed, attention="soft", estimator=soft)))
    return trials


def _measure(budget: CaptionBudget, trial: Trial[CaptioningConfig], run: Run[CaptioningConfig]) -> None:
    """Write what is missing into a finished trial's folder; what is there is never measured again."""
    missing = [name for name in FILES if not (run.folder / f"{name}.json").exists()]
    if not missing:
        return
    trained = open_trial(trial, run)
    samples = 1 if trial.config.model.attention == "soft" else budget.likelihood_samples
    for name in missing:
        test = name.endswith("test")
        evaluate(trained, Screen(quiet=True), test=test, options=Options(samples, budget.beam))


def reproduce(budget: CaptionBudget, base: CaptioningConfig, screen: Screen, *, folder: Path, results: Path) -> Path:
    """Run what is not finished of the experiment, and make its page.

    Args:
        budget: how much is spent.
        base: data, network, rates and precision; its estimator and the rest of its schedule are replaced.
        screen: says how far it is.
        folder: of the runs.
        results: folder of the page, its figure and the small file they are made from.

    Returns:
        The page.

    Raises:
        UserError: data or features that cannot be had, a trial that failed, a folder that cannot be written or holds
            runs with other settings.
    """
    task, base = TASKS[base.task], resolved(base)
    splits = task.open(base)  # a mistake is told once, not by every trial
    base, _ = task.choose(base, splits)
    trials = table_trials(base, budget)
    failures = run_trials(trials, folder, screen, lambda trial, run: _measure(budget, trial, run))
    kept = records(trials, folder, FILES, lambda trial: CURVE, failures, every_row=True)
    made = {
        "experiment": "flickr8k",
        "budget": dataclasses.asdict(budget),
        "network": dataclasses.asdict(base.model),
        "data": {
            "backbone": base.data.backbone,
            "grid": base.data.grid,
            "channels": splits.train.spec.channels,
            "learning_rate": base.schedule.learning_rate,
        },
        # A trial may be between its last update and its last measurement.
        "trials": [trial for trial in kept if FILES[-1] in trial],
    }
    written = save(results, made, page)
    screen.say(f"Page: {written}")
    require_whole(failures)
    return written


def remake(results: Path) -> Path:
    """Make the page anew from the small file alone; `UserError` if that is missing or is none."""
    return save(results, load(results), page)
