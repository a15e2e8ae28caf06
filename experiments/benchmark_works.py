"""What the benchmark times: updates, predictions, the sensor beside what one would use instead, training by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmark_update import MADE_UP, MATMUL, PARTS, open_examples, update_works
from experiments.interleaved import Works
from experiments.unbatched import RecurrentAttention, glimpses
from wsram.config import ClassificationConfig, changed
from wsram.estimators import variational, wake_sleep
from wsram.glimpse.sensor import Sensor
from wsram.models.classifier import AttentionClassifier
from wsram.recipes import RECIPES
from wsram.runtime import autocast
from wsram.tasks import TASKS

UPDATES = ("paper", "quarter-hour", "best")
"""Recipes whose update is timed by part."""
PREDICTIONS = ("quarter-hour", "best")
"""Recipes whose network predicts."""
BATCHES = (1, 512)
"""Images that are predicted together."""
SENSED = ((128, 1, 100), (128, 3, 224), (16, 1, 800), (16, 1, 1500), (16, 3, 1500))
"""Images, channels and side of what the sensor cuts from."""
TRAINED = ((128, 100), (128, 224), (4, 1500))
"""Images of one channel in a batch, and their side, of training beside the usual way."""
GLIMPSES, PATCH, SCALES, SAMPLES = 4, 16, (1, 2, 3), 5
"""Of the sensor and of training beside the usual way: the paper's."""


@dataclass(frozen=True)
class Ratio:
    """How a work's time compares: factor · time of `over` / time of `under`, in the same repeat."""

    over: str
    under: str
    factor: float = 1.0


@dataclass(frozen=True)
class Group:
    """Works that are timed in turn.

    name: of all of them.
    works: what is timed.
    sums: works that are one thing together.
    ratios: by name, larger being better.
    hidden: works that no figure is of by themselves.
    """

    name: str
    works: Works
    sums: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    hidden: Sequence[str] = ()


def update(recipe: str, precision: str, device: torch.device) -> Group:
    """An update of a recipe by part, as `experiments.benchmark_update` has it, on made-up digits."""
    config, examples = open_examples(_made_up(recipe, precision))
    made = update_works(config, examples)
    reached = Ratio("matmul", "update", made.operations / (2 * MATMUL**3))
    ratios = {"share of the rate of matrix products": reached}
    return Group(f"update, {recipe}", made.works, {"update": PARTS}, ratios, ("matmul",))


def prediction(recipe: str, precision: str, device: torch.device) -> Group:
    """The answer to 100×100 images at the mode, one alone and many together."""
    config, examples = open_examples(_made_up(recipe, precision))
    network: Any = TASKS[config.task].build(config, examples.spec).to(device).eval()
    context = autocast(precision, device)

    def predict(images: Tensor) -> None:
        with torch.inference_mode(), context():
            network.predict(images)

    works = {f"batch {n}": partial(predict, torch.rand(n, 1, 100, 100, device=device)) for n in BATCHES}
    few, many = BATCHES
    ratio = Ratio(f"batch {few}", f"batch {many}", many / few)
    return Group(f"prediction, {recipe}", works, ratios={f"images/s of {many} together over {few} alone": ratio})


def _made_up(recipe: str, precision: str) -> ClassificationConfig:
    return changed(cast(ClassificationConfig, RECIPES[recipe]), source=MADE_UP, precision=precision)


def sampled(images: Tensor, location: Tensor, step: Tensor) -> Tensor:
    """Glimpses by `torch.nn.functional.grid_sample`: `step` pixels from one value to the next, none averaged.

    Args:
        images: (batch, channels, height, width).
        location: (batch, 2) as of `wsram.glimpse`.
        step: (batch,) pixels.
    """
    size = torch.tensor([images.shape[-1] - 1, images.shape[-2] - 1], device=images.device)
    away = torch.arange(PATCH, device=images.device) - (PATCH - 1) / 2
    x, y = (location.view(-1, 1, 2) + 2 * (step.view(-1, 1) * away).unsqueeze(-1) / size).unbind(-1)
    across, down = torch.broadcast_tensors(x.unsqueeze(-2), y.unsqueeze(-1))
    grid = torch.stack([across, down], -1).to(images.dtype)
    return F.grid_sample(images, grid, align_corners=True)


def sensor(count: int, channels: int, side: int, precision: str, device: torch.device) -> Group:
    """Four glimpses of every image at places and scales of their own, one after the other as a policy takes them.

    Ours averages, as a pyramid or window by window; the padded loop averages image by image, grid_sample not at all.
    """
    ours = Sensor(PATCH, SCALES)
    images = torch.rand(count, channels, side, side, device=device)
    images = images.bfloat16() if precision == "bf16" else images
    location = torch.rand(GLIMPSES, count, 2, device=device) * 2 - 1
    scale = torch.randint(len(SCALES), (GLIMPSES, count), device=device)
    factors = torch.tensor(SCALES, device=device)[scale]
    numbers = factors.tolist()
    now: dict[str, Any] = {}

    def each(cut: Callable[[int], object]) -> Callable[[], None]:
        def work() -> None:
            for n in range(GLIMPSES):
                cut(n)

        return work

    works = {
        "pyramid": lambda: now.update(pyramid=ours.pyramid(images, GLIMPSES)),
        "glimpses": each(lambda n: ours(now["pyramid"], location[n], scale[n])),
        "grid_sample": each(lambda n: sampled(images, location[n], factors[n])),
        "padded loop": each(lambda n: glimpses(images, location[n], PATCH, numbers[n])),
    }
    ratios = {f"times as fast as {other}": Ratio(other, "sensor") for other in ("grid_sample", "padded loop")}
    return Group(f"sensor, {count}×{channels}×{side}²", works, {"sensor": ("pyramid", "glimpses")}, ratios)


def training(count: int, side: int, precision: str, device: torch.device) -> Group:
    """Training steps of the paper's network beside `RecurrentAttention`, on images that are there already."""
    context = autocast(precision, device)
    images, labels = torch.rand(count, 1, side, side, device=device), torch.arange(count, device=device) % 10

    def learning(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            with context():
                value = loss()
            value.backward()
            optimizer.step()

        return step

    def ours(samples: int) -> Callable[[], None]:
        names, inference = tuple("0123456789"), samples > 1
        network = AttentionClassifier(names=names, glimpses=GLIMPSES, patch=PATCH, scales=SCALES, inference=inference)
        generator = torch.Generator(device).manual_seed(0)

        def loss() -> Tensor:
            rollout = network(images, labels, samples=samples, generator=generator)
            parts = rollout.log_p_y, rollout.log_p_a, rollout.log_q_a
            return (wake_sleep(*parts) if inference else variational(*parts, control_variates=False)).loss

        return learning(network.to(device), loss)

    def by_hand(scales: int) -> Callable[[], None]:
        network = RecurrentAttention(glimpses=GLIMPSES, patch=PATCH, scales=scales).to(device)
        return learning(network, lambda: network(images, labels)[0])

    one, many = "wsram, M = 1", f"wsram, M = {SAMPLES}, inference network"
    mine = {one: ours(1), many: ours(SAMPLES)}
    others = {f"by hand, {n} scale{'s' * (n > 1)}": by_hand(n) for n in (len(SCALES), 1)}
    with FlopCounterMode(display=False) as counter:
        mine[one]()
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    square = torch.rand(2, MATMUL, MATMUL, device=device).to(low)
    ratios = {}
    for other in others:
        ratios[f"images/s at M = 1 over {other}"] = Ratio(other, one)
        # Had an update been nothing but its matrix products, at the rate of large ones.
        most = Ratio(other, "matmul", 2 * MATMUL**3 / counter.get_total_flops())
        ratios[f"the same, if ours were its matrix products alone, over {other}"] = most
        ratios[f"sequences/s at M = {SAMPLES} over {other}"] = Ratio(other, many, SAMPLES)
    works = {**mine, **others, "matmul": lambda: square[0] @ square[1]}
    return Group(f"training, {count}×{side}²", works, {}, ratios, ("matmul",))


KINDS: dict[str, list[Callable[[str, torch.device], Group]]] = {
    "update": [partial(update, recipe) for recipe in UPDATES],
    "prediction": [partial(prediction, recipe) for recipe in PREDICTIONS],
    "sensor": [partial(sensor, *shape) for shape in SENSED],
    "training": [partial(training, *shape) for shape in TRAINED],
}
"""What is timed, by name: groups of a precision, "no" (float32) or "bf16", on a device."""
