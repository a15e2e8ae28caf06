"""What a person is shown of a run: figures printed and saved, pictures drawn, all of it from the run's folder."""

from __future__ import annotations

import json
import math
from dataclasses import replace
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
from wsram.estimators import ESTIMATORS, estimator
from wsram.evaluation import Autocast, evaluate_mean_action, evaluate_sampled
from wsram.models.build import build_classifier
from wsram.models.classifier import AttentionClassifier
from wsram.plots import plot_glimpses, plot_training
from wsram.runs import Run, load_model, load_state
from wsram.tasks.digits import load_digits_of, on, parameter_groups
from wsram.training import step_generator

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

    And how far policy and inference network are from the posterior, for which many samples stand (posterior.json).

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
    run = Run.open(folder, TrainConfig)
    config = _moved(run.config, data_dir)
    network = load_network(run)
    _, held_out = load_digits_of(config)
    device = device_of()
    network, held_out = network.to(device), on(device, held_out)
    batch = min(batch, len(held_out.labels))
    images = evaluation_scenes(
        held_out.images, torch.arange(batch, device=device), scene_spec(config.data.scene)
    ).images
    labels = held_out.labels[:batch]
    methods: list[tuple[str, Proposal]] = [(name, "policy") for name in ESTIMATORS]
    if network.inference is not None:
        methods += [(name, "inference") for name in ESTIMATORS if name not in POLICY_ONLY]
    rows = [
        _diagnose(network, images, labels, EstimatorConfig(name, proposal, control_variates, samples), config, draws)
        for name, proposal in methods
        for control_variates in (False, True)
    ]
    _print_diagnosis(rows, console)
    posterior = _posterior(network, images, labels)
    console.print(
        f"KL from the posterior (reference: {posterior['samples']} samples for each image), nats: "
        + ", ".join(f"to the {name} {posterior[name]:.4f}" for name in ("policy", "inference") if name in posterior)
    )
    for name, content in (("diagnosis.json", rows), ("posterior.json", posterior)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        console.print(f"Saved: {folder / name}")
    return rows


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


def _diagnose(
    network: AttentionClassifier,
    images: Tensor,
    labels: Tensor,
    settings: EstimatorConfig,
    config: TrainConfig,
    draws: int,
) -> dict[str, Any]:
    attending = network
    if settings.proposal == "policy":
        attending = AttentionClassifier(network.prediction)
    seen: dict[str, list[float]] = {"ess": [], "log_evidence": [], "bound": []}

    def draw(n: int) -> Tensor:
        rollout = attending(
            images,
            labels,
            samples=settings.samples,
            generator=step_generator(config.schedule.seed, n, 0, images.device),
        )
        estimate = estimator(settings.name)(
            rollout.log_p_y_glimpses,
            rollout.log_p_glimpses,
            rollout.log_q_glimpses,
            control_variates=settings.control_variates,
            log_proposal=rollout.log_proposal_glimpses,
        )
        seen["ess"].append(effective_sample_size(estimate.weights).mean().item())
        seen["log_evidence"].append(estimate.log_evidence.mean().item())
        seen["bound"].append(estimate.bound.mean().item())
        return estimate.loss

    groups = gradient_variance(draw, parameter_groups(attending), draws)
    means = {name: math.fsum(values) / draws for name, values in seen.items()}
    shown = {"estimator": settings.name, "proposal": settings.proposal, "control_variates": settings.control_variates}
    protocol = {"samples": settings.samples, "batch": len(labels), "draws": draws}
    return shown | protocol | means | {"gradient": groups}


def _print_diagnosis(rows: list[dict[str, Any]], console: Console) -> None:
    groups, first = list(rows[-1]["gradient"]), rows[0]
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"{first['batch']} held-out images, {first['samples']} samples, {first['draws']} gradients each; "
        "cv: control variates; then the log-evidence and the variance (trace of the covariance) by group of parameters",
    )
    for column in ("estimator", "proposal", "cv"):
        table.add_column(column, no_wrap=True, min_width=len("wake-sleep-credit ") if column == "estimator" else None)
    for column in ("ESS", "log p(y)", *groups):
        table.add_column(column, justify="right")
    for row in rows:
        variances = [f"{row['gradient'][g]['variance']:.3g}" if g in row["gradient"] else "" for g in groups]
        table.add_row(
            row["estimator"],
            row["proposal"],
            "yes" if row["control_variates"] else "no",
            f"{row['ess']:.2f}",
            f"{row['log_evidence']:.4f}",
            *variances,
        )
    console.print(table)
