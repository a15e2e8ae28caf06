"""A network that looks for the one photo of a mosaic that decides: beside the same encoder over every photo, or some.

Over every photo is the ceiling: what a mosaic's answer can be told by with all of its photos encoded. Over as many
random photos as there are glimpses is the floor. Both encode the middle of a photo, as much of it as a glimpse spans,
and learn their heads from training mosaics' answers alone, smaller ones first, as the network did: each photo gives
evidence for every scene, and a mosaic's is the logarithm of the sum of its exponentials.
"""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.costs import cost, cost_of_images
from experiments.megapixel import overlap
from experiments.pages import require_writable, shown
from experiments.tiled import Tiled
from wsram.data.mosaic import Mosaics
from wsram.errors import UserError
from wsram.evaluate import Trained, open_trained
from wsram.glimpse.pyramid import average_pool
from wsram.glimpse.source import in_unit
from wsram.models.classifier import AttentionClassifier
from wsram.models.layers import MeanAndMost
from wsram.models.trunk import Trunk
from wsram.provenance import provenance
from wsram.runtime import autocast
from wsram.tables import Table
from wsram.tasks.measuring import parts
from wsram.terminal import Screen

FOUND = 0.5
"""Share of a glimpse that must lie on a photo for the photo to count as looked at."""
TIMED = 10
"""Mosaics that are timed, one at a time; the median counts."""
UNITS, STEPS, BATCH, RATE, DECAY, DROPOUT = 64, 600, 32, 2e-3, 0.1, 0.3
"""Of the heads of ceiling and floor: hidden units, updates, mosaics in one, peak rate, weight decay, dropout."""
SMALLER = 4
"""Photos along each side of the mosaics that the first half of the updates is of, from which one learns sooner."""


def mosaic(name: str, source: str | None, screen: Screen, *, test: bool, to: Path | None) -> dict[str, Any]:
    """Show error and deciding photos looked at after each glimpse, what that costs, and how ceiling and floor do.

    Args:
        name: of a network that was trained on mosaics and reads glimpses with a pretrained network.
        source: of the photos.
        screen: where the figures are shown.
        test: measure on the test mosaics rather than those of validation.
        to: a JSON file to keep the figures in.

    Raises:
        UserError: a network of other images, or no photos.
    """
    require_writable(to)
    trained = open_trained(name, source=source)
    dataset, network = trained.examples(test=test), trained.network
    train, validation = trained.splits.train, trained.splits.validation
    if not (
        isinstance(dataset, Mosaics)
        and isinstance(network, AttentionClassifier)
        and len(network.arguments["scales"]) == 1
    ):
        raise UserError(f"{name} was not trained on mosaics with glimpses of one scale; name a network that was")
    assert isinstance(train, Mosaics) and isinstance(validation, Mosaics)
    after, looked_at = _looked(trained, network, dataset)
    glimpses = network.prediction.glimpses
    encode, context = encoder_of(network), autocast(network.precision, next(network.parameters()).device)
    features = {id(each): encode(each.photos.pixels) for each in (train, validation, dataset)}

    def headed(tiles: int) -> dict[str, Any]:
        """Figures of a head on so many photos of each mosaic."""
        head = trained_head(train, features[id(train)], tiles, replace(train, along=min(SMALLER, train.along)))
        few = dataset.photos.pixels[:tiles]
        return {
            "error": error_of(head, dataset, features[id(dataset)], tiles),
            "validation_error": error_of(head, validation, features[id(validation)], tiles),
            **cost([lambda: encode(few)] * 3),
        }

    ways = {
        "glimpses": {"error": after[-1], **cost_of_images(network.predict, dataset, TIMED, context)},
        "as many random photos": headed(glimpses),
        "every photo": headed(dataset.along**2),
    }
    found = {
        "network": trained.name,
        "set": "test" if test else "validation",
        "mosaics": len(dataset),
        "photos": dataset.along**2,
        "side": dataset.along * dataset.photos.side,
        "precision": network.precision,
        "error_after": after,
        "looked_at_after": looked_at,
        "ways": ways,
        "gain": _gain(ways),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to)


def table(found: dict[str, Any]) -> Table:
    """Error and deciding photos looked at after each glimpse; and both ends of what could be expected."""
    ways = found["ways"]
    most = ways["every photo"]["multiply_adds"]

    def cost(way: str) -> list[str]:
        row = ways[way]
        return [f"{row['multiply_adds']:,.0f} ({row['multiply_adds'] / most:.1%})", f"{row['milliseconds']:,.0f}"]

    each = list(zip(found["error_after"], found["looked_at_after"], strict=True))
    rows = [[f"{n} glimpse(s)", f"{error:.1%}", f"{share:.1%}", "", ""] for n, (error, share) in enumerate(each, 1)]
    rows[-1][3:] = cost("glimpses")
    some = f"{len(each)} random photos"
    rows.append([some, f"{ways['as many random photos']['error']:.1%}", "", *cost("as many random photos")])
    rows.append(["every photo", f"{ways['every photo']['error']:.1%}", "100.0%", *cost("every photo")])
    nothing = "every photo gains nothing over random ones"
    gain = nothing if found["gain"] is None else f"{found['gain']:.0%} of what every photo gains over random ones"
    title = (
        f"{found['network']}, {found['mosaics']:,} {found['set']} mosaics of {found['photos']} photos, "
        f"{found['side']:,} pixels a side: {gain}; "
        f"{found['peak_megabytes']:,.0f} MiB at the peak"
    )
    header = ["what is seen", "error", "deciding photo looked at", "million multiply-adds", "ms a mosaic"]
    return Table(title, header, rows)


def _gain(ways: dict[str, Any]) -> float | None:
    """Of what every photo gains over random ones, the share that glimpses gain; None if it gains nothing."""
    floor, ceiling = ways["as many random photos"]["error"], ways["every photo"]["error"]
    return None if floor == ceiling else (floor - ways["glimpses"]["error"]) / (floor - ceiling)


def _looked(trained: Trained, network: AttentionClassifier, dataset: Mosaics) -> tuple[list[float], list[float]]:
    """Error of the mode, and share of mosaics whose deciding photo was looked at, after each glimpse."""
    wrong, seen = [], []
    sensor, device = network.prediction.sensor, next(network.parameters()).device
    span, side = sensor.patch_size * sensor.scales[0], dataset.photos.side
    for part, batch in parts(network, dataset):
        with torch.no_grad(), autocast(network.precision, device)():
            looked = network.predict(batch.images)
        wrong.append(looked.outputs_after.argmax(-1) != batch.answers.unsqueeze(-1))
        corners = side * torch.tensor([dataset.draw(n).needle for n in part.tolist()], device=device).unsqueeze(1)
        spans = torch.full(looked.action.scale.shape, float(span), device=device)
        held = overlap(looked.action.location, spans, corners, dataset.along * side, side)[..., 0]
        seen.append((held * side**2 / span**2 >= FOUND).cummax(1).values)
    return torch.cat(wrong).float().mean(0).tolist(), torch.cat(seen).float().mean(0).tolist()


class Encode(Protocol):
    """What `encoder_of` gives."""

    def __call__(self, photos: Tensor, corner: tuple[int, int] | None = None, /) -> Tensor:
        """Features (photos, features) of photos (photos, channels, side, side) uint8 as a glimpse in them is read.

        Args:
            photos: their pixels.
            corner: row and column of the glimpse's first pixel; by default it is in the middle.
        """


def encoder_of(network: AttentionClassifier) -> Encode:
    """From photos to features, as the network's glimpses are read."""
    trunk = next((each for each in network.prediction.glimpse_network.modules() if isinstance(each, Trunk)), None)
    if trunk is None:
        raise UserError("the network reads glimpses with nothing pretrained; name one that does")
    read, pooled, sensor = trunk, MeanAndMost(), network.prediction.sensor
    device = next(network.parameters()).device
    context = autocast(network.precision, device)

    def encode(photos: Tensor, corner: tuple[int, int] | None = None, /) -> Tensor:
        k = sensor.scales[0]
        span = sensor.patch_size * k
        top, left = corner or ((photos.shape[-1] - span) // 2,) * 2
        found = []
        with torch.no_grad(), context():
            for part in photos[..., top : top + span, left : left + span].split(64):
                found.append(pooled(read(average_pool(in_unit(part.to(device)), k))).float().cpu())
        return torch.cat(found)

    return encode


class Head(nn.Module):
    """What the features of an image's tiles come to."""

    def __init__(self, like: Tensor, answers: int) -> None:
        super().__init__()
        self.mean, self.spread = like.mean(0), like.std(0) + 1e-5
        layers = nn.Dropout(DROPOUT), nn.Linear(like.shape[1], UNITS), nn.ReLU(), nn.Linear(UNITS, answers)
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor, places: Tensor) -> Tensor:
        """Logits (images, answers) of tiles (images, count) int64, numbers of `features` (tiles, features)."""
        used, which = places.unique(return_inverse=True)
        evidence = self.layers((features[used] - self.mean) / self.spread)[which]
        return torch.logsumexp(evidence, 1)


def _places(dataset: Tiled, numbers: range, tiles: int, epoch: int | None) -> tuple[Tensor, Tensor]:
    """Tiles (images, tiles) of images, all or some at random, and answers (images,)."""
    drawn = [dataset.draw(n, epoch) for n in numbers]
    places = torch.stack([each.places.flatten() for each in drawn])
    generator = torch.Generator().manual_seed(numbers.start + (0 if epoch is None else 1))
    some = torch.rand(places.shape, generator=generator).topk(min(tiles, places.shape[1]), -1).indices
    return places.gather(1, some), torch.tensor([each.answer for each in drawn])


def trained_head(train: Tiled, features: Tensor, tiles: int, first: Tiled | None = None) -> Head:
    """A head that learned from training images, the next ones in every update.

    Args:
        train: the images.
        features: (tiles, features) of their tiles.
        tiles: of an image, how many it is told: all, or so many at random.
        first: what the first half of the updates is of, if it is something else of the same tiles.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = Head(features, len(train.spec.names))
        optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
        for step in range(STEPS):
            of = train if first is None or step >= STEPS // 2 else first
            places, answers = _places(of, range(step * BATCH, (step + 1) * BATCH), tiles, 0)
            optimizer.zero_grad()
            F.cross_entropy(head(features, places), answers).backward()
            optimizer.step()
            schedule.step()
    return head.eval()


@torch.no_grad()
def error_of(head: Head, dataset: Tiled, features: Tensor, tiles: int) -> float:
    """The share of wrong answers, of images with features (tiles, features) of which all tiles or some are told."""
    places, answers = _places(dataset, range(len(dataset)), tiles, None)
    return float((head(features, places).argmax(-1) != answers).float().mean())
