"""A policy that can point: a map over the cells of an image, an offset inside the cell, and a scale.

The image is parted into m by m equal cells, as `wsram.glimpse.exploration.coverage_penalty` parts it. An offset never
leaves its cell, so a location belongs to one cell alone, and what is drawn is scored exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.glimpse.actions import (
    LOG_2PI,
    Action,
    CellDistribution,
    GlimpseDistribution,
    at_least_float32,
    draw_categorical,
)
from wsram.glimpse.contrast import background_of
from wsram.glimpse.draws import drawn

SPREAD = 0.15
"""Standard deviation of an offset, in halves of a cell's side, before it is cut off at the cell's edges."""
FAINTEST = 1e-3
"""Of the largest contrast in an image: less counts as this much, so that no cell is impossible at first."""
AT_EDGE = 1 - 1e-4
"""Half a cell's side less what rounding could carry into the next cell."""


@dataclass(frozen=True)
class MapDistribution:
    r"""A cell, an offset inside it and a scale.

    $$p(\ell, k) = \mathrm{Cat}(c;\, \operatorname{softmax} e)\; \mathcal{N}_{[-1, 1]^2}(u;\, m_c, s^2)\; (2/h)^2\;
      \mathrm{Cat}(k;\, \operatorname{softmax} z)$$

    with c the cell that the location lies in, h its side and u the location's offset from its centre in units of h / 2.
    The Gaussian is cut off at the cell's edges: outside the image the density is 0.

    Args:
        logits: (..., cells) unnormalised log-probabilities of the cells, row by row of a square grid.
        scale_logits: (..., scales) unnormalised log-probabilities of the scales.
        offset: (..., cells, 2) m, (x, y), where the Gaussian's mean lies in each cell, within [-1, 1]; no gradient.
        spread: s, the standard deviation in halves of a cell's side.
        cells: what it was made of, if it is a network's.

    Source: ours; a map over cells is the hard attention of Xu et al. 2015.

    Example:
        >>> d = MapDistribution(torch.zeros(9), torch.zeros(2), torch.zeros(9, 2))
        >>> location = d.sample(torch.Generator().manual_seed(0)).location
        >>> bool((location.abs() < 1).all())
        True
    """

    logits: Tensor
    scale_logits: Tensor
    offset: Tensor
    spread: float = SPREAD
    cells: Cells | None = None

    @property
    def side(self) -> int:
        """Cells along each axis, m."""
        return math.isqrt(self.logits.shape[-1])

    def sample(self, generator: torch.Generator, sample_shape: tuple[int, ...] = ()) -> Action:
        """Draw actions of shape (*sample_shape, ...); carries no gradient."""
        with torch.no_grad():
            cell = _draw_cell(self.logits, generator, sample_shape)
            mean = self._offset_of(cell)
            low, high = torch.special.ndtr((-1 - mean) / self.spread), torch.special.ndtr((1 - mean) / self.spread)
            uniform = drawn(torch.rand, mean.shape, generator, mean)
            offset = mean + self.spread * torch.special.ndtri(low + (high - low) * uniform)
            location = self._location(cell, offset)
        return Action(location, draw_categorical(self.scale_logits, generator, sample_shape))

    def mode(self) -> Action:
        """The most probable cell, the Gaussian's mean in it and the likeliest scale."""
        cell = self.logits.argmax(-1)
        return Action(self._location(cell, self._offset_of(cell)), self.scale_logits.argmax(-1))

    def log_prob(self, action: Action) -> Tensor:
        """log p(action), in nats, shape of the broadcast of the action and this distribution."""
        return self.location_log_prob(action.location) + self.scale_log_prob(action.scale)

    def location_log_prob(self, location: Tensor) -> Tensor:
        """Log-density of the location (..., 2); -inf outside the image."""
        location = location.expand(*torch.broadcast_shapes(location.shape[:-1], self.logits.shape[:-1]), 2)
        cell = cell_of(location, self.side)
        column, row = cell % self.side, cell // self.side
        offset = (location + 1) * self.side - 2 * torch.stack([column, row], -1) - 1
        logits = self.logits.expand(*cell.shape, -1)
        chosen = logits.gather(-1, cell.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(self.logits, -1)
        mean = self._offset_of(cell)
        z = (offset - mean) / self.spread
        per_axis = -0.5 * (z.square() + LOG_2PI) - math.log(self.spread) - self._inside(mean).log()
        return (chosen + (per_axis + math.log(self.side)).sum(-1)).masked_fill((location.abs() > 1).any(-1), -math.inf)

    def scale_log_prob(self, scale: Tensor) -> Tensor:
        """Log-probability of the scale index (...)."""
        shape = torch.broadcast_shapes(self.scale_logits.shape[:-1], scale.shape)
        return CellDistribution(self.scale_logits.expand(*shape, -1)).log_prob(scale.expand(shape))

    def location_mean_log_prob(self, drawn_from: MapDistribution) -> Tensor:
        r"""$E_{\ell \sim q} \log p(\ell)$ of this p under another q over the same cells, exactly; nats, (...)."""
        low, high = (-1 - self.offset) / drawn_from.spread, (1 - self.offset) / drawn_from.spread
        slope = (low * _normal(low) - high * _normal(high)) / (torch.special.ndtr(high) - torch.special.ndtr(low))
        square = (drawn_from.spread / self.spread) ** 2 * (1 + slope)
        per_axis = -0.5 * (square + LOG_2PI) - math.log(self.spread) - self._inside(self.offset).log()
        of_cell = (per_axis + math.log(self.side)).sum(-1)
        return (drawn_from.logits.softmax(-1) * (F.log_softmax(self.logits, -1) + of_cell)).sum(-1)

    def mean_log_prob(self, drawn_from: MapDistribution) -> Tensor:
        r"""$E_{a \sim q} \log p(a)$ of this p under another q over the same cells, exactly; nats, (...)."""
        scales = CellDistribution(self.scale_logits).mean_log_prob(CellDistribution(drawn_from.scale_logits))
        return self.location_mean_log_prob(drawn_from) + scales

    def entropy(self) -> Tensor:
        """Entropy in nats: differential for the location, plus the scale's; shape (...)."""
        return self.location_entropy() + self.scale_entropy()

    def location_entropy(self) -> Tensor:
        """Differential entropy of the location, in nats: the cell's, and the mean of its offset's; shape (...)."""
        return -self.location_mean_log_prob(self)

    def scale_entropy(self) -> Tensor:
        """Entropy of the scale, in nats; shape (...)."""
        return CellDistribution(self.scale_logits).entropy()

    def location_std(self) -> Tensor:
        """Standard deviation of the cells' centres along each axis, in units of location; (..., 2)."""
        p = self.logits.softmax(-1).unflatten(-1, (self.side, self.side))
        centre = (2 * torch.arange(self.side, device=p.device, dtype=p.dtype) + 1) / self.side - 1
        along = torch.stack([p.sum(-2), p.sum(-1)], -2)
        mean = (along * centre).sum(-1, keepdim=True)
        return (along * (centre - mean).square()).sum(-1).sqrt()

    def visits(self, parts: int) -> Tensor:
        """(parts, parts) how often each of so many equal parts of the image is visited, x first, by all decisions.

        A cell's share is taken to lie evenly in it.
        """
        edge = torch.arange(parts + 1, device=self.logits.device, dtype=self.logits.dtype) / parts * self.side
        cell = torch.arange(self.side, device=edge.device, dtype=edge.dtype)
        overlap = torch.minimum(edge[1:, None], cell + 1) - torch.maximum(edge[:-1, None], cell)
        overlap = overlap.clamp(min=0)
        p = self.logits.softmax(-1).reshape(-1, self.side, self.side).sum(0)
        return overlap @ p.mT @ overlap.mT

    def tempered(self, temperature: float) -> MapDistribution:
        """Each factor raised to the power 1 / T: logits over T, the Gaussian's std times √T. T > 1 explores more."""
        if temperature == 1.0:
            return self
        spread = self.spread * math.sqrt(temperature)
        return replace(
            self, logits=self.logits / temperature, scale_logits=self.scale_logits / temperature, spread=spread
        )

    def detach(self) -> MapDistribution:
        """The same numbers without a gradient."""
        return replace(self, logits=self.logits.detach(), scale_logits=self.scale_logits.detach())

    def _inside(self, mean: Tensor) -> Tensor:
        """How much of a Gaussian about `mean` lies between the cell's edges, along one axis."""
        return torch.special.ndtr((1 - mean) / self.spread) - torch.special.ndtr((-1 - mean) / self.spread)

    def _offset_of(self, cell: Tensor) -> Tensor:
        """The mean offset (..., 2) of cells (...)."""
        every = self.offset.expand(*cell.shape, *self.offset.shape[-2:])
        return every.gather(-2, cell[..., None, None].expand(*cell.shape, 1, 2)).squeeze(-2)

    def _location(self, cell: Tensor, offset: Tensor) -> Tensor:
        column_and_row = torch.stack([cell % self.side, cell // self.side], -1)
        return (2 * column_and_row + 1 + offset.clamp(-AT_EDGE, AT_EDGE)) / self.side - 1


PULL = 6.0
"""Nats that a query can add to a cell or take from it. Without a bound a map that has found some things ends up 100
nats away from all others, which then are never tried, and pays any toll to look again (Bello et al. 2016, A.2)."""


@dataclass(frozen=True)
class Cells:
    """What a policy can point at in a batch of images, and what of it was already looked at.

    Evidence is for the training of the map alone, see `scores`; glimpses and what comes of them do without.

    keys: (batch, cells, units) what a query is compared with; None where no query is asked.
    prior: (batch, cells) logits before any query.
    offset: (batch, cells, 2) see `MapDistribution`.
    toll: () nats that cells lose once they have been looked at, and those around them.
    features: (batch, features) of the whole view.
    evidence: (batch, cells, answers) what each cell says for every answer, of a map that is taught so; else None.
    visited: (..., batch, cells) 1 where an earlier glimpse was in the cell or beside it, else 0; None before the first.
    around: how many cells beside one that was looked at count as visited with it, on all sides.
    """

    keys: Tensor | None
    prior: Tensor
    offset: Tensor
    toll: Tensor
    features: Tensor
    evidence: Tensor | None = None
    visited: Tensor | None = None
    around: int = 1

    def policy(self, raw: Tensor) -> MapDistribution:
        """The distribution that a query (..., batch, units) and logits of scales (..., batch, scales) make, joined."""
        logits, units = self.prior, 0
        if self.keys is not None:
            units = self.keys.shape[-1]
            # Keys stay in the precision they were made in: there are many, and every glimpse compares them all.
            query = (raw[..., :units] / math.sqrt(units)).to(self.keys.dtype)
            energy = torch.einsum("...bu,bcu->...bc", query, self.keys)
            logits = logits + PULL * torch.tanh(energy / PULL)
        if self.visited is not None:
            logits = logits - self.toll * self.visited
        return MapDistribution(logits, raw[..., units:], self.offset, cells=self)

    @property
    def scores(self) -> Tensor | None:
        """What all cells say together, (batch, answers): the logarithm of the mean of their evidence's exponentials."""
        if self.evidence is None:
            return None
        return torch.logsumexp(self.evidence, -2) - math.log(self.evidence.shape[-2])

    def after(self, location: Tensor) -> Cells:
        """The same after glimpses at `location` (..., batch, 2): their cells and those `around` them are visited."""
        side = math.isqrt(self.prior.shape[-1])
        cell, number = cell_of(location, side).unsqueeze(-1), torch.arange(side, device=location.device)
        rows, columns = ((number - at).abs() <= self.around for at in (cell // side, cell % side))
        visited = (rows.unsqueeze(-1) & columns.unsqueeze(-2)).flatten(-2).to(self.prior.dtype)
        if self.visited is not None:
            visited = torch.maximum(visited, self.visited)
        return replace(self, visited=visited)

    def select(self, index: Tensor) -> Cells:
        """Of the images numbered `index` (images,) int64."""
        parts: dict[str, Any] = {name: part[index] for name, part in self._parts("keys", "prior", "offset", "features")}
        visited = None if self.visited is None else self.visited[..., index, :]
        return replace(self, evidence=None, visited=visited, **parts)

    def detach(self) -> Cells:
        """The same numbers without a gradient."""
        parts: dict[str, Any] = {name: part.detach() for name, part in self._parts("keys", "prior", "toll", "features")}
        return replace(self, evidence=None, **parts)

    def _parts(self, *names: str) -> list[tuple[str, Tensor]]:
        """What there is of these, by name: there may be no keys."""
        return [(name, part) for name in names if (part := getattr(self, name)) is not None]


def cell_of(location: Tensor, side: int) -> Tensor:
    """The cell (...) int64 of a grid of side by side that a location (..., 2) lies in, the nearest of those outside."""
    column, row = ((location + 1) * (side / 2)).long().clamp(0, side - 1).unbind(-1)
    return row * side + column


def _contrast(view: Tensor) -> Tensor:
    """How far each place of views (batch, channels, side, side) is from the median, on average over channels."""
    view = at_least_float32(view)
    return (view - background_of(view.flatten(-2))).abs().mean(1)


def middles(count: int, like: Tensor) -> Tensor:
    """(count,) the middles of equal parts of -1 to 1."""
    return (2 * torch.arange(count, device=like.device, dtype=like.dtype) + 1) / count - 1


def centre_of_contrast(view: Tensor) -> Tensor:
    """The centre (batch, 2) of what stands out from the background of views (batch, channels, side, side).

    A location; no gradient. Of a view that is all background, the middle.
    """
    with torch.no_grad():
        contrast = _contrast(view)
        at = middles(contrast.shape[-1], contrast)
        across, down = ((contrast.sum(axis) * at).sum(-1) for axis in (-2, -1))
        return torch.stack([across, down], -1) / contrast.sum((-2, -1)).clamp(min=FAINTEST).unsqueeze(-1)


def contrast_of(view: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """How much there is to see in each cell of a view, and where in the cell it is.

    Contrast is the distance from the view's median, averaged over channels. A cell's offset is the centre of the
    contrast in it and the cells around it, as far as that lies in the cell: a glimpse there has in its middle
    what the cell shows a part of.

    Args:
        view: (batch, channels, side, side).
        stride: pixels of the view along the side of a cell.

    Returns:
        Log-contrast (batch, cells), at most 0, and offsets (batch, cells, 2) as of `MapDistribution`; no gradient.
    """
    with torch.no_grad():
        contrast = _contrast(view)
        cells = contrast.unflatten(-1, (-1, stride)).unflatten(-3, (-1, stride))  # batch, rows, inner, columns, inner
        mass = cells.mean((-3, -1))
        inner = middles(stride, contrast)
        moments = torch.stack([mass, (cells * inner).mean((-3, -1)), (cells * inner[:, None, None]).mean((-3, -1))], 1)
        padded = F.pad(moments, (1, 1, 1, 1))
        total = torch.zeros_like(moments)
        side = mass.shape[-1]
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                part = padded[..., 1 + down : 1 + down + side, 1 + right : 1 + right + side]
                total += part
                total[:, 1] += 2 * right * part[:, 0]
                total[:, 2] += 2 * down * part[:, 0]
        largest = mass.flatten(1).amax(-1).clamp(min=1e-12)[:, None, None]
        # A little weight in the middle: where there is nothing, the offset is none.
        offset = (total[:, 1:] / (total[:, :1] + 1e-3 * largest.unsqueeze(1))).clamp(-1, 1)
        return (mass / largest).clamp(min=FAINTEST).log().flatten(1), offset.flatten(-2).mT


def stacked(policies: Sequence[GlimpseDistribution | MapDistribution], lead: Sequence[int]) -> Policy:
    """The policies of several glimpses as one, batched (*lead, glimpses)."""

    def together(name: str) -> Tensor:
        parts = [getattr(policy, name) for policy in policies]
        return torch.stack([part.expand(*lead, part.shape[-1]) for part in parts], -2)

    first = policies[0]
    if isinstance(first, GlimpseDistribution):
        return GlimpseDistribution(together("mean"), together("log_std"), together("scale_logits"))
    return MapDistribution(
        together("logits"), together("scale_logits"), first.offset.unsqueeze(-3), first.spread, first.cells
    )


Policy = GlimpseDistribution | MapDistribution
"""What decides where to look next."""


def _draw_cell(logits: Tensor, generator: torch.Generator, sample_shape: tuple[int, ...]) -> Tensor:
    """As `draw_categorical`, for many cells: one random number for each draw instead of one for each cell."""
    up_to = logits.softmax(-1).cumsum(-1).expand(*sample_shape, *logits.shape).contiguous()
    uniform = drawn(torch.rand, (*up_to.shape[:-1], 1), generator, logits)
    cell = torch.searchsorted(up_to, uniform * up_to[..., -1:], right=True).squeeze(-1)
    return cell.clamp(max=logits.shape[-1] - 1)


def _normal(z: Tensor) -> Tensor:
    """The standard normal density."""
    return (-0.5 * (z.square() + LOG_2PI)).exp()
