"""Comparing estimators on one network: effective sample size, gradient variance, distance from the posterior."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from wsram.config import Config, EstimatorConfig, Proposal, changed
from wsram.data import Batch
from wsram.errors import require_at_least
from wsram.estimators import ESTIMATORS
from wsram.estimators.diagnostics import effective_sample_size, gradient_variance, posterior_divergence
from wsram.evaluate import Trained
from wsram.tasks import Update
from wsram.training import estimation, step_generator

REFERENCE = 500
"""Sequences for each image that stand for the posterior."""


def diagnose(trained: Trained, *, samples: int = 5, batch: int = 128, draws: int = 50) -> list[dict[str, Any]]:
    """Effective sample size and gradient variance of a network under each estimator, on one batch.

    Every estimator sees the same validation examples and the same network; with the inference network it draws from q,
    without it from the policy. The variance is the trace of the gradient's covariance over repeated draws.

    Args:
        trained: the network, with its inference network if it has one.
        samples: sequences for each example, at least 2.
        batch: examples; fewer if there are no more.
        draws: gradients drawn for each estimator, at least 2.

    Raises:
        UserError: too few samples, examples or draws.
    """
    require_at_least(2, samples=samples, draws=draws)
    require_at_least(1, batch=batch)
    examples = first_examples(trained, batch)
    return [_diagnose(trained, way, examples, draws) for way in _ways(trained, samples)]


def first_examples(trained: Trained, count: int) -> Batch:
    """The first validation examples."""
    dataset = trained.examples()
    return dataset.batch(torch.arange(min(count, len(dataset))))


def _ways(trained: Trained, samples: int) -> list[Config]:
    """The settings to compare: every estimator under every proposal that fits it, and what else cuts noise."""
    teaches = trained.network.inference is not None

    def settings(name: str, proposal: Proposal, control_variates: bool, sleep: float = 0.0) -> Config:
        estimator = EstimatorConfig(name, proposal, control_variates, samples, sleep=sleep)
        return changed(_plain(trained.config), estimator=estimator)

    proposals: list[Proposal] = ["policy", "inference"] if teaches else ["policy"]
    ways = [
        settings(name, proposal, control_variates)
        for proposal in proposals
        for name, entry in ESTIMATORS.items()
        if proposal == "policy" or entry.trains_proposal
        for control_variates in (False, True)
    ]
    if hasattr(trained.config, "sum_scale"):
        credited = [way for way in ways if way.estimator.control_variates and "credit" in way.estimator.name]
        ways += [changed(way, sum_scale=True) for way in credited]
    if teaches:
        ways.append(settings("wake-sleep-credit", "inference", True, sleep=1.0))
    return ways


def _plain(config: Config) -> Config:
    """The settings without what would draw or score anything else than the network's own sequences."""
    own = {"sum_scale": False} if hasattr(config, "sum_scale") else {}
    return changed(config, temperature=1.0, **own)


def _diagnose(trained: Trained, config: Config, examples: Batch, draws: int) -> dict[str, Any]:
    task, network, settings = trained.task, trained.network, config.estimator
    device = next(network.parameters()).device
    estimate_of = estimation(config)
    seen: dict[str, list[float]] = {"ess": [], "log_evidence": [], "bound": []}

    def draw(n: int) -> Tensor:
        update = Update(config.schedule.updates, 0, step_generator(config.schedule.seed, n, 0, device))
        estimate = estimate_of(task.rollout(config, network, examples, update))
        seen["ess"].append(effective_sample_size(estimate.weights).mean().item())
        seen["log_evidence"].append(estimate.log_evidence.mean().item())
        seen["bound"].append(estimate.bound.mean().item())
        return estimate.loss

    groups = task.parameter_groups(network)
    if settings.proposal == "policy":
        groups.pop("inference", None)
    found = gradient_variance(draw, groups, draws)
    means = {name: math.fsum(values) / draws for name, values in seen.items()}
    shown = {
        "estimator": settings.name,
        "proposal": settings.proposal,
        "control_variates": settings.control_variates,
        "sum_scale": getattr(config, "sum_scale", False),
        "sleep": settings.sleep,
    }
    protocol = {"samples": settings.samples, "batch": len(examples.answers), "draws": draws}
    return shown | protocol | means | {"gradient": found}


def posterior(trained: Trained, *, batch: int = 128) -> dict[str, float]:
    """How far policy and inference network are from the posterior, means over examples.

    Many samples for each validation example stand for the posterior, half of them from each network: the weights are
    bounded, whichever of the two is better.

    Args:
        trained: the network, with its inference network if it has one.
        batch: examples; fewer if there are no more.

    Returns:
        Nats: "policy", and "inference" if there is that network; "samples" and "images" that they are of.

    Raises:
        UserError: no examples.
    """
    require_at_least(1, batch=batch)
    task, network = trained.task, trained.network
    device = next(network.parameters()).device
    teaches = network.inference is not None
    estimator = EstimatorConfig(
        "wake-sleep", "inference" if teaches else "policy", False, REFERENCE, defensive=0.5 if teaches else 0.0
    )
    config = changed(_plain(trained.config), estimator=estimator)
    dataset = trained.examples()
    generator = torch.Generator(device).manual_seed(0)
    found: dict[str, list[Tensor]] = {}
    count = min(batch, len(dataset))
    for n in range(count):
        with torch.no_grad():
            one = dataset.batch(torch.tensor([n]))
            rollout = task.rollout(config, network, one, Update(config.schedule.updates, 0, generator))
        log_p_y, log_p_a, log_q_a = (t.sum(-1) for t in (rollout.log_p_y, rollout.log_p_a, rollout.log_q_a))
        drawn_from = log_p_a if rollout.log_proposal is None else rollout.log_proposal.sum(-1)
        judged = {"policy": log_p_a} | ({"inference": log_q_a} if teaches else {})
        for name, log_r in judged.items():
            found.setdefault(name, []).append(posterior_divergence(log_p_y, log_p_a, log_r, drawn_from))
    return {name: torch.cat(each).mean().item() for name, each in found.items()} | {
        "samples": REFERENCE,
        "images": count,
    }
