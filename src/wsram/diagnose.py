"""Comparing estimators on one network: effective sample size, gradient variance, distance from the posterior.

Estimators that take the same samples are given the same: one rollout for each draw, whose log-probabilities go into
every one of them. Their variances are then compared draw by draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.config import Config, EstimatorConfig, Proposal, changed
from wsram.data import Dataset
from wsram.errors import UserError, require_at_least
from wsram.estimators import ESTIMATORS, Estimate
from wsram.estimators.diagnostics import GradientSpread, effective_sample_size, mean_interval, posterior_divergence
from wsram.evaluate import Trained
from wsram.models.rollout import Rollout
from wsram.provenance import provenance
from wsram.runs import digest, load_state
from wsram.tasks import Update
from wsram.tasks.task import centred
from wsram.terminal import Screen
from wsram.training import estimation, step_generator

REFERENCE = 500
"""Sequences for each image that stand for the posterior."""
DRAWS, MOST, FEWEST = 100, 1000, 30
"""Gradients drawn by default, and at most and at least to reach a precision."""
LOOK_EVERY = 10
"""Draws between looks at the precision that was reached."""
SEQUENCES = 640
"""Action sequences that are worked on together: bounds memory whatever the batch."""
LOG_PROBS = ("log_p_y", "log_p_a", "log_q_a", "mean_log_p_a", "log_q_dreams")
"""What of a rollout an estimate's gradient goes through."""


def diagnose(
    trained: Trained,
    *,
    samples: int = 5,
    batch: int = 128,
    draws: int | None = None,
    precision: float | None = None,
    compare: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    screen: Screen | None = None,
) -> dict[str, Any]:
    """Effective sample size and gradient variance of a network under each estimator, on one batch.

    Every estimator sees the same validation examples, the same network and the same actions; with the inference network
    they are drawn from q, without it from the policy. The variance is the trace of the gradient's covariance over
    repeated draws, in float32.

    Args:
        trained: the network, with its inference network if it has one.
        samples: sequences for each example, at least 2.
        batch: examples; fewer if there are no more.
        draws: gradients drawn for each estimator, at least 2; at most so many if a precision is asked for.
        precision: go on until half of every variance's 95% interval is at most this share of it.
        compare: estimators, by name; each is compared with the one that it refines, or else the first. By default all.
        groups: of parameters, by name; by default all. Without "prediction" it is several times faster.
        screen: where progress is shown.

    Returns:
        "network", "data" and "provenance", which say what was measured, and "rows", one for each way to estimate. Of a
        row "gradient" has variances by group of parameters, and "change" their ratios to those of the row numbered
        "against"; "low" and "high" bound the 95% interval.

    Raises:
        UserError: too few samples, examples or draws, an impossible precision, or an unknown estimator.
    """
    most = draws if draws is not None else DRAWS if precision is None else MOST
    require_at_least(2, samples=samples, draws=most)
    require_at_least(1, batch=batch)
    if precision is not None and not 0 < precision < 1:
        raise UserError(f"the precision is a share of the variance, above 0 and below 1, got {precision}")
    dataset = trained.examples()
    batch = min(batch, len(dataset))
    ways = [_Way(trained, config, groups) for config in _ways(trained, samples, compare)]
    # At most as many examples at a time as training took: larger images come in smaller batches.
    rows = min(trained.config.schedule.batch, max(1, SEQUENCES // samples))
    parts = torch.arange(batch).split(rows)
    together: dict[tuple[Any, ...], list[_Way]] = {}
    for way in ways:
        together.setdefault(way.sampling, []).append(way)
    done = 0
    with (screen or Screen(quiet=True)).progress() as bar:
        line = bar.add_task("gradients drawn", total=most)
        while done < most and not (
            precision is not None and done >= FEWEST and done % LOOK_EVERY == 0 and _worst(ways) <= precision
        ):
            for alike in together.values():
                _draw(trained, alike, dataset, parts, done)
            done += 1
            bar.update(line, completed=done)
    return {
        "network": {
            "name": trained.name,
            "step": load_state(trained.folder)["step"],
            "hash": digest(trained.folder / "model.safetensors"),
        },
        "data": {"source": Path(trained.config.data.source).name, "hash": dataset.fingerprint()},
        "provenance": provenance(),
        "precision": {"asked": precision, "reached": _worst(ways) if done > 2 else None},
        "rows": [way.row(ways, samples=samples, batch=batch, draws=done) for way in ways],
    }


def reached(record: Mapping[str, Any]) -> str:
    """How sure the variances of a diagnosis are, in a sentence."""
    draws, found = record["rows"][0]["draws"], record["precision"]
    if found["reached"] is None:
        return f"{draws} draws are too few to say how sure a variance is."
    said = f"After {draws:,} draws the widest 95% interval of a variance reaches ±{found['reached']:.0%} of it"
    if found["asked"] is None:
        return f"{said}; --precision 0.1 goes on until ±10%."
    if found["reached"] <= found["asked"]:
        return f"{said}, as asked."
    return f"{said}, not the ±{found['asked']:.0%} asked for; allow more with --draws."


@dataclass
class _Way:
    """One way to estimate the gradient, and what was seen of it."""

    trained: Trained
    config: Config
    wanted: Sequence[str] | None = None
    seen: dict[str, list[float]] = field(default_factory=lambda: {"ess": [], "log_evidence": [], "bound": []})

    def __post_init__(self) -> None:
        groups = self.trained.task.parameter_groups(self.trained.network)
        for name in self.wanted or ():
            if name not in groups:
                raise UserError(f"unknown group of parameters {name!r}; choose of {', '.join(groups)}")
        if self.config.estimator.proposal == "policy":
            groups.pop("inference", None)
        self.spread = GradientSpread({name: groups[name] for name in groups if name in (self.wanted or groups)})
        self.estimate = estimation(self.config)

    @property
    def sampling(self) -> tuple[Any, ...]:
        """Ways that share this share their samples."""
        settings = self.config.estimator
        return (
            settings.proposal,
            getattr(self.config, "sum_scale", False),
            settings.sleep > 0,
            settings.pathwise,
            ESTIMATORS[settings.name].resamples,
        )

    def note(self, estimate: Estimate) -> None:
        """Take note of what a draw's weights were like."""
        self.seen["ess"].append(effective_sample_size(estimate.weights).mean().item())
        self.seen["log_evidence"].append(estimate.log_evidence.mean().item())
        self.seen["bound"].append(estimate.bound.mean().item())

    def against(self, ways: Sequence[_Way]) -> int | None:
        """Which of the ways this one is compared with, if any."""
        others = [_plainer(self.config)]
        if all(way.config.estimator.control_variates for way in ways):  # they were chosen by name
            others.append(changed(self.config, name=ways[0].config.estimator.name))
        found = [n for other in others for n, way in enumerate(ways) if way is not self and way.config == other]
        return found[0] if found else None

    def row(self, ways: Sequence[_Way], **protocol: int) -> dict[str, Any]:
        """What was found."""
        settings, spread = self.config.estimator, self.spread
        against = self.against(ways)
        gradient = spread.measured()
        change: dict[str, dict[str, float | None]] = {}
        for name, found in gradient.items():
            found |= _bounds(mean_interval(spread.increments[name]))
            if against is not None and ways[against].spread.increments.get(name):
                theirs = ways[against].spread.increments[name]
                over = math.fsum(theirs)
                ratio = math.fsum(spread.increments[name]) / over if over else None
                change[name] = {"ratio": ratio} | _bounds(mean_interval(spread.increments[name], theirs))
        shown = {
            "estimator": settings.name,
            "proposal": settings.proposal,
            "control_variates": settings.control_variates,
            "sum_scale": getattr(self.config, "sum_scale", False),
            "sleep": settings.sleep,
        }
        means = {name: math.fsum(values) / len(values) for name, values in self.seen.items()}
        errors = {name: _standard_error(torch.tensor(values)) for name, values in self.seen.items()}
        return (
            shown
            | protocol
            | means
            | {
                "standard_errors": errors,
                "gradient": gradient,
                "against": against,
                "change": change,
            }
        )


def _bounds(interval: tuple[float, float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {"low": low, "high": high}


def _standard_error(values: Tensor) -> float | None:
    """Of the mean of independent values; None for a single one."""
    return values.double().std().item() / math.sqrt(len(values)) if len(values) > 1 else None


def _worst(ways: Sequence[_Way]) -> float:
    """The widest interval of all variances: half of it, as a share of the variance."""
    worst = 0.0
    for way in ways:
        for increments in way.spread.increments.values():
            interval, mean = mean_interval(increments), math.fsum(increments) / max(1, len(increments))
            if mean > 0:
                worst = max(worst, math.inf if interval is None else (interval[1] - interval[0]) / 2 / mean)
    return worst


def _ways(trained: Trained, samples: int, compare: Sequence[str] | None) -> list[Config]:
    """The settings to compare: every estimator under every proposal that fits it, and what else cuts noise."""
    teaches = trained.network.inference is not None
    unknown = [name for name in compare or () if name not in ESTIMATORS]
    if unknown:
        raise UserError(f"unknown estimator {unknown[0]!r}; choose of {', '.join(ESTIMATORS)}")

    def settings(name: str, proposal: Proposal, control_variates: bool, sleep: float = 0.0) -> Config:
        estimator = EstimatorConfig(name, proposal, control_variates, samples, sleep=sleep)
        return changed(_plain(trained.config), estimator=estimator)

    proposals: list[Proposal] = ["policy", "inference"] if teaches else ["policy"]
    captions = trained.config.task == "image-to-text"  # which are not resampled
    fitting = [name for name, entry in ESTIMATORS.items() if not (captions and entry.resamples)]
    ways = [
        settings(name, proposal, control_variates)
        for proposal in proposals
        for name in compare or fitting
        if proposal == "policy" or ESTIMATORS[name].trains_proposal
        for control_variates in ((True,) if compare else (False, True))
        if _differs(name, proposal, control_variates) or (compare and ESTIMATORS[name].refines not in compare)
    ]
    if compare:
        return ways
    if hasattr(trained.config, "sum_scale"):
        credited = [way for way in ways if way.estimator.control_variates and "credit" in way.estimator.name]
        ways += [changed(way, sum_scale=True) for way in credited]
    if teaches:
        ways.append(settings("wake-sleep-credit", "inference", True, sleep=1.0))
    return ways


def _differs(name: str, proposal: Proposal, control_variates: bool) -> bool:
    """Whether an estimator is another than what it refines: plain none is, and under the policy all are exact."""
    entry = ESTIMATORS[name]
    return entry.refines is None or (control_variates and (proposal == "inference" or not entry.centred))


def _plain(config: Config) -> Config:
    """The settings without what would draw or score anything else than the network's own sequences."""
    own = {"sum_scale": False} if hasattr(config, "sum_scale") else {}
    return changed(config, temperature=1.0, **own)


def _plainer(config: Config) -> Config | None:
    """The settings without the last thing that was added to them; None if nothing was."""
    settings = config.estimator
    if settings.sleep:
        return changed(config, sleep=0.0)
    if getattr(config, "sum_scale", False):
        return changed(config, sum_scale=False)
    if not settings.control_variates:
        return None
    refines = ESTIMATORS[settings.name].refines
    return changed(config, name=refines) if refines else changed(config, control_variates=False)


def _draw(trained: Trained, alike: Sequence[_Way], dataset: Dataset, parts: Sequence[Tensor], n: int) -> None:
    """Draw number n of every way that shares its samples: its gradient, from parts of the batch one after the other.

    An estimate is made of the whole batch's log-probabilities, since credit compares images; its gradient goes through
    them, so that it can be passed on to the parameters part by part.
    """
    task, network = trained.task, trained.network
    config = max((way.config for way in alike), key=lambda config: centred(config.estimator))
    device = next(network.parameters()).device

    def rollout(number: int) -> Rollout[Any, Any]:
        generator = step_generator(config.schedule.seed, n, number, device)
        return task.rollout(
            config, network, dataset.batch(parts[number]), Update(config.schedule.updates, 0, generator)
        )

    whole = rollout(0) if len(parts) == 1 else None
    numbers = [whole] if whole is not None else list(_without_gradient(rollout, len(parts)))
    coefficients = [_coefficients(way, numbers) for way in alike]
    gradients: list[list[Tensor | None]] = [[None] * len(way.spread.parameters) for way in alike]
    for number in range(len(parts)):
        part = rollout(number) if whole is None else whole
        for way, found, taken in zip(alike, gradients, coefficients, strict=True):
            through = {name: value for name in taken[number] if (value := getattr(part, name)).requires_grad}
            each = torch.autograd.grad(
                list(through.values()),
                way.spread.parameters,
                [taken[number][name] for name in through],
                retain_graph=True,
                allow_unused=True,
            )
            for i, gradient in enumerate(each):
                before = found[i]
                found[i] = gradient if before is None else before if gradient is None else before + gradient
    for way, found in zip(alike, gradients, strict=True):
        way.spread.add(found)


def _without_gradient(rollout: Callable[[int], Rollout[Any, Any]], parts: int) -> Iterator[Rollout[Any, Any]]:
    for number in range(parts):
        with torch.no_grad():
            yield rollout(number)


def _coefficients(way: _Way, parts: Sequence[Rollout[Any, Any]]) -> list[dict[str, Tensor]]:
    """How much of each log-probability's gradient a way's estimate takes, for each part of the batch."""
    steps = max(part.log_p_y.shape[-1] for part in parts)

    def padded(log_prob: Tensor) -> Tensor:
        return F.pad(log_prob.detach(), (0, steps - log_prob.shape[-1]))

    settings = way.config.estimator
    learns = settings.proposal == "inference"
    names = [name for name in LOG_PROBS if name != "mean_log_p_a" or centred(settings)]
    leaves = {
        name: torch.cat([padded(getattr(part, name)) for part in parts], 1).requires_grad_(learns or name != "log_q_a")
        for name in names
        if getattr(parts[0], name) is not None
    }
    given: dict[str, Any] = {"mean_log_p_a": None} | leaves
    if parts[0].ancestors is not None:
        given["ancestors"] = torch.cat([part.ancestors for part in parts if part.ancestors is not None], 1)
    estimate = way.estimate(replace(parts[0], **given))
    way.note(estimate)
    trained = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    found = torch.autograd.grad(estimate.loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    sizes = [part.log_p_y.shape[1] for part in parts]
    split = [
        [piece[..., : part.log_p_y.shape[-1]] for piece, part in zip(each.split(sizes, 1), parts, strict=True)]
        for each in found
    ]
    return [dict(zip(trained, pieces, strict=True)) for pieces in zip(*split, strict=True)]


def posterior(trained: Trained, *, batch: int = 128) -> dict[str, Any]:
    """How far policy and inference network are from the posterior, means over examples and their standard errors.

    Many samples for each validation example stand for the posterior, half of them from each network: the weights are
    bounded, whichever of the two is better.

    Args:
        trained: the network, with its inference network if it has one.
        batch: examples; fewer if there are no more.

    Returns:
        Nats: "policy", and "inference" if there is that network, with their "standard_errors"; "samples" and "images"
        that they are of.

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
    distances = {name: torch.cat(each) for name, each in found.items()}
    return {name: each.mean().item() for name, each in distances.items()} | {
        "standard_errors": {name: _standard_error(each) for name, each in distances.items()},
        "samples": REFERENCE,
        "images": count,
    }
