"""What others need of a run, in a folder that every command opens: network, settings, provenance, and a card."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

from wsram.config import ClassificationConfig, Config, changed
from wsram.errors import UserError
from wsram.metadata import head, limits, robustness_table, spoken
from wsram.models.pretrained import Network, from_pretrained, network_folder, save_network
from wsram.runs import SETTINGS, Run, load_state, new_folder, read_json, read_text, write_whole
from wsram.settings import from_json, to_json
from wsram.tables import Table, figure, rounded
from wsram.tasks import TASKS
from wsram.terminal import Screen

CARD = "README.md"
EVALUATIONS = {"validation": "evaluation-validation.json", "test": "evaluation-test.json"}
PICTURES = ("glimpses.png", "training.png")
ROBUSTNESS = "robustness.json"
"""What `python -m experiments robust` found."""


def release(folder: Path, target: Path, screen: Screen, *, inference: bool = True) -> None:
    """Write the network of a run as a folder for others; nothing but listed files goes along, and no path of here.

    The card says how it was made and how good it is, from the run's files: evaluate the run first.

    Args:
        folder: the run's.
        target: a folder that does not exist yet, or is empty.
        screen: says what was written.
        inference: with the inference network, by which one can ask where evidence for an answer is.

    Raises:
        UserError: no run there, an evaluation of another update, or a target that is there or cannot be written.
    """
    run, source = Run.open(folder), network_folder(folder)
    state = load_state(source)
    evaluations = _evaluations(folder)
    for name, found in evaluations.items():
        if found["step"] != state["step"]:
            raise UserError(
                f"{folder / EVALUATIONS[name]} is of update {found['step']:,}, the network of {state['step']:,}; "
                "evaluate the run again first"
            )
    with new_folder(target) as partial:
        save_network(from_pretrained(folder, inference=inference), partial)
        _write_records(folder, run.config, partial, target.name)
        kept = {"step": state["step"], "seconds": state["seconds"]}
        write_whole(partial / "state.json", json.dumps(kept) + "\n")
        for name, found in evaluations.items():
            write_whole(partial / EVALUATIONS[name], json.dumps(found, indent=2) + "\n")
        for name in ("data.json", *PICTURES):
            if (folder / name).is_file() and not (folder / name).is_symlink():
                shutil.copyfile(folder / name, partial / name)
        write_whole(partial / CARD, card(partial, target.name))
    size = sum(path.stat().st_size for path in target.iterdir())
    screen.say(f"Released: {target} ({size / 1e6:.1f} MB); try `wsram evaluate {target}`")


def release_network(network: Network, known: Path | None, target: Path, name: str | None = None) -> Path:
    """Write a network as a folder for others, with a card and the records of the folder that it came from, if any.

    No path of here goes along.

    Args:
        network: what is written.
        known: the folder that it was opened from.
        target: a folder that does not exist yet, or is empty.
        name: by which others will open it; by default the folder's.

    Raises:
        UserError: the target is there, or cannot be written.
    """
    records = ("state.json", "data.json", *EVALUATIONS.values(), *PICTURES)
    with new_folder(target) as partial:
        save_network(network, partial)
        if known is not None and (known / SETTINGS).is_file():
            config = from_json(read_text(known / SETTINGS, "restore it"), known / SETTINGS)
            _write_records(known, config, partial, name or target.name)
            for record in (known / name for name in records):
                if record.is_file() and not record.is_symlink():
                    shutil.copyfile(record, partial / record.name)
        write_whole(partial / CARD, card(partial, name or target.name))
    return target


def _write_records(folder: Path, config: Config, to: Path, name: str) -> None:
    """Write what a folder says of this machine into another one without it: settings, provenance and robustness."""
    write_whole(to / SETTINGS, to_json(without_places(config)))
    if made := _read(folder / "provenance.json"):
        made["command"] = without_paths(made["command"])
        write_whole(to / "provenance.json", json.dumps(made, indent=2) + "\n")
    if hard := _read(folder / ROBUSTNESS):
        with _as_written(folder / ROBUSTNESS):
            robustness_table(hard)
            hard = without_machine(hard) | {"network": name}
        write_whole(to / ROBUSTNESS, json.dumps(hard, indent=2) + "\n")


def card(folder: Path, name: str) -> str:
    """A model card with the metadata that the Hugging Face Hub reads, from the files of a released folder.

    Without the settings it was trained with, it says what the network is, and nothing of how good.
    """
    described = read_json(folder / "config.json", "restore it")
    settings = folder / SETTINGS
    config = from_json(read_text(settings, "restore it"), settings) if settings.exists() else None
    network = "with" if described["arguments"]["inference"] else "without"
    lines = [
        "---",
        head(name, described, config, _evaluations(folder) if config else {}).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        f"A network of [wsram](https://arxiv.org/abs/1509.06812) that looks at a few small glimpses, {network} the "
        "inference network that proposes glimpses knowing the answer. Measured in "
        f"{spoken(described['arguments']['precision'])}, which prediction uses.",
        "",
        "```python",
        "import wsram",
        "",
        f'network = wsram.from_pretrained("{name}")',
        'print(network.predict("image.png"))',
        "```",
        "",
        describe(folder, folder, name) if config else "How it was trained was not written down.",
        "",
        *limits(config, _read(folder / ROBUSTNESS)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def describe(folder: Path, base: Path, name: str | None = None) -> str:
    """Everything that the files of one run or release say, as Markdown.

    Args:
        folder: of the run or release.
        base: the folder that pictures are linked from.
        name: what it is called; by default as its folder.
    """
    config = from_json(read_text(folder / SETTINGS, "restore it"), folder / SETTINGS)
    task = TASKS[config.task]
    made = _read(folder / "provenance.json")
    lines: list[str] = []
    if made:
        lines += [
            f"`{made['command']}`",
            "",
            f"Commit {made['commit']}; {made['machine']}; Python {made['python']}, torch {made['torch']}; "
            f"seed {config.schedule.seed}; trained in {spoken(config.schedule.precision)}; {task.about(config)}. "
            f"Options and recipes are those of that commit; every setting is in `{SETTINGS}`.",
            "",
        ]
    records = _evaluations(folder)
    if records:
        lines += [task.table(records).markdown(), ""]
        precisions = {spoken(found.get("precision")) for found in records.values()}
        lines += [f"Measured in {', '.join(sorted(precisions))}.", ""]
    else:
        lines += ["How good it is was not measured with these files; `wsram evaluate` does that.", ""]
    for table in _further(folder):
        lines += [*([table.title, ""] if table.title else []), table.markdown(), ""]
    for picture in PICTURES:
        if (folder / picture).exists():
            link = os.path.relpath(folder / picture, base)
            lines += [f"![{picture.removesuffix('.png')} of {name or folder.name}]({link})", ""]
    return "\n".join(lines).rstrip()


def _evaluations(folder: Path) -> dict[str, Any]:
    """What was measured, by the set's name; `UserError` for a file that does not say it."""
    config = from_json(read_text(folder / SETTINGS, "restore it"), folder / SETTINGS)
    found = {name: _read(folder / file) for name, file in EVALUATIONS.items() if (folder / file).exists()}
    for name, record in found.items():
        with _as_written(folder / EVALUATIONS[name]):
            if type(record["step"]) is not int:
                raise ValueError(f"the update {record['step']!r}")
            TASKS[config.task].table({name: record})
    return found


@contextmanager
def _as_written(path: Path) -> Iterator[None]:
    """Within it, figures that lack something are a `UserError` that names their file."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        raise UserError(
            f"{path}: expected figures as the program keeps them, got {type(error).__name__}: {error}; remove it or "
            "make it again"
        ) from error


def noise_reduction(row: Mapping[str, Any]) -> str:
    """By what means the gradient of a diagnosis' row is less noisy than the plain estimator's; empty if it is plain."""
    means = {
        "control variates": row["control_variates"],
        # Diagnoses made before there were these have none of them.
        "last scale summed over": row.get("sum_scale"),
        "dreams alone for q": row.get("sleep"),
    }
    return ", ".join(name for name, used in means.items() if used)


def diagnosis_tables(record: Mapping[str, Any]) -> list[Table]:
    """Effective sample size and gradient variance of estimators on one network, and what each gains over another."""
    rows, about = record["rows"], record["network"]
    groups, first = list(rows[-1]["gradient"]), rows[0]
    names = [[row["estimator"], row["proposal"], noise_reduction(row) or "—"] for row in rows]
    variances = [
        [
            *name,
            *(rounded(row[key], (row.get("standard_errors") or {}).get(key) or 0.0) for key in ("ess", "log_evidence")),
            *(_variance(row["gradient"].get(group)) for group in groups),
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    title = (
        f"{about['name']}, update {about['step']:,}: effective sample size of {first['samples']} samples, "
        f"log-evidence, and gradient variance (trace of the covariance of {first['draws']:,} gradients on one batch of "
        f"{first['batch']} validation examples; in brackets its 95% interval):"
    )
    header = ["estimator", "proposal", "with", "ESS", "log p(y)", *(f"variance, {g}" for g in groups)]
    tables = [Table(title, header, variances, words=3)]
    compared = [(name, row) for name, row in zip(names, rows, strict=True) if row.get("change")]
    if compared:
        cells = [
            [*name, _said(rows[row["against"]]), *(change_of(row["change"].get(group)) for group in groups)]
            for name, row in compared
        ]
        title = "Change of the variance against another estimator on the same draws, %, with its 95% interval:"
        header = ["estimator", "proposal", "with", "against", *groups]
        tables.append(Table(title, header, cells, words=4))
    return tables


def _said(row: Mapping[str, Any]) -> str:
    """An estimator of a diagnosis and its means, in a few words."""
    means = noise_reduction(row)
    return f"{row['estimator']}, {f'with {means}' if means else 'plain'}"


def _variance(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else figure(found["variance"], found.get("low"), found.get("high"))


def change_of(found: Mapping[str, Any] | None) -> str:
    """A ratio of variances as a change in percent, with its interval.

    Example:
        >>> change_of({"ratio": 0.268, "low": 0.251, "high": 0.294})
        '-73 [-75, -71]'
    """
    if found is None or found["ratio"] is None:
        return ""
    low, high = (None if found[name] is None else 100 * (found[name] - 1) for name in ("low", "high"))
    return figure(100 * (found["ratio"] - 1), low, high)


def posterior_table(found: Mapping[str, Any]) -> Table:
    """How far policy and inference network are from the posterior."""
    title = (
        f"KL from the posterior (in its place, {found['samples']} samples for each of {found['images']} validation "
        "examples; ± a standard error over these), nats:"
    )
    errors = found.get("standard_errors", {})
    rows = []
    for key, name in JUDGED.items():
        if key in found:
            error = errors.get(key)
            doubt = f" ± {rounded(error, error)}" if error else ""
            rows.append([f"to the {name}", rounded(found[key], error or abs(found[key])) + doubt])
    return Table(title, ["distance", "nats"], rows)


JUDGED = {"policy": "policy", "inference": "inference network"}


def _further(folder: Path) -> list[Table]:
    tables = []
    if diagnosis := _read(folder / "diagnosis.json"):
        with _as_written(folder / "diagnosis.json"):
            tables += diagnosis_tables(diagnosis)
    if posterior := _read(folder / "posterior.json"):
        with _as_written(folder / "posterior.json"):
            tables.append(posterior_table(posterior))
    if benchmark := _read(folder / "benchmark.json"):
        with _as_written(folder / "benchmark.json"):
            rows = [[name.replace("_", " "), f"{value:.3f}"] for name, value in benchmark["ratios"].items()]
            shares = benchmark["measured"]["shares"].items()
            rows += [[f"{kind} over forward and backward", f"{share:.3f}"] for kind, share in shares]
            tables.append(Table("", ["ratio of a training step", ""], rows))
    return tables


def without_places(config: Config) -> Config:
    """The settings without where the data lay on this machine."""
    places: dict[str, Any] = {name: None for name in ("images", "features") if hasattr(config.data, name)}
    if isinstance(config, ClassificationConfig) and config.start_from is not None:
        places["start_from"] = _without_machine(config.start_from)
    return changed(config, source=_last_name(config.data.source), **places)


def without_machine(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of figures as it is published: the paths of its network and its command are those of no machine."""
    changes: dict[str, Any] = {}
    network = record.get("network")
    if isinstance(network, str):
        changes["network"] = _without_machine(network)
    elif network is not None and "name" in network:
        changes["network"] = network | {"name": _without_machine(network["name"])}
    if made := record.get("provenance"):
        changes["provenance"] = made | {"command": without_paths(made["command"])}
    return {**record, **changes}


def without_paths(command: str) -> str:
    """A command line whose paths outside the working folder are reduced to their last names.

    Example:
        >>> without_paths("wsram train ../data/mnist --run runs/wide --recipe best")
        'wsram train mnist --run runs/wide --recipe best'
    """
    return shlex.join(_without_machine(word) for word in shlex.split(command))


def _without_machine(word: str) -> str:
    """A path inside the working folder, or what is none, as it is; of another path the last name."""
    inside = not re.search(r"\\|^/|^[A-Za-z]:", word) and ".." not in word.split("/")
    return word if inside else _last_name(word)


def _last_name(path: str) -> str:
    """The last name of a path as any system writes it; a name on the Hub is none, and stays."""
    return path if re.fullmatch(r"hf:[\w.-]+/[\w.-]+", path) else PureWindowsPath(path).name


def _read(path: Path) -> Any:
    return read_json(path, "remove it or make it again") if path.exists() else None
