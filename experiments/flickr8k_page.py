"""The page of the experiment on Flickr8k, made from what was kept of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.pages import Record, difference, of, origin, updates_to_reach
from experiments.published import FLICKR8K_BLEU
from experiments.statistics import shown
from wsram.tables import Panel, Table
from wsram.tasks.captioning import VALIDATION_SAMPLES
from wsram.viewing import draw_panels, save

CURVE = ("step", "seconds", "nll_word_training", "log_evidence", "ess", "nll_word")
"""Figures of metrics.jsonl that are kept of a run."""

LABELS = {
    "var": "VAR",
    "var-plain": "VAR without baseline",
    "ws-ram": "WS-RAM",
    "ws-ram-q": "WS-RAM + q",
    "ws-ram-q-credit": "WS-RAM + q, credit",
    "soft": "soft attention",
}
SMOOTH = 5
"""Rows of metrics.jsonl that a training likelihood is averaged over before it is compared."""
BESIDE = {"var": "VAR", "ws-ram-q": "WS-RAM", "soft": "soft attention"}
"""Whose published figures stand beside each method's."""


def page(made: Mapping[str, Any], folder: Path) -> str:
    """The page's text; its figure is drawn into the folder.

    Args:
        made: what `reproduce` kept.
        folder: of the page.
    """
    budget, network, data, trials = made["budget"], made["network"], made["data"], made["trials"]
    sections = [
        f"# Flickr8k captions: budget {budget['name']}",
        "Made by `python -m experiments flickr8k` from `results.json` beside this page. "
        f"Features {data['backbone']}, a {data['grid']} by {data['grid']} grid of {data['channels']} channels, frozen; "
        f"decoder of {network['units']} units; M = {budget['samples']} samples for every method with hard attention; "
        f"one peak learning rate, {data['learning_rate']:g}, for all. A figure is a mean over seeds ± half its 95% "
        "interval (Student's t), with the number of seeds in brackets; one seed has no interval.",
    ]
    parts = (_bleu, _likelihood, _curve)
    return "\n\n".join([*sections, *(text for part in parts for text in part(trials, made, folder))]) + "\n"


def _bleu(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    measured = [trial for trial in trials if "evaluation-test" in trial]
    if not measured:
        return
    yield "## BLEU"
    first = measured[0]["evaluation-test"]
    ways = [key for key in first if key == "greedy" or key.startswith("beam_")]
    for protocol, example in first[ways[0]].items():
        comparable = protocol == "papers"
        rows = []
        for name, label in LABELS.items():
            seeds = of(measured, "table", name)
            for way in ways:
                scores = [trial["evaluation-test"][way][protocol]["bleu"] for trial in seeds]
                row = [label, way.replace("_", " "), *(shown([s[n] for s in scores], 1) for n in range(4))]
                if comparable:
                    row += _beside(name, scores)
                rows.append(row)
        header = ["method", "captions", *(f"BLEU-{n}" for n in range(1, 5))]
        yield f"### Protocol {protocol}"
        header += ["published", "difference"] if comparable else []
        yield Table("", header, rows).markdown()
        yield f"Signature: `{example['signature']}`."
    yield "### Published figures"
    last = "best validation likelihood" if made["budget"]["patience"] else "last update"
    figures = [[name, *(f"{value:.1f}" for value in p.values), p.source] for name, p in FLICKR8K_BLEU.items()]
    yield Table("", ["method", *(f"BLEU-{n}" for n in range(1, 5)), "source"], figures).markdown()
    yield (
        f"Protocol: {first['images']:,} test images, the network of the {last}, measured once. "
        "Published figures carry no brevity penalty and stand beside the protocol that has none; the paper's WS-RAM, "
        "whose inference network reads the caption, stands beside our WS-RAM + q. The difference is ours minus "
        "published, in points."
    )
    yield origin(measured)


def _beside(name: str, scores: Sequence[Sequence[float]]) -> list[str]:
    if name not in BESIDE:
        return ["—", "—"]
    published = FLICKR8K_BLEU[BESIDE[name]].values
    ours = [fmean(s[n] for s in scores) if scores else None for n in range(4)]
    pairs = zip(ours, published, strict=True)
    return [" / ".join(f"{value:.1f}" for value in published), " / ".join(difference(*pair, 1) for pair in pairs)]


def _likelihood(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    if not trials:
        return
    yield "## Likelihood"
    level = _best(of(trials, "table", "var"))
    rows = []
    for name, label in LABELS.items():
        seeds = of(trials, "table", name)
        row = [label]
        for figure in ("nll_word", "bound_word"):
            for split in ("evaluation-validation", "evaluation-test"):
                row.append(shown([trial[split][figure] for trial in seeds if split in trial], 3))
        reached = [] if level is None else [updates_to_reach(trial["curve"], "nll_word", level) for trial in seeds]
        known = [float(step) for step in reached if step is not None]
        rows.append([*row, shown(known, 0), f"{len(known)} of {len(seeds)}"])
    bounds = [f"{bound}, {split}" for bound in ("NLL", "bound F") for split in ("validation", "test")]
    yield Table("", ["method", *bounds, "updates to VAR's best", "seeds that did"], rows).markdown()
    best = "" if level is None else f" VAR's best validation NLL, a mean over seeds, is {level:.4f}."
    yield (
        f"Nats for a word. NLL is under the evidence bound of {made['budget']['likelihood_samples']} samples (1 for "
        f"soft attention), at evaluations in training of {VALIDATION_SAMPLES}; updates are those of the first "
        f"evaluation that reached it.{best}"
    )
    yield origin(trials)


def _best(trials: Sequence[Record]) -> float | None:
    """The mean over seeds of the best validation likelihood; None without trials."""
    best = [min(value for value in trial["curve"]["nll_word"] if value is not None) for trial in trials]
    return fmean(best) if best else None


def _training(trial: Record) -> dict[str, list[float]]:
    """The smoothed training likelihood of a run: updates and, lower being better, nats of a caption."""
    nll = [-value for value in trial["curve"]["log_evidence"]]
    smooth = [fmean(nll[n + 1 - SMOOTH : n + 1]) for n in range(SMOOTH - 1, len(nll))] or [fmean(nll)]
    return {"step": trial["curve"]["step"][-len(smooth) :], "nll": smooth}


def _curve(trials: Sequence[Record], made: Mapping[str, Any], folder: Path) -> Iterator[str]:
    names = [name for name in LABELS if name != "soft" and of(trials, "table", name)]
    if not names:
        return
    last = min(made["budget"]["curve"], made["budget"]["updates"])
    drawn = [(LABELS[name], trial["curve"]) for name in names for trial in of(trials, "table", name)]

    def panel(title: str, x: str, along: str, figure: str, y: str) -> Panel:
        curves = []
        for label, curve in drawn:
            points = [
                (at, value)
                for step, at, value in zip(curve["step"], curve[x], curve[figure], strict=True)
                if step <= last and value is not None
            ]
            curves.append((label, [at for at, _ in points], [value for _, value in points]))
        return Panel(title, along, y, curves)

    panels = [
        panel("training NLL of a word, bound F", "step", "updates", "nll_word_training", "nats"),
        panel("training NLL of a word, bound F", "seconds", "seconds of training", "nll_word_training", "nats"),
        panel("log-evidence of a caption, training", "step", "updates", "log_evidence", "nats"),
        panel("validation NLL of a word", "step", "updates", "nll_word", "nats"),
    ]
    save(draw_panels(panels), folder / "curve.png", replace=True)
    yield f"## The first {last:,} updates"
    yield "![Likelihood against updates and seconds](curve.png)"
    baselines = {name: of(trials, "table", name) for name in ("var", "var-plain")}
    levels = {name: fmean(_training(trial)["nll"][-1] for trial in ours) for name, ours in baselines.items() if ours}
    if levels:
        rows = []
        for name, label in LABELS.items():
            seeds = of(trials, "table", name)
            row = [label]
            for level in levels.values():
                reached = [updates_to_reach(_training(trial), "nll", level) for trial in seeds]
                known = [float(step) for step in reached if step is not None]
                row.append(f"{shown(known, 0)}, {len(known)} of {len(seeds)}")
            rows.append(row)
        ends_of = [f"updates to the end of {LABELS[name]}, seeds that got there" for name in levels]
        yield Table("", ["method", *ends_of], rows).markdown()
        ends = "; ".join(f"{LABELS[name]} {level:.3f}" for name, level in levels.items())
        yield (
            f"The first update at which the evidence bound of a training caption, a mean over {SMOOTH} rows of "
            f"metrics.jsonl, was as good as at a baseline's last update (nats: {ends}). A run whose learning rate "
            "falls to zero is best at its end, so this says which method is ahead, not how long a shorter run would "
            "take."
        )
    yield origin([trial for name in names for trial in of(trials, "table", name)])
