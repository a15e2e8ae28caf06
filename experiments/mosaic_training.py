"""Teach a network to look at mosaics from features that are made once: nothing that is frozen is run twice.

An update on pixels runs the frozen encoder over every glimpse and the first stages of it over the view, which is all
but a few per cent of its time. Here the view's features are made once for a number of training mosaics, and a glimpse's
are those of the nearest of nine glimpses in each photo that it lies on, weighed by how much of it lies there. What
learns is the network itself, with the estimator and settings of the recipe `mosaic`; it is written as any network is,
and looks at pixels from then on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.mosaic import encoder_of
from experiments.tiled import Tiled
from wsram.config import ClassificationConfig, changed
from wsram.data.mosaic import Mosaic, Mosaics
from wsram.evaluate import make_folder
from wsram.glimpse.policies import Cells, contrast_of
from wsram.models.classifier import AttentionClassifier
from wsram.models.layers import MapNetwork
from wsram.models.pretrained import save_network
from wsram.models.trunk import set_rate
from wsram.provenance import provenance
from wsram.recipes import RECIPES
from wsram.runs import SETTINGS, write_whole
from wsram.runtime import autocast, denormals_as_zero
from wsram.schedule import batches, fade, learning_rate
from wsram.settings import to_json
from wsram.tasks import TASKS
from wsram.terminal import Screen
from wsram.training import build_optimizer, estimation, resolved, seed_dropout, step_generator

SHIFTS = 3
"""Glimpses along each side of a photo whose features are made."""
PIXELS_BATCH, PIXELS_RATE = 8, 5e-4
"""Images of an update on pixels, and its peak learning rate."""
Given = tuple[Any, Tensor]
"""Images, in whatever form, and their answers (batch,)."""
Made = dict[str, Tensor]
"""What a file holds."""
TOGETHER = 8
"""Mosaics whose views are encoded together."""


@dataclass(frozen=True)
class Encoded:
    """A batch of mosaics as features; see `wsram.glimpse.source.Glimpsable`.

    photos: (photos, shifts, features) of glimpses in the photos, see `shifts`.
    places: (batch, rows, columns) int64, which of them lies where.
    seen: (batch, channels + 3, cells, cells) of the view: its features, contrast and offsets.
    side: of a photo, in pixels.
    factors: (1,) int64, the sensor's scale.
    """

    photos: Tensor
    places: Tensor
    seen: Tensor
    side: int
    factors: Tensor

    def __len__(self) -> int:
        """How many mosaics there are."""
        return len(self.places)

    @property
    def channels(self) -> int:
        """Features of a glimpse."""
        return self.photos.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.photos.device

    @property
    def reach(self) -> Tensor:
        """(batch, 2) half the way from the centre of the first column and row of pixels to that of the last."""
        rows, columns = self.places.shape[1:]
        return (torch.tensor([[columns, rows]]) * self.side - 1).expand(len(self), 2) / 2

    def view(self, side: int) -> Tensor:
        """The view's features, in place of the view."""
        return self.seen

    def windows(self, scale: Tensor, column: Tensor, row: Tensor, side: int) -> Tensor:
        """(..., batch, features, 2, 2), at every place the mean of the photos that a window lies on, by how much does.

        Of a photo that a window lies on counts the glimpse in the photo that is nearest to the window. Of what is read
        a sensor interpolates a row and a column less: one feature vector.
        """
        k = self.factors[scale].unsqueeze(-1)
        room, along_shifts = self.side - (side - 1) * k, math.isqrt(self.photos.shape[1])
        touched, nearest = [], []
        for first, along in zip((row, column), self.places.shape[1:], strict=True):
            edge = self.side * torch.arange(along)
            inside = torch.minimum(first * k + (side - 1) * k, edge + self.side) - torch.maximum(first * k, edge)
            touched.append((inside.clamp(min=0) / ((side - 1) * k)).topk(2, -1))  # no window is wider than a photo
            off = (first * k - edge[touched[-1].indices]) / room.clamp(min=1)
            nearest.append((off.clamp(0, 1) * (along_shifts - 1)).round().long())
        (down, rows), (across, columns) = touched
        image = torch.arange(len(self)).view(-1, 1, 1)
        shift = nearest[0].unsqueeze(-1) * along_shifts + nearest[1].unsqueeze(-2)
        found = self.photos[self.places[image, rows.unsqueeze(-1), columns.unsqueeze(-2)], shift]  # ..., 2, 2, features
        shares = down.unsqueeze(-1) * across.unsqueeze(-2)
        features = (shares.unsqueeze(-1) * found).sum((-3, -2))
        return features[..., None, None].expand(*features.shape, 2, 2)

    def select(self, index: Tensor) -> Encoded:
        """The mosaics numbered `index`."""
        return replace(self, places=self.places[index], seen=self.seen[index])


class _Seeing(nn.Module):
    """In place of a map's network: the part of it that learns, on features that were made before."""

    def __init__(self, network: MapNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, seen: Tensor) -> Cells:
        """The cells of views whose features these are, see `Encoded`."""
        return self.network.cells(seen[:, :-3], seen[:, -3].flatten(1), seen[:, -2:].flatten(-2).mT)


@dataclass(frozen=True)
class Features:
    """Mosaics as features.

    photos, places, seen: see `Encoded`; `seen` in half of float32's bytes, 100 kB a mosaic.
    answers: (mosaics,) int64.
    decides: (mosaics, rows, columns) bool, the photos that decide; for figures, never for training.
    factors: (1,) int64, the sensor's scale.
    """

    photos: Tensor
    places: Tensor
    seen: Tensor
    answers: Tensor
    decides: Tensor
    factors: Tensor

    def __len__(self) -> int:
        """How many mosaics there are."""
        return len(self.answers)

    def images(self, index: Tensor, side: int) -> Encoded:
        """Mosaics numbered `index`, of photos of that side in pixels."""
        return Encoded(self.photos, self.places[index], self.seen[index].float(), side, self.factors)

    @torch.no_grad()
    def measured(self, network: AttentionClassifier, side: int) -> dict[str, float]:
        """Error of the mode, and of mosaics where a photo decides the share with a glimpse's middle on such a photo.

        Args:
            network: within `reading_features`.
            side: of a photo, in pixels.
        """
        network.eval()
        wrong, found = 0.0, 0.0
        size = torch.tensor(self.places.shape[1:])
        for index in torch.arange(len(self)).split(50):
            with autocast(network.precision, torch.device("cpu"))():
                looked = network.predict(self.images(index, side))
            wrong += float((looked.outputs.argmax(-1) != self.answers[index]).sum())
            row, column = ((looked.action.location.flip(-1) + 1) * size / 2).long().minimum(size - 1).unbind(-1)
            found += float(self.decides[index.unsqueeze(-1), row, column].any(-1).sum())
        network.train()
        there = self.decides.flatten(1).any(-1).sum()
        return {"validation_error": wrong / len(self), "looked_at": found / max(1, int(there))}


def features_of(folder: Path, network: AttentionClassifier, dataset: Tiled, count: int, epoch: int | None) -> Features:
    """The first mosaics of a set as the network's frozen parts see them, made now or kept in files by an earlier call.

    Glimpses in the photos are most of the work and the same in mosaics of any size, so they have a file of their own.

    Args:
        folder: of the files, which are named by what they were made of.
        network: whose frozen parts make them.
        dataset: of the mosaics.
        count: how many, from the first.
        epoch: of which; None for those that are evaluated.
    """
    encode, pixels = encoder_of(network), dataset.photos.pixels

    def photos() -> Made:
        return {"photos": torch.stack([encode(pixels, corner) for corner in shifts(network, dataset.photos.side)], 1)}

    def kept(kind: str, made_of: dict[str, Any], names: tuple[str, ...], make: Callable[[], Made]) -> Made:
        of = json.dumps(made_of | {name: network.arguments[name] for name in (*names, "network", "precision")})
        path = folder / f"{kind}-{sha256(of.encode()).hexdigest()[:12]}.safetensors"
        if path.exists():
            return load_file(path)
        made, partly = make(), path.with_suffix(".part")
        save_file(made, partly)
        partly.replace(path)
        return made

    of_photos = {"pixels": sha256(pixels.numpy().tobytes()).hexdigest()[:16], "shifts": SHIFTS}
    glimpses = kept("glimpses", of_photos, ("patch", "scales"), photos)
    sees = cast(MapNetwork, network.prediction.view_network).layers[0].state_dict()  # which learns on pixels
    weights = sha256(b"".join(tensor.numpy().tobytes() for tensor in sees.values())).hexdigest()[:16]
    of = {"weights": weights, "data": dataset.fingerprint(), "seed": dataset.seed, "count": count, "epoch": epoch}
    views = kept("views", of, ("view", "map_stride", "map_apart"), lambda: _views(network, dataset, count, epoch))
    return Features(**glimpses, **views)


def _views(network: AttentionClassifier, dataset: Tiled, count: int, epoch: int | None) -> Made:
    """All of `Features` but the photos."""
    seeing, side = cast(MapNetwork, network.prediction.view_network), network.prediction.view
    drawn = [dataset.draw(n, epoch) for n in range(count)]
    places = torch.stack([each.places for each in drawn])
    found = []

    def encode(view: Tensor) -> Tensor:
        with torch.no_grad(), autocast(network.precision, view.device)():
            return seeing.features(view)

    of_photo = None
    if seeing.apart and {seeing.stride * n for n in places.shape[1:]} == {side}:  # a photo is a cell: encoded once
        small = dataset.photos.averaged(seeing.stride, seeing.stride)
        of_photo = torch.cat([encode(part) for part in small.split(64)]).flatten(1)
    for some in places.split(TOGETHER):
        view = torch.stack([Mosaic(dataset.photos, each).view(side) for each in some])
        if of_photo is None:
            features = encode(view)
        else:
            features = of_photo[some].permute(0, 3, 1, 2)
        contrast, offset = contrast_of(view, seeing.stride)
        cells = features.shape[-2:]
        parts = features, contrast.unflatten(-1, (1, *cells)), offset.mT.unflatten(-1, cells)
        found.append(torch.cat([part.half() for part in parts], 1))
    return {
        "places": places,
        "seen": torch.cat(found),
        "answers": torch.tensor([each.answer for each in drawn]),
        "decides": torch.stack([each.decides for each in drawn]),
        "factors": torch.tensor(network.prediction.sensor.scales),
    }


def shifts(network: AttentionClassifier, side: int) -> list[tuple[int, int]]:
    """Corners of the glimpses in a photo that stand for all others: an even grid of `SHIFTS` by `SHIFTS` of them.

    Args:
        network: whose glimpses of one scale they are.
        side: of a photo, in pixels. Of one that a glimpse covers there is one.
    """
    room = side - network.prediction.sensor.patch_size * network.prediction.sensor.scales[0]
    along = [room * n // (SHIFTS - 1) for n in range(SHIFTS)] if room else [0]
    return [(row, column) for row in along for column in along]


@contextmanager
def reading_features(network: AttentionClassifier) -> Iterator[None]:
    """Within it the network reads `Encoded`, not pixels."""
    prediction = network.prediction
    seeing, reading = prediction.view_network, prediction.glimpse_network.what
    prediction.view_network = cast(MapNetwork, _Seeing(cast(MapNetwork, seeing)))
    prediction.glimpse_network.what = nn.Sequential(nn.Flatten(), *list(reading)[2:])
    try:
        yield
    finally:
        prediction.view_network, prediction.glimpse_network.what = seeing, reading


def teach(source: str, to: Path, screen: Screen, *, mosaics: int, changes: dict[str, Any]) -> AttentionClassifier:
    """Train on features of captioned photos' mosaics and write the network into a folder.

    Args:
        source: of the photos.
        to: the folder, which is made.
        screen: where progress is told.
        mosaics: training mosaics whose views are encoded.
        changes: of the recipe's settings.

    Raises:
        UserError: no such photos, or a folder that cannot be made.
    """
    config = changed(cast(ClassificationConfig, RECIPES["mosaic"]), source=source, **changes)
    splits = TASKS[config.task].open(config)
    for note in splits.notes:
        screen.say(f"Data: {note}")
    train, held_out = cast(Mosaics, splits.train), cast(Mosaics, splits.validation)
    return teach_tiled(config, train, held_out, to, screen, mosaics)


def _updates(
    config: ClassificationConfig, network: AttentionClassifier, count: int, batch: Callable[[Tensor, int], Given]
) -> Iterator[tuple[int, float]]:
    """Train on so many images, of which `batch` gives those numbered (batch,) of an epoch; updates made, and bounds."""
    task, schedule = TASKS[config.task], config.schedule
    optimizer, estimate_of, device = build_optimizer(network, schedule), estimation(config), torch.device("cpu")
    for step, epoch, index in batches(schedule, count, 0):
        network.train()
        seed_dropout(schedule.seed, step)
        generator, (images, answers) = step_generator(schedule.seed, step, 0, device), batch(index, epoch)
        with autocast(network.precision, device)():
            rollout = network(images, answers, samples=config.estimator.samples, generator=generator)
        estimate = estimate_of(rollout)
        set_rate(optimizer, learning_rate(schedule, step))
        optimizer.zero_grad()
        (estimate.loss + task.additions(config, rollout, fade(schedule, step))).backward()
        nn.utils.clip_grad_norm_(network.parameters(), schedule.clip)
        optimizer.step()
        yield step + 1, estimate.bound.mean().item()


def teach_tiled(
    config: ClassificationConfig,
    train: Tiled,
    held_out: Tiled,
    to: Path,
    screen: Screen,
    count: int,
    *,
    pixels: int = 0,
) -> AttentionClassifier:
    """Train on features of images that are made of tiles, then on their pixels, and write the network into a folder.

    Args:
        config: how; glimpses of one scale, read by a pretrained network that stays as it is, as is the view, of a map.
        train, held_out: the images, of tiles of one side.
        to: the folder, which is made.
        screen: where progress is told.
        count: training images whose views are encoded.
        pixels: updates on pixels, after those on features.

    Raises:
        UserError: a folder that cannot be made.
    """
    make_folder(to, "--to")
    config = resolved(config)
    task, schedule = TASKS[config.task], config.schedule
    torch.manual_seed(schedule.seed)
    network = cast(AttentionClassifier, task.build(config, train.spec))
    with screen.telling() as progress:
        for line in task.begin(config, network, train, progress):
            screen.say(line)
    began = time.perf_counter()
    taught = features_of(to.parent, network, train, count, 0)
    measured = features_of(to.parent, network, held_out, len(held_out), None)
    encoding = time.perf_counter() - began
    screen.say(f"Encoded {len(taught) + len(measured):,} views and all photos in {encoding:.0f} s")
    rows: list[dict[str, float]] = []
    side = train.photos.side

    def features(index: Tensor, epoch: int) -> Given:
        return taught.images(index, side), taught.answers[index]

    def seen(index: Tensor, epoch: int) -> Given:
        batch = train.batch(index, epoch)
        return batch.images, batch.answers

    def tell(step: int, bound: float, found: dict[str, float]) -> None:
        rows.append({"step": step, "bound": bound, **found})
        screen.say(", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()))

    with denormals_as_zero():
        with reading_features(network):
            for step, bound in _updates(config, network, len(taught), features):
                if step % schedule.evaluate_every == 0 or step == schedule.updates:
                    tell(step, bound, measured.measured(network, side))
        if pixels:
            on_pixels = changed(config, updates=pixels, batch=PIXELS_BATCH, learning_rate=PIXELS_RATE)
            for step, bound in _updates(on_pixels, network, len(taught), seen):
                if step % max(1, pixels // 10) == 0 or step == pixels:
                    tell(step, bound, {})
    network.eval()
    save_network(network, to)
    write_whole(to / SETTINGS, to_json(config))
    record = {"mosaics": count, "encoding_seconds": encoding, "seconds": time.perf_counter() - began, "rows": rows}
    write_whole(to / "taught.json", json.dumps(record | {"provenance": provenance()}, indent=1) + "\n")
    return network
