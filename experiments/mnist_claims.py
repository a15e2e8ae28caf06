"""What the paper claims of its method on digits, each claim beside what the trials of an experiment say of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from experiments.pages import Record, of, updates_to_reach
from experiments.published import MNIST_ERROR, VARIANCE_CUT
from experiments.statistics import shown
from wsram.tables import Table

BEST = "ws-ram-q-cv"
"""The paper's own method: an inference network proposes, control variates are on."""


def claims(trials: Sequence[Record], made: Mapping[str, Any]) -> Iterator[str]:
    """The section of the page, empty while there is nothing to say."""
    rows = [
        [claim, paper, here]
        for claim, paper, here in (
            _posterior(trials),
            _variance(trials),
            _updates(trials, made),
            _label(trials),
            _scales(trials),
        )
        if here
    ]
    if not rows:
        return
    yield "## The paper's claims"
    yield Table("", ["claim", "the paper", "here"], rows).markdown()
    yield (
        "Each figure is of the tables and files below, with control variates unless it says otherwise; the paper's are "
        f"of {VARIANCE_CUT.source.split(',')[0]} after 10 million updates. Differences are taken seed by seed."
    )


def _posterior(trials: Sequence[Record]) -> tuple[str, str, str]:
    found = [trial["posterior"] for trial in of(trials, "table1", BEST) if "posterior" in trial]
    both = [(p["policy"], p["inference"]) for p in found if "inference" in p]
    here = ""
    if both:
        policy, inference, closer = zip(*((p, q, p - q) for p, q in both), strict=True)
        here = (
            f"KL from the posterior: {shown(policy, 3)} nats to the policy, {shown(inference, 3)} to the inference "
            f"network, {shown(closer, 3)} closer"
        )
    return "the inference network comes closer to the posterior than the policy", "yes", here


def _variance(trials: Sequence[Record]) -> tuple[str, str, str]:
    cuts: dict[str, list[float]] = {"policy": [], "inference": []}
    for trial in of(trials, "table1", BEST):
        rows = [r for r in trial.get("diagnosis", []) if (r["estimator"], r["proposal"]) == ("wake-sleep", "inference")]
        without, with_them = (next((r for r in rows if r["control_variates"] is on), None) for on in (False, True))
        if without and with_them:
            for group, values in cuts.items():
                before, after = (r["gradient"][group]["variance"] for r in (without, with_them))
                values.append(100 * (1 - after / before))
    here = ""
    if cuts["policy"]:
        here = (
            f"by {shown(cuts['policy'], 0)}% for the policy, {shown(cuts['inference'], 0)}% for the inference network"
        )
    low, high = VARIANCE_CUT.values
    return "control variates cut the gradient's variance", f"by {low:.0f} to {high:.0f}%", here


def _updates(trials: Sequence[Record], made: Mapping[str, Any]) -> tuple[str, str, str]:
    final = [trial["curve"]["error_mode"][-1] for trial in of(trials, "table1", "var-cv")]
    said = []
    for name, label in (("ws-ram-cv", "WS-RAM"), (BEST, "WS-RAM + q")):
        ours = of(trials, "table1", name)
        if not final or not ours:
            continue
        reached = [updates_to_reach(trial["curve"], "error_mode", fmean(final)) for trial in ours]
        shares = [100 * step / made["budget"]["updates"] for step in reached if step is not None]
        said.append(f"{label} {shown(shares, 0)}% ({len(shares)} of {len(reached)} runs reach it)")
    here = f"to VAR's final validation error, of VAR's updates: {'; '.join(said)}" if said else ""
    return "WS-RAM needs fewer updates than VAR", "yes", here


def _label(trials: Sequence[Record]) -> tuple[str, str, str]:
    errors = {
        name: {
            t["seed"]: t["evaluation-test"]["error_mode"] for t in of(trials, "table1", name) if "evaluation-test" in t
        }
        for name in ("ws-ram-cv", BEST)
    }
    without, told = errors["ws-ram-cv"], errors[BEST]
    gains = [100 * (without[seed] - told[seed]) for seed in sorted(without.keys() & told.keys())]
    paper = MNIST_ERROR["WS-RAM", True].values[0] - MNIST_ERROR["WS-RAM + q", True].values[0]
    here = f"{shown(gains)} points of test error" if gains else ""
    return "proposals that know the label lower the error", f"by {paper:.2f} points", here


def _scales(trials: Sequence[Record]) -> tuple[str, str, str]:
    said = []
    for label, group, name in (("VAR", "exploration", "var-none"), ("WS-RAM", "table1", "ws-ram-cv")):
        largest = [
            100 * max(trial["looking"]["scale_usage"]) for trial in of(trials, group, name) if "looking" in trial
        ]
        if largest:
            said.append(f"{label} takes {shown(largest, 0)}% of its glimpses at one scale")
    return "without heuristics VAR collapses to one scale, WS-RAM does not", "yes", "; ".join(said)
