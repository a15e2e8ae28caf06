"""The training loop, and going on with it exactly where it stopped.

Everything random in update n is a function of (seed, n): the order of the examples, what is made of them and the
actions. A checkpoint therefore holds no generator states, and a resumed run repeats what the uninterrupted one would
have done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, is_tensorboard_available
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from wsram.allocator import keep_freed_memory
from wsram.config import EstimatorConfig, ScheduleConfig
from wsram.diagnostics import effective_sample_size, gradient_variance
from wsram.errors import UserError
from wsram.estimators import Estimate, estimator, sleep
from wsram.rollout import Rollout
from wsram.runs import Run, load_model, load_optimizer, load_state
from wsram.tasks import Task, Update, build_task

LOG_EVERY = 50
"""Updates between rows of metrics.jsonl, which are means over them."""


def fade(schedule: ScheduleConfig, step: int) -> float:
    """A cosine from 1 at update 0 to 0 at the end of training."""
    return 0.5 * (1 + math.cos(math.pi * step / schedule.steps))


def learning_rate(schedule: ScheduleConfig, step: int) -> float:
    """Adam's rate at update `step` (from 0): a linear rise over the warm-up, then a cosine to 0 at the last update."""
    return schedule.learning_rate * min(1.0, (step + 1) / max(1, schedule.warmup)) * fade(schedule, step)


def build_optimizer(network: nn.Module, schedule: ScheduleConfig) -> torch.optim.AdamW:
    """Adam with decoupled weight decay over all of the network's parameters, θ and η alike."""
    return torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=schedule.weight_decay
    )


def step_generator(seed: int, step: int, process: int, device: torch.device) -> torch.Generator:
    """The generator of update `step`'s actions on one process, always the same for the same arguments."""
    return torch.Generator(device).manual_seed(((seed * 1_000_003 + step) * 1_000_003 + process) % 2**63)


def batches(schedule: ScheduleConfig, count: int, start: int) -> Iterator[tuple[int, int, Tensor]]:
    """(step, epoch, index (batch,)) from update `start` on: each epoch a new order, what is left over dropped."""
    batch = min(schedule.batch, count)
    per_epoch = count // batch
    order, order_of = torch.empty(0), -1
    for step in range(start, schedule.steps):
        epoch, position = divmod(step, per_epoch)
        if epoch != order_of:
            generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + epoch)
            order, order_of = torch.randperm(count, generator=generator), epoch
        yield step, epoch, order[position * batch : (position + 1) * batch]


def measures(estimate: Estimate) -> dict[str, Tensor]:
    """What is watched at every update of any network, scalars; detached."""
    with torch.no_grad():
        return {
            "loss": estimate.loss.detach(),
            "bound": estimate.bound.mean(),
            "log_evidence": estimate.log_evidence.mean(),
            "ess": effective_sample_size(estimate.weights).mean(),
        }


def estimation(settings: EstimatorConfig) -> Callable[[Rollout[Any, Any]], Estimate]:
    """What makes a rollout's estimate: the estimator with its settings, and the sleep phase if the model dreamt.

    Raises:
        UserError: an unknown estimator.
    """
    surrogate = estimator(settings.name)

    def estimate_of(rollout: Rollout[Any, Any]) -> Estimate:
        estimate = surrogate(
            rollout.log_p_y_glimpses,
            rollout.log_p_glimpses,
            rollout.log_q_glimpses,
            control_variates=settings.control_variates,
            log_proposal=rollout.log_proposal_glimpses,
        )
        return estimate if rollout.log_q_dreams is None else sleep(estimate, rollout.log_q_dreams, settings.sleep)

    return estimate_of


def variance_measures(
    task: Task,
    network: nn.Module,
    estimate_of: Callable[[Rollout[Any, Any]], Estimate],
    schedule: ScheduleConfig,
    step: int,
    device: torch.device,
) -> dict[str, float]:
    """How noisy the estimator's gradient is after update `step`, without exploration terms; nothing of it is applied.

    It is taken on the same examples every time, the first batch of them, so that figures along a run compare.

    Args:
        task: makes the rollouts.
        network: what the gradient is of.
        estimate_of: see `estimation`.
        schedule: names the seed, the batch and the number of draws.
        step: the update, on which the number of glimpses may depend.
        device: of the examples.

    Returns:
        For each group of parameters, "variance_GROUP" and "squared_norm_GROUP"; see `gradient_variance`.
    """
    index = torch.arange(min(schedule.batch, task.examples), device=device)

    def draw(n: int) -> Tensor:
        torch.manual_seed(schedule.seed)  # dropout is the same in every draw; only the actions differ
        update = Update(step, 0, index, step_generator(schedule.seed, n, 0, device))
        return estimate_of(task.rollout(network, update)).loss

    found = gradient_variance(draw, task.parameter_groups(network), schedule.variance_draws)
    return {f"{figure}_{group}": value for group, figures in found.items() for figure, value in figures.items()}


def train(run: Run[Any], console: Console, *, resume: bool = False) -> nn.Module:
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
    schedule = run.config.schedule
    AcceleratorState._reset_state()  # else a notebook could train with the precision of its first run alone
    accelerator = Accelerator(
        mixed_precision=schedule.precision,
        log_with="tensorboard" if is_tensorboard_available() else None,
        project_dir=run.folder,
        # Not every update reaches every parameter: with one glimpse, say, the upper layer's recurrence takes no part.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    device, processes = accelerator.device, accelerator.num_processes
    if schedule.batch % processes:
        raise UserError(
            f"a batch of {schedule.batch} cannot be shared by {processes} processes; use a multiple of {processes}"
        )
    keep_freed_memory()
    estimate_of = estimation(run.config.estimator)
    task: Task = build_task(run.config, device)
    torch.manual_seed(schedule.seed)
    network = task.build()
    optimizer = build_optimizer(network, schedule)
    start, before, best, stale = 0, 0.0, math.inf, 0
    if resume:
        if run.has_checkpoint():
            checkpoint = run.latest_checkpoint()
            state = load_state(checkpoint)
            load_model(network, checkpoint)
            load_optimizer(optimizer, checkpoint)
            start, before = state["step"], state["seconds"]
            best, stale = state.get("best", math.inf), state.get("stale", 0)
        if accelerator.is_main_process:
            run.forget_after(start)
    elif accelerator.is_main_process:
        run.begin(
            task.files()
        )  # nothing is left behind by settings or data that turned out to be wrong before this point
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
        bar = progress.add_task("", total=schedule.steps, completed=start)
        for step, epoch, index in batches(schedule, task.examples, start):
            if schedule.patience and stale >= schedule.patience:
                break
            mine = index[accelerator.process_index :: processes].to(device)
            generator = step_generator(schedule.seed, step, accelerator.process_index, device)
            torch.manual_seed(generator.initial_seed())  # for what takes no generator: dropout
            rollout = task.rollout(model, Update(step, epoch, mine, generator))
            estimate = estimate_of(rollout)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, step)
            optimizer.zero_grad()
            accelerator.backward(estimate.loss + fade(schedule, step) * task.exploration(rollout))
            norm = accelerator.clip_grad_norm_(model.parameters(), schedule.clip)
            optimizer.step()

            watched = measures(estimate) | task.measures(rollout) | {"gradient_norm": norm.detach()}
            for name, value in watched.items():
                sums[name] = sums[name] + value if name in sums else value
            updates_summed += 1
            done = step + 1
            evaluating = done % schedule.evaluate_every == 0 or done == schedule.steps
            if done % LOG_EVERY == 0 or evaluating:
                means = {name: accelerator.reduce(value / updates_summed, "mean") for name, value in sums.items()}
                row: dict[str, Any] = {name: value.tolist() for name, value in means.items()}
                sums, updates_summed = {}, 0
                now = time.perf_counter()
                row = {"step": done, "epoch": epoch, "seconds": now - began} | row
                if evaluating:
                    found = task.evaluate(network, step, accelerator.autocast)
                    row |= found
                    if schedule.variance_draws:
                        row |= variance_measures(task, network, estimate_of, schedule, step, device)
                    shown = f"held-out {task.watched.replace('_', ' ')} {found[task.watched]:.4g}"
                    stale = 0 if found[task.watched] < best else stale + 1
                    best = min(best, found[task.watched])
                # The last update can ruin a network whose loss was still sound before it: look at what it left, too.
                if not (all(map(math.isfinite, _scalars(row).values())) and _finite(network)):
                    raise UserError(_not_finite(run, done))
                if accelerator.is_main_process:
                    run.log(row)  # before the checkpoint: rows later than it are dropped on resuming, never missed
                    if evaluating:
                        state = {"step": done, "seconds": row["seconds"]}
                        if schedule.patience:
                            state |= {"best": best, "stale": stale}
                            if stale == 0:
                                run.save_best(network, state)
                        run.save_checkpoint(network, optimizer.optimizer, state)
                accelerator.log(_scalars(row), step=done)
                progress.update(bar, description=f"{_summary(row)}  {shown}")
                began += time.perf_counter() - now
            progress.update(bar, completed=done)
    accelerator.end_training()
    return network


def _summary(row: dict[str, Any]) -> str:
    lists = {name.replace("_", " "): value for name, value in row.items() if isinstance(value, list)}
    shares = [f"{name} {' '.join(f'{share:.0%}' for share in value)}" for name, value in lists.items()]
    shown = [f"bound {row['bound']:.3f}", f"log-evidence {row['log_evidence']:.3f}", f"ESS {row['ess']:.2f}", *shares]
    return "  ".join(shown)


def _scalars(row: dict[str, Any]) -> dict[str, float]:
    """Every number of a row by a name of its own."""
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    single = {f"{name}/{n}": share for name, value in lists.items() for n, share in enumerate(value)}
    return {name: value for name, value in row.items() if name not in lists} | single


def _finite(network: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in network.parameters())


def _not_finite(run: Run[Any], step: int) -> str:
    kept = f"the last good checkpoint is {run.latest_checkpoint()}" if run.has_checkpoint() else "no checkpoint yet"
    return (
        f"the loss or its gradient is no longer finite by update {step}; {kept}; try a lower --learning-rate or --clip"
    )
