"""The parts of the pages that say what was measured or printed, each from a file that a command kept."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wsram.settings import from_json
from wsram.tables import Table

ROOT = Path(__file__).resolve().parents[2]


def released_table() -> str:
    """Released networks with what they were measured to do, each figure with its precision, from their own files."""
    from wsram.tasks import TASKS

    rows = []
    for folder in sorted([*ROOT.glob("checkpoints/*"), *ROOT.glob("src/wsram/released/*")], key=lambda path: path.name):
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = folder / "training.json"
        config = from_json(settings.read_text(encoding="utf-8"), settings)
        measured, figure = folder / "evaluation-test.json", "not measured yet"
        if measured.exists():
            record = json.loads(measured.read_text(encoding="utf-8"))
            precision = {"no": "float32", "bf16": "bfloat16"}[record["precision"]]
            images = record.get("images", record["examples"])
            figure = f"{TASKS[config.task].headline(record)}; {images:,} test images, {precision}"
        glimpses = described["arguments"].get("glimpses")
        looks = "a cell before each word" if glimpses is None else f"{glimpses} glimpses"
        size = (folder / "model.safetensors").stat().st_size / 1e6
        name = folder.name if folder.parent.name == "released" else f"checkpoints/{folder.name}"
        rows.append([f"`{name}`", TASKS[config.task].about(config), looks, f"{size:.1f} MB", figure])
    return Table("", ["network", "trained on", "looks at", "size", "measured"], rows).markdown()


def variance_table() -> str:
    """How noisy each estimator's gradient is on one network after the other, and what it gains, from kept diagnoses."""
    from wsram.cards import change_of
    from wsram.tables import figure

    rows = []
    for path in sorted(ROOT.glob("docs/results/variance/*/diagnosis.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        for row in found["rows"]:
            policy, change = row["gradient"]["policy"], row["change"]
            against = "" if row["against"] is None else f"`{found['rows'][row['against']]['estimator']}`"
            rows.append(
                [
                    f"{path.parent.name}, update {found['network']['step']:,}",
                    row["proposal"],
                    f"`{row['estimator']}`",
                    f"{row['draws']}",
                    figure(policy["variance"], policy["low"], policy["high"]),
                    against,
                    *(change_of(change.get(group)) for group in ("policy", "inference")),
                ]
            )
    header = [
        "network",
        "proposal",
        "estimator",
        "draws",
        "variance, policy",
        "against",
        "change, %",
        "change for η, %",
    ]
    return Table("", header, rows).markdown()


def bought() -> str:
    """The error that a time of training buys: the published runs of the recipes that are named after one."""
    rows = []
    for name in ("two-minutes", "five-minutes", "half-hour"):
        folder = ROOT / "docs" / "results" / name
        if not (folder / "evaluation-test.json").exists():
            continue
        test, validation, made = (
            json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
            for file in ("evaluation-test", "evaluation-validation", "provenance")
        )
        rows.append(
            [
                f"`{name}`",
                f"{test['step']:,}",
                f"{test['training_seconds']:,.0f} s",
                *(f"{record['error_mode']:.2%}" for record in (validation, test)),
                f"{test['error_vote_16']:.2%}",
                f"{made['machine']}; commit {made['commit']}",
            ]
        )
    header = ["recipe", "updates", "training", "validation error", "test error", "test, vote of 16", "made by"]
    return Table("", header, rows).markdown()


def robustness() -> str:
    """Error and confidence of the networks whose limits were measured, from their own files."""
    folders = sorted([*ROOT.glob("checkpoints/*"), *ROOT.glob("src/wsram/released/*")], key=lambda path: path.name)
    found = {each.name: json.loads(path.read_text()) for each in folders if (path := each / "robustness.json").exists()}
    first = next(iter(found.values()))
    rows = [
        [condition, *(_measured(record["conditions"].get(condition)) for record in found.values())]
        for condition in first["conditions"]
    ]
    rows.append(["a black image", *(f"{r['black']['said']} ({r['black']['confidence']:.3f})" for r in found.values())])
    header = [f"`{name}`, {record['digits']:,} {record['set']} digits" for name, record in found.items()]
    return Table("", ["condition", *header], rows).markdown()


def cards() -> str:
    """What networks of digits fail on, a card each, with figures from the networks' files and from the picture's."""
    homes = {"robust": "src/wsram/released/robust", "translated-scaled": "checkpoints/translated-scaled"}
    measured = {name: json.loads((ROOT / home / "robustness.json").read_text()) for name, home in homes.items()}
    shown = json.loads((ROOT / "docs" / "figures" / "limits.json").read_text(encoding="utf-8"))

    def error(condition: str) -> str:
        rows = {name: record["conditions"][condition] for name, record in measured.items()}
        told = (f"`{name}` {row['error']:.1%}, {row['confidence']:.0%} sure" for name, row in rows.items())
        return f"Error, {condition}: {'; '.join(told)}."

    def said(image: str) -> str:
        told = (f"`{name}` {answer} ({sure:.0%})" for name, (answer, sure) in ((n, shown[n][image]) for n in homes))
        return f"Of this image: {'; '.join(told)}."

    made = {
        "Other light": (
            "A network that saw white on black alone looks at the right place of an inverted image, or nearly, and "
            "reads it wrongly.",
            error("inverted"),
        ),
        "Noise": (
            "Where it was not in training, it is read as strokes. Far beyond what it was trained with, `robust` errs "
            "too, and is less sure.",
            error("noise of 0.1, clipped"),
        ),
        "Nothing there": (
            'Without a name for "none" among its answers it names a digit in a black image. `robust` has that name.',
            said("black"),
        ),
        "Something else": (
            "A letter is named as a digit. No network here knows what one is: `none` was taught with empty images.",
            said("a letter"),
        ),
        "Two digits": ("One answer is all that a classifier has; it looks at one of them.", said("two digits")),
        "Small ones": (
            "A stroke of one pixel says little. Below ten pixels nothing was measured.",
            error("sides 10 to 14"),
        ),
    }
    items = "\n".join(f"- **{title}**\n\n    {text}\n\n    {figure}\n" for title, (text, figure) in made.items())
    return f'<div class="cards" markdown>\n\n{items}\n</div>'


def looking(kept: str) -> str:
    """What an experiment kept of how networks look, a table for each network, and what made it.

    Args:
        kept: the experiment, or the experiment, a dash and the first words of its networks' names.
    """
    table = importlib.import_module(f"experiments.{kept.partition('-')[0]}").table
    parts = []
    for path in sorted((ROOT / "docs" / "results" / "looking").glob("*.json")):
        if f"{path.stem}-".startswith(f"{kept}-"):
            parts.append(_record(table, path))
    return "\n\n".join(parts)


def _record(table: Callable[[Any], Table], path: Path) -> str:
    """What one file holds, by its experiment's table, with the picture beside it."""
    found = json.loads(path.read_text(encoding="utf-8"))
    shown, made = table(found), found["provenance"]
    origin = f"`{made['command']}`; commit {made['commit']}; {made['machine']}; torch {made['torch']}."
    picture = path.with_suffix(".png")
    drawn = f"![{path.stem}](results/looking/{picture.name})\n\n" if picture.exists() else ""
    return f"{shown.title}.\n\n{drawn}{shown.markdown()}\n\n{origin}"


def all_questions() -> str:
    """Errors of networks that look at megapixel MNIST, at their modes and by a vote, beside a published network's."""
    # Iterative Patch Selection, by its authors' logs of 150 epochs; with 1,000 images on 3000x3000 with 800 scribbles.
    published = {"majority": "0.9", "max": "6.3", "top": "7.3", "multi": "18.1"}
    asked = {
        "all": "all four at once",
        "top": "asked alone",
        "majority": "asked alone",
        "1000": "1,000 training images",
        "elastic": "all four at once, `--elastic`",
        "elastic-top": "asked alone, `--elastic`",
        "fresh": "fresh places (`--fresh`)",
        "evidence": "all four at once, `--elastic`, evidence",
        "evidence-top": "asked alone, `--elastic`, evidence",
    }
    folder = ROOT / "docs" / "results" / "looking"
    kept = {name: json.loads((folder / f"megapixel-{name}-test.json").read_text(encoding="utf-8")) for name in asked}
    rows = []
    for name, found in kept.items():
        for question, of in found["questions"].items():
            others = {"1000": "33.4 (larger images)" * (question == "majority"), "fresh": ""}
            beside = others.get(name, published[question])
            figures = (f"{100 * error:.1f}" for error in (of["error_after"][-1], of["error_vote"]))
            rows.append([question, asked[name], *figures, beside])
    header = ["question", "network", "mode, %", "vote of 16, %", "Iterative Patch Selection, %"]
    return Table("", header, sorted(rows, key=lambda row: [*published].index(row[0]))).markdown()


def waited(experiment: str, file: str, library: str | None = None) -> str:
    """How long an image takes where a network is used, and what measured it, in torch or in a library beside it."""
    found = json.loads((ROOT / "docs" / "results" / "exported" / file).read_text(encoding="utf-8"))
    shown, made = importlib.import_module(f"experiments.{experiment}").table(found), found["provenance"]
    origin = f"`{made['command']}`; commit {made['commit']}; {made['machine']}; torch {made['torch']}"
    beside = f", {library} {made[library]}" if library else ""
    return f"{shown.title}.\n\n{shown.markdown()}\n\n{origin}{beside}."


def outputs(name: str) -> str:
    """Command lines and what they printed, as `docs/hooks/outputs.py` kept it."""
    kept = json.loads((ROOT / "docs" / "outputs.json").read_text(encoding="utf-8"))[name]
    return "\n\n".join(f"```console\n$ {line}\n{text}\n```" for line, text in kept)


def _measured(row: Mapping[str, float] | None) -> str:
    return "" if row is None else f"{row['error']:.2%} ({row['confidence']:.3f})"


def benchmark() -> str:
    """The newest record of speed: its picture, its table, and what made it."""
    from experiments.benchmark_page import newest, table

    folder = ROOT / "docs" / "results" / "benchmark"
    if not folder.exists():
        return "There is none yet."
    record = newest(folder)
    made = record["provenance"]
    origin = (
        f"`{made['command']}`, {record['date'][:10]}, {record['rounds']} rounds in {record['seconds']} s; commit "
        f"{made['commit']}; {made['machine'].rsplit(',', 1)[0]}; Python {made['python']}, torch {made['torch']}."
    )
    left_out = "".join(f" Left out: {what}, since {why}." for what, why in record["skipped"].items())
    said = "What four glimpses cost as images grow, and how much faster than by hand training is"
    return f"![{said}](results/benchmark/benchmark.png)\n\n{origin}{left_out}\n\n{table(record).markdown()}"


PARTS: dict[str, Callable[[], str]] = {
    "benchmark": benchmark,
    "what a time buys": bought,
    "robustness": robustness,
    "all questions": all_questions,
    "cards of limits": cards,
    **{
        f"looking: {name}": functools.partial(looking, name)
        for name in (
            *("pointing", "glimpsed-solar", "glimpsed-scenes", "megapixel", "canvases", "training_images"),
            *("mosaic", "modules", "modules_explained", "yardstick"),
        )
    },
    **{
        f"output of {name}": functools.partial(outputs, name)
        for name in ("first", "models", "predict", "look", "explain", "train", "evaluate", "release")
    },
    "exported": functools.partial(waited, "exported", "speed.json", "onnxruntime"),
    "answering": functools.partial(waited, "answering", "answering.json"),
    "app": functools.partial(waited, "served", "app.json", "gradio"),
    "released networks": released_table,
    "variances": variance_table,
}
"""What makes each part."""
