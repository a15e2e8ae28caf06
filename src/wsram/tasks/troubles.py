"""Ways in which learning to look is known to go wrong, seen at an evaluation and said in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wsram.data import Dataset
from wsram.glimpse.actions import Action, at_least_float32
from wsram.glimpse.sensor import Sensor, edges_of
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import ClassHead
from wsram.models.looking import Choose
from wsram.runtime import Autocast
from wsram.tasks.measuring import nll

CHECKED = 256
"""Examples, at most, that an evaluation looks at again for this."""
ONE_SCALE = 0.99
"""Share of glimpses at one scale from which on the others count as unused."""
INSIDE = 0.6
"""Of a glimpse; one that shows less of the image counts as leaving it."""
NO_BETTER = 0.95
"""An error, or so many nats, count as no better than others if they are above this share of them."""


class Merit(NamedTuple):
    """How good some answers are: their error, and minus their mean log-probability in nats; lower is better in both."""

    error: float
    nats: float

    def no_better_than(self, other: Merit) -> bool:
        """Whether neither says that this is better: of few errors, the nats alone say anything."""
        return all(own >= theirs - (1 - NO_BETTER) * abs(theirs) for own, theirs in zip(self, other, strict=True))


@dataclass(frozen=True)
class Looking:
    """How a network looks at some examples.

    all, first, random: after all glimpses, after the first alone, after as many at random places.
    commonest: the error of the commonest class, whatever is shown; None where the answers are no classes.
    leaving: the share of glimpses that leave the image.
    """

    all: Merit
    first: Merit
    random: Merit
    commonest: float | None
    leaving: float


def random_places(sensor: Sensor, sizes: Tensor, generator: torch.Generator) -> Choose:
    """A way to look: every scale equally often, at places where as much of a glimpse is inside as can be.

    Args:
        sensor: knows how large glimpses are.
        sizes: (batch, 2) width and height of each image, in pixels.
        generator: draws them; on the images' device.
    """
    spans = sensor.patch_size * torch.tensor(sensor.scales, device=sizes.device)

    def choose(policy: Any, raw: Tensor, r2: Tensor) -> Action:
        count, device = len(sizes), sizes.device
        scale = torch.randint(len(spans), (count,), generator=generator, device=device)
        room = (1 - spans[scale].unsqueeze(-1) / sizes).clamp(min=0)
        location = (2 * torch.rand(count, 2, generator=generator, device=device) - 1) * room
        return Action(at_least_float32(location.to(raw.dtype)), scale)

    return choose


def share_inside(sensor: Sensor, sizes: Tensor, action: Action) -> Tensor:
    """How much of each glimpse is inside the image, of what could be; (batch, glimpses), from 0 to 1.

    Args:
        sensor: knows how large glimpses are.
        sizes: (batch, 2) width and height of each image, in pixels.
        action: location (batch, glimpses, 2) and scale (batch, glimpses).
    """
    sizes = sizes.unsqueeze(1)
    spans = sensor.patch_size * torch.tensor(sensor.scales, device=sizes.device)[action.scale]
    first, last = edges_of(action.location, spans, sizes)
    shown = torch.minimum(last, sizes) - first.clamp(min=0)
    return (shown.clamp(min=0) / torch.minimum(spans.unsqueeze(-1), sizes)).prod(-1)


@torch.no_grad()
def look_again(network: AttentionClassifier, dataset: Dataset, glimpses: int, autocast: Autocast) -> Looking:
    """How the network looks at up to `CHECKED` examples, evenly out of all of them."""
    sensor, head = network.prediction.sensor, network.head
    index = torch.linspace(0, len(dataset) - 1, min(CHECKED, len(dataset))).long()
    outputs, first, chance, answers, inside = [], [], [], [], []
    training = network.training
    network.eval()
    for part in index.split(64):
        batch = dataset.batch(part)
        with autocast():
            pyramid = network.prediction.pyramid(batch.images)
            sizes, generator = 2 * pyramid.reach + 1, torch.Generator(pyramid.device).manual_seed(int(part[0]))
            looked = network.predict(pyramid, glimpses=glimpses)
            anywhere = network.prediction.look(pyramid, random_places(sensor, sizes, generator), glimpses)
        outputs.append(looked.outputs)
        first.append(looked.outputs_after[:, 0])
        chance.append(anywhere.outputs)
        answers.append(batch.answers)
        inside.append(share_inside(sensor, sizes, looked.action))
    network.train(training)
    said = torch.cat(answers)
    commonest = 1 - float(said.bincount().max()) / len(said) if isinstance(head, ClassHead) else None
    leaving = float((torch.cat(inside) < INSIDE).float().mean())
    every, one, anyhow = (
        Merit(head.error(found, said), nll(network, found, said)) for found in map(torch.cat, (outputs, first, chance))
    )
    return Looking(every, one, anyhow, commonest, leaving)


def troubles(
    looking: Looking, usage: Sequence[float], scales: Sequence[int], glimpses: int, *, late: bool
) -> dict[str, str]:
    """What goes wrong, a line for each by its name; what to do about it is in the line.

    Args:
        looking: see `look_again`.
        usage: the share of glimpses at each scale, in training.
        scales: what they are.
        glimpses: how many are taken.
        late: whether training has gone so far that the network should know better.

    Example:
        >>> fine = Looking(Merit(0.1, 0.3), Merit(0.5, 1.2), Merit(0.4, 1.1), 0.9, 0.0)
        >>> troubles(fine, (0.5, 0.5), (1, 2), 4, late=True)
        {}
        >>> list(troubles(fine, (1.0, 0.0), (1, 2), 4, late=True))
        ['one scale']
    """
    found = {}
    if len(scales) > 1 and max(usage) > ONE_SCALE:
        only = scales[list(usage).index(max(usage))]
        found["one scale"] = (
            f"{max(usage):.0%} of the glimpses are at scale ×{only}, and the other scales go unused; "
            f"a higher --scale-entropy keeps them in play, --scales {only} leaves them out"
        )
    if looking.leaving > 0.5:
        found["outside"] = (
            f"{looking.leaving:.0%} of the glimpses lie largely outside the image, where there is nothing to see; "
            "try a lower --learning-rate, or --glimpse-growth 0.3"
        )
    if not late:
        return found
    if looking.commonest is not None and looking.all.error >= looking.commonest > 0:
        found["nothing learned"] = (
            f"the error is {looking.all.error:.1%}, and always naming the commonest class has {looking.commonest:.1%}; "
            "try another --learning-rate, more --updates, or larger glimpses (--patch)"
        )
        return found  # which makes the others true as well, and no help
    if glimpses > 1 and looking.all.no_better_than(looking.first):
        found["one glimpse"] = (
            f"one glimpse is as good as all {glimpses} (an error of {looking.first.error:.3g} after the first, "
            f"{looking.all.error:.3g} after all); fewer --glimpses cost less, smaller ones (--patch) need each other"
        )
    if looking.random.error > 0 and looking.all.no_better_than(looking.random):
        found["random"] = (
            f"looking where the policy says is no better than at random places (an error of {looking.all.error:.3g} "
            f"and {looking.random.error:.3g}); try more --samples, more --updates, or smaller glimpses (--patch, "
            "--scales)"
        )
    return found
