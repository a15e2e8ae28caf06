"""Where a training step's time goes, as ratios measured side by side: a machine may be noisy, ratios are less so."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from wsram.allocator import keep_freed_memory
from wsram.config import TrainConfig, to_json
from wsram.data.scenes import make_scenes, scene_spec
from wsram.errors import UserError
from wsram.estimators import estimator
from wsram.models.build import build_classifier
from wsram.provenance import provenance
from wsram.tasks.digits import exploration_terms
from wsram.training import build_optimizer, step_generator

KINDS = {
    "matrix products": ("mm", "linear", "matmul"),
    "convolutions": ("conv",),
    "pooling": ("pool",),
    "gathering": ("index", "gather", "unfold", "embedding"),
}
"""Parts of the names of torch's operators that tell what they do; the first that fits counts."""
MATMUL = 1024
"""Side of the square matrices whose product sets the machine's rate."""


def measure_step(config: TrainConfig, *, repeats: int, device: torch.device) -> dict[str, Any]:
    """Medians of a training step and its parts in milliseconds, its operations, and the machine's matrix-product rate.

    Digits are noise here, since time does not depend on them. The parts are timed in turn within each repeat, beside
    the matrix product, so that a slow moment of the machine touches all of them.

    Args:
        config: the run whose step is timed.
        repeats: steps timed.
        device: where.

    Returns:
        "milliseconds" by part, "operations" of one step (multiplications and additions, forward and backward, of matrix
        products and convolutions), "matmul_rate" and "step_rate" in operations a second, and "shares" of the forward
        and backward pass by kind of operator.

    Raises:
        UserError: fewer than 1 repeat.
    """
    if repeats < 1:
        raise UserError(f"repeats must be at least 1, got {repeats}")
    spec = scene_spec(config.data.scene)
    digits = torch.randint(256, (4096, 28, 28), dtype=torch.uint8, device=device)
    index = torch.arange(config.schedule.batch, device=device) % len(digits)
    labels = index % 10
    network = build_classifier(config.model, config.estimator, channels=1, classes=10).to(device)
    optimizer = build_optimizer(network, config.schedule)
    sensor = network.prediction.sensor
    low = torch.bfloat16 if config.schedule.precision == "bf16" else torch.float32
    square = torch.randn(2, MATMUL, MATMUL, device=device).to(low)
    shape = (config.estimator.samples, config.schedule.batch)
    location = torch.rand(*shape, 2, device=device) * 2 - 1
    scale = torch.randint(len(sensor.scales), shape, device=device)
    images = make_scenes(digits, index, spec, seed=0).images
    pyramid = sensor.pyramid(images)

    def forward() -> torch.Tensor:
        with torch.autocast(device.type, low, enabled=low != torch.float32):
            rollout = network(
                images, labels, samples=shape[0], generator=step_generator(0, 0, 0, device),
                temperature=config.exploration.temperature,
            )  # fmt: skip
        estimate = estimator(config.estimator.name)(
            rollout.log_p_y_glimpses,
            rollout.log_p_glimpses,
            rollout.log_q_glimpses,
            control_variates=config.estimator.control_variates,
            log_proposal=rollout.log_proposal_glimpses,
        )
        return estimate.loss + exploration_terms(config.exploration, rollout.policy)

    def cut() -> None:
        for _ in range(config.model.glimpses):
            sensor(pyramid, location, scale)

    with FlopCounterMode(display=False) as counter:
        forward().backward()
    spent: dict[str, list[float]] = {}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        _wait(device)
        began = time.perf_counter()
        result = work()
        _wait(device)
        spent.setdefault(part, []).append(1e3 * (time.perf_counter() - began))
        return result

    for repeat in range(repeats + 2):
        if repeat == 2:  # the first two warm caches and kernels up
            spent.clear()
        timed("matmul", lambda: square[0] @ square[1])
        timed("placement", lambda: make_scenes(digits, index, spec, seed=0))
        timed("pyramid", lambda: sensor.pyramid(images))
        timed("glimpses", cut)
        optimizer.zero_grad()
        loss = timed("forward", forward)
        timed("backward", loss.backward)
        timed("optimizer", optimizer.step)
    median = {part: statistics.median(times) for part, times in spent.items()}
    # The forward pass builds the pyramid and cuts the glimpses itself; placement is all that comes before it.
    median["step"] = sum(median[part] for part in ("placement", "forward", "backward", "optimizer"))
    operations = counter.get_total_flops()
    return {
        "milliseconds": median,
        "operations": operations,
        "matmul_rate": 2 * MATMUL**3 / median["matmul"] * 1e3,
        "step_rate": operations / median["step"] * 1e3,
        "shares": operator_shares(lambda: forward().backward(), device),
    }


def _kind(operator: str) -> str:
    """What an operator of torch does, as far as its name tells; all that moves or combines numbers is "elementwise"."""
    return next((kind for kind, names in KINDS.items() if any(name in operator for name in names)), "elementwise")


def operator_shares(step: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Share of a step's time by kind of operator, from torch's profiler over three steps; the shares sum to 1.

    Args:
        step: one step.
        device: where it runs; on CUDA the kernels' time counts, on the CPU the operators' own.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    # All events of the one cycle are kept anyway; said so, since some versions of torch warn about it otherwise.
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(3):
            step()
    spent = dict.fromkeys([*KINDS, "elementwise"], 0.0)
    for event in profiler.key_averages():
        spent[_kind(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: time / whole for kind, time in spent.items()}


def report_benchmark(
    config: TrainConfig, console: Console, *, repeats: int, save: Path | None = None
) -> dict[str, Any]:
    """Print a step's cost as ratios, with the settings they were measured at; on the CPU, also the allocator's share.

    Args:
        config: the run whose step is timed.
        console: prints there.
        repeats: steps timed.
        save: a JSON file to keep the figures in.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = measure_step(config, repeats=repeats, device=device) if device.type == "cpu" else None
    keep_freed_memory()
    result = measure_step(config, repeats=repeats, device=device)
    ms = result["milliseconds"]
    looking = ms["placement"] + ms["pyramid"] + ms["glimpses"]
    ratios = {
        "step_rate_over_matmul_rate": result["step_rate"] / result["matmul_rate"],
        "placement_and_glimpses_over_step": looking / ms["step"],
    }
    console.print(
        f"{config.schedule.batch} images × {config.estimator.samples} samples × {config.model.glimpses} glimpses, "
        f"{config.model.encoder} encoder, {config.model.recurrence} recurrence, {config.schedule.precision} precision"
    )
    console.print(f"matrix products ({MATMUL}³): {result['matmul_rate'] / 1e9:.0f} GFLOP/s")
    console.print(f"a step: {ms['step']:.1f} ms for {result['operations'] / 1e9:.2f} GFLOP")
    for part in ("placement", "forward", "backward", "optimizer"):
        console.print(f"  {part:10} {ms[part]:6.1f} ms  {ms[part] / ms['step']:4.0%} of the step")
    console.print(f"  (in forward: pyramid {ms['pyramid']:.1f} ms, glimpses {ms['glimpses']:.1f} ms)")
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in result["shares"].items())
    console.print(f"  forward and backward by kind of operator: {shares}")
    console.print(f"step's rate / matrix-product rate: {ratios['step_rate_over_matmul_rate']:.2f}")
    console.print(f"placement and glimpses / step: {ratios['placement_and_glimpses_over_step']:.3f}")
    if plain is not None:
        ratios["step_with_default_allocator_over_step"] = plain["milliseconds"]["step"] / ms["step"]
        console.print(f"step with glibc's default / kept memory: {ratios['step_with_default_allocator_over_step']:.2f}")
    record = {"ratios": ratios, "measured": result, "provenance": provenance(), "config": json.loads(to_json(config))}
    if save is not None:
        try:
            save.write_text(json.dumps(record, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {save} ({error.strerror}); choose another file with --save") from error
        console.print(f"Saved: {save}")
    return record


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
