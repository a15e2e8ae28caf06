"""The paper's experiments on translated scaled MNIST: Table 1, exploration, curves, noise; and credit, ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from experiments.mnist_page import CURVE, page
from experiments.pages import RESULTS, Record, load, of, save
from experiments.trials import Trial, finished, last_row, open_trial, records, require_whole, run_trials
from wsram.config import ClassificationConfig, EstimatorConfig, ExplorationConfig, Proposal, changed
from wsram.data.mnist import EMBEDDED
from wsram.diagnose import diagnose, posterior
from wsram.errors import UserError, require_at_least
from wsram.estimators.diagnostics import location_coverage, scale_usage
from wsram.evaluate import Trained, evaluate
from wsram.models.classifier import AttentionClassifier
from wsram.recipes import RECIPES
from wsram.runs import Run, read_json, write_whole
from wsram.runtime import autocast
from wsram.tasks import TASKS, Options
from wsram.tasks.measuring import ROWS
from wsram.terminal import Screen
from wsram.training import resolved

Part = Literal["tuning", "table1", "exploration", "credit"]
Network = Literal["faithful", "best"]

NETWORKS: dict[Network, ClassificationConfig] = {
    "faithful": cast(ClassificationConfig, RECIPES["paper"]),
    "best": cast(ClassificationConfig, RECIPES["quarter-hour"]),
}
"""faithful: the paper's, ReLU recurrence and fully connected glimpses; best: ours, small convolutions."""

FILES = ("evaluation-validation", "evaluation-test", "diagnosis", "posterior", "looking")
MEASURED_LAST = FILES[-1]
TUNING = "tuning.json"


@dataclass(frozen=True)
class MnistBudget:
    """How much is spent.

    name: of the budget.
    updates: of each run of Table 1, exploration and credit.
    tuning_updates: updates of each run that a learning rate is chosen by.
    rates: learning rates to choose from.
    seeds: runs of each trial, seeds 0, 1, ...
    batch, warmup, evaluate_every: as in `ScheduleConfig`.
    samples: glimpse sequences for each image, M, the same for every method.
    draws: gradients whose variance is taken, at each evaluation and for the comparison on one network.
    votes: sequences that vote in the final evaluation.
    """

    name: str
    updates: int
    tuning_updates: int
    rates: tuple[float, ...]
    seeds: int
    batch: int
    warmup: int
    evaluate_every: int
    samples: int = 5
    draws: int = 20
    votes: int = 4

    def __post_init__(self) -> None:
        require_at_least(1, seeds=self.seeds)


BUDGETS: dict[str, MnistBudget] = {
    "smoke": MnistBudget("smoke", 60, 20, (1e-3, 4e-3), seeds=1, batch=64, warmup=5, evaluate_every=30, draws=4),
    # For the network whose updates cost three times those of the faithful one, and that needs fewer of them.
    "short": MnistBudget(
        "short", 1200, 500, (1e-3, 2e-3, 4e-3, 8e-3), seeds=3, batch=128, warmup=100, evaluate_every=300
    ),
    "standard": MnistBudget(
        "standard", 3500, 1000, (1e-3, 2e-3, 4e-3, 8e-3), seeds=3, batch=128, warmup=200, evaluate_every=500
    ),
    # Six times as long, with the rates of the standard budget (--rates-from) and one seed: days are put together.
    "long": MnistBudget(
        "long", 20_000, 1000, (1e-3, 2e-3, 4e-3, 8e-3), seeds=1, batch=128, warmup=200, evaluate_every=2000
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
    base: ClassificationConfig,
    budget: MnistBudget,
    method: Method,
    control_variates: bool,
    heuristics: str,
    rate: float,
    seed: int,
) -> ClassificationConfig:
    return changed(
        base,
        estimator=EstimatorConfig(method.estimator, method.proposal, control_variates, budget.samples),
        exploration=HEURISTICS[heuristics],
        updates=budget.updates,
        batch=budget.batch,
        warmup=budget.warmup,
        evaluate_every=budget.evaluate_every,
        learning_rate=rate,
        seed=seed,
        variance_draws=budget.draws,
    )


def tuning_trials(base: ClassificationConfig, budget: MnistBudget) -> list[Trial[ClassificationConfig]]:
    """Short runs of every method at every learning rate, with one seed."""
    trials = []
    for method in METHODS:
        for control_variates in (False, True):
            for rate in budget.rates:
                config = _config(base, budget, method, control_variates, method.heuristics, rate, seed=0)
                updates = budget.tuning_updates
                short = changed(config, updates=updates, warmup=min(budget.warmup, updates // 5), variance_draws=0)
                trials.append(Trial("tuning", f"{_named(method, control_variates)}/{rate:g}", short))
    return trials


def main_trials(
    base: ClassificationConfig, budget: MnistBudget, rates: Mapping[str, float], only: Part | None = None
) -> list[Trial[ClassificationConfig]]:
    """Table 1, exploration and credit, all of the first seed before the second.

    Exploration leaves out the two trials that Table 1 already holds: VAR with all heuristics, WS-RAM without any.
    Credit has the learning rate that was tuned without it.
    """
    trials = []
    for seed in range(budget.seeds):
        for method in METHODS:
            for control_variates in (False, True):
                name = _named(method, control_variates)
                config = _config(base, budget, method, control_variates, method.heuristics, rates[name], seed)
                trials.append(Trial("table1", name, config))
        for method in METHODS[:2]:
            rate = rates[_named(method, True)]
            trials += [
                Trial("exploration", f"{method.name}-{name}", _config(base, budget, method, True, name, rate, seed))
                for name in HEURISTICS
                if name != method.heuristics
            ]
        for method in CREDITED:
            rate = rates[f"{method.name.removesuffix('-credit')}-cv"]
            trials.append(
                Trial("credit", method.name, _config(base, budget, method, True, method.heuristics, rate, seed))
            )
    return [trial for trial in trials if only in (None, trial.group)]


def choose_rates(trials: Sequence[Trial[ClassificationConfig]], folder: Path) -> dict[str, float]:
    """For each method the learning rate with the least validation error, written to the folder's tuning.json.

    Equal errors are told apart by the likelihood. A rate whose run failed is out.

    Raises:
        UserError: all of a method's runs failed.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for trial in trials:
        run = trial.run(folder)
        tried = found.setdefault(trial.name.split("/")[0], [])
        if finished(run):
            last = {name: last_row(run)[name] for name in ("error_mode", "nll_mode")}
            tried.append({"rate": trial.config.schedule.learning_rate} | last)
    for name, tried in found.items():
        if not tried:
            raise UserError(f"no learning rate works for {name}: every run in {folder / 'tuning' / name} failed")
    chosen = {
        name: min(tried, key=lambda row: (row["error_mode"], row["nll_mode"]))["rate"] for name, tried in found.items()
    }
    write_whole(folder / TUNING, json.dumps({"chosen": chosen, "tried": found}, indent=2) + "\n")
    return chosen


def read_rates(folder: Path) -> dict[str, float] | None:
    """The learning rates that were chosen, if they have been; `UserError` if the file is no such choice."""
    path = folder / TUNING
    if not path.exists():
        return None
    again = "remove it to choose them again"
    found = read_json(path, again)
    try:
        rates = {name: float(rate) for name, rate in found["chosen"].items()}
        if rates.keys() != {_named(m, cv) for m in METHODS for cv in (False, True)}:
            raise ValueError(f"it names {', '.join(rates)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no learning rates ({error}); {again}") from error
    return rates


def measure_looking(trained: Trained) -> dict[str, Any]:
    """Where a network looks, one sequence drawn from its policy for each validation digit.

    Returns:
        "scale_usage", the share of glimpses at each scale; "coverage", see `location_coverage`.
    """
    network, digits = cast(AttentionClassifier, trained.network), trained.examples()
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    scales, locations = [], []
    with torch.no_grad(), autocast(network.precision, device)():
        for part in torch.arange(len(digits)).split(ROWS):
            action = network.predict(digits.batch(part).images, samples=1, generator=generator).action
            scales.append(action.scale.flatten())
            locations.append(action.location.reshape(-1, 2).float())
    usage = scale_usage(torch.cat(scales), len(network.prediction.sensor.scales))
    return {"scale_usage": usage.tolist(), "coverage": location_coverage(torch.cat(locations))}


def measure(budget: MnistBudget, trial: Trial[ClassificationConfig], run: Run[ClassificationConfig]) -> None:
    """Write what is missing into a finished trial's folder; what is there is never measured again."""
    table1 = trial.group == "table1"
    wanted = {
        "evaluation-validation": True,
        "evaluation-test": table1 and trial.config.data.source != EMBEDDED,
        # One network under every estimator: only so does a ratio of variances compare estimators alone.
        "diagnosis": trial.name == "ws-ram-q-cv",
        "posterior": table1,
        "looking": True,
    }
    missing = [name for name in FILES if wanted[name] and not (run.folder / f"{name}.json").exists()]
    if not missing:
        return
    trained, quiet, options = open_trial(trial, run, inference=True), Screen(quiet=True), Options(samples=budget.votes)
    for name in ("validation", "test"):
        if f"evaluation-{name}" in missing:
            evaluate(trained, quiet, test=name == "test", options=options)
    others: dict[str, Callable[[], Any]] = {
        "diagnosis": lambda: diagnose(trained, samples=budget.samples, batch=budget.batch, draws=budget.draws)["rows"],
        "posterior": lambda: posterior(trained, batch=budget.batch),
        "looking": lambda: measure_looking(trained),
    }
    for name, make in others.items():
        if name in missing:
            write_whole(run.folder / f"{name}.json", json.dumps(make(), indent=2) + "\n")


def reproduce(
    budget: MnistBudget,
    base: ClassificationConfig,
    screen: Screen,
    *,
    only: Part | None,
    folder: Path,
    results: Path,
    rates_from: Path | None = None,
    extend: bool = False,
    so_far: bool = False,
) -> Path:
    """Run what is not finished of the experiments, and make their page.

    Args:
        budget: how much is spent.
        base: data, network and precision; its estimator, exploration and the rest of its schedule are replaced.
        screen: says how far it is.
        only: the one part to run; by default all.
        folder: of the runs.
        results: folder of the page, its figures and the small file they are made from.
        rates_from: folder of other results, whose learning rates are taken, and shown.
        extend: leave alone what `results` holds already, wherever it was run, and add to it.
        so_far: run nothing, and make the page of what is finished.

    Returns:
        The page.

    Raises:
        UserError: data that cannot be had, a trial that failed, no learning rates chosen yet, nothing finished, a
            folder that cannot be written or holds runs with other settings, or results to extend that are of another
            budget, network or data.
    """
    task, base = TASKS[base.task], resolved(base)
    splits = task.open(base)  # what is wrong with the data is said once, not by every trial
    base, _ = task.choose(base, splits)
    if base.data.source != EMBEDDED:
        splits.open_test()
    of_what = {
        "network": {
            name: getattr(base.model, name)
            for name in ("recurrence", "network", "lower_units", "upper_units", "glimpses", "patch", "scales")
        },
        "data": {"source": Path(base.data.source).name, "scene": base.data.scene},
    }
    published = _published(results, budget, of_what) if extend else []
    if published and rates_from is None:
        rates_from = results
    tuning = tuning_trials(base, budget) if rates_from is None else []
    if rates_from is None:
        rates = read_rates(folder)
    else:
        other = load(rates_from)
        rates = other["chosen"]
        published = [*of(other["trials"], "tuning"), *(t for t in published if t["group"] != "tuning")]
    if rates is None:
        if only not in (None, "tuning") or so_far:
            raise UserError(f"no learning rates are chosen in {folder} yet; run without --only, or with --only tuning")
        run_trials(tuning, folder, screen, lambda trial, run: None)
        rates = choose_rates(tuning, folder)
    there = {(trial["group"], trial["name"], trial["seed"]) for trial in published}

    def absent(trials: Sequence[Trial[ClassificationConfig]]) -> list[Trial[ClassificationConfig]]:
        return [trial for trial in trials if (trial.group, trial.name, trial.seed) not in there]

    failures: list[str] = []
    if only != "tuning" and not so_far:
        wanted = absent(main_trials(base, budget, rates, only))
        failures = run_trials(wanted, folder, screen, lambda trial, run: measure(budget, trial, run))
    trials = absent([*tuning, *main_trials(base, budget, rates)])
    kept = records(trials, folder, FILES, lambda trial: CURVE if trial.group == "table1" else CURVE[:4], failures)
    # A trial may have been stopped, or be in another process' hands, between its last update and its last measurement.
    whole = [trial for trial in kept if trial["group"] == "tuning" or MEASURED_LAST in trial]
    if so_far and all(trial["group"] == "tuning" for trial in [*published, *whole]):
        raise UserError(f"nothing is finished in {folder} yet; run without --so-far")
    made = {
        "experiment": "mnist",
        "budget": dataclasses.asdict(budget),
        **of_what,
        "heuristics": {name: dataclasses.asdict(weights) for name, weights in HEURISTICS.items()},
        "heuristics_of_table1": {method.name: method.heuristics for method in METHODS},
        "heuristics_of_credit": {method.name: method.heuristics for method in CREDITED},
        "chosen": rates,
        "trials": [*published, *whole],
    }
    written = save(results, made, page)
    screen.say(f"Page: {written}")
    require_whole(failures)
    return written


def _published(results: Path, budget: MnistBudget, of_what: dict[str, Any]) -> list[Record]:
    """The trials of results that are to be extended, of the same network and data; none if there are no results yet."""
    if not (results / RESULTS).exists():
        return []
    made = load(results)
    seeds = made["budget"]["seeds"]
    if budget.seeds < seeds:
        raise UserError(f"{results} holds results of {seeds} seeds, which fewer cannot extend; use --seeds {seeds}")
    # Seeds are what results are extended by.
    of_both = {"budget": dataclasses.asdict(budget) | {"seeds": seeds}, **of_what}
    for what, asked in json.loads(json.dumps(of_both)).items():
        if made[what] != asked:
            raise UserError(
                f"{results} holds results of another {what}, {made[what]}, and asked for is {asked}; name another "
                "folder with --results"
            )
    return list(made["trials"])


def remake(results: Path) -> Path:
    """Make the page anew from the small file alone; `UserError` if that is missing or is none."""
    return save(results, load(results), page)
