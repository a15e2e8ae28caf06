"""A way to look that nobody taught: the whole first, then closely at what the coarse view leaves most open."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.glimpse.actions import Action
from wsram.glimpse.policies import middles
from wsram.glimpse.source import Glimpsable
from wsram.models.classifier import AttentionClassifier
from wsram.models.looking import Choose

MOST = 4
"""Parts of an image along each axis, at most: all of them are considered, which costs a glimpse's reading each."""


def by_entropy(network: AttentionClassifier, pyramid: Glimpsable) -> Choose:
    """A way to look from coarse to fine, guided by entropy.

    The first glimpse is in the middle, at the coarsest scale. The image is parted evenly into as many parts as glimpses
    of the finest scale cover it, at most `MOST` along each axis. What the low-resolution view shows of a part, enlarged
    to a glimpse, is given to the network as the only one; the entropy of its answer says how much is open there. The
    other glimpses are at the middles of the parts, at the finest scale, in descending order of entropy.

    Args:
        network: of classes; its policy has no say.
        pyramid: the images.

    Source: after the entropy-guided order from coarse to fine of Berreby et al. 2026 (CanViT, arXiv 2603.22570), which
        has a map of beliefs to read entropy from; the view stands for it here.
    """
    prediction = network.prediction
    sensor = prediction.sensor
    fine, coarse = (sensor.scales.index(k) for k in (min(sensor.scales), max(sensor.scales)))
    extent = float((2 * pyramid.reach + 1).amax())
    parts = max(1, min(MOST, round(extent / (sensor.patch_size * min(sensor.scales)))))
    view = pyramid.view(prediction.view)
    enlarged = F.interpolate(view, (parts * sensor.patch_size,) * 2, mode="bilinear")
    batch = len(view)
    tiles = enlarged.unflatten(-1, (parts, -1)).unflatten(-3, (parts, -1)).permute(0, 2, 4, 1, 3, 5)
    row, column = (each.flatten() for each in torch.meshgrid(*[middles(parts, view)] * 2, indexing="ij"))
    places = torch.stack([column, row], -1).expand(batch, -1, 2)
    scale = torch.full((batch, parts**2), fine, device=view.device)
    features = prediction.glimpse_network(tiles.flatten(1, 2), Action(places, scale))
    state = prediction.lower(
        features, prediction.lower.initial(torch.zeros_like(features[..., : prediction.lower.size]))
    )
    log_p = prediction.head(prediction.lower.output(state))
    entropy = -(log_p.exp() * log_p).sum(-1)
    order = entropy.argsort(-1, descending=True)
    taken = 0

    def choose(policy: Any, raw: Tensor, r2: Tensor) -> Action:
        nonlocal taken
        n, taken = taken, taken + 1
        if n == 0:
            return Action(places.new_zeros(batch, 2), torch.full_like(scale[:, 0], coarse))
        part = order[:, (n - 1) % order.shape[1]]
        return Action(places[torch.arange(batch, device=part.device), part], scale[:, 0])

    return choose
