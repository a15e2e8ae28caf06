"""What a network reads of images of one's own, what that costs, and what it is worth beside simpler ways to look.

Beside the network stand itself at random places, which lie wholly inside the image, and from coarse to fine without
learning, see `experiments.uncertain`; and a linear probe: logistic regression on mean and largest value of each feature
that a pretrained network has of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.costs import cost, cost_of_images
from experiments.pages import require_writable, shown
from experiments.uncertain import by_entropy
from wsram.data import Dataset
from wsram.errors import UserError
from wsram.evaluate import Trained, open_trained
from wsram.glimpse.actions import Action
from wsram.glimpse.pyramid import Images
from wsram.glimpse.sensor import Sensor
from wsram.glimpse.source import Glimpsable
from wsram.halting import least
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import ClassHead
from wsram.models.layers import MeanAndMost
from wsram.models.looking import Choose, Looked
from wsram.models.trunk import Trunk, fill_pretrained, is_trunk
from wsram.provenance import provenance
from wsram.runtime import autocast
from wsram.tables import Table
from wsram.tasks.measuring import parts
from wsram.tasks.troubles import random_places
from wsram.terminal import Screen

TOGETHER = 32
"""Images looked at together."""
SEEDS = 3
"""Of the random places."""
TIMED = 30
"""Images looked at one by one, against the clock."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of a probe's squared weights, of which validation chooses."""


def glimpsed(
    name: str, source: str | None, screen: Screen, *, test: bool, side: int | None, probe: bool, to: Path | None
) -> dict[str, Any]:
    """Show a classifier's error, the pixels it reads, its time and its multiply-adds, beside the other ways to look.

    Args:
        name: of the network.
        source: the images, if they are not where the network was trained from.
        screen: where they are shown.
        test: measure on the test images rather than those of validation.
        side: of the square that whole images are squashed to for the probe; by default they keep their size.
        probe: whether there is one; it needs a network that reads glimpses with a pretrained one.
        to: a JSON file to keep the figures in.

    Raises:
        UserError: a network that does not tell classes apart, or no images.
    """
    require_writable(to)
    trained = open_trained(name, source=source)
    network, dataset = of_classes(trained), trained.examples(test=test)
    wrong, read = _looked(network, dataset, lambda pyramid: None)
    rows: dict[str, Any] = {
        "glimpses where it looks": {
            "error": wrong,
            "read": read.mean().item(),
            "most_read": read.max().item(),
            **cost_of_images(lambda images: _look(network, images, lambda pyramid: None), dataset, TIMED),
        }
    }
    chance = [_looked(network, dataset, _at_random(network, seed)) for seed in range(SEEDS)]
    errors, reads = zip(*chance, strict=True)
    rows["the same at random places"] = {"error": sum(errors) / SEEDS, "read": torch.stack(reads).mean().item()}
    by = partial(by_entropy, network)
    wrong, read = _looked(network, dataset, by)
    rows["the same from coarse to fine by entropy"] = {
        "error": wrong,
        "read": read.mean().item(),
        **cost_of_images(lambda images: _look(network, images, by), dataset, TIMED),
    }
    if probe:
        rows["a linear probe of the whole image"] = _probed(trained, network, dataset, side)
    found = {
        "network": trained.name,
        "set": "test" if test else "validation",
        "images": len(dataset),
        "glimpses": network.prediction.glimpses,
        "patch": network.prediction.sensor.patch_size,
        "scales": network.prediction.sensor.scales,
        "precision": network.precision,
        "seeds_of_random_places": SEEDS,
        "probe_side": side,
        "ways": rows,
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to)


def of_classes(trained: Trained) -> AttentionClassifier:
    """The network that was trained; `UserError` unless it tells classes apart."""
    network = trained.network
    if not (isinstance(network, AttentionClassifier) and isinstance(network.head, ClassHead)):
        raise UserError(f"{trained.name} does not tell classes apart; name a network that does")
    return network


def table(found: dict[str, Any]) -> Table:
    """The figures as a table."""

    def cell(row: dict[str, Any], key: str, style: str) -> str:
        return style.format(row[key]) if key in row else ""

    rows = [
        [
            way,
            cell(row, "error", "{:.1%}"),
            cell(row, "read", "{:.1%}") + cell(row, "most_read", ", at most {:.1%}"),
            cell(row, "multiply_adds", "{:,.1f}"),
            cell(row, "milliseconds", "{:.1f}"),
        ]
        for way, row in found["ways"].items()
    ]
    # Figures from before precision was kept are of float32.
    precision = {"bf16": "bfloat16"}.get(found.get("precision", "no"), "float32")
    counts = f"{found['images']:,} {found['set']} images, {found['glimpses']} glimpses"
    title = f"{found['network']}: {counts}, in {precision}"
    header = ["what looks", "error", "pixels read", "million multiply-adds", "ms an image"]
    return Table(title, header, rows)


def pixels_read(sensor: Sensor, sizes: Tensor, action: Action) -> Tensor:
    """The share of each image's pixels that its glimpses read, each pixel counted once; (batch,) float64.

    What interpolation reads beside a glimpse counts; the low-resolution view, which no answer is read from, does not.

    Args:
        sensor: cuts the glimpses.
        sizes: (batch, 2) width and height of each image.
        action: location (batch, glimpses, 2) and scale (batch, glimpses).
    """
    k = torch.tensor(sensor.scales)[action.scale.cpu()].unsqueeze(-1)
    corner = sensor.corner(action.location.cpu(), (sizes.cpu().unsqueeze(1) - 1) / 2, k)
    bilinear = sensor.mode == "bilinear"
    first = (corner if bilinear else corner + 0.5).floor() * k
    last = first + (sensor.patch_size + bilinear) * k
    shares = []
    for low, high, (width, height) in zip(first, last, sizes.tolist(), strict=True):
        inside = []
        for axis, extent in ((1, height), (0, width)):
            pixel = torch.arange(extent)
            inside.append((pixel >= low[:, axis, None]) & (pixel < high[:, axis, None]))
        shares.append((inside[0].unsqueeze(-1) & inside[1].unsqueeze(-2)).any(0).double().mean())
    return torch.stack(shares)


Way = Callable[[Glimpsable], Choose | None]
"""Of a batch, the way to look at it; None is the network's own, at its policy's modes."""


def _at_random(network: AttentionClassifier, seed: int) -> Way:
    generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
    return lambda pyramid: random_places(network.prediction.sensor, 2 * pyramid.reach + 1, generator)


def _look(network: AttentionClassifier, images: Images | Glimpsable, way: Way) -> tuple[Looked, Tensor]:
    """What comes of looking, in the network's precision, and width and height of each image."""
    with autocast(network.precision, next(network.parameters()).device)():
        pyramid = network.prediction.pyramid(images)
        choose = way(pyramid)
        looked = network.predict(pyramid) if choose is None else network.prediction.look(pyramid, choose)
        return looked, 2 * pyramid.reach + 1


def _looked(network: AttentionClassifier, dataset: Dataset, way: Way) -> tuple[float, Tensor]:
    """Error of a network that looks in some way; and the share of each image that is read."""
    wrong, read = 0, []
    for _, batch in parts(network, dataset, TOGETHER):
        with torch.inference_mode():
            looked, sizes = _look(network, batch.images, way)
            wrong += int((looked.outputs.argmax(-1) != batch.answers).sum())
            read.append(pixels_read(network.prediction.sensor, sizes, looked.action))
    return wrong / len(dataset), torch.cat(read)


def _probed(trained: Trained, network: AttentionClassifier, dataset: Dataset, side: int | None) -> dict[str, float]:
    """Error and cost of a linear probe of whole images, with the network that reads glimpses as ImageNet taught it."""
    kind = network.arguments["network"]
    if not is_trunk(kind):
        raise UserError(f"{trained.name} reads glimpses with {kind}, which is not pretrained; use --no-probe")
    trunk = Trunk(kind, network.channels)
    fill_pretrained(trunk)
    read, pooled, context = trunk.eval(), MeanAndMost(), autocast(network.precision, torch.device("cpu"))

    def features(of: Dataset) -> tuple[Tensor, Tensor]:
        found, answers = [], []
        with torch.inference_mode(), context():
            for _, batch in parts(network, of, TOGETHER):
                images: Any = batch.images
                whole = [_resized(image.cpu(), side) for image in images]
                found += [pooled(read(image)) for image in whole]
                answers.append(batch.answers.cpu())
        return torch.cat(found).double(), torch.cat(answers)

    train, chosen_by, measured = (features(each) for each in (trained.splits.train, trained.splits.validation, dataset))
    mean, spread = train[0].mean(0), train[0].std(0) + 1e-6
    standard = [((x - mean) / spread, y) for x, y in (train, chosen_by, measured)]
    fitted = [_logistic(*standard[0], penalty) for penalty in PENALTIES]
    errors = [_wrong(weights, *standard[1]) for weights in fitted]
    best = min(range(len(PENALTIES)), key=errors.__getitem__)
    first: Any = dataset.batch(torch.tensor([0])).images
    image = _resized(first[0].cpu(), side)
    return {
        "error": _wrong(fitted[best], *standard[2]),
        "read": 1.0,
        "penalty": PENALTIES[best],
        **cost([lambda: pooled(read(image))] * TIMED, context),
    }


def _resized(image: Tensor, side: int | None) -> Tensor:
    image = image.unsqueeze(0)
    return image if side is None else F.interpolate(image, (side, side), mode="bilinear", antialias=True)


def _logistic(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Weights (features + 1, classes) of logistic regression, the last row for what is there whatever is seen."""
    x = F.pad(x, (0, 1), value=1.0)

    def loss(weights: Tensor) -> Tensor:
        return F.cross_entropy(x @ weights, y) + penalty * weights[:-1].square().sum()

    return least(loss, x.new_zeros(x.shape[1], int(y.max()) + 1))


def _wrong(weights: Tensor, x: Tensor, y: Tensor) -> float:
    return float(((F.pad(x, (0, 1), value=1.0) @ weights).argmax(-1) != y).double().mean())
