"""Where an update's time goes, as ratios measured side by side: a machine may be noisy, ratios are less so."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from experiments.interleaved import Works, passes
from experiments.pages import keep, require_writable
from experiments.trials import wherever
from wsram.config import ClassificationConfig, Config, changed
from wsram.data import Dataset
from wsram.data.mnist import IDX_FILES
from wsram.errors import require_at_least
from wsram.provenance import provenance
from wsram.recipes import RECIPES
from wsram.runtime import keep_freed_memory
from wsram.schedule import fade, learning_rate
from wsram.settings import to_json
from wsram.tasks import TASKS, Update
from wsram.terminal import Screen
from wsram.training import build_optimizer, estimation, measures, resolved, step_generator

BENCHMARKED = {
    name: config
    for name, config in RECIPES.items()
    if config.task == "image-classification" and config.data.scene != "mosaic"
}
"""Recipes whose updates can be timed: those that take glimpses, but of photos, which nobody can make up."""
MADE_UP, DIGITS = "made-up", 4096
"""The name of data that no disk holds, and how many digits they are; time does not depend on what these show."""
KINDS = {
    "matrix products": ("mm", "linear", "matmul"),
    "convolutions": ("conv",),
    "pooling": ("pool",),
    "gathering": ("index", "gather", "unfold", "embedding"),
}
"""Parts of the names of torch's operators that tell what they do; the first that fits counts."""
MATMUL = 1024
"""Side of the square matrices whose product sets the machine's rate."""
WARM_UP = 2
"""Updates before the first that counts: they warm caches and kernels up."""


def timed(config: Config) -> Config:
    """The settings without those that no update's time depends on: where the data are, how long and how fast.

    Of a growing number of glimpses it is the last stage that is timed.
    """
    free = {
        **{"updates": 1, "learning_rate": 1.0, "warmup": 0, "weight_decay": 0.0, "clip": 1.0, "seed": 0},
        **{"evaluate_every": 1, "patience": 0, "variance_draws": 0},
        **{"validation": None, "glimpse_growth": 0.0, "choose": False},
    }
    sections = (config, config.data, config.schedule)
    known = {name: value for name, value in free.items() if any(hasattr(section, name) for section in sections)}
    return changed(wherever(config), **known)


@dataclass(frozen=True)
class UpdateWorks:
    """What an update is made of, to be timed; see `experiments.interleaved`.

    works: placement, forward, backward and optimizer, which are the update, in this order; before them pyramid and
        glimpses, which the forward pass makes by itself, and "matmul", the product of two matrices of side `MATMUL`.
    operations: multiplications and additions of one update's matrix products and convolutions, forward and backward.
    learn: the forward and the backward pass.
    optimizer: what takes the step.
    device: where it runs.
    """

    works: Works
    operations: int
    learn: Callable[[], None]
    optimizer: torch.optim.Optimizer
    device: torch.device


PARTS = ("placement", "forward", "backward", "optimizer")
"""What adds up to an update."""


def update_works(config: ClassificationConfig, examples: Dataset) -> UpdateWorks:
    """The last update that training would make, with as many glimpses as that takes.

    Args:
        config: the run whose update is timed, with nothing left to the machine or the data.
        examples: what it trains on.

    Raises:
        UserError: an estimator that cannot be trained in this way.
    """
    schedule, task, estimate_of = config.schedule, TASKS[config.task], estimation(config)
    AcceleratorState._reset_state()  # else it would keep the precision of the first benchmark of a process
    accelerator = Accelerator(mixed_precision=schedule.precision)
    device = accelerator.device
    torch.manual_seed(schedule.seed)
    examples = examples.to(device)
    network = task.build(config, examples.spec)
    model, optimizer = accelerator.prepare(network, build_optimizer(network, schedule))
    index = torch.arange(schedule.batch, device=device) % len(examples)
    step = schedule.updates - 1
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(schedule, step)

    def place() -> Any:
        return examples.batch(index, 0)

    def forward(batch: Any) -> Tensor:
        update = Update(step, 0, step_generator(schedule.seed, step, 0, device))
        rollout = task.rollout(config, model, batch, update)
        estimate = estimate_of(rollout)
        _ = measures(estimate) | task.measures(rollout)  # what training watches is part of what an update costs
        return estimate.loss + task.additions(config, rollout, fade(schedule, step))

    def change() -> None:
        accelerator.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        optimizer.zero_grad()

    sensor, batch = network.prediction.sensor, place()
    pyramid = sensor.pyramid(batch.images)
    shape = (config.estimator.samples, schedule.batch)
    location = torch.rand(*shape, 2, device=device) * 2 - 1
    scale = torch.randint(len(sensor.scales), shape, device=device)

    def cut() -> None:
        for _ in range(config.model.glimpses):
            sensor(pyramid, location, scale)

    with FlopCounterMode(display=False) as counter:
        accelerator.backward(forward(batch))
    low = torch.bfloat16 if schedule.precision == "bf16" else torch.float32
    square = torch.randn(2, MATMUL, MATMUL, device=device).to(low)
    now: dict[str, Any] = {}
    works: Works = {
        "matmul": lambda: square[0] @ square[1],
        "pyramid": lambda: sensor.pyramid(batch.images),
        "glimpses": cut,
        "placement": lambda: now.update(batch=place()),
        "forward": lambda: now.update(loss=forward(now["batch"])),
        "backward": lambda: accelerator.backward(now.pop("loss")),
        "optimizer": change,
    }
    return UpdateWorks(
        works, counter.get_total_flops(), lambda: accelerator.backward(forward(batch)), optimizer, device
    )


def measure_update(config: ClassificationConfig, examples: Dataset, *, repeats: int) -> dict[str, Any]:
    """Medians of an update and its parts in milliseconds, its operations, and the machine's matrix-product rate.

    The parts are timed in turn within each repeat, beside the matrix product, so that a slow moment of the machine
    touches all of them. The caller's random numbers are left as they were.

    Args:
        config: the run whose update is timed, with nothing left to the machine or the data.
        examples: what it trains on.
        repeats: updates timed.

    Returns:
        "milliseconds" by part, "operations" of one update (multiplications and additions, forward and backward, of
        matrix products and convolutions), "matmul_rate" and "update_rate" in operations a second, and "shares" of the
        forward and backward pass by kind of operator.

    Raises:
        UserError: fewer than 1 repeat, or as `update_works`.
    """
    require_at_least(1, repeats=repeats)
    with torch.random.fork_rng():
        update = update_works(config, examples)
        passes(update.works, WARM_UP, update.device)
        median = {part: statistics.median(t) for part, t in passes(update.works, repeats, update.device).items()}
        # The forward pass builds the pyramid and cuts the glimpses itself; placement is all that comes before it.
        median["update"] = sum(median[part] for part in PARTS)
        return {
            "milliseconds": median,
            "operations": update.operations,
            "matmul_rate": 2 * MATMUL**3 / median["matmul"] * 1e3,
            "update_rate": update.operations / median["update"] * 1e3,
            "shares": operator_shares(update.learn, update.device),
        }


def open_examples(config: ClassificationConfig) -> tuple[ClassificationConfig, Dataset]:
    """The settings with every choice made, and the training examples; `UserError` if they cannot be had.

    Made-up digits go through files, so that all is made of them that training makes of any.
    """
    task, config = TASKS[config.task], resolved(config)
    if config.data.source != MADE_UP:
        splits = task.open(config)
        return task.choose(config, splits)[0], splits.train
    generator = torch.Generator().manual_seed(config.schedule.seed)
    with TemporaryDirectory() as folder:
        images, labels = (Path(folder, name) for name in IDX_FILES["train"])
        _write_idx(images, torch.randint(256, (DIGITS, 28, 28), dtype=torch.uint8, generator=generator))
        _write_idx(labels, (torch.arange(DIGITS) % 10).to(torch.uint8))
        made_up = changed(config, source=folder, validation=1)
        splits = task.open(made_up)
        return changed(task.choose(made_up, splits)[0], source=MADE_UP, validation=None), splits.train


def _write_idx(path: Path, values: Tensor) -> None:
    lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + lengths + values.numpy().tobytes())


def _kind(operator: str) -> str:
    """What an operator of torch does, as far as its name tells; all that moves or combines numbers is "elementwise"."""
    return next((kind for kind, names in KINDS.items() if any(name in operator for name in names)), "elementwise")


def operator_shares(work: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Share of the time of some work by kind of operator, from torch's profiler over three turns; they sum to 1.

    Args:
        work: what is profiled.
        device: where it runs; on CUDA the kernels' time counts, on the CPU the operators' own.
    """
    cuda = device.type == "cuda"
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler says on the terminal when it starts and stops
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    # All events of the one cycle are kept anyway; said so, since some versions of torch warn about it otherwise.
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(3):
            work()
    spent = dict.fromkeys([*KINDS, "elementwise"], 0.0)
    for event in profiler.key_averages():
        spent[_kind(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: time / whole for kind, time in spent.items()}


def benchmark_update(
    config: ClassificationConfig, screen: Screen, *, repeats: int, save: Path | None = None
) -> dict[str, Any]:
    """Say what an update costs as ratios, with the settings they are of; on the CPU, the allocator's share too.

    Args:
        config: the run whose update is timed; its data may be `MADE_UP`.
        screen: where it is said.
        repeats: updates timed.
        save: a JSON file to keep the figures in.

    Raises:
        UserError: data that cannot be had, as `measure_update`, or a file that cannot be written.
    """
    require_writable(save)
    config, examples = open_examples(config)
    plain = None if torch.cuda.is_available() else measure_update(config, examples, repeats=repeats)
    keep_freed_memory()
    result = measure_update(config, examples, repeats=repeats)
    ms, shares = result["milliseconds"], result["shares"]
    ratios = {
        "update_rate_over_matmul_rate": result["update_rate"] / result["matmul_rate"],
        "placement_and_glimpses_over_update": (ms["placement"] + ms["pyramid"] + ms["glimpses"]) / ms["update"],
    }
    if plain is not None:
        ratios["update_with_default_allocator_over_update"] = plain["milliseconds"]["update"] / ms["update"]
    screen.say(
        f"{config.schedule.batch} images × {config.estimator.samples} samples × {config.model.glimpses} glimpses, "
        f"{config.model.network} glimpse network, {config.model.recurrence} recurrence, precision "
        f"{config.schedule.precision}"
    )
    screen.say(f"matrix products ({MATMUL}³): {result['matmul_rate'] / 1e9:.0f} GFLOP/s")
    screen.say(f"an update: {ms['update']:.1f} ms for {result['operations'] / 1e9:.2f} GFLOP")
    for part in PARTS:
        screen.say(f"  {part:10} {ms[part]:6.1f} ms  {ms[part] / ms['update']:4.0%} of the update")
    screen.say(f"  (in forward: pyramid {ms['pyramid']:.1f} ms, glimpses {ms['glimpses']:.1f} ms)")
    by_kind = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
    screen.say(f"  forward and backward by kind of operator: {by_kind}")
    for name, ratio in ratios.items():
        screen.say(f"{name.replace('_', ' ')}: {ratio:.3f}")
    record = {"ratios": ratios, "measured": result, "provenance": provenance(), "config": json.loads(to_json(config))}
    if save is not None:
        keep(save, record, screen)
    return record
