"""The prediction network: a recurrent network that glances, chooses where to look next, and answers.

Two recurrent layers:

    low-resolution view ──► r2_0 ──► p(a_1|I)      r2_n ──► p(a_n+1 | a_1..n, I)
                                                     ▲
    glimpse(a_n, I), a_n ──► features ──► r1_n ──────┘        r1_N ──► p(y | a, I)

The answer is read from the lower layer alone, so what the low-resolution view shows can reach the prediction only
through the glimpses it makes the network choose.

Source: Ba et al. 2015, its prediction network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.errors import UserError, require_at_least
from wsram.glimpse.actions import Action, GlimpseDistribution, at_least_float32
from wsram.glimpse.policies import Cells, MapDistribution, Policy, centre_of_contrast
from wsram.glimpse.pyramid import Images
from wsram.glimpse.sensor import Sensor
from wsram.glimpse.source import Glimpsable
from wsram.models.heads import ClassHead, LabelsHead, build_head
from wsram.models.layers import GlimpseNetwork, MapNetwork, Recurrence, ViewNetwork
from wsram.models.looking import Choose, Looked, Memory, Resample, Stopped
from wsram.models.trunk import is_trunk, require_learning

POLICIES = ("gaussian", "map")
AIMS = ("middle", "contrast")
KEY_UNITS = 16
"""Of a cell's key and of the query that it is compared with."""
FARTHEST = 0.95
"""How far from the middle, in units of location, a policy aims at most: raw outputs are infinite at the edge."""
CLOSE = -1.5
"""Raw output of the spread around an aim, at first: at the default bounds 0.15, where others begin with 0.45."""
SHORTEST = 1e-12
"""Length below which a state is not made one of unit length."""


class PredictionNetwork(nn.Module):
    """Chooses glimpses and predicts the label (parameters θ).

    Args:
        sensor: cuts the glimpses.
        answer: the kind of answer, one of `wsram.models.heads.HEADS`.
        names: of the answers.
        channels: of the images.
        glimpses: how many it takes.
        lower_units: units of r1 and of the glimpse features.
        upper_units: units of r2.
        recurrence: "relu", "gru" or "lstm".
        network: "fc", "conv" or a pretrained one (see `wsram.models.trunk`), for the glimpses and the view.
        widths: channels of the convolutions of "conv".
        freeze: whether a pretrained network stays as it is.
        view: side in pixels of the low-resolution view.
        std_range: bounds of the location's standard deviation, in units of location; equal bounds fix it.
        unit: of a number, see `wsram.models.heads.NumberHead`.
        aim: what a Gaussian policy's mean is learned as a difference from: the "middle" of the image, or the centre of
            the "contrast" in its view, as far as that is trusted, which is learned too.
        policy: "gaussian", a place anywhere; or "map", which points at cells of the view (`MapDistribution`).
        map_stride, map_apart, map_toll, map_dropout: of the map, see `MapNetwork`.
        map_query: whether what was seen asks for cells, rather than that they are looked at by what each says.
        map_freeze: whether what a map is read from stays as it is, if `freeze` says so too.
        map_evidence: whether each cell gives evidence for every answer: the map begins where there is most of it.
        binding, leak, warp, dropout, read_dropout: see `GlimpseNetwork`.
        scale_toll: nats that a scale loses at the policy's modes for each glimpse of the sequence that had it already.

    Raises:
        UserError: fewer than 1 glimpse, 2 classes or 2 units, an unknown recurrence or network, a bad range or toll.
    """

    def __init__(
        self,
        sensor: Sensor,
        *,
        answer: str,
        names: Sequence[str],
        channels: int,
        glimpses: int,
        lower_units: int,
        upper_units: int,
        recurrence: str,
        network: str,
        widths: Sequence[int],
        view: int,
        std_range: tuple[float, float],
        unit: tuple[float, float] = (0.0, 1.0),
        freeze: bool = True,
        aim: str = "middle",
        policy: str = "gaussian",
        map_stride: int = 1,
        map_apart: bool = False,
        map_query: bool = True,
        map_toll: float = 20.0,
        map_evidence: bool = False,
        map_freeze: bool = True,
        map_dropout: float = 0.0,
        binding: str = "sum",
        leak: float = 0.0,
        warp: float = 0.0,
        dropout: float = 0.0,
        read_dropout: float = 0.0,
        scale_toll: float = 0.0,
    ) -> None:
        super().__init__()
        require_at_least(0, scale_toll=scale_toll)
        require_at_least(1, glimpses=glimpses, channels=channels, widths=min(widths, default=0))
        require_at_least(2, lower_units=lower_units, upper_units=upper_units)
        if not 0 < std_range[0] <= std_range[1] < math.inf:
            raise UserError(f"the range of the location's spread must be 0 < low <= high, both finite, got {std_range}")
        self.sensor = sensor
        self.glimpses = glimpses
        # To the precision of float32, as the networks have it.
        low, high = torch.tensor(std_range, device="cpu").log().tolist()
        self.log_std_range = low, high
        self.view = view
        scales = len(sensor.scales)
        reading: dict[str, Any] = {"channels": channels, "widths": widths, "freeze": freeze}
        self.glimpse_network = GlimpseNetwork(
            network,
            side=sensor.patch_size,
            scales=scales,
            features=lower_units,
            binding=binding,
            leak=leak,
            warp=warp,
            dropout=dropout,
            read_dropout=read_dropout,
            **reading,
        )
        self.lower = Recurrence(recurrence, lower_units, lower_units)
        self.head = build_head(answer, lower_units, names, unit)
        if aim not in AIMS:
            raise UserError(f"unknown aim {aim!r}; choose one of {', '.join(AIMS)}")
        if aim == "contrast" and policy == "map":
            raise UserError("a map points at contrast by itself; use --aim middle with it")
        self.trust = nn.Parameter(torch.ones(())) if aim == "contrast" else None
        self.scale_toll = scale_toll
        self.handed_on = 2 * (self.trust is not None) + scales * (scale_toll > 0)
        if policy not in POLICIES:
            raise UserError(f"unknown policy {policy!r}; choose one of {', '.join(POLICIES)}")
        if map_evidence and not (policy == "map" and isinstance(self.head, ClassHead | LabelsHead)):
            raise UserError(
                "cells of a map give evidence, and for one of several answers, not for a number; use --policy map with "
                "classes or labels, or --no-map-evidence"
            )
        self.view_network: ViewNetwork | MapNetwork
        units = KEY_UNITS if policy == "map" and map_query else 0
        if policy == "map":
            pointing: dict[str, Any] = {"stride": map_stride, "apart": map_apart, "units": units, "toll": map_toll}
            pointing |= {"answers": len(names) if map_evidence else 0, "dropout": map_dropout}
            reading["freeze"] = freeze and map_freeze
            self.view_network = MapNetwork(network, side=view, features=upper_units, **pointing, **reading)
            if is_trunk(network) and not map_freeze:
                require_learning(network, "--no-map-freeze", None if map_apart else map_stride)
        else:
            self.view_network = ViewNetwork(network, side=view, features=upper_units, **reading)
        # What was found says where to look next; where to look next is no evidence.
        self.upper = Recurrence("relu" if recurrence == "evidence" else recurrence, lower_units, upper_units)
        self.policy_head = nn.Linear(upper_units, (units if policy == "map" else 4) + scales)
        with torch.no_grad():
            # At first r1 does not move r2, so every glimpse of an image is drawn around the same place. Random weights
            # would send later glimpses to some corner, all of them black, where no signal brings them back.
            for name, weights in self.upper.unit.named_parameters():
                if name != "weight_hh":
                    weights.zero_()
            self.policy_head.weight.mul_(0.1)
            self.policy_head.bias.zero_()
            if self.trust is not None:
                self.policy_head.bias[2:4] = CLOSE

    def policy(self, raw: Tensor, cells: Cells | None = None) -> Policy:
        """The distribution over the next glimpse from the head's raw outputs (..., outputs), of a map over `cells`."""
        raw = at_least_float32(raw)
        if cells is not None:
            return cells.policy(raw)
        low, high = self.log_std_range
        log_std = low + (high - low) * torch.sigmoid(raw[..., 2:4] + 1.0)
        return GlimpseDistribution(torch.tanh(raw[..., :2]), log_std, raw[..., 4:])

    def mode(self, raw: Tensor, upper: Tensor, cells: Cells | None = None) -> Action:
        """The mode of `policy`, of which nothing else is worked out, scales that were used paying toll; no gradient.

        Training says nothing of whether a scale that was used is worth another glimpse, once every scale answers. So
        the policy is as good as indifferent there, and its bare modes look at the same again.
        """
        raw = at_least_float32(raw.detach())
        if self.scale_toll:
            used = upper[..., -len(self.sensor.scales) :]
            raw = raw - F.pad(self.scale_toll * used, (raw.shape[-1] - used.shape[-1], 0))
        return Action(torch.tanh(raw[..., :2]), raw[..., 4:].argmax(-1)) if cells is None else cells.policy(raw).mode()

    def turn(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The upper layer's state by which the next glimpse is chosen, from both states (..., batch, features)."""
        # Of unit length, whatever r1's size: Adam moves each weight by the same step, and steps times a large
        # r1 would throw the next location into a corner before there is a gradient to stop it.
        r1 = self.lower.output(lower)
        exact = at_least_float32(r1)
        r1 = (exact / torch.linalg.vector_norm(exact, dim=-1, keepdim=True).clamp_min(SHORTEST)).to(r1.dtype)
        if not self.handed_on:
            return self.upper(r1, upper)
        return torch.cat([self.upper(r1, upper[..., : -self.handed_on]), upper[..., -self.handed_on :]], -1)

    def remember(self, upper: Tensor, action: Action) -> Tensor:
        """The upper layer's state (..., batch, features) once a glimpse was taken, of the scales used so far."""
        if not self.scale_toll:
            return upper
        scales = torch.arange(len(self.sensor.scales), device=upper.device)
        used = (action.scale.unsqueeze(-1) == scales).to(upper.dtype)
        return upper + F.pad(used, (upper.shape[-1] - len(scales), 0))

    def proposal(self, raw: Tensor, policy: Policy) -> Policy:
        """What other raw outputs make of the moment that `policy` is of; a gradient has its way through `raw` alone."""
        cells = policy.cells if isinstance(policy, MapDistribution) else None
        return self.policy(raw, None if cells is None else cells.detach())

    def pyramid(self, images: Images | Glimpsable, looks: int | None = None) -> Glimpsable:
        """See `Sensor.pyramid`; what is read from a disk is looked at where the network is."""
        return self.sensor.pyramid(images, looks, self.policy_head.weight.device)

    def look(
        self,
        images: Images | Glimpsable,
        choose: Choose | None = None,
        glimpses: int | None = None,
        *,
        sum_scale: bool = False,
        resample: Resample | None = None,
    ) -> Looked:
        """Take `glimpses` (by default all) in turn at images or their pyramid, as `choose` decides.

        Without it they are at the policy's modes, and no policy is told of unless scales are summed over.
        The first action decides the leading axes: a (samples, batch) action makes everything after it so. With
        `sum_scale` the last glimpse is taken at every scale, whichever is chosen, and the label's probability is the
        mean under the policy: nothing comes after it that would have to be seen at every scale too. With `resample` the
        next glimpse of a sequence goes on from the sequence that this says; what is told of a glimpse is of the
        sequence that it was taken in.
        """
        count = self.glimpses if glimpses is None else glimpses
        pyramid = self.pyramid(images, count)
        memory = self._begin(pyramid)
        actions, means = [], []
        policies: list[Policy] = []
        for n in range(count):
            memory, policy, action, mean = self._glance(pyramid, memory, n, choose, sum_scale and n == count - 1)
            if policy is not None:
                policies.append(policy)
            actions.append(action)
            means.append(mean)
            if resample is not None and n + 1 < count:
                memory = memory.heirs(resample(self.head(mean)))
        if sum_scale:
            log_p = policies[-1].scale_log_prob(self._at_every_scale(actions[-1]).scale)
            last = torch.logsumexp(log_p.unsqueeze(-1) + self.head(means.pop()), 0).unsqueeze(-2)
            outputs = torch.cat([self.head(torch.stack(means, -2)), last], -2) if means else last
        else:
            outputs = self.head(torch.stack(means, -2))
        location, scale = zip(*actions, strict=True)
        return Looked(outputs, Action(torch.stack(location, -2), torch.stack(scale, -1)), policies)

    def look_until(
        self, images: Images | Glimpsable, enough: Callable[[Tensor], Tensor], glimpses: int | None = None
    ) -> Stopped:
        """Look where it is likeliest to, and at each image no longer than until its answer is good enough.

        Images that are done are left out of what comes after, so that no work is done for them.

        Args:
            images: or their pyramid.
            enough: says of the head's outputs (images, outputs) which images are done, (images,) bool.
            glimpses: at most; by default all.
        """
        count = self.glimpses if glimpses is None else glimpses
        pyramid = self.pyramid(images, count)
        memory = self._begin(pyramid)
        at = torch.arange(len(pyramid), device=pyramid.device)
        taken = torch.zeros_like(at)
        found: list[list[Tensor]] = []
        for n in range(count):
            memory, _, action, mean = self._glance(pyramid, memory, n, None, False)
            outputs = self.head(mean)
            now = [outputs, action.location, action.scale]
            # Of an image that is done, the last of each stays.
            found.append([old.index_copy(0, at, new) for old, new in zip(found[-1], now, strict=True)] if n else now)
            taken[at] = n + 1
            going = (~enough(outputs)).nonzero().squeeze(-1)
            if not len(going):
                break
            if len(going) < len(at):
                at, pyramid = at[going], pyramid.select(going)
                memory = memory.select(going)
        outputs, location, scale = (torch.stack(each, 1) for each in zip(*found, strict=True))
        return Stopped(outputs, Action(location, scale), taken)

    def begin(self, view: Tensor) -> tuple[Tensor, Cells | None]:
        """The upper layer's state before the first glimpse at views (batch, channels, view, view), and a map's cells.

        The state's last numbers are what every glimpse hands on: the aim of a policy that has one, and how often each
        scale was used, if there is a toll on that.
        """
        seen = self.view_network(view)
        cells = seen if isinstance(seen, Cells) else None
        upper = self.upper.initial(seen if cells is None else cells.features)
        if not self.handed_on:
            return upper, cells
        parts = [upper]
        if self.trust is not None:
            parts.append(torch.atanh(centre_of_contrast(view).clamp(-FARTHEST, FARTHEST)).to(upper.dtype))
        if self.scale_toll:
            parts.append(upper.new_zeros(upper.shape[0], len(self.sensor.scales)))
        return torch.cat(parts, -1), cells

    def raw(self, upper: Tensor) -> Tensor:
        """The policy's raw outputs (..., outputs) from the upper layer's state."""
        raw = self.policy_head(self.upper.output(upper))
        if self.trust is not None:
            raw = raw + F.pad(self.trust * upper[..., -self.handed_on :][..., :2], (0, raw.shape[-1] - 2))
        return raw

    def _begin(self, pyramid: Glimpsable) -> Memory:
        view = pyramid.view(self.view)
        upper, cells = self.begin(view)
        return Memory(upper, view.new_zeros(()), cells)

    def _glance(
        self, pyramid: Glimpsable, memory: Memory, n: int, choose: Choose | None, every: bool
    ) -> tuple[Memory, Policy | None, Action, Tensor]:
        """Glimpse n, at every scale if asked for: the state after it, what it was drawn from, itself, and mean r1."""
        upper, lower, cells = memory
        if n > 0:
            upper = self.turn(lower, upper)
        raw = self.raw(upper)
        policy: Policy | None = None
        if choose is None:
            action = self.mode(raw, upper, cells)
            policy = self.policy(raw, cells) if every else None  # whose scales' probabilities are summed over
        else:
            policy = self.policy(raw, cells)
            action = choose(policy, raw, self.upper.output(upper))
        cells = None if cells is None else cells.after(action.location)
        taken = self._at_every_scale(action) if every else action
        features = self.glimpse_network(self.sensor(pyramid, *taken), taken)
        if n == 0:
            lower = self.lower.initial(torch.zeros_like(features[..., : self.lower.size]))
            upper = upper.expand(*action.scale.shape, -1)
        upper = self.remember(upper, action)
        lower = self.lower(features, lower.expand(*features.shape[:-1], -1))
        return Memory(upper, lower, cells), policy, action, self.lower.told(self.lower.output(lower), n + 1)

    def _at_every_scale(self, action: Action) -> Action:
        """(scales, ...) the same place at each scale."""
        scales = torch.arange(len(self.sensor.scales), device=action.scale.device)
        return Action(
            action.location.expand(len(scales), *action.location.shape),
            scales.view(-1, *[1] * action.scale.ndim).expand(-1, *action.scale.shape),
        )
