"""What a person is shown of a run: figures printed and saved, pictures drawn, all of it from the run's folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from wsram.config import POLICY_ONLY, EstimatorConfig, Proposal, ScheduleConfig, TrainConfig
from wsram.data.mnist import Digits, load_test
from wsram.data.scenes import evaluation_scenes, scene_spec
from wsram.diagnostics import effective_sample_size, gradient_variance, posterior_divergence
from wsram.errors import UserError
from wsram.estimators import ESTIMATORS
from wsram.evaluation import Autocast, evaluate_mean_action, evaluate_sampled
from wsram.models.build import build_classifier
from wsram.models.classifier import AttentionClassifier
from wsram.plots import plot_glimpses, plot_training
from wsram.runs import Run, load_model, load_state
from wsram.tasks.digits import load_digits_of, on, parameter_groups
from wsram.training import estimation, step_generator

REFERENCE = 500
"""Sequences for each image that stand for the posterior."""


def load_network(run: Run[TrainConfig], *, inference: bool = True) -> AttentionClassifier:
    """The run's network as its best or newest checkpoint holds it, with or without its inference network."""
    settings = run.config.estimator if inference else replace(run.config.estimator, proposal="policy")
    network = build_classifier(run.config.model, settings, channels=1, classes=10)
    load_model(network, run.best_checkpoint(), without=None if inference else "inference")
    return network


def report_training(run: Run[TrainConfig], console: Console) -> None:
    """Print the held-out error of a finished run and draw its two pictures."""
    metrics = run.metrics()
    last = metrics[-1]
    _, held_out = load_digits_of(run.config)
    curves = plot_training(run.folder / "training.png", metrics, run.config.model.scales)
    picture = draw_glimpses(run, load_network(run), held_out)
    console.print(
        f"Held-out error, mean action: {last['error_mean_action']:.2%} of {len(held_out.labels):,} digits "
        f"({last['step']:,} updates, {last['seconds']:.0f} s of training)."
    )
    console.print(f"Curves: {curves}")
    console.print(f"Where it looks: {picture}")


def draw_glimpses(run: Run[TrainConfig], network: AttentionClassifier, digits: Digits, count: int = 8) -> Path:
    """Draw the mean-action glimpses of the first `count` digits' evaluation scenes into the run's folder."""
    scenes = evaluation_scenes(digits.images, torch.arange(count), scene_spec(run.config.data.scene))
    with torch.no_grad():
        looked = network.eval().predict(scenes.images)
    probability, said = looked.log_p_labels.exp().max(-1)
    titles = [
        f"{label} seen as {name} ({p:.0%})"
        for label, name, p in zip(digits.labels[:count].tolist(), said.tolist(), probability.tolist(), strict=True)
    ]
    return plot_glimpses(
        run.folder / "glimpses.png",
        scenes.images,
        network.prediction.sensor,
        looked.action,
        titles,
        heading=f"{run.config.model.glimpses} glimpses, in order; ×k: a glimpse pixel spans k image pixels",
    )


def _moved(config: TrainConfig, data_dir: Path | None) -> TrainConfig:
    return config if data_dir is None else replace(config, data=replace(config.data, data_dir=data_dir))


def device_of() -> torch.device:
    """Where a network is measured: an accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_of(schedule: ScheduleConfig, device: torch.device) -> Autocast:
    """The precision that a run was trained in, as a context to measure in."""
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=schedule.precision == "bf16")


def report_evaluation(
    folder: Path, console: Console, *, test: bool, samples: int, data_dir: Path | None
) -> dict[str, Any]:
    """Print and save (evaluation-SET.json) a run's error under each way of looking.

    Args:
        folder: the run's.
        console: prints there.
        test: measure on the test set rather than the held-out digits.
        samples: sequences that vote.
        data_dir: where the IDX files are now.

    Raises:
        UserError: no run or checkpoint there, no such data, fewer than 1 sample.
    """
    run = Run.open(folder, TrainConfig)
    config = _moved(run.config, data_dir)
    network = load_network(run)
    data = config.data
    name = "test" if test else "held-out"
    digits = (
        load_test(data.dataset, data_dir=data.data_dir, download=data.download) if test else load_digits_of(config)[1]
    )
    device = device_of()
    network, digits = network.to(device), on(device, digits)
    spec, autocast = scene_spec(data.scene), autocast_of(config.schedule, device)
    figures = evaluate_mean_action(network, digits, spec, autocast=autocast)
    figures |= evaluate_sampled(network, digits, spec, samples=samples, autocast=autocast)
    state = load_state(run.best_checkpoint())
    table = Table(
        title=f"{folder}: {len(digits.labels):,} {name} digits, one fixed scene each; update {state['step']:,}"
    )
    for column in ("looking at", "error", "NLL (nats)"):
        table.add_column(column, justify="left" if column == "looking at" else "right")
    ways = (
        ("mean_action", "the mean actions"),
        ("one_sample", "one sample"),
        (f"vote_{samples}", f"a vote over {samples} samples"),
    )
    for key, shown in ways:
        table.add_row(shown, f"{figures[f'error_{key}']:.2%}", f"{figures[f'nll_{key}']:.4f}")
    console.print(table)
    record = {
        "set": name,
        "digits": len(digits.labels),
        "step": state["step"],
        "training_seconds": state["seconds"],
    } | figures
    path = folder / f"evaluation-{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    console.print(f"Saved: {path}")
    return record


def report_diagnosis(
    folder: Path, console: Console, *, samples: int, batch: int, draws: int, data_dir: Path | None
) -> list[dict[str, Any]]:
    """Print and save ESS and gradient variance of a checkpoint under each estimator, on one batch (diagnosis.json).

    Every estimator sees the same held-out images and the same network; with the inference network it draws from q,
    without it from the policy. The variance is the trace of the gradient's covariance over repeated draws.

    Args:
        folder: the run's.
        console: prints there.
        samples: sequences for each image.
        batch: images.
        draws: gradients drawn for each estimator, at least 2.
        data_dir: where the IDX files are now.

    Raises:
        UserError: no run or checkpoint there, no such data, too few samples, images or draws.
    """
    for what, value, least in (("samples", samples, 2), ("batch", batch, 1), ("draws", draws, 2)):
        if value < least:
            raise UserError(f"{what} must be at least {least} to diagnose, got {value}")
    config, network, images, labels = _held_out_batch(folder, batch, data_dir)
    proposals: list[Proposal] = ["policy"] if network.inference is None else ["policy", "inference"]
    ways = [
        _Way(EstimatorConfig(name, proposal, control_variates, samples))
        for proposal in proposals
        for name in ESTIMATORS
        if proposal == "policy" or name not in POLICY_ONLY
        for control_variates in (False, True)
    ]
    ways += [
        replace(way, sum_scale=True) for way in ways if way.settings.control_variates and "credit" in way.settings.name
    ]
    if network.inference is not None:
        ways.append(_Way(EstimatorConfig("wake-sleep-credit", "inference", True, samples, sleep=1.0)))
    rows = [_diagnose(network, images, labels, way, config.schedule.seed, draws) for way in ways]
    _print_diagnosis(rows, console)
    (folder / "diagnosis.json").write_text(json.dumps(rows, indent=2) + "\n")
    console.print(f"Saved: {folder / 'diagnosis.json'}")
    return rows


def report_posterior(folder: Path, console: Console, *, batch: int, data_dir: Path | None) -> dict[str, float]:
    """Print and save how far policy and inference network are from the posterior (posterior.json).

    Many samples for each held-out image stand for the posterior.

    Args:
        folder: the run's.
        console: prints there.
        batch: images.
        data_dir: where the IDX files are now.

    Returns:
        Nats, means over the images: "policy", and "inference" if there is that network.

    Raises:
        UserError: no run or checkpoint there, no such data.
    """
    _, network, images, labels = _held_out_batch(folder, batch, data_dir)
    found = _posterior(network, images, labels)
    console.print(
        f"KL from the posterior (reference: {found['samples']} samples for each image), nats: "
        + ", ".join(f"to the {name} {found[name]:.4f}" for name in ("policy", "inference") if name in found)
    )
    (folder / "posterior.json").write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"Saved: {folder / 'posterior.json'}")
    return found


def _held_out_batch(
    folder: Path, batch: int, data_dir: Path | None
) -> tuple[TrainConfig, AttentionClassifier, Tensor, Tensor]:
    """A run's settings and network, and scenes and labels of its first held-out digits, on the device."""
    run = Run.open(folder, TrainConfig)
    config = _moved(run.config, data_dir)
    device = device_of()
    network = load_network(run).to(device)
    held_out = on(device, load_digits_of(config)[1])
    index = torch.arange(min(batch, len(held_out.labels)), device=device)
    images = evaluation_scenes(held_out.images, index, scene_spec(config.data.scene)).images
    return config, network, images, held_out.labels[: len(index)]


def _posterior(network: AttentionClassifier, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean divergence from the posterior to the policy and to the inference network, on a batch."""
    found: dict[str, list[Tensor]] = {}
    generator = torch.Generator(images.device).manual_seed(0)
    # Half of the sequences from each network: the weights are bounded, whichever of the two is better.
    defensive = 0.5 if network.inference is not None else 0.0
    for i in range(len(images)):
        with torch.no_grad():
            rollout = network(
                images[i : i + 1], labels[i : i + 1], samples=REFERENCE, generator=generator, defensive=defensive
            )
        mixture = rollout.log_proposal_glimpses
        drawn_from = rollout.log_p_a if mixture is None else mixture.sum(-1)
        judged = {"policy": rollout.log_p_a} | ({} if mixture is None else {"inference": rollout.log_q_a})
        for name, log_r in judged.items():
            divergence = posterior_divergence(rollout.log_p_y, rollout.log_p_a, log_r, drawn_from)
            found.setdefault(name, []).append(divergence)
    return {name: torch.cat(each).mean().item() for name, each in found.items()} | {
        "samples": REFERENCE,
        "images": len(images),
    }


@dataclass(frozen=True)
class _Way:
    """One of the ways to make a gradient that are compared."""

    settings: EstimatorConfig
    sum_scale: bool = False


def _diagnose(
    network: AttentionClassifier, images: Tensor, labels: Tensor, way: _Way, seed: int, draws: int
) -> dict[str, Any]:
    settings, attending = way.settings, network
    if settings.proposal == "policy":
        attending = AttentionClassifier(network.prediction)
    estimate_of = estimation(settings)
    seen: dict[str, list[float]] = {"ess": [], "log_evidence": [], "bound": []}

    def draw(n: int) -> Tensor:
        rollout = attending(
            images,
            labels,
            samples=settings.samples,
            generator=step_generator(seed, n, 0, images.device),
            sum_scale=way.sum_scale,
            dreams=int(settings.sleep > 0),
        )
        estimate = estimate_of(rollout)
        seen["ess"].append(effective_sample_size(estimate.weights).mean().item())
        seen["log_evidence"].append(estimate.log_evidence.mean().item())
        seen["bound"].append(estimate.bound.mean().item())
        return estimate.loss

    groups = gradient_variance(draw, parameter_groups(attending), draws)
    means = {name: math.fsum(values) / draws for name, values in seen.items()}
    shown = {
        "estimator": settings.name,
        "proposal": settings.proposal,
        "control_variates": settings.control_variates,
        "sum_scale": way.sum_scale,
        "sleep": settings.sleep,
    }
    protocol = {"samples": settings.samples, "batch": len(labels), "draws": draws}
    return shown | protocol | means | {"gradient": groups}


def _with(row: dict[str, Any]) -> str:
    what = {"cv": row["control_variates"], "scale": row["sum_scale"], "sleep": row["sleep"]}
    return ", ".join(name for name, on in what.items() if on) or "—"


def _print_diagnosis(rows: list[dict[str, Any]], console: Console) -> None:
    groups, first = list(rows[-1]["gradient"]), rows[0]
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"{first['batch']} held-out images, {first['samples']} samples, {first['draws']} gradients each; "
        "cv: control variates, scale: the last one summed over, sleep: dreams alone for q; then the log-evidence "
        "and the variance (trace of the covariance) by group of parameters",
    )
    for column in ("estimator", "proposal", "with"):
        table.add_column(column, no_wrap=True, min_width=len("wake-sleep-credit ") if column == "estimator" else None)
    for column in ("ESS", "log p(y)", *groups):
        table.add_column(column, justify="right")
    for row in rows:
        variances = [f"{row['gradient'][g]['variance']:.3g}" if g in row["gradient"] else "" for g in groups]
        table.add_row(
            row["estimator"],
            row["proposal"],
            _with(row),
            f"{row['ess']:.2f}",
            f"{row['log_evidence']:.4f}",
            *variances,
        )
    console.print(table)
