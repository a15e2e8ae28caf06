"""The training loop of every task, and going on with it exactly where it stopped.

Everything random in update n is a function of (seed, n): the order of the examples, what is made of them and the
actions. A checkpoint therefore holds no generator states, and a resumed run repeats what the uninterrupted one would
have done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from torch import Tensor, nn

from wsram.checkpoints import Progress, load_checkpoint, write_checkpoint
from wsram.config import C, Config, ScheduleConfig, changed
from wsram.costs import require_room_for_network, require_room_for_update
from wsram.data import Dataset
from wsram.ending import Interrupted, agreed, moved, of_others, require_finite, signals
from wsram.errors import UserError
from wsram.estimators import ESTIMATORS, Estimate, estimator, sleep
from wsram.estimators.diagnostics import effective_sample_size, gradient_variance
from wsram.glimpse.draws import SharedGenerator
from wsram.models.pretrained import Network
from wsram.models.rollout import Rollout
from wsram.models.trunk import learning_groups, set_rate
from wsram.runs import Run
from wsram.runtime import best_device, best_precision, denormals_as_zero, keep_freed_memory
from wsram.schedule import batches, fade, learning_rate, paced
from wsram.tasks import TASKS, Task, Update
from wsram.terminal import Screen

LOG_EVERY = 50
"""Updates between rows of metrics.jsonl, which are means over them."""
SAY_EVERY = 60.0
"""Seconds between lines where there is no terminal to draw a bar on."""
BETAS = (0.9, 0.98)
"""Adam's; a shorter memory of squared gradients than usual, since the policy's change by orders of magnitude."""


def build_optimizer(network: nn.Module, schedule: ScheduleConfig) -> torch.optim.AdamW:
    """Adam with decoupled weight decay over all of the network's parameters, θ and η alike; see `learning_groups`."""
    groups, decay = learning_groups(network), schedule.weight_decay
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=BETAS, weight_decay=decay, fused=True)


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """The seed of what is drawn in update `step`, or in a part of it."""
    return ((seed * 1_000_003 + step) * 1_000_003 + part) % 2**63


def step_generator(seed: int, step: int, part: int, device: torch.device) -> torch.Generator:
    """The generator of update `step`'s actions, always the same for the same arguments."""
    return torch.Generator(device).manual_seed(step_seed(seed, step, part))


def seed_dropout(seed: int, step: int, process: int = 0) -> None:
    """Begin the stream of what takes no generator in update `step`: that of an update which never comes."""
    torch.manual_seed(step_seed(seed, step + 2**31, process))


def measures(estimate: Estimate) -> dict[str, Tensor]:
    """What is watched at every update of any network, scalars; detached."""
    with torch.no_grad():
        return {
            "loss": estimate.loss.detach(),
            "bound": estimate.bound.mean(),
            "log_evidence": estimate.log_evidence.mean(),
            "ess": effective_sample_size(estimate.weights).mean(),
        }


def estimation(config: Config) -> Callable[[Rollout[Any, Any]], Estimate]:
    """What makes a rollout's estimate: the estimator with its settings, and the sleep phase if the model dreamt.

    Raises:
        UserError: an unknown estimator, or one that cannot be trained in this way.
    """
    settings = config.estimator
    try:
        surrogate = estimator(
            settings.name,
            inference=settings.proposal == "inference",
            tempered=config.exploration.temperature != 1,
            defensive=settings.defensive > 0,
        )
    except ValueError as error:
        raise UserError(str(error)) from error

    entry = ESTIMATORS[settings.name]
    asked = [*(["mean_log_p_a"] if entry.centred else []), *(["ancestors"] if entry.resamples else [])]

    def estimate_of(rollout: Rollout[Any, Any]) -> Estimate:
        estimate = surrogate(
            rollout.log_p_y,
            rollout.log_p_a,
            rollout.log_q_a,
            control_variates=settings.control_variates,
            log_proposal=rollout.log_proposal,
            **{name: value for name in asked if (value := getattr(rollout, name)) is not None},
        )
        return estimate if rollout.log_q_dreams is None else sleep(estimate, rollout.log_q_dreams, settings.sleep)

    return estimate_of


def variance_measures(config: Config, network: Network, dataset: Dataset, step: int) -> dict[str, float]:
    """How noisy the estimator's gradient is after update `step`, without exploration terms; nothing of it is applied.

    It is taken on the same examples every time, the first batch of them, so that figures along a run compare.

    Args:
        config: names the task, estimator, seed, batch and number of draws.
        network: what the gradient is of.
        dataset: the training examples, on the network's device.
        step: the update, on which the number of glimpses may depend.

    Returns:
        For each group of parameters, "variance_GROUP" and "squared_norm_GROUP"; see `gradient_variance`.
    """
    task, schedule, estimate_of = TASKS[config.task], config.schedule, estimation(config)
    device = next(network.parameters()).device
    batch = dataset.batch(torch.arange(min(schedule.batch, len(dataset)), device=device), 0)

    def draw(n: int) -> Tensor:
        torch.manual_seed(schedule.seed)  # dropout is the same in every draw; only the actions differ
        update = Update(step, 0, step_generator(schedule.seed, n, 0, device))
        return estimate_of(task.rollout(config, network, batch, update)).loss

    found = gradient_variance(draw, task.parameter_groups(network), schedule.variance_draws)
    return {f"{figure}_{group}": value for group, figures in found.items() for figure, value in figures.items()}


def resolved(config: C) -> C:
    """The settings with every choice made that was left to the machine, as a run records them."""
    if config.schedule.precision != "auto":
        return config
    return changed(config, precision=best_precision(best_device()))


@runtime_checkable
class Watcher(Protocol):
    """What else is told of a run, on its main process; see `wsram.trackers.Trackers`."""

    def begin(self, folder: Path, step: int) -> None:
        """Training begins after update `step`."""

    def log(self, figures: dict[str, float], step: int) -> None:
        """A row of metrics, every number by a name of its own."""

    def look(self, task: Task, network: Network, validation: Dataset, step: int) -> None:
        """The network was evaluated; it is left as it is, and torch's random numbers may be drawn."""

    def end(self) -> None:
        """Training ends, one way or another."""


def train(run: Run[Any], screen: Screen, *, resume: bool = False, watcher: Watcher | None = None) -> Network:
    """Train the run's network to its last update, writing metrics and checkpoints into its folder.

    The caller's random numbers are left as they were.

    Args:
        run: the folder, made here unless `resume`, and the settings.
        screen: where the progress bar goes.
        resume: go on from the run's newest checkpoint.
        watcher: what else is told of it.

    Returns:
        The trained network.

    Raises:
        UserError: data that cannot be had, a batch the processes cannot share, a loss that is no longer finite (the
            last good checkpoint is kept), a disk that is full, a folder that another process trains into, or nothing to
            resume.
        Interrupted: a signal asked for it.
    """
    run = Run(run.folder, resolved(run.config))
    schedule = run.config.schedule
    estimation(run.config)  # refuses what cannot be trained before anything is loaded
    if resume:
        run.latest_checkpoint()
    AcceleratorState._reset_state()  # else a notebook could train with the precision of its first run alone
    accelerator = Accelerator(
        mixed_precision=schedule.precision,
        # A plain number would give way to what the environment says.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # Not every update reaches every parameter: with one glimpse, say, the upper layer's recurrence takes no part.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if schedule.batch % accelerator.num_processes:
        raise UserError(
            f"a batch of {schedule.batch} cannot be shared by {accelerator.num_processes} processes; use a multiple of "
            f"{accelerator.num_processes}"
        )
    if not resume and accelerator.is_main_process:
        run.require_new()
    keep_freed_memory()
    on_gpu = [accelerator.device] if accelerator.device.type == "cuda" else []  # by default, every one there is
    with torch.random.fork_rng(on_gpu), denormals_as_zero(), ExitStack() as held, signals() as asked:
        try:
            return _train(run, screen, accelerator, held, asked, resume, watcher)
        except RuntimeError as error:
            if accelerator.num_processes == 1 or not of_others(error):
                raise
            raise UserError(
                f"process {accelerator.process_index} ends, since another one of this training was lost; its last "
                f"checkpoint is kept: go on with `{run.resume_command}` in as many processes"
            ) from error


def _train(
    run: Run[Any],
    screen: Screen,
    accelerator: Accelerator,
    held: ExitStack,
    asked: list[int],
    resume: bool,
    watcher: Watcher | None,
) -> Network:
    config, task = run.config, TASKS[run.config.task]
    device, main, processes = accelerator.device, accelerator.is_main_process, accelerator.num_processes
    splits, estimate_of = task.open(config), estimation(config)
    config, chosen = task.choose(config, splits)
    run, schedule = Run(run.folder, config), config.schedule
    examples, validation = splits.train.to(device), splits.validation.to(device)
    require_room_for_network(config, examples.spec, device)
    torch.manual_seed(schedule.seed)
    network = task.build(config, examples.spec).to(device)
    optimizer = build_optimizer(network, schedule)
    progress = Progress()
    together = min(schedule.batch, len(examples))
    if together % processes:
        raise UserError(
            f"{together:,} training examples are one batch, which {processes} processes cannot share; use a --batch "
            "that they can"
        )
    where = {"processes": processes, "threads": torch.get_num_threads(), "device": device.type} | {
        "torch": torch.__version__
    }
    require_room_for_update(config, network, examples, processes)
    hashes = {"train": examples.fingerprint(), "validation": validation.fingerprint()} if main else {}
    if not resume:
        with screen.telling(shown=main) as tell:

            def told_until_asked(what: str, done: int, whole: int) -> None:
                tell(what, done, whole)
                if agreed(asked, accelerator):
                    raise KeyboardInterrupt  # there is no run yet, and nothing to keep

            chosen += task.begin(config, network, examples, told_until_asked)
    model, optimizer = accelerator.prepare(network, optimizer)
    lost = set[str]()

    def update(step: int, epoch: int, index: Tensor, rate: float) -> dict[str, Tensor]:
        mine = index[accelerator.process_index :: processes].to(device, non_blocking=True)
        generator = step_generator(schedule.seed, step, 0, device)
        if processes > 1:
            generator = SharedGenerator(generator.initial_seed(), device, accelerator.process_index, processes)
        seed_dropout(schedule.seed, step, accelerator.process_index)
        batch = examples.batch(mine, epoch)
        for text in sorted(set(batch.lost) - lost):
            screen.say(f"Skipped: {text}")
        lost.update(batch.lost)
        rollout = task.rollout(config, model, batch, Update(step, epoch, generator))
        estimate = estimate_of(rollout)
        set_rate(optimizer, rate)
        optimizer.zero_grad()
        accelerator.backward(estimate.loss + task.additions(config, rollout, fade(schedule, step)))
        norm = accelerator.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        return measures(estimate) | task.measures(rollout) | {"gradient_norm": norm.detach()}

    if schedule.minutes is not None:
        schedule, why = paced(
            schedule,
            schedule.minutes,
            # At a rate of 0 the weights stay; the moments, which do not, are dropped.
            lambda step: update(*next(batches(schedule, len(examples), step)), 0.0),
            lambda: task.validate(config, network, validation, schedule.updates - 1, accelerator.autocast),
            lambda seconds: float(accelerator.gather(torch.tensor([seconds], device=device)).max()),
        )
        optimizer.optimizer.state.clear()
        config, chosen = replace(config, schedule=schedule), (*chosen, why)
        run = Run(run.folder, config)
    if main:
        held.enter_context(run.lock())
    if resume:
        if main:
            run.check_data(hashes)
        state = load_checkpoint(run.latest_checkpoint(), network, optimizer)
        progress, chosen = Progress.from_state(state, device), chosen + moved(state.get("where"), where)
        if main:
            run.forget_after(progress.step)
            run.keep_settings()
            screen.say(f"Run: {run.folder} goes on after update {progress.step:,}")
    elif main:
        # Nothing is left behind by settings or data that turned out to be wrong before this point.
        run.begin(lambda folder: write_checkpoint(folder, network, optimizer, progress.to_json(where)), hashes)
        screen.say(f"Run: {run.folder} (if it stops, go on with `{run.resume_command}`)")
    if schedule.batch > len(examples):
        chosen += (f"all {len(examples):,} training examples are one batch, since {schedule.batch:,} were asked for",)
    if processes > 1 and config.exploration.coverage:
        chosen += ("each process rewards coverage by its own share of the batch, not by the whole",)
    for word, lines in (("Data", splits.notes), ("Chosen", chosen)) if main else ():
        for text in lines:
            screen.say(f"{word}: {text}")
    watcher = watcher if main else None
    if watcher is not None:
        held.callback(watcher.end)
        watcher.begin(run.folder, progress.step)

    def keep(*, best: bool = False) -> None:
        def write(folder: Path) -> None:
            write_checkpoint(folder, network, optimizer.optimizer, progress.to_json(where))

        run.save_checkpoint(progress.step, write, best=best)

    told, shown, said = set[str](), "", time.monotonic()
    began = time.perf_counter() - progress.seconds  # moved on by whatever is not training
    with screen.progress(shown=main) as bar:
        line = bar.add_task("", total=schedule.updates, completed=progress.step)
        for step, epoch, index in batches(schedule, len(examples), progress.step):
            if schedule.patience and progress.stale >= schedule.patience:
                break
            progress.add(update(step, epoch, index, learning_rate(schedule, step)))
            progress.step = step + 1

            evaluating = progress.step % schedule.evaluate_every == 0 or progress.step == schedule.updates
            if progress.step % LOG_EVERY == 0 or evaluating:
                row = _row(progress, epoch, accelerator, began)
                if evaluating:
                    found = task.validate(config, network, validation, step, accelerator.autocast)
                    row |= found
                    if schedule.variance_draws:
                        row |= variance_measures(config, network, examples, step)
                    shown = f"validation {task.watched.replace('_', ' ')} {found[task.watched]:.4g}"
                    progress.stale = 0 if found[task.watched] < progress.best else progress.stale + 1
                    progress.best = min(progress.best, found[task.watched])
                require_finite(
                    run, progress.step, network, torch.tensor([*_scalars(row).values()], dtype=torch.float64)
                )
                if main:
                    wrong = task.troubles(config, network, validation, row, accelerator.autocast) if evaluating else {}
                    for name in [each for each in wrong if each not in told]:
                        screen.say(f"Look out, after update {progress.step:,}: {wrong[name]}")
                        told.add(name)
                    run.log(row)  # before the checkpoint: rows later than it are dropped on resuming, never missed
                    if evaluating:
                        if schedule.patience and progress.stale == 0:
                            keep(best=True)
                        keep()
                if watcher is not None:
                    watcher.log(_scalars(row), progress.step)
                    if evaluating:
                        watcher.look(task, network, validation, progress.step)
                summary = f"{shown}  {_summary(row)}".strip()
                bar.update(line, description=summary)
                if main and not screen.moves and (evaluating or time.monotonic() - said > SAY_EVERY):
                    screen.say(f"{progress.step}/{schedule.updates}  {summary}")
                    said = time.monotonic()
                began = time.perf_counter() - progress.seconds
            bar.update(line, completed=progress.step)
            if stopped := agreed(asked, accelerator):
                require_finite(run, progress.step, network, *progress.sums.values())
                progress.seconds = time.perf_counter() - began
                if main:
                    keep()
                raise Interrupted(stopped, run.resume_command)
    accelerator.end_training()
    if lost:
        screen.say(f"{len(lost):,} of {len(examples):,} training examples could not be read, and were skipped")
    return network


def _row(progress: Progress, epoch: int, accelerator: Accelerator, began: float) -> dict[str, Any]:
    """A row of metrics, means over the updates since the last one and over processes; the sums begin anew."""
    means = {name: accelerator.reduce(value / progress.count, "mean") for name, value in progress.sums.items()}
    progress.sums, progress.count = {}, 0
    figures = {name: value.tolist() for name, value in means.items()}
    progress.seconds = time.perf_counter() - began  # once an accelerator has done all that it was given
    return {"step": progress.step, "epoch": epoch, "seconds": progress.seconds} | figures


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
