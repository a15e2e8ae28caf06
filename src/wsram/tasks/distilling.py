"""A pretrained network learns to see small what it sees large, before anything else is learned, and without answers.

What ImageNet taught, it taught of pictures of `SIDE` pixels: of a glimpse of 64, or a map's cell of 60, a network tells
far less than there is to be seen. So it is shown places of the training images twice, at its own size and as glimpses
and cells show them, and is taught to tell of the latter what it tells of the former.

Sources: Hinton, Vinyals & Dean 2015 (distillation), here of a network into itself; Touvron et al. 2019, that networks
tell less of pictures of another size than that they were taught with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.data import Dataset
from wsram.errors import UserError
from wsram.glimpse.contrast import source_in_contrast
from wsram.glimpse.pyramid import average_pool
from wsram.glimpse.sensor import Sensor
from wsram.glimpse.source import Held, Source, edges, in_unit
from wsram.models.classifier import AttentionClassifier
from wsram.models.layers import MapNetwork, MeanAndMost
from wsram.models.trunk import Trunk, fill_pretrained
from wsram.runtime import autocast
from wsram.tasks.task import Tell

SIDE = 224
"""Pixels along the side of the pictures that the networks were taught with."""
PLACES = 10_000
"""Places that are shown, the same ones in every epoch; of the last `HELD` of them, how well it was learned is said."""
HELD = 500
IMAGES = 16
"""Images that are read at a time."""
BATCH, RATE, DECAY, CLIP = 64, 5e-4, 0.01, 1.0
"""Of learning: pictures in an update, peak rate, weight decay, bound on the gradient's norm."""
RIDGE = 100.0
"""Penalty of squares of the linear layer that learning begins with."""


class Place(NamedTuple):
    """A rectangle of an image, in pixels; where it leaves the image there is black."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Reader:
    """What of a network sees small.

    trunk: the pretrained network.
    what: it reads, in words.
    side: of what it reads, in pixels.
    places: of a number of things to read in an image, drawn with a generator.
    small: of a place's pixels (channels, height, width), what is read (channels, side, side).
    """

    trunk: Trunk
    what: str
    side: int
    places: Callable[[Source, int, torch.Generator], list[Place]]
    small: Callable[[Tensor], Tensor]


def distil(network: AttentionClassifier, images: Dataset, *, epochs: int, seed: int, tell: Tell) -> tuple[str, ...]:
    """Teach the pretrained networks that read glimpses and a map's cells, all of their stages, to see small.

    Args:
        network: with the weights that ImageNet taught.
        images: of which places are shown, as they are in training's first epoch.
        epochs: how often each is shown.
        seed: of the places and the order in which they are shown.
        tell: of progress.

    Returns:
        A line of each network on how well it was learned.

    Raises:
        UserError: nothing in the network is pretrained, or all of it sees pictures of `SIDE` pixels.
    """
    readers = [reader for reader in readers_of(network) if reader.side < SIDE]
    if not readers:
        raise UserError(
            f"there is nothing to distil: no pretrained network reads glimpses, or cells of a map that are apart, of "
            f"less than {SIDE} pixels; ask for one (--network efficientnet-lite0), or leave --distil out"
        )
    lines = []
    for reader in readers:
        generator = torch.Generator().manual_seed(seed)
        small, large = shown(reader, network, images, generator, tell)
        before, after = taught(reader, small, large, network.precision, epochs, generator, tell)
        lines.append(
            f"distilled: of what {reader.trunk.name} tells of {len(small):,} places at {SIDE} pixels, it tells "
            f"{after:.0%} of {reader.what} of {reader.side} pixels, {before:.0%} before"
        )
    return tuple(lines)


def readers_of(network: AttentionClassifier) -> list[Reader]:
    """What of a network is pretrained and reads pictures of their own: glimpses, and a map's cells that are apart."""
    prediction = network.prediction
    sensor, seeing = prediction.sensor, prediction.view_network
    found = [
        Reader(trunk, "glimpses", sensor.patch_size, partial(glimpses_in, sensor), partial(_glimpse, sensor.patch_size))
        for trunk in prediction.glimpse_network.modules()
        if isinstance(trunk, Trunk)
    ]
    if isinstance(seeing, MapNetwork) and seeing.apart:
        along = prediction.view // seeing.stride
        small = partial(F.adaptive_avg_pool2d, output_size=(seeing.stride, seeing.stride))
        found += [
            Reader(trunk, "cells", seeing.stride, partial(cells_in, along), small)
            for trunk in seeing.modules()
            if isinstance(trunk, Trunk)
        ]
    return found


def glimpses_in(sensor: Sensor, image: Source, count: int, generator: torch.Generator) -> list[Place]:
    """Where `count` glimpses lie, at any scale and place, inside the image as far as they fit."""

    def first(extent: int, span: int) -> int:
        room = sorted((0, extent - span))
        return int(torch.randint(room[0], room[1] + 1, (), generator=generator))

    scales = torch.randint(len(sensor.scales), (count,), generator=generator).tolist()
    spans = [sensor.patch_size * sensor.scales[scale] for scale in scales]
    return [Place(first(image.height, span), first(image.width, span), span, span) for span in spans]


def cells_in(along: int, image: Source, count: int, generator: torch.Generator) -> list[Place]:
    """Where `count` cells of a map of `along` by `along` lie, all of them if there are fewer."""
    rows, columns = edges(image.height, along), edges(image.width, along)
    places = []
    for cell in torch.randperm(along**2, generator=generator)[:count].tolist():
        (top, bottom), (left, right) = rows[cell // along], columns[cell % along]
        places.append(Place(top, left, bottom - top, right - left))
    return places


def _glimpse(side: int, pixels: Tensor) -> Tensor:
    return average_pool(pixels, pixels.shape[-1] // side)


def _read(image: Source, place: Place) -> Tensor:
    """The pixels (channels, height, width) of a place, in [0, 1]."""
    top, left = max(0, place.top), max(0, place.left)
    bottom, right = min(image.height, place.top + place.height), min(image.width, place.left + place.width)
    inside = in_unit(image.read(top, left, bottom - top, right - left))
    around = left - place.left, place.left + place.width - right, top - place.top, place.top + place.height - bottom
    return F.pad(inside, around) if any(around) else inside


def shown(
    reader: Reader, network: AttentionClassifier, images: Dataset, generator: torch.Generator, tell: Tell
) -> tuple[Tensor, Tensor]:
    """Places as they are read, (places, channels, side, side) in half of float32's bytes; and what ImageNet tells.

    Returns:
        The former, and mean and largest value of each of the features that the network has of the places at `SIDE`
        pixels, (places, 2 * features).
    """
    device = next(network.parameters()).device
    teacher = Trunk(f"{reader.trunk.name}:{reader.trunk.stage}", images.spec.channels)
    fill_pretrained(teacher)
    tells = nn.Sequential(teacher, MeanAndMost()).to(device).eval()
    small: list[Tensor] = []
    whole: list[Tensor] = []
    large: list[Tensor] = []

    def encode() -> None:
        with torch.no_grad(), autocast(network.precision, device)():
            large.append(tells(torch.stack(whole).to(device)).float())
        whole.clear()

    used = torch.randperm(len(images), generator=generator)[:PLACES]
    each = -(-PLACES // len(used))
    for index in used.split(IMAGES):
        batch = images.batch(index.to(device), 0)
        for number in range(len(batch.images)):
            image = batch.images[number]
            source: Source = Held(image) if isinstance(image, Tensor) else image
            if network.prediction.sensor.contrast:
                source = source_in_contrast(source)
            for place in reader.places(source, each, generator):
                tell(f"shown at {SIDE} pixels: {reader.what}", len(small), each * len(used))
                pixels = _read(source, place)
                small.append(reader.small(pixels).half())
                whole.append(F.interpolate(pixels.unsqueeze(0), (SIDE, SIDE), mode="bilinear", antialias=True)[0])
                if len(whole) == BATCH:
                    encode()
    if whole:
        encode()
    return torch.stack(small), torch.cat(large)


def taught(
    reader: Reader,
    small: Tensor,
    large: Tensor,
    precision: str,
    epochs: int,
    generator: torch.Generator,
    tell: Tell,
) -> tuple[float, float]:
    """Teach a network to tell `large` of `small`, as `shown` gives them.

    Returns:
        The share of the variance of `large` that a linear layer on what the network tells of the last `HELD` places
        explains, before and after.
    """
    trunk, device, held = reader.trunk, large.device, max(1, min(HELD, len(large) // 4))
    wanted = (large - large.mean(0)) / (large.std(0) + 1e-4)
    pooled, context = MeanAndMost(), autocast(precision, device)

    def tells(pictures: Tensor) -> Tensor:
        with context():
            told: Tensor = pooled(trunk(pictures.to(device).float()))
        return told.float()

    with torch.no_grad():
        first = torch.cat([tells(part) for part in small.split(BATCH)])
    centre, spread = first.mean(0), first.std(0) + 1e-4
    x = (first[:-held] - centre) / spread
    layer = nn.Linear(x.shape[1], x.shape[1], device=device)
    with torch.no_grad():
        ridge = RIDGE * torch.eye(x.shape[1], device=device)
        layer.weight.copy_(torch.linalg.solve(x.mT @ x + ridge, x.mT @ wanted[:-held]).mT)
        layer.bias.zero_()

    def loss(places: Tensor) -> Tensor:
        return F.mse_loss(layer((tells(small[places]) - centre) / spread), wanted[places.to(device)])

    @torch.no_grad()
    def explained() -> float:
        losses = [len(part) * loss(part) for part in torch.arange(len(small) - held, len(small)).split(BATCH)]
        return 1 - float(torch.stack(losses).sum()) / held / float(wanted[-held:].square().mean())

    before = explained()
    learned = {parameter: parameter.requires_grad for parameter in trunk.parameters()}
    trunk.requires_grad_(True)
    parameters = [*learned, *layer.parameters()]
    each = -(-(len(small) - held) // BATCH)
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs * each, pct_start=0.1)
    for epoch in range(epochs):
        for n, places in enumerate(torch.randperm(len(small) - held, generator=generator).split(BATCH)):
            tell(f"learns to see small: {reader.what}", epoch * each + n, epochs * each)
            optimizer.zero_grad()
            loss(places).backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            schedule.step()
    for parameter, learns in learned.items():
        parameter.requires_grad_(learns)
        parameter.grad = None
    return before, explained()
