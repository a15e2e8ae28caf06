"""The page of the experiments on MNIST, made from what was kept of their runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from wsram.experiments.mnist_claims import claims
from wsram.experiments.pages import Record, difference, of, origin, table, updates_to_reach
from wsram.experiments.published import MNIST_ERROR, VARIANCE_CUT
from wsram.experiments.statistics import shown
from wsram.plots import Panel, plot_curves
from wsram.results import noise_reduction

GROUPS = ("prediction", "policy", "inference")
CURVE = ("step", "seconds", "error_mean_action", "nll_mean_action", "ess", *(f"variance_{group}" for group in GROUPS))
"""Figures of metrics.jsonl that are kept of a run."""

LABELS = {"var": "VAR", "ws-ram": "WS-RAM", "ws-ram-q": "WS-RAM + q"}


def page(made: Mapping[str, Any], folder: Path) -> str:
    """The page's text; its figures are drawn into the folder.

    Args:
        made: what `reproduce` kept.
        folder: of the page.
    """
    cells, budget, network, data = made["cells"], made["budget"], made["network"], made["data"]
    sections = [
        f"# Translated scaled MNIST: budget {budget['name']}",
        "Made by `wsram reproduce mnist` from `results.json` beside this page. "
        f"Scene {data['scene']} of {data['dataset']}; {network['glimpses']} glimpses of {network['patch']} pixels at "
        f"scales {', '.join(map(str, network['scales']))}; {network['recurrence']} recurrence, {network['encoder']} "
        f"glimpse networks, {network['lower_units']} and {network['upper_units']} units; M = {budget['samples']} "
        "samples for every method. A figure is a mean over seeds ± half its 95% interval (Student's t), with the "
        "number of seeds in brackets; one seed has no interval.",
    ]
    parts = (_table1, _curves, _noise, _posterior, _exploration, _credit, _tuning)
    sections += claims(cells, made)
    return "\n\n".join([*sections, *(text for part in parts for text in part(cells, made, folder))]) + "\n"


def _label(name: str) -> tuple[str, bool]:
    method, kind = name.rsplit("-", 1)
    return LABELS[method], kind == "cv"


def _title(name: str) -> str:
    label, control_variates = _label(name)
    return f"{label}, {'with' if control_variates else 'without'} control variates"


def _percents(cells: Sequence[Record], file: str, figure: str) -> list[float]:
    return [
        100 * value for cell in cells if file in cell for key, value in cell[file].items() if key.startswith(figure)
    ]


def _names(cells: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(cell["name"] for cell in cells))


def _table1(cells: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = of(cells, "table1")
    if not ours:
        return
    yield "## Error"
    rows = []
    for name in _names(ours):
        seeds = of(cells, "table1", name)
        test = _percents(seeds, "evaluation-test", "error_mean_action")
        label, control_variates = _label(name)
        published = MNIST_ERROR[label, control_variates].values[0]
        rows.append(
            [
                label,
                "yes" if control_variates else "no",
                shown(test),
                shown(_percents(seeds, "evaluation-test", "error_one_sample")),
                shown(_percents(seeds, "evaluation-test", "error_vote_")),
                shown(_percents(seeds, "evaluation-held-out", "error_mean_action")),
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
        "held-out, %",
        "published",
        "difference",
    ]
    yield table(header, rows)
    counted = {cell["evaluation-test"]["digits"] for cell in ours if "evaluation-test" in cell}
    on_test = f"{max(counted):,} test digits" if counted else "no test digits, which this data set does not have"
    yield (
        f"Protocol: {on_test}, one fixed scene each, the network of the last update, measured once; the error is that "
        "of the mean action, and beside it those of one sampled sequence and of a vote. The difference is ours minus "
        "published, in points. VAR has all three exploration heuristics on, the others none. Published: "
        f"{'; '.join(dict.fromkeys(figure.source for figure in MNIST_ERROR.values()))}."
    )
    yield origin(ours)


def _panel(
    cells: Sequence[Record], title: str, x: tuple[str, str], y: tuple[str, str], scale: float = 1.0, log: bool = True
) -> Panel:
    curves = [
        (_title(cell["name"]), cell["curve"][x[0]], [scale * value for value in cell["curve"][y[0]]])
        for cell in cells
        if y[0] in cell["curve"]
    ]
    return Panel(title, x[1], y[1], curves, log)


def _curves(cells: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = of(cells, "table1")
    if not ours:
        return
    updates, seconds = ("step", "updates"), ("seconds", "seconds of training")
    plot_curves(
        folder / "curves.png",
        [_panel(ours, "held-out error, mean action", x, ("error_mean_action", "%"), 100.0) for x in (updates, seconds)]
        + [_panel(ours, "held-out NLL, mean action", x, ("nll_mean_action", "nats")) for x in (updates, seconds)],
    )
    yield "## Curves"
    yield "![Held-out error and likelihood against updates and seconds](curves.png)"
    baselines = of(cells, "table1", "var-cv")
    if not baselines:
        return
    level = fmean(cell["curve"]["error_mean_action"][-1] for cell in baselines)
    rows = []
    for name in _names(ours):
        reached = [updates_to_reach(c["curve"], "error_mean_action", level) for c in of(cells, "table1", name)]
        known = [float(step) for step in reached if step is not None]
        rows.append([_title(name), shown(known, 0), f"{len(known)} of {len(reached)}"])
    yield f"Updates until the held-out error was first at or below VAR's final one, {level:.2%}, at an evaluation:"
    yield table(["method", "updates", "seeds that reached it"], rows)
    yield origin(ours)


def _noise(cells: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = of(cells, "table1")
    if not ours:
        return
    x = ("step", "updates")
    plot_curves(
        folder / "noise.png",
        [
            _panel(ours, "effective sample size, training", x, ("ess", "samples"), log=False),
            *(
                _panel(ours, f"gradient variance, {group}", x, (f"variance_{group}", "trace of covariance"))
                for group in GROUPS
            ),
        ],
    )
    yield "## Effective sample size and gradient variance"
    yield (
        "![Effective sample size and gradient variance against updates](noise.png)\n\n"
        f"The variance is over {made['budget']['draws']} gradients of each run's own network on the same batch, "
        "without exploration terms; networks differ, so the curves compare whole methods. The next table compares "
        "estimators alone: all of them on the final network of WS-RAM + q."
    )
    diagnosed = [cell for cell in ours if "diagnosis" in cell]
    if diagnosed:
        yield _cuts(diagnosed)
        yield (
            "The cut is 1 minus the ratio of the variance to that of the same estimator and proposal without any of "
            "these means, in percent. Published, for control variates: "
            f"{VARIANCE_CUT.values[0]:.0f} to {VARIANCE_CUT.values[1]:.0f} ({VARIANCE_CUT.source})."
        )
        yield origin(diagnosed)


def _cuts(cells: Sequence[Record]) -> str:
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for cell in cells:
        plain = {(row["estimator"], row["proposal"]): row for row in cell["diagnosis"] if not noise_reduction(row)}
        for row in cell["diagnosis"]:
            way = row["estimator"], row["proposal"]
            if not noise_reduction(row) or way not in plain:
                continue
            figures = found.setdefault((*way, noise_reduction(row)), {})
            figures.setdefault("ess", []).append(row["ess"])
            for group, measured in row["gradient"].items():
                before = plain[way]["gradient"][group]["variance"]
                if before > 0:
                    figures.setdefault(group, []).append(100 * (1 - measured["variance"] / before))
    rows = [
        [*way, shown(figures["ess"]), *(shown(figures.get(group, []), 0) for group in GROUPS)]
        for way, figures in found.items()
    ]
    return table(["estimator", "proposal", "with", "ESS", *(f"cut, {group}, %" for group in GROUPS)], rows)


def _posterior(cells: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = [cell for cell in of(cells, "table1") if "posterior" in cell]
    if not ours:
        return
    yield "## Distance from the posterior"
    rows = []
    for name in _names(ours):
        of_name = [cell["posterior"] for cell in of(ours, "table1", name)]
        kinds = ("policy", "inference")
        rows.append([_title(name), *(shown([p[kind] for p in of_name if kind in p], 3) for kind in kinds)])
    yield table(["method", "KL to the policy, nats", "KL to the inference network, nats"], rows)
    first = ours[0]["posterior"]
    yield (
        "KL from the posterior over glimpse sequences, that of each run's own final network, to what could propose "
        f"them: means over {first['images']} held-out digits, with {first['samples']} sequences for each standing for "
        "the posterior. The less there is between the two columns, the less the label tells about where to look."
    )
    yield origin(ours)


def _with_heuristics(cells: Sequence[Record], made: Mapping[str, Any], method: str, heuristics: str) -> list[Record]:
    """The cells of a method, control variates on: Table 1 holds VAR with all heuristics and the others without any."""
    if heuristics == made["heuristics_of_table1"][method]:
        return of(cells, "table1", f"{method}-cv")
    return of(cells, "exploration", f"{method}-{heuristics}")


def _exploration(cells: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    if not of(cells, "exploration"):
        return
    yield "## Exploration"
    rows, used = [], []
    for method in ("var", "ws-ram"):
        for heuristics in made["heuristics"]:
            seeds = _with_heuristics(cells, made, method, heuristics)
            used += seeds
            usage = [" / ".join(f"{share:.0%}" for share in cell["looking"]["scale_usage"]) for cell in seeds]
            rows.append(
                [
                    LABELS[method],
                    heuristics,
                    shown(_percents(seeds, "evaluation-held-out", "error_mean_action")),
                    "; ".join(usage) or "—",
                    shown([100 * cell["looking"]["coverage"] for cell in seeds], 0),
                ]
            )
    weights = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in made["heuristics"]["all"].items())
    scales = " / ".join(f"×{scale}" for scale in made["network"]["scales"])
    yield table(["method", "heuristics", "held-out error, %", f"glimpses at {scales}, by seed", "coverage, %"], rows)
    yield (
        "All with control variates; error of the mean action. Scales and coverage are of one sequence drawn from the "
        "policy for each held-out digit; coverage is 100% when every part of an 8 by 8 grid gets as many glimpses, and "
        f"1.6% when one part gets all. The weights, ours: {weights}."
    )
    yield origin(used)


def _credit(cells: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    if not of(cells, "credit"):
        return
    yield "## Credit for single glimpses"
    rows, used = [], []
    for name, heuristics in made["heuristics_of_credit"].items():
        method = name.removesuffix("-credit")
        for credit, seeds in (
            ("no", _with_heuristics(cells, made, method, heuristics)),
            ("yes", of(cells, "credit", name)),
        ):
            used += seeds
            figures = [cell["evaluation-held-out"] for cell in seeds]
            rows.append(
                [
                    LABELS[method],
                    heuristics,
                    credit,
                    shown(_percents(seeds, "evaluation-held-out", "error_mean_action")),
                    shown(_percents(seeds, "evaluation-held-out", "error_one_sample")),
                    shown(_percents(seeds, "evaluation-held-out", "error_vote_")),
                    shown([found["nll_one_sample"] for found in figures], 3),
                ]
            )
    votes = f"vote of {made['budget']['votes']}"
    yield table(
        ["method", "heuristics", "credit", "held-out error, %", "one sample", votes, "NLL of one sample, nats"], rows
    )
    yield (
        "Ours, beyond the paper: control variates that know each glimpse's own past, everything else as without "
        "credit, the learning rate included."
    )
    yield origin(used)


def _tuning(cells: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    ours = of(cells, "tuning")
    if not ours:
        return
    yield "## Learning rates"
    rates = list(dict.fromkeys(made["budget"]["rates"]))
    rows = []
    for name, chosen in made["chosen"].items():
        row = [_title(name)]
        for rate in rates:
            tried = of(cells, "tuning", f"{name}/{rate:g}")
            error = f"{100 * tried[0]['curve']['error_mean_action'][-1]:.2f}" if tried else "failed"
            row.append(f"**{error}**" if rate == chosen else error)
        rows.append(row)
    yield table(["method", *(f"{rate:g}" for rate in rates)], rows)
    yield (
        "Held-out error (%) of short runs at each peak learning rate; the least, by likelihood if equal, is in bold "
        "and is what the method is trained with above. No test digit took part."
    )
    yield origin(ours)
