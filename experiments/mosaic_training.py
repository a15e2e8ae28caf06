"""Teach a network to look at mosaics from features that are made once: nothing that is frozen is run twice.

An update on pixels runs the frozen encoder over every glimpse and the first stages of it over the view, which is all
but a few per cent of its time. Here the view's features are made once for a number of training mosaics, and a glimpse's
are those of the middles of the photos, weighed by how much of it lies on each. What learns is the network itself, with
the estimator and settings of the recipe `mosaic`; it is written as any network is, and looks at pixels from then on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from experiments.mosaic import encoder_of
from wsram.config import ClassificationConfig, changed
from wsram.data import Batch
from wsram.data.mosaic import Mosaic, Mosaics
from wsram.evaluate import make_folder
from wsram.glimpse.policies import Cells, contrast_of
from wsram.glimpse.sensor import Sensor
from wsram.models.classifier import AttentionClassifier
from wsram.models.layers import MapNetwork
from wsram.models.pretrained import save_network
from wsram.provenance import provenance
from wsram.recipes import RECIPES
from wsram.runs import SETTINGS, write_whole
from wsram.runtime import autocast
from wsram.schedule import batches, fade, learning_rate
from wsram.settings import to_json
from wsram.tasks import TASKS, Update
from wsram.terminal import Screen
from wsram.training import build_optimizer, estimation, resolved, step_generator, step_seed

TOGETHER = 8
"""Mosaics whose views are encoded together."""


@dataclass(frozen=True)
class Encoded:
    """A batch of mosaics as features; what `_Reading` cuts glimpses of. See `wsram.glimpse.source.Glimpsable`.

    grid: (batch, along, along, features) of the photos' middles.
    seen: (batch, channels + 3, cells, cells) of the view: its features, contrast and offsets.
    """

    grid: Tensor
    seen: Tensor

    def __len__(self) -> int:
        """How many mosaics there are."""
        return len(self.grid)

    def view(self, side: int) -> Tensor:
        """The view's features, in place of the view."""
        return self.seen


class _Reading:
    """In place of a sensor: a glimpse is the mean of the photos that it lies on, by how much of it does.

    Args:
        span: side of a glimpse, in sides of a photo.
    """

    def __init__(self, span: float) -> None:
        self.span = span

    def pyramid(self, images: Encoded, looks: int | None = None) -> Encoded:
        """Themselves."""
        return images

    def __call__(self, images: Encoded, location: Tensor, scale: Tensor) -> Tensor:
        """Features (..., batch, features, 1, 1) of glimpses at `location` (..., batch, 2)."""
        along = images.grid.shape[1]
        middle = ((location.float() + 1) * along / 2).unsqueeze(-1)  # x, y in photos; the half pixel does not matter
        edge = torch.arange(along, device=location.device)
        inside = torch.minimum(middle + self.span / 2, edge + 1) - torch.maximum(middle - self.span / 2, edge)
        across, down = (inside.clamp(min=0) / self.span).unbind(-2)
        return torch.einsum("...bi,...bj,bijf->...bf", down, across, images.grid)[..., None, None]


class _Seeing(nn.Module):
    """In place of a map's network: the part of it that learns, on features that were made before."""

    def __init__(self, network: MapNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, seen: Tensor) -> Cells:
        """The cells of views whose features these are, see `Encoded`."""
        return self.network.cells(seen[:, :-3], seen[:, -3].flatten(1), seen[:, -2:].flatten(-2).mT)


class Features:
    """Mosaics as features, made once.

    Args:
        network: whose frozen parts make them.
        dataset: of the mosaics.
        count: how many, from the first.
        epoch: of which; None for those that are evaluated.
    """

    def __init__(self, network: AttentionClassifier, dataset: Mosaics, count: int, epoch: int | None) -> None:
        seeing, side = cast(MapNetwork, network.prediction.view_network), network.prediction.view
        drawn = [dataset.draw(n, epoch) for n in range(count)]
        self.places = torch.stack([each.places for each in drawn])
        self.answers = torch.tensor([each.answer for each in drawn])
        self.needles = torch.tensor([each.needle for each in drawn])
        self.photos = encoder_of(network)(dataset.photos.pixels)
        found = []
        for numbers in torch.arange(count).split(TOGETHER):
            images = cast(list[Mosaic], dataset.batch(numbers, epoch).images)
            view = torch.stack([image.view(side) for image in images])
            with torch.no_grad(), autocast(network.precision, view.device)():
                features = seeing.features(view)
            contrast, offset = contrast_of(view, seeing.stride)
            cells = features.shape[-2:]
            parts = features, contrast.unflatten(-1, (1, *cells)), offset.mT.unflatten(-1, cells)
            found.append(torch.cat([part.half() for part in parts], 1))  # half of what float32 takes: 100 kB a mosaic
        self.seen = torch.cat(found)

    def __len__(self) -> int:
        """How many mosaics there are."""
        return len(self.answers)

    def batch(self, index: Tensor) -> Batch:
        """Mosaics numbered `index`, as `Encoded`, and their answers."""
        return Batch(cast(Any, Encoded(self.photos[self.places[index]], self.seen[index].float())), self.answers[index])

    @torch.no_grad()
    def measured(self, network: AttentionClassifier) -> dict[str, float]:
        """Error of the mode, and share of mosaics one of whose glimpses has its middle on the photo that decides."""
        network.eval()
        wrong, found = 0.0, 0.0
        along = self.places.shape[1]
        for index in torch.arange(len(self)).split(50):
            batch = self.batch(index)
            with autocast(network.precision, torch.device("cpu"))():
                looked = network.predict(batch.images)
            wrong += float((looked.outputs.argmax(-1) != batch.answers).sum())
            at = ((looked.action.location + 1) * along / 2).long().flip(-1)
            found += float((at == self.needles[index].unsqueeze(1)).all(-1).any(-1).sum())
        network.train()
        return {"validation_error": wrong / len(self), "looked_at": found / len(self)}


@contextmanager
def reading_features(network: AttentionClassifier, span: float) -> Iterator[None]:
    """Within it the network reads `Encoded`, not pixels."""
    prediction = network.prediction
    sensor, seeing, reading = prediction.sensor, prediction.view_network, prediction.glimpse_network.what[:2]
    prediction.sensor, prediction.view_network = cast(Sensor, _Reading(span)), cast(Any, _Seeing(cast(Any, seeing)))
    prediction.glimpse_network.what[0], prediction.glimpse_network.what[1] = nn.Identity(), nn.Flatten()
    try:
        yield
    finally:
        prediction.sensor, prediction.view_network = sensor, seeing
        prediction.glimpse_network.what[0], prediction.glimpse_network.what[1] = reading


def teach(source: str, to: Path, screen: Screen, *, mosaics: int, changes: dict[str, Any]) -> AttentionClassifier:
    """Train on features and write the network into a folder.

    Args:
        source: of the photos.
        to: the folder, which is made.
        screen: where progress is told.
        mosaics: training mosaics whose views are encoded.
        changes: of the recipe's settings.

    Raises:
        UserError: no such photos, or a folder that cannot be made.
    """
    make_folder(to)
    config = resolved(changed(cast(ClassificationConfig, RECIPES["mosaic"]), source=source, **changes))
    task, schedule = TASKS[config.task], config.schedule
    splits = task.open(config)
    for note in splits.notes:
        screen.say(f"Data: {note}")
    train, held_out = cast(Mosaics, splits.train), cast(Mosaics, splits.validation)
    torch.manual_seed(schedule.seed)
    network = cast(AttentionClassifier, task.build(config, train.spec))
    task.begin(config, network)
    began = time.perf_counter()
    taught, measured = Features(network, train, mosaics, 0), Features(network, held_out, len(held_out), None)
    encoding = time.perf_counter() - began
    screen.say(f"Encoded {len(taught) + len(measured):,} views and all photos in {encoding:.0f} s")
    optimizer = build_optimizer(network, schedule)
    estimate_of, device = estimation(config), torch.device("cpu")
    rows = []
    with reading_features(network, config.model.patch * config.model.scales[0] / train.photos.side):
        network.train()
        for step, epoch, index in batches(schedule, len(taught), 0):
            torch.manual_seed(step_seed(schedule.seed, step + 2**31))  # of dropout, as in training on pixels
            update = Update(step, epoch, step_generator(schedule.seed, step, 0, device))
            with autocast(network.precision, device)():
                rollout = task.rollout(config, network, taught.batch(index), update)
            estimate = estimate_of(rollout)
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * learning_rate(schedule, step)
            optimizer.zero_grad()
            (estimate.loss + task.additions(config, rollout, fade(schedule, step))).backward()
            nn.utils.clip_grad_norm_(network.parameters(), schedule.clip)
            optimizer.step()
            if (step + 1) % schedule.evaluate_every == 0 or step + 1 == schedule.updates:
                rows.append({"step": step + 1, "bound": estimate.bound.mean().item()} | measured.measured(network))
                screen.say(", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()))
    network.eval()
    save_network(network, to)
    write_whole(to / SETTINGS, to_json(config))
    record = {"mosaics": mosaics, "encoding_seconds": encoding, "seconds": time.perf_counter() - began, "rows": rows}
    write_whole(to / "taught.json", json.dumps(record | {"provenance": provenance()}, indent=1) + "\n")
    return network
