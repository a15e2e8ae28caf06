r"""Where the evidence for an answer is: the posterior over glimpses, given that answer, as a map over the image.

$$\mathrm{heat}(x) = \sum_m w^m \sum_n s_n^m \frac{[x \in \mathrm{box}(a_n^m)]}{|\mathrm{box}(a_n^m)|}, \qquad
  w^m \propto \frac{p(a^m|I)\, p(y|a^m, I)}{r(a^m)}, \qquad a^m \sim r$$

$$s_n^m = \frac12 \left(\frac1N + \frac{g_n^m}{\sum_k g_k^m}\right), \qquad
  g_n^m = \max\bigl(0,\ \log p(y|a_{1..n}^m, I) - \log p(y|a_{1..n-1}^m, I)\bigr)$$

What it is: where this network, told that the answer is y, must have looked, given how it looks (its policy) and how it
judges what it sees. A glimpse weighs more the more probable the sequence it belongs to makes y, and within that
sequence the more nats it gained itself: half of a sequence's weight is shared evenly, half by gains, before the first
glimpse all answers being as probable. Beside the map stands the network's log-evidence, log p(y|I), estimated from the
same samples with its standard error.

What it is not: no gradient, and no account of single pixels: all of a glimpse's square has the same share. What is
looked at whatever the answer is in the map of every answer: only the difference of two maps speaks for one against the
other. It is about the network; a confident and wrong network has a clear and wrong map. With few effective samples
(`Support.effective_samples`) the map is that of a few sequences, and says little.

Why half: gains alone follow the one glimpse that settled the answer, which is what is asked where a network gathers
evidence glimpse by glimpse; a network that was taught by its last answer alone is to be trusted less in between.

Source: Ba et al. 2015, whose inference network proposes from the posterior; self-normalised importance sampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from wsram.data.given import Given
from wsram.errors import UserError
from wsram.estimators.diagnostics import effective_sample_size
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.glimpse.source import Glimpsable
from wsram.glimpse.tiles import WHOLE
from wsram.heat import draw_evidence
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import ClassHead, LabelsHead, require_label
from wsram.runtime import Autocast
from wsram.tables import shortened

SAMPLES = 500
"""Sequences of glimpses that stand for the posterior, by default."""
SHARE = 0.5
"""Of the sequences, how many are the policy's own where the inference network proposes: weights are then bounded."""
TOGETHER = 2000
"""Sequences looked at together: bounds memory whatever the number of samples."""


@dataclass(frozen=True, eq=False)
class Support:
    """What speaks for one answer.

    label: the answer.
    log_evidence: log p(label | image), in nats.
    standard_error: of log_evidence, by the delta method.
    effective_samples: how many of the sequences count, from 1 to all.
    heat: (height, width) shares of the evidence on each pixel of the image as the network saw it; they sum to 1.
    """

    label: str
    log_evidence: float
    standard_error: float
    effective_samples: float
    heat: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for an answer, and what for another one.

    given: the image.
    label: the answer that was asked about.
    against: the other one.
    samples: sequences of glimpses drawn.
    proposal: who drew them: "policy", or "inference" for half of them by the inference network.
    """

    given: Given = field(repr=False)
    label: Support
    against: Support
    samples: int
    proposal: str

    def peak(self) -> tuple[float, float]:
        """(x, y) where the evidence for the label is densest, in pixels of the image as it was given, edges at 0."""
        row, column = divmod(int(self.label.heat.argmax()), self.label.heat.shape[1])
        across, down = self.given.ratio
        return (column + 0.5) * across, (row + 0.5) * down

    def to_dict(self) -> dict[str, Any]:
        """Everything but the image and the maps, as JSON holds it."""
        told = {
            name: {key: value for key, value in vars(support).items() if key != "heat"}
            for name, support in (("label", self.label), ("against", self.against))
        }
        return {**told, "peak": list(self.peak()), "samples": self.samples, "proposal": self.proposal}

    def draw(self) -> Figure:
        """The image, and over it the map of each of the two answers."""
        name = [shortened(self.given.title)] if self.given.name else []
        title = "\n".join([*name, f"{self.samples} sequences of glimpses", self._who()])
        maps = [("\n".join(_told(support)), support.heat) for support in (self.label, self.against)]
        return draw_evidence(self.given.unit(), (self.given.height, self.given.width), maps, title=title)

    def __str__(self) -> str:
        """Both answers' log-evidence, a line each."""
        return "\n".join("{}: {}, {}".format(*_told(support)) for support in (self.label, self.against))

    def _who(self) -> str:
        return "drawn by the policy" if self.proposal == "policy" else "half of them by the inference network"


def _told(support: Support) -> tuple[str, str, str]:
    return (
        shortened(support.label),
        f"log-evidence {support.log_evidence:.3g} ± {support.standard_error:.2g} nats",
        f"{support.effective_samples:.0f} effective samples",
    )


def explain(
    network: AttentionClassifier,
    given: Given,
    label: str,
    against: str | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    autocast: Autocast = nullcontext,
) -> Evidence:
    """Ask a network where the evidence for an answer is.

    If there is an inference network, and it can be told the answer, a mixture proposes: half of the sequences are its
    own, half the policy's. Else the policy does. Importance weights account for the difference.

    Args:
        network: in evaluation mode; it names classes or labels. Of a label, the answer is that it is present.
        given: the image.
        label: the answer asked about.
        against: another answer; by default the likeliest other one.
        samples: sequences of glimpses, at least 2.
        seed: of the draws.
        autocast: the precision to compute in.

    Raises:
        UserError: fewer than 2 samples, an unknown answer, the same one twice, or a network that gives numbers.
    """
    head = network.head
    if not isinstance(head, ClassHead | LabelsHead):
        raise UserError("evidence is for classes and labels, and this network gives a number")
    if len(head.names) < 2:
        raise UserError(f"evidence is compared with another label's, and this network knows {head.names[0]} alone")
    if samples < 2:
        raise UserError(f"evidence needs at least 2 samples, got {samples}")
    for name in (label, against):
        if name is not None:
            require_label(name, head.names)
    if math.prod(given.size) > WHOLE:
        width, height = reversed(given.size)
        raise UserError(
            f"evidence is mapped pixel by pixel, and the image has {width}×{height}; ask about a part of it"
        )
    if label == against:
        raise UserError(f"expected another label to compare {label} with, got the same; leave it out or name another")
    device = next(network.parameters()).device
    with torch.inference_mode(), autocast():
        pyramid = network.prediction.pyramid([given.on(device)], samples * network.prediction.glimpses)
        if against is None:
            likeliest = network.predict(pyramid).outputs[0].argsort(descending=True)
            against = next(head.names[n] for n in likeliest.tolist() if head.names[n] != label)
        told = network.inference is not None and isinstance(head, ClassHead)
        if not told:
            outputs, action = drawn(network, pyramid, samples, seed)
        supports = []
        for name in (label, against):
            answer = head.names.index(name)
            if told:
                after, log_ratio, action = _informed(network, pyramid, answer, samples, seed)
            else:
                chosen = outputs[..., answer]
                after = chosen if isinstance(head, ClassHead) else F.logsigmoid(chosen)
                log_ratio = torch.zeros_like(after[:, -1])
            unknown = -math.log(len(head.names) if isinstance(head, ClassHead) else 2)
            shares = shares_of_glimpses(after, unknown)
            log_weights = (after[:, -1] + log_ratio).double().cpu()
            supports.append(_support(name, log_weights, shares, network.prediction.sensor, given, action))
    return Evidence(given, supports[0], supports[1], samples, "inference" if told else "policy")


def shares_of_glimpses(after: Tensor, before: float) -> Tensor:
    """How a sequence's weight is shared among its glimpses: half evenly, half by the nats that each gained.

    Args:
        after: (sequences, glimpses) log-probability of the answer after each glimpse.
        before: the same before the first.

    Returns:
        (sequences, glimpses) float64; each sequence sums to 1, evenly where no glimpse gained anything.

    Example:
        >>> shares_of_glimpses(torch.tensor([[-0.7, -0.1]]), -0.7)
        tensor([[0.2500, 0.7500]], dtype=torch.float64)
    """
    after = after.double().cpu()
    gains = after.diff(dim=-1, prepend=torch.full_like(after[:, :1], before)).clamp(min=0)
    even = torch.full_like(gains, 1 / gains.shape[-1])
    total = gains.sum(-1, keepdim=True)
    return (even + torch.where(total > 0, gains / total, even)) / 2


def heat_map(sensor: Sensor, size: tuple[int, int], action: Action, weights: Tensor) -> Tensor:
    """Where weighted glimpses lie: the share of each pixel, (height, width) float64, summing to 1.

    A glimpse spreads its share evenly over its square; what lies outside the image is left out.

    Args:
        sensor: cuts the glimpses.
        size: (height, width) of the image, in pixels.
        action: location (sequences, glimpses, 2) and scale (sequences, glimpses).
        weights: (sequences, glimpses), none negative.

    Example:
        >>> at = Action(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long))
        >>> heat_map(Sensor(2, (1,)), (4, 4), at, torch.ones(1, 1))[1]
        tensor([0.0000, 0.2500, 0.2500, 0.0000], dtype=torch.float64)
    """
    side = torch.tensor(sensor.scales, dtype=torch.float64)[action.scale.cpu()].flatten() * sensor.patch_size
    location = action.location.cpu().double().flatten(0, -2)

    def covered(axis: int) -> Tensor:
        """(glimpses, pixels) how much of each pixel along an axis lies in each glimpse."""
        extent = size[1 - axis]
        middle = (location[:, axis] + 1) / 2 * (extent - 1) + 0.5
        edge = torch.arange(extent, dtype=torch.float64)
        low, high = (middle - side / 2).unsqueeze(-1), (middle + side / 2).unsqueeze(-1)
        return (torch.minimum(edge + 1, high) - torch.maximum(edge, low)).clamp(0, 1)

    share = weights.cpu().double().flatten() / side**2
    heat = (covered(1) * share.unsqueeze(-1)).T @ covered(0)
    total = heat.sum()
    return heat / total if total > 0 else torch.full_like(heat, 1 / heat.numel())


def drawn(
    network: AttentionClassifier, pyramid: Glimpsable, samples: int, seed: int, glimpses: int | None = None
) -> tuple[Tensor, Action]:
    """Sequences of glimpses at one image, drawn from the policy.

    Args:
        network: looks.
        pyramid: of the one image.
        samples: sequences, at least 1.
        seed: of the draws.
        glimpses: how many to take; by default as many as the network was made for.

    Returns:
        The head's outputs (samples, glimpses, outputs) after each glimpse; and the glimpses, location (samples,
        glimpses, 2) and scale (samples, glimpses).
    """
    generator = torch.Generator(pyramid.device).manual_seed(seed)
    network.require_room(samples, glimpses)
    parts = []
    for count in _parts(samples):
        looked = network.predict(pyramid, samples=count, generator=generator, glimpses=glimpses)
        parts.append([each[:, 0] for each in (looked.outputs_after, *looked.action)])
    outputs, location, scale = (torch.cat(each) for each in zip(*parts, strict=True))
    return outputs, Action(location, scale)


def _parts(samples: int) -> Iterator[int]:
    """As many samples, at most `TOGETHER` at a time."""
    for start in range(0, samples, TOGETHER):
        yield min(TOGETHER, samples - start)


def _support(label: str, log_weights: Tensor, shares: Tensor, sensor: Sensor, given: Given, action: Action) -> Support:
    count = len(log_weights)
    weights = log_weights.softmax(0)
    effective = float(effective_sample_size(weights))
    return Support(
        label=label,
        log_evidence=float(log_weights.logsumexp(0)) - math.log(count),
        # The delta method: the relative standard error of the mean weight, whose relative variance is M / ESS - 1.
        standard_error=math.sqrt(max(0.0, count / effective - 1) / (count - 1)),
        effective_samples=effective,
        heat=heat_map(sensor, given.size, action, weights.unsqueeze(-1) * shares),
    )


def _informed(
    network: AttentionClassifier, pyramid: Glimpsable, answer: int, samples: int, seed: int
) -> tuple[Tensor, Tensor, Action]:
    """Sequences of policy and inference network, told the answer.

    Returns:
        log p(answer) (samples, glimpses) after each glimpse; log p - log r (samples,) of the sequences; the glimpses.
    """
    generator = torch.Generator(pyramid.device).manual_seed(seed)
    answers = torch.tensor([answer], device=pyramid.device)
    network.require_room(samples, None)
    after, ratios, actions = [], [], []
    for count in _parts(samples):
        rollout = network(pyramid, answers, samples=count, generator=generator, defensive=SHARE)
        drawn_from = rollout.log_q_a if rollout.log_proposal is None else rollout.log_proposal
        after.append(rollout.log_p_y.cumsum(-1)[:, 0])
        ratios.append((rollout.log_p_a - drawn_from).sum(-1)[:, 0])
        actions.append([each[:, 0] for each in rollout.action])
    location, scale = (torch.cat(each) for each in zip(*actions, strict=True))
    return torch.cat(after), torch.cat(ratios), Action(location, scale)
