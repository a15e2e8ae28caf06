"""A convolutional network that sees all of every image, trained on the same examples as a network that glances."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.costs import cost, cost_of_images
from experiments.glimpsed import of_classes
from experiments.pages import require_writable, shown
from wsram.config import ScheduleConfig
from wsram.data import Dataset
from wsram.errors import UserError, require_at_least
from wsram.evaluate import open_trained
from wsram.models.layers import MeanAndMost
from wsram.provenance import provenance
from wsram.runtime import Autocast, autocast, best_device, best_precision, denormals_as_zero, keep_freed_memory
from wsram.schedule import batches, learning_rate
from wsram.tables import Table
from wsram.tasks.measuring import evaluate_mode
from wsram.terminal import Screen

STEP = 4
"""Channels of the first convolution are a multiple of this."""
TOGETHER = 200
"""Images that are answered together."""
TIMED = 30
"""Images answered one by one, against the clock."""


class SixConvolutions(nn.Sequential):
    """Six convolutions of 3×3, halved after every second one; mean and largest value of each feature; classes.

    Args:
        channels: of the images.
        width: channels of the first two convolutions; the others have two and four times as many.
        classes: that are told apart.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        layers: list[nn.Module] = []
        for outputs in (width, 2 * width, 4 * width):
            for _ in range(2):
                layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, MeanAndMost(), nn.Linear(2 * channels, classes))


def yardstick(
    name: str,
    source: str | None,
    screen: Screen,
    *,
    test: bool,
    times: float,
    updates: int,
    rate: float,
    seed: int,
    to: Path | None,
) -> dict[str, Any]:
    """Train such a network and show its error beside that of a network that glances, on the same images.

    Args:
        name: of the network that glances.
        source: the images, if they are not where that one was trained from.
        screen: where it is shown.
        test: measure on the test images rather than those of validation.
        times: it is as wide as makes it this many times the multiply-adds of the other, at least.
        updates: of it, in batches of as many images as the other was trained with, anew in every epoch like its own.
        rate: peak of Adam's rate, which rises and falls as the other's.
        seed: of the initial weights and the order of the images.
        to: a JSON file to keep the figures in.

    Raises:
        UserError: a network that does not tell classes apart, images that are not of one size, or none.
    """
    require_writable(to)
    require_at_least(1, updates=updates, times=times)
    trained = open_trained(name, source=source)
    network, device = of_classes(trained), best_device()
    examples, dataset = trained.splits.train.to(device), trained.examples(test=test)
    keep_freed_memory()
    own = autocast(network.precision, device)
    glances = cost_of_images(network.predict, dataset, TIMED, own)
    torch.manual_seed(seed)
    width, classes = STEP, len(examples.spec.names)
    while _adds(examples, width, classes) < times * glances["multiply_adds"]:
        width += STEP
    whole = SixConvolutions(examples.spec.channels, width, classes).to(device)
    schedule = ScheduleConfig(updates, batch=trained.config.schedule.batch, learning_rate=rate, seed=seed)
    context = autocast(best_precision(device), device)
    whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with denormals_as_zero():
        seconds = _train(whole, examples, schedule, context, screen)
    rows = {
        "glances": {
            "error": evaluate_mode(network, dataset, autocast=own)["error_mode"],
            "parameters": sum(p.numel() for p in network.parameters()),
            **glances,
        },
        "sees everything": {
            "error": _wrong(whole, dataset, context),
            "parameters": sum(p.numel() for p in whole.parameters()),
            **cost_of_images(whole, dataset, TIMED, context),
        },
    }
    found = {
        "network": trained.name,
        "set": "test" if test else "validation",
        "images": len(dataset),
        "width": width,
        "updates": updates,
        "learning_rate": rate,
        "seed": seed,
        "training_seconds": seconds,
        "threads": torch.get_num_threads(),
        "ways": rows,
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to)


def table(found: dict[str, Any]) -> Table:
    """The figures as a table."""
    rows = [
        [
            way,
            f"{row['error']:.2%}",
            f"{row['multiply_adds']:,.1f}",
            f"{row['parameters']:,}",
            f"{row['milliseconds']:.1f}",
        ]
        for way, row in found["ways"].items()
    ]
    title = (
        f"{found['network']} and a convolutional network, {found['updates']:,} updates in "
        f"{found['training_seconds']:.0f} s: {found['images']:,} {found['set']} images"
    )
    return Table(title, ["what looks", "error", "million multiply-adds", "parameters", "ms an image"], rows)


def _whole(images: Any) -> Tensor:
    if not isinstance(images, Tensor):
        raise UserError("images are not of one size, or not held whole; name a network that was trained on such images")
    return images


def _adds(examples: Dataset, width: int, classes: int) -> float:
    """Million multiply-adds of one image."""
    image = _whole(examples.batch(torch.tensor([0])).images)
    network = SixConvolutions(examples.spec.channels, width, classes).to(image.device).eval()
    return cost([lambda: network(image)])["multiply_adds"]


def _train(network: nn.Module, examples: Dataset, schedule: ScheduleConfig, context: Autocast, screen: Screen) -> float:
    """Train it to the end; the seconds that it took."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=0.01, fused=True)
    began, said = time.monotonic(), time.monotonic()
    for step, epoch, index in batches(schedule, len(examples), 0):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, step)
        batch = examples.batch(index, epoch)
        with context():
            outputs = network(_whole(batch.images).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(outputs.float(), batch.answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if time.monotonic() - said > 60:
            screen.say(f"{step + 1}/{schedule.updates}  loss {loss.item():.4f}")
            said = time.monotonic()
    network.eval()
    return time.monotonic() - began


def _wrong(network: nn.Module, dataset: Dataset, context: Autocast) -> float:
    """The share of images that are named wrongly by the largest output."""
    wrong = 0
    with torch.inference_mode():
        for index in torch.arange(len(dataset)).split(TOGETHER):
            batch = dataset.batch(index)
            with context():
                outputs = network(batch.images)
            wrong += int((outputs.argmax(-1) != batch.answers).sum())
    return wrong / len(dataset)
