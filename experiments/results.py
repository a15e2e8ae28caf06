"""Published results: tables made from the files of runs, never typed in.

A folder of results holds one folder for each published run, without its checkpoints. The results page, and the summary
in the README, are made from them. What a figure needs beside it (command, seed, commit, machine, protocol) is read from
the same files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsram.config import CaptionConfig
from wsram.errors import UserError
from wsram.runs import open_run

KEPT = (
    "config.json",
    "provenance.json",
    "metrics.jsonl",
    "evaluation-held-out.json",
    "evaluation-dev.json",
    "evaluation-test.json",
    "diagnosis.json",
    "posterior.json",
    "benchmark.json",
    "glimpses.png",
    "training.png",
)
BEGIN, END = "<!-- made by `wsram results`: begin -->", "<!-- made by `wsram results`: end -->"


def add_run(folder: Path, into: Path) -> Path:
    """Copy what is small enough to keep of a run into a folder of results; `UserError` if there is no run to copy."""
    open_run(folder)
    target = into / folder.resolve().name
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
    return target


def write_page(page: Path, results: Path) -> None:
    """Write the tables of all runs in `results` into `page`, between the two marks it must already hold.

    Raises:
        UserError: the page is missing or has no marks.
    """
    _between_marks(page, "\n\n".join(section(folder, page.parent) for folder in _published(results)))


def write_summary(page: Path, results: Path) -> None:
    """Write one row for each run in `results` that was measured on a test set into `page`, as `write_page` does.

    Raises:
        UserError: the page is missing or has no marks.
    """
    rows = []
    for folder in _published(results):
        found, made = _read(folder / "evaluation-test.json"), _read(folder / "provenance.json")
        if found and made:
            if "error_mean_action" in found:
                figure = (
                    f"{_percent(found['error_mean_action'])} test error, mean action, "
                    f"{found['training_seconds']:.0f} s of training ({made['machine']})"
                )
            else:
                way, scores = [(key, value) for key, value in found.items() if isinstance(value, dict)][-1]
                bleu = " / ".join(f"{value:.1f}" for value in scores["papers"]["bleu"])
                figure = f"BLEU-1 to 4 on test: {bleu} ({way.replace('_', ' ')}, protocol papers)"
            rows.append(f"| `{made['command']}` | {figure} |")
    _between_marks(page, "\n".join(["| command | figure |", "| --- | --- |", *rows]))


def _published(results: Path) -> list[Path]:
    return sorted(path.parent for path in results.glob("*/config.json"))


def _between_marks(page: Path, content: str) -> None:
    if not page.exists() or not (BEGIN in (text := page.read_text()) and END in text):
        raise UserError(f"{page} must exist and hold the two lines {BEGIN} and {END}; name another page")
    before, rest = text.split(BEGIN, 1)
    page.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{rest.split(END, 1)[1]}")


def section(folder: Path, base: Path) -> str:
    """Everything that the files of one run say, as Markdown; pictures are linked from the folder `base`."""
    config = open_run(folder).config
    if isinstance(config, CaptionConfig):
        data, figures = f"captions on {config.data.encoder}, {config.data.grid}×{config.data.grid} cells", _captions
    else:
        data, figures = f"scene {config.data.scene} of {config.data.dataset}", _errors
    made = _read(folder / "provenance.json")
    lines = [f"### {folder.name}", ""]
    if made:
        lines += [
            f"`{made['command']}`",
            "",
            f"Commit {made['commit']}; {made['machine']}; Python {made['python']}, torch {made['torch']}; "
            f"seed {config.schedule.seed}; {data}.",
            "",
        ]
    lines += figures(folder)
    diagnosis = _read(folder / "diagnosis.json")
    if diagnosis:
        lines += _diagnosis(diagnosis)
    posterior = _read(folder / "posterior.json")
    if posterior:
        names = {"policy": "to the policy", "inference": "to the inference network"}
        each = [f"{said} {posterior[name]:.4f}" for name, said in names.items() if name in posterior]
        lines += [
            f"KL from the posterior (in its place, {posterior['samples']} samples for each of {posterior['images']} "
            f"held-out images), nats: {', '.join(each)}.",
            "",
        ]
    benchmark = _read(folder / "benchmark.json")
    if benchmark:
        lines += ["| ratio of a training step | |", "| --- | --- |"]
        lines += [f"| {name.replace('_', ' ')} | {value:.3f} |" for name, value in benchmark["ratios"].items()]
        shares = benchmark["measured"]["shares"].items()
        lines += [f"| {kind} over forward and backward | {share:.3f} |" for kind, share in shares]
        lines += [""]
    for picture in ("glimpses.png", "training.png"):
        if (folder / picture).exists():
            lines += [
                f"![{picture.removesuffix('.png')} of {folder.name}]({os.path.relpath(folder / picture, base)})",
                "",
            ]
    return "\n".join(lines).rstrip()


def _errors(folder: Path) -> list[str]:
    rows = []
    for name in ("held-out", "test"):
        found = _read(folder / f"evaluation-{name}.json")
        if found:
            vote = next(key for key in found if key.startswith("error_vote_"))
            rows.append(
                f"| {name} | {found['digits']:,} | {found['step']:,} | {found['training_seconds']:.0f} | "
                f"{_percent(found['error_mean_action'])} | {_percent(found['error_one_sample'])} | "
                f"{_percent(found[vote])} ({vote.removeprefix('error_vote_')}) |"
            )
    head = "| digits | number | updates | seconds of training | mean action | one sample | vote (samples) |"
    return [head, "| --- | --- | --- | --- | --- | --- | --- |", *rows, ""] if rows else []


def _captions(folder: Path) -> list[str]:
    rows = []
    for name in ("dev", "test"):
        found = _read(folder / f"evaluation-{name}.json") or {}
        for way, scores in ((key, value) for key, value in found.items() if isinstance(value, dict)):
            for protocol, score in scores.items():
                cells = " | ".join(f"{value:.1f}" for value in score["bleu"])
                escaped = score["signature"].replace("|", "\\|")  # else it would end the table's cell
                rows.append(
                    f"| {name} | {way.replace('_', ' ')} | {protocol} | {cells} | {score['length_ratio']:.2f} | "
                    f"{found['nll_word']:.3f} | `{escaped}` |"
                )
    head = "| split | captions | protocol | BLEU-1 | BLEU-2 | BLEU-3 | BLEU-4 | length | nats a word | signature |"
    return [head, "| --- " * 10 + "|", *rows, ""] if rows else []


def noise_reduction(row: Mapping[str, Any]) -> str:
    """By what means the gradient of a diagnosis' row is less noisy than the plain estimator's; empty if it is plain."""
    means = {
        "control variates": row["control_variates"],
        # Diagnoses made before there were these have none of them.
        "last scale summed over": row.get("sum_scale"),
        "dreams alone for q": row.get("sleep"),
    }
    return ", ".join(name for name, used in means.items() if used)


def _diagnosis(rows: list[dict[str, Any]]) -> list[str]:
    groups = list(rows[-1]["gradient"])
    lines = [
        f"Effective sample size of {rows[0]['samples']} samples and gradient variance (trace of the covariance of "
        f"{rows[0]['draws']} gradients on one batch of {rows[0]['batch']} held-out images):",
        "",
        "| estimator | proposal | with | ESS | " + " | ".join(f"variance, {g}" for g in groups) + " |",
        "| --- " * (4 + len(groups)) + "|",
    ]
    for row in rows:
        variances = [f"{row['gradient'][g]['variance']:.3g}" if g in row["gradient"] else "" for g in groups]
        kept = noise_reduction(row) or "—"
        cells = [row["estimator"], row["proposal"], kept, f"{row['ess']:.2f}", *variances]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None
