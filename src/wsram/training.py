"""The training loop, and going on with it exactly where it stopped.

Everything random in update n is a function of (seed, n): the scenes, their order and the actions. A checkpoint
therefore holds no generator states, and a resumed run repeats what the uninterrupted one would have done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, is_tensorboard_available
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from wsram.allocator import keep_freed_memory
from wsram.config import TrainConfig
from wsram.data.mnist import Digits, load_digits
from wsram.data.scenes import make_scenes, scene_spec
from wsram.diagnostics import effective_sample_size, scale_usage
from wsram.errors import UserError
from wsram.estimators import Estimate, estimator
from wsram.evaluation import evaluate_mean_action
from wsram.exploration import coverage_penalty, entropy_bonus
from wsram.models.build import build_classifier
from wsram.models.classifier import AttentionClassifier
from wsram.rollout import Rollout
from wsram.runs import Run, load_model, load_optimizer, load_state

LOG_EVERY = 50
"""Updates between rows of metrics.jsonl, which are means over them."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Adam's rate at update `step` (from 0): a linear rise over the warm-up, then a cosine to 0 at the last update."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup)) * fade(config, step)


def fade(config: TrainConfig, step: int) -> float:
    """A cosine from 1 at update 0 to 0 at the end of training."""
    return 0.5 * (1 + math.cos(math.pi * step / config.steps))


def glimpses_at(config: TrainConfig, step: int) -> int:
    """How many glimpses update `step` takes: 1 at first, one more in equal stages, all after `glimpse_growth`.

    Grown so, every glimpse joins a network that can already name what it is shown, and so looks for more of it. If all
    start at once, later glimpses first learn not to disturb the first one, by looking where there is nothing.
    """
    growing = config.glimpse_growth * config.steps
    if step >= growing:
        return config.model.glimpses
    return 1 + int((config.model.glimpses - 1) * step / growing)


def build_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Adam with decoupled weight decay over all of the network's parameters, θ and η alike."""
    return torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )


def step_generator(config: TrainConfig, step: int, process: int, device: torch.device) -> torch.Generator:
    """The generator of update `step`'s actions on one process, always the same for the same arguments."""
    return torch.Generator(device).manual_seed(((config.seed * 1_000_003 + step) * 1_000_003 + process) % 2**63)


def batches(config: TrainConfig, count: int, start: int) -> Iterator[tuple[int, int, Tensor]]:
    """(step, epoch, index (batch,)) from update `start` on: each epoch a new order of all digits, the rest dropped."""
    batch = min(config.batch, count)
    per_epoch = count // batch
    order, order_of = torch.empty(0), -1
    for step in range(start, config.steps):
        epoch, position = divmod(step, per_epoch)
        if epoch != order_of:
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
            order, order_of = torch.randperm(count, generator=generator), epoch
        yield step, epoch, order[position * batch : (position + 1) * batch]


def total_loss(config: TrainConfig, rollout: Rollout, estimate: Estimate, step: int) -> Tensor:
    """The estimator's surrogate plus the exploration terms that are switched on, faded; scalar, nats."""
    loss, explore = estimate.loss, config.exploration
    if explore.location_entropy or explore.scale_entropy:
        bonus = entropy_bonus(rollout.policy, location=explore.location_entropy, scale=explore.scale_entropy)
        loss = loss - fade(config, step) * bonus
    if explore.coverage:
        loss = loss + fade(config, step) * explore.coverage * coverage_penalty(rollout.policy)
    return loss


def measures(rollout: Rollout, estimate: Estimate) -> dict[str, Tensor]:
    """What is watched at every update, each a scalar or a (scales,) vector; detached."""
    with torch.no_grad():
        return {
            "loss": estimate.loss.detach(),
            "bound": estimate.bound.mean(),
            "log_evidence": estimate.log_evidence.mean(),
            "ess": effective_sample_size(estimate.weights).mean(),
            "location_std": rollout.policy.log_std.exp().mean(),
            "scale_entropy": rollout.policy.scale_entropy().mean(),
            "scale_usage": scale_usage(rollout.action.scale, rollout.policy.scale_logits.shape[-1]),
        }


def train(run: Run, console: Console, *, resume: bool = False) -> AttentionClassifier:
    """Train the run's network to its last update, writing metrics and checkpoints into its folder.

    Args:
        run: the folder, made here unless `resume`, and the settings.
        console: where the progress bar goes.
        resume: go on from the run's newest checkpoint, or from the beginning if it stopped before the first.

    Returns:
        The trained network.

    Raises:
        UserError: data that cannot be had, a batch the processes cannot share, a loss that is no longer finite (the
            last good checkpoint is kept), a disk that is full.
    """
    config = run.config
    AcceleratorState._reset_state()  # else a notebook could train with the precision of its first run alone
    accelerator = Accelerator(
        mixed_precision=config.precision,
        log_with="tensorboard" if is_tensorboard_available() else None,
        project_dir=run.folder,
        # With one glimpse, the upper layer's recurrence takes no part in an update.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=glimpses_at(config, 0) == 1)],
    )
    device, processes = accelerator.device, accelerator.num_processes
    if config.batch % processes:
        raise UserError(
            f"a batch of {config.batch} cannot be shared by {processes} processes; use a multiple of {processes}"
        )
    keep_freed_memory()
    spec = scene_spec(config.data.scene)
    surrogate = estimator(config.estimator.name)
    digits, held_out = (on(device, part) for part in load_digits_of(config))

    torch.manual_seed(config.seed)
    network = build_classifier(config.model, config.estimator, channels=1, classes=10)
    network.prediction.sensor.check(spec.canvas, spec.canvas)
    optimizer = build_optimizer(network, config)
    start, before = 0, 0.0
    if resume:
        if run.has_checkpoint():
            checkpoint = run.latest_checkpoint()
            state = load_state(checkpoint)
            load_model(network, checkpoint)
            load_optimizer(optimizer, checkpoint)
            start, before = state["step"], state["seconds"]
        if accelerator.is_main_process:
            run.forget_after(start)
    elif accelerator.is_main_process:
        run.begin()  # nothing is left behind by settings or data that turned out to be wrong before this point
    model, optimizer = accelerator.prepare(network, optimizer)
    accelerator.init_trackers("tensorboard")

    progress = Progress(
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not accelerator.is_main_process,
    )
    sums: dict[str, Tensor] = {}
    updates_summed, shown = 0, ""
    began = time.perf_counter() - before  # moved on by whatever is not training, so that `seconds` is training alone
    with progress:
        bar = progress.add_task("", total=config.steps, completed=start)
        for step, epoch, index in batches(config, len(digits.labels), start):
            mine = index[accelerator.process_index :: processes].to(device)
            images = make_scenes(digits.images, mine, spec, seed=config.seed, epoch=epoch).images
            glimpses = glimpses_at(config, step)
            rollout = model(
                images,
                digits.labels[mine],
                samples=config.estimator.samples,
                generator=step_generator(config, step, accelerator.process_index, device),
                temperature=config.exploration.temperature,
                glimpses=glimpses,
                defensive=config.estimator.defensive,
            )
            estimate = surrogate(
                rollout.log_p_y_glimpses,
                rollout.log_p_glimpses,
                rollout.log_q_glimpses,
                control_variates=config.estimator.control_variates,
                log_proposal=rollout.log_proposal_glimpses,
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            optimizer.zero_grad()
            accelerator.backward(total_loss(config, rollout, estimate, step))
            norm = accelerator.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()

            for name, value in (measures(rollout, estimate) | {"gradient_norm": norm.detach()}).items():
                sums[name] = sums[name] + value if name in sums else value
            updates_summed += 1
            done = step + 1
            evaluating = done % config.evaluate_every == 0 or done == config.steps
            if done % LOG_EVERY == 0 or evaluating:
                means = {name: accelerator.reduce(value / updates_summed, "mean") for name, value in sums.items()}
                row: dict[str, Any] = {name: value.tolist() for name, value in means.items()}
                sums, updates_summed = {}, 0
                now = time.perf_counter()
                row = {"step": done, "epoch": epoch, "seconds": now - began, "glimpses": glimpses} | row
                if evaluating:
                    row |= evaluate_mean_action(
                        network, held_out, spec, glimpses=glimpses, autocast=accelerator.autocast
                    )
                    shown = f"held-out error {row['error_mean_action']:.2%}"
                # The last update can ruin a network whose loss was still sound before it: look at what it left, too.
                watched = (row["loss"], row["gradient_norm"], row.get("nll_mean_action", 0.0))
                if not (all(map(math.isfinite, watched)) and _finite(network)):
                    raise UserError(_not_finite(run, done))
                if accelerator.is_main_process:
                    run.log(row)  # before the checkpoint: rows later than it are dropped on resuming, never missed
                    if evaluating:
                        run.save_checkpoint(network, optimizer.optimizer, {"step": done, "seconds": row["seconds"]})
                accelerator.log(_scalars(row), step=done)
                progress.update(bar, description=f"{_summary(row)}  {shown}")
                began += time.perf_counter() - now
            progress.update(bar, completed=done)
    accelerator.end_training()
    return network


def load_digits_of(config: TrainConfig) -> tuple[Digits, Digits]:
    """The training and held-out digits a config asks for."""
    data = config.data
    return load_digits(data.dataset, holdout=data.holdout, data_dir=data.data_dir, download=data.download)


def on(device: torch.device, digits: Digits) -> Digits:
    """The same digits on another device."""
    return Digits(digits.images.to(device), digits.labels.to(device))


def _summary(row: dict[str, Any]) -> str:
    scales = " ".join(f"{share:.0%}" for share in row["scale_usage"])
    return f"bound {row['bound']:.3f}  log-evidence {row['log_evidence']:.3f}  ESS {row['ess']:.2f}  scales {scales}"


def _scalars(row: dict[str, Any]) -> dict[str, float]:
    usage = {f"scale_usage/{n}": share for n, share in enumerate(row["scale_usage"])}
    return {name: value for name, value in row.items() if name != "scale_usage"} | usage


def _finite(network: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in network.parameters())


def _not_finite(run: Run, step: int) -> str:
    kept = f"the last good checkpoint is {run.latest_checkpoint()}" if run.has_checkpoint() else "no checkpoint yet"
    return (
        f"the loss or its gradient is no longer finite by update {step}; {kept}; try a lower --learning-rate or --clip"
    )
