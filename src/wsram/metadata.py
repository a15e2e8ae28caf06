"""What the Hugging Face Hub reads at the head of a model card, and what a card says of a network's limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsram.config import Config
from wsram.models.pretrained import NETWORKS
from wsram.tables import Table
from wsram.tasks import TASKS

TAGS = ("hard-attention", "glimpse", "wake-sleep", "reweighted-wake-sleep")
DIGITS = {"mnist": "ylecun/mnist", "mnist5k": "ylecun/mnist"}
"""Names of the Hub for sources that have others here."""


def head(
    name: str, described: Mapping[str, Any], config: Config | None, records: Mapping[str, Mapping[str, Any]]
) -> str:
    """The metadata of a card as YAML, figures and all, without the lines around it.

    Args:
        name: of the network, perhaps with its owner's before it.
        described: what its config.json holds.
        config: the settings it was trained with, if they are known.
        records: what was measured, by the name of the set.
    """
    from huggingface_hub import EvalResult, ModelCardData  # slow to import, and seldom needed

    task = NETWORKS[described["model_type"].removeprefix("wsram-")].task
    results: list[EvalResult] = []
    source = "" if config is None else config.data.source
    known = DIGITS.get(source) or (source.removeprefix("hf:") if source.startswith("hf:") else None)
    if config is not None:
        of = TASKS[config.task]
        for part, record in records.items():
            for metric, value in of.merits(described["arguments"].get("answer", "class"), record).items():
                results.append(
                    EvalResult(
                        task_type=task,
                        dataset_type=known or source,
                        dataset_name=of.about(config),
                        dataset_split=part,
                        metric_type=metric,
                        metric_value=round(value, 6),
                        metric_args={"precision": spoken(record.get("precision")), "examples": record["examples"]},
                    )
                )
    metrics = list(dict.fromkeys(result.metric_type for result in results))
    data = ModelCardData(
        library_name="wsram",
        pipeline_tag=task,
        license="mit",
        tags=list(TAGS),
        datasets=[known] if known else None,
        metrics=metrics or None,
        model_name=name.rpartition("/")[2],
        eval_results=results or None,
    )
    return str(data.to_yaml(line_break="\n"))


def spoken(precision: str | None) -> str:
    """A precision's own name."""
    return {"bf16": "bfloat16", "no": "float32"}.get(precision or "", "an unknown precision")


def limits(config: Config | None, hard: Mapping[str, Any] | None) -> list[str]:
    """Lines of a card that say what a network fails on.

    Args:
        config: the settings it was trained with, if they are known.
        hard: what `python -m experiments robust` found of it, if it was asked.
    """
    lines = ["## Limits", ""]
    about = "those it was trained on" if config is None else f"those of {TASKS[config.task].about(config)}"
    lines += [f"It knows images like {about}, and answers about any other all the same.", ""]
    if hard is None:
        lines += ["How it bears other light, noise and sizes was not measured.", ""]
    else:
        table = robustness_table(hard)
        made = hard["provenance"]
        lines += [
            "The same digits in other light, noise and sizes. Confidence is the mean probability of what it says: high "
            "beside a large error, it is of a network that is sure and wrong.",
            "",
            table.markdown(),
            "",
            f"{table.title}; commit {made['commit']}; {made['machine']}.",
            "",
        ]
    return lines


def robustness_table(found: Mapping[str, Any]) -> Table:
    """The figures of `python -m experiments robust`."""
    cells = [[name, f"{row['error']:.2%}", f"{row['confidence']:.3f}"] for name, row in found["conditions"].items()]
    black = found["black"]
    cells.append([f"a black image: {black['said']}", "", f"{black['confidence']:.3f}"])
    precision = spoken(found["precision"])
    return Table(
        f"{found['digits']:,} {found['set']} digits, mode, {precision}", ["condition", "error", "confidence"], cells
    )
