"""The page of the experiments on MNIST, made from what was kept of their runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.mnist_claims import claims
from experiments.pages import Record, difference, of, origin, updates_to_reach
from experiments.published import MNIST_ERROR, VARIANCE_CUT
from experiments.statistics import shown
from wsram.cards import noise_reduction
from wsram.estimators import ESTIMATORS
from wsram.tables import Panel, Table
from wsram.viewing import draw_panels, save

GROUPS = ("prediction", "policy", "inference")
CURVE = ("step", "seconds", "error_mode", "nll_mode", "ess", *(f"variance_{group}" for group in GROUPS))
"""Figures of metrics.jsonl that are kept of a run."""

LABELS = {"var": "VAR", "ws-ram": "WS-RAM", "ws-ram-q": "WS-RAM + q"}


def page(made: Mapping[str, Any], folder: Path) -> str:
    """The page's text; its figures are drawn into the folder.

    Args:
        made: what `reproduce` kept.
        folder: of the page.
    """
    trials, budget, network, data = made["trials"], made["budget"], made["network"], made["data"]
    sections = [
        f"# Translated scaled MNIST: budget {budget['name']}",
        "Made by `python -m experiments mnist` from `results.json` beside this page. "
        f"Scene {data['scene']} of {data['source']}; {network['glimpses']} glimpses of {network['patch']} pixels at "
        f"scales {', '.join(map(str, network['scales']))}; {network['recurrence']} recurrence, {network['network']} "
        f"glimpse networks, {network['lower_units']} and {network['upper_units']} units; M = {budget['samples']} "
        "samples for every method. A figure is a mean over seeds ± half its 95% interval (Student's t), with the "
        "number of seeds in brackets; one seed has no interval.",
    ]
    parts = (_table1, _curves, _noise, _posterior, _exploration, _credit, _tuning)
    sections += claims(trials, made)
    return "\n\n".join([*sections, *(text for part in parts for text in part(trials, made, folder))]) + "\n"


def _label(name: str) -> tuple[str, bool]:
    method, kind = name.rsplit("-", 1)
    return LABELS[method], kind == "cv"


def _title(name: str) -> str:
    label, control_variates = _label(name)
    return f"{label}, {'with' if control_variates else 'without'} control variates"


def _percents(trials: Sequence[Record], file: str, figure: str) -> list[float]:
    return [
        100 * value for trial in trials if file in trial for key, value in trial[file].items() if key.startswith(figure)
    ]


def _names(trials: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(trial["name"] for trial in trials))


def _table1(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = of(trials, "table1")
    if not ours:
        return
    yield "## Error"
    rows = []
    for name in _names(ours):
        seeds = of(trials, "table1", name)
        test = _percents(seeds, "evaluation-test", "error_mode")
        label, control_variates = _label(name)
        published = MNIST_ERROR[label, control_variates].values[0]
        rows.append(
            [
                label,
                "yes" if control_variates else "no",
                shown(test),
                shown(_percents(seeds, "evaluation-test", "error_one_sample")),
                shown(_percents(seeds, "evaluation-test", "error_vote_")),
                shown(_percents(seeds, "evaluation-validation", "error_mode")),
                f"{published:.2f}",
                difference(fmean(test) if test else None, published),
            ]
        )
    votes = f"vote of {made['budget']['votes']}"
    header = [
        "method",
        "control variates",
        "test error, %",
        "one sample",
        votes,
        "validation, %",
        "published",
        "difference",
    ]
    yield Table("", header, rows).markdown()
    counted = {trial["evaluation-test"]["examples"] for trial in ours if "evaluation-test" in trial}
    on_test = f"{max(counted):,} test digits" if counted else "no test digits, which this data set does not have"
    yield (
        f"Protocol: {on_test}, one fixed scene each, the network of the last update, measured once; the error is that "
        "of the mode, and beside it those of one sampled sequence and of a vote. The difference is ours minus "
        "published, in points. VAR has all three exploration heuristics on, the others none. Published: "
        f"{'; '.join(dict.fromkeys(figure.source for figure in MNIST_ERROR.values()))}."
    )
    yield origin(ours)


def _panel(
    trials: Sequence[Record], title: str, x: tuple[str, str], y: tuple[str, str], scale: float = 1.0, log: bool = True
) -> Panel:
    curves = [
        (_title(trial["name"]), trial["curve"][x[0]], [scale * value for value in trial["curve"][y[0]]])
        for trial in trials
        if y[0] in trial["curve"]
    ]
    return Panel(title, x[1], y[1], curves, log)


def _curves(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = of(trials, "table1")
    if not ours:
        return
    updates, seconds = ("step", "updates"), ("seconds", "seconds of training")
    panels = [_panel(ours, "validation error of the mode", x, ("error_mode", "%"), 100.0) for x in (updates, seconds)]
    panels += [_panel(ours, "validation NLL of the mode", x, ("nll_mode", "nats")) for x in (updates, seconds)]
    save(draw_panels(panels), folder / "curves.png", replace=True)
    yield "## Curves"
    yield "![Validation error and likelihood against updates and seconds](curves.png)"
    baselines = of(trials, "table1", "var-cv")
    if not baselines:
        return
    level = fmean(trial["curve"]["error_mode"][-1] for trial in baselines)
    rows = []
    for name in _names(ours):
        reached = [updates_to_reach(c["curve"], "error_mode", level) for c in of(trials, "table1", name)]
        known = [float(step) for step in reached if step is not None]
        rows.append([_title(name), shown(known, 0), f"{len(known)} of {len(reached)}"])
    yield f"Updates until the validation error was first at or below VAR's final one, {level:.2%}, at an evaluation:"
    yield Table("", ["method", "updates", "seeds that reached it"], rows).markdown()
    yield origin(ours)


def _noise(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = of(trials, "table1")
    if not ours:
        return
    x = ("step", "updates")
    panels = [
        _panel(ours, "effective sample size, training", x, ("ess", "samples"), log=False),
        *(
            _panel(ours, f"gradient variance, {group}", x, (f"variance_{group}", "trace of covariance"))
            for group in GROUPS
        ),
    ]
    save(draw_panels(panels), folder / "noise.png", replace=True)
    yield "## Effective sample size and gradient variance"
    yield (
        "![Effective sample size and gradient variance against updates](noise.png)\n\n"
        f"The variance is over {made['budget']['draws']} gradients of each run's own network on the same batch, "
        "without exploration terms; networks differ, so the curves compare whole methods. The next table compares "
        "estimators alone: all of them on the final network of WS-RAM + q."
    )
    diagnosed = [trial for trial in ours if "diagnosis" in trial]
    if diagnosed:
        yield _cuts(diagnosed)
        yield (
            "The cut is 1 minus the ratio of the variance to that of the same estimator and proposal without any of "
            "these means, in percent. Published, for control variates: "
            f"{VARIANCE_CUT.values[0]:.0f} to {VARIANCE_CUT.values[1]:.0f} ({VARIANCE_CUT.source})."
        )
        yield origin(diagnosed)


def _cuts(trials: Sequence[Record]) -> str:
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for trial in trials:
        plain = {(row["estimator"], row["proposal"]): row for row in trial["diagnosis"] if not noise_reduction(row)}
        for row in trial["diagnosis"]:
            way = row["estimator"], row["proposal"]
            simplest = ESTIMATORS[row["estimator"]].refines or row["estimator"], row["proposal"]
            if not noise_reduction(row) or simplest not in plain:
                continue
            figures = found.setdefault((*way, noise_reduction(row)), {})
            figures.setdefault("ess", []).append(row["ess"])
            for group, measured in row["gradient"].items():
                before = plain[simplest]["gradient"][group]["variance"]
                if before > 0:
                    figures.setdefault(group, []).append(100 * (1 - measured["variance"] / before))
    rows = [
        [*way, shown(figures["ess"]), *(shown(figures.get(group, []), 0) for group in GROUPS)]
        for way, figures in found.items()
    ]
    header = ["estimator", "proposal", "with", "ESS", *(f"cut, {group}, %" for group in GROUPS)]
    return Table("", header, rows).markdown()


def _posterior(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = [trial for trial in of(trials, "table1") if "posterior" in trial]
    if not ours:
        return
    yield "## Distance from the posterior"
    rows = []
    for name in _names(ours):
        of_name = [trial["posterior"] for trial in of(ours, "table1", name)]
        kinds = ("policy", "inference")
        rows.append([_title(name), *(shown([p[kind] for p in of_name if kind in p], 3) for kind in kinds)])
    yield Table("", ["method", "KL to the policy, nats", "KL to the inference network, nats"], rows).markdown()
    first = ours[0]["posterior"]
    yield (
        "KL from the posterior over glimpse sequences, that of each run's own final network, to what could propose "
        f"them: means over {first['images']} validation digits, with {first['samples']} sequences for each standing "
        "for the posterior. The less there is between the two columns, the less the label tells about where to look."
    )
    yield origin(ours)


def _with_heuristics(trials: Sequence[Record], made: Mapping[str, Any], method: str, heuristics: str) -> list[Record]:
    """The trials of a method, control variates on: Table 1 holds VAR with all heuristics and the others without any."""
    if heuristics == made["heuristics_of_table1"][method]:
        return of(trials, "table1", f"{method}-cv")
    return of(trials, "exploration", f"{method}-{heuristics}")


def _exploration(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    if not of(trials, "exploration"):
        return
    yield "## Exploration"
    rows, used = [], []
    for method in ("var", "ws-ram"):
        for heuristics in made["heuristics"]:
            seeds = _with_heuristics(trials, made, method, heuristics)
            used += seeds
            usage = [" / ".join(f"{share:.0%}" for share in trial["looking"]["scale_usage"]) for trial in seeds]
            rows.append(
                [
                    LABELS[method],
                    heuristics,
                    shown(_percents(seeds, "evaluation-validation", "error_mode")),
                    "; ".join(usage) or "—",
                    shown([100 * trial["looking"]["coverage"] for trial in seeds], 0),
                ]
            )
    weights = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in made["heuristics"]["all"].items())
    scales = " / ".join(f"×{scale}" for scale in made["network"]["scales"])
    yield Table(
        "", ["method", "heuristics", "validation error, %", f"glimpses at {scales}, by seed", "coverage, %"], rows
    ).markdown()
    yield (
        "All with control variates; error of the mode. Scales and coverage are of one sequence drawn from the "
        "policy for each validation digit; coverage is 100% when every part of an 8 by 8 grid gets as many glimpses, "
        f"and 1.6% when one part gets all. The weights, ours: {weights}."
    )
    yield origin(used)


def _credit(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    if not of(trials, "credit"):
        return
    yield "## Credit for single glimpses"
    rows, used = [], []
    for name, heuristics in made["heuristics_of_credit"].items():
        method = name.removesuffix("-credit")
        for credit, seeds in (
            ("no", _with_heuristics(trials, made, method, heuristics)),
            ("yes", of(trials, "credit", name)),
        ):
            used += seeds
            figures = [trial["evaluation-validation"] for trial in seeds]
            rows.append(
                [
                    LABELS[method],
                    heuristics,
                    credit,
                    shown(_percents(seeds, "evaluation-validation", "error_mode")),
                    shown(_percents(seeds, "evaluation-validation", "error_one_sample")),
                    shown(_percents(seeds, "evaluation-validation", "error_vote_")),
                    shown([found["nll_one_sample"] for found in figures], 3),
                ]
            )
    votes = f"vote of {made['budget']['votes']}"
    header = ["method", "heuristics", "credit", "validation error, %", "one sample", votes, "NLL of one sample, nats"]
    yield Table("", header, rows).markdown()
    yield (
        "Ours, beyond the paper: control variates that know each glimpse's own past, everything else as without "
        "credit, the learning rate included."
    )
    yield origin(used)


def _tuning(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = of(trials, "tuning")
    if not ours:
        return
    yield "## Learning rates"
    budget = made["budget"]
    # They may have been tuned under another budget than the runs above; at a rate of this one all may have failed.
    of_this = all(trial["updates"] == budget["tuning_updates"] for trial in ours)
    rates = sorted({trial["learning_rate"] for trial in ours} | set(budget["rates"] if of_this else ()))
    rows = []
    for name, chosen in made["chosen"].items():
        row = [_title(name)]
        for rate in rates:
            tried = of(trials, "tuning", f"{name}/{rate:g}")
            error = f"{100 * tried[0]['curve']['error_mode'][-1]:.2f}" if tried else "failed"
            row.append(f"**{error}**" if rate == chosen else error)
        rows.append(row)
    yield Table("", ["method", *(f"{rate:g}" for rate in rates)], rows).markdown()
    yield (
        "Validation error (%) of short runs at each peak learning rate; the least, by likelihood if equal, is in bold "
        "and is what the method is trained with above. No test digit took part."
    )
    yield origin(ours)
