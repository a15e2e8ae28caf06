"""Where to look next: a distribution over glimpse actions, Gaussian location times categorical scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.glimpse.draws import drawn, exponential

LOG_2PI = math.log(2.0 * math.pi)


def at_least_float32(values: Tensor) -> Tensor:
    """The same values in a precision that is good enough for probabilities: half precision has too few digits."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def draw_categorical(logits: Tensor, generator: torch.Generator, sample_shape: tuple[int, ...] = ()) -> Tensor:
    """Indices (*sample_shape, ...) with probabilities softmax(logits) (..., choices), int64; carries no gradient."""
    with torch.no_grad():
        logits = logits.expand(*sample_shape, *logits.shape)
        # Gumbel-max: one argmax for the whole batch, and no flattening as torch.multinomial would need.
        return (logits - drawn(exponential, logits.shape, generator, logits).log()).argmax(-1)


def _mean_under(logits: Tensor, values: Tensor) -> Tensor:
    """The mean (...) of values (..., choices) with probabilities softmax(logits); what is never drawn may be -inf."""
    probability = logits.softmax(-1)
    return (probability * values).masked_fill(probability == 0, 0.0).sum(-1)


class Action(NamedTuple):
    """One glimpse action for every element of a batch.

    location: (..., 2) real, (x, y) in image coordinates, [-1, 1] spanning the image (see `wsram.glimpse`).
    scale: (...) int64, index into the sensor's list of scales.
    """

    location: Tensor
    scale: Tensor


@dataclass(frozen=True)
class GlimpseDistribution:
    r"""Independent Gaussian location and categorical scale.

    $$p(a) = \mathcal{N}(\ell;\, \mu, \operatorname{diag}\sigma^2)\; \mathrm{Cat}(k;\, \operatorname{softmax} z)$$

    The Gaussian is not truncated: a glimpse centred beyond the edge sees black there, so the density that is
    scored is exactly the density that was sampled from.

    Args:
        mean: (..., 2) location mean, (x, y).
        log_std: (..., 2) natural logarithm of the location's standard deviation.
        scale_logits: (..., scales) unnormalised log-probabilities of the scales.

    Source: Ba et al. 2015, the action of the prediction network.

    Example:
        >>> d = GlimpseDistribution(torch.zeros(2), torch.zeros(2), torch.zeros(3))
        >>> action = d.sample(torch.Generator().manual_seed(0))
        >>> bool(torch.isclose(d.entropy(), torch.tensor(1 + LOG_2PI + math.log(3))))
        True
    """

    mean: Tensor
    log_std: Tensor
    scale_logits: Tensor

    def sample(self, generator: torch.Generator, sample_shape: tuple[int, ...] = ()) -> Action:
        """Draw actions of shape (*sample_shape, ...); carries no gradient (the sensor is not differentiated)."""
        with torch.no_grad():
            noise = drawn(torch.randn, (*sample_shape, *self.mean.shape), generator, self.mean)
            location = self.mean + self.log_std.exp() * noise
        return Action(location, draw_categorical(self.scale_logits, generator, sample_shape))

    def followed(self, action: Action, share: float) -> Action:
        r"""The same action, whose location moves with the mean and the spread that it was drawn from.

        $\ell = \mu + \sigma \epsilon$ with the noise ε that gives it; of this pathwise gradient a share is passed on.

        Source: Kingma & Welling 2014; Rezende et al. 2014.
        """
        noise = (action.location - self.mean.detach()) * (-self.log_std.detach()).exp()
        moving = self.mean + self.log_std.exp() * noise
        return Action(action.location + share * (moving - moving.detach()), action.scale)

    def mode(self) -> Action:
        """The most probable action, mean location and likeliest scale: the deterministic glimpse used at test time."""
        return Action(self.mean.detach(), self.scale_logits.argmax(-1))

    def log_prob(self, action: Action) -> Tensor:
        """log p(action), in nats, shape of the broadcast of the action and this distribution."""
        return self.location_log_prob(action.location) + self.scale_log_prob(action.scale)

    def location_log_prob(self, location: Tensor) -> Tensor:
        """Log-density of the location (..., 2) under the Gaussian."""
        z = (location - self.mean) * (-self.log_std).exp()
        return -(0.5 * z.square() + self.log_std).sum(-1) - LOG_2PI

    def scale_log_prob(self, scale: Tensor) -> Tensor:
        """Log-probability of the scale index (...)."""
        log_p = F.log_softmax(self.scale_logits, -1)
        log_p = log_p.expand(*torch.broadcast_shapes(log_p.shape[:-1], scale.shape), log_p.shape[-1])
        return log_p.gather(-1, scale.expand(log_p.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    def location_mean_log_prob(self, drawn_from: GlimpseDistribution) -> Tensor:
        """The location's log-density under this Gaussian, on average over what another one draws; nats, (...)."""
        away = (drawn_from.mean - self.mean).square() + (2 * drawn_from.log_std).exp()
        return -(0.5 * away * (-2 * self.log_std).exp() + self.log_std).sum(-1) - LOG_2PI

    def mean_log_prob(self, drawn_from: GlimpseDistribution) -> Tensor:
        r"""$E_{a \sim q} \log p(a)$ of this p under another distribution q, exactly; nats, (...)."""
        scales = _mean_under(drawn_from.scale_logits, F.log_softmax(self.scale_logits, -1))
        return self.location_mean_log_prob(drawn_from) + scales

    def entropy(self) -> Tensor:
        """Entropy in nats: differential for the location, plus the scale's; shape (...)."""
        return self.location_entropy() + self.scale_entropy()

    def location_entropy(self) -> Tensor:
        """Differential entropy of the location, in nats; shape (...)."""
        return (self.log_std + 0.5 * (1.0 + LOG_2PI)).expand(self.mean.shape).sum(-1)

    def scale_entropy(self) -> Tensor:
        """Entropy of the scale, in nats; shape (...)."""
        log_p = F.log_softmax(self.scale_logits, -1)
        return -(log_p.exp() * log_p).sum(-1)

    def location_std(self) -> Tensor:
        """Standard deviation of the location along each axis; (..., 2)."""
        return self.log_std.exp()

    def visits(self, parts: int) -> Tensor:
        """(parts, parts) how often each of so many equal parts of the image is visited, x first, by all decisions."""
        edges = torch.linspace(-1, 1, parts + 1, device=self.mean.device, dtype=self.mean.dtype)
        z = (edges - self.mean.unsqueeze(-1)) / self.log_std.exp().unsqueeze(-1)
        inside = torch.special.ndtr(z).diff(dim=-1).reshape(-1, 2, parts)
        return torch.einsum("rx,ry->xy", inside[:, 0], inside[:, 1])

    def tempered(self, temperature: float) -> GlimpseDistribution:
        r"""The distribution proportional to $p(a)^{1/T}$: std times √T, logits over T. T > 1 explores more."""
        if temperature == 1.0:
            return self
        return GlimpseDistribution(
            self.mean, self.log_std + 0.5 * math.log(temperature), self.scale_logits / temperature
        )

    def detach(self) -> GlimpseDistribution:
        """The same numbers without a gradient."""
        return GlimpseDistribution(self.mean.detach(), self.log_std.detach(), self.scale_logits.detach())


@dataclass(frozen=True)
class CellDistribution:
    r"""Which of an image's cells to attend to: $\mathrm{Cat}(i;\, \operatorname{softmax} e)$.

    Args:
        logits: (..., cells) unnormalised log-probabilities of the cells.

    Source: Xu et al. 2015 (Show, Attend and Tell), its hard attention.

    Example:
        >>> bool(torch.isclose(CellDistribution(torch.zeros(49)).entropy(), torch.tensor(math.log(49))))
        True
    """

    logits: Tensor

    def sample(self, generator: torch.Generator, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw cells (*sample_shape, ...), int64; carries no gradient."""
        return draw_categorical(self.logits, generator, sample_shape)

    def mode(self) -> Tensor:
        """The most probable cell (...), the deterministic choice at test time."""
        return self.logits.argmax(-1)

    def log_prob(self, cell: Tensor) -> Tensor:
        """log p(cell) (...), in nats, of cells (...)."""
        return F.log_softmax(self.logits, -1).gather(-1, cell.unsqueeze(-1)).squeeze(-1)

    def mean_log_prob(self, drawn_from: CellDistribution) -> Tensor:
        r"""$E_{i \sim q} \log p(i)$ of this p under another distribution q, exactly; nats, (...)."""
        return _mean_under(drawn_from.logits, F.log_softmax(self.logits, -1))

    def probabilities(self) -> Tensor:
        """(..., cells), each row summing to 1."""
        return self.logits.softmax(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats; shape (...)."""
        log_p = F.log_softmax(self.logits, -1)
        return -(log_p.exp() * log_p).sum(-1)

    def tempered(self, temperature: float) -> CellDistribution:
        r"""The distribution proportional to $p(i)^{1/T}$. T > 1 explores more."""
        return self if temperature == 1.0 else CellDistribution(self.logits / temperature)

    def detach(self) -> CellDistribution:
        """The same numbers without a gradient."""
        return CellDistribution(self.logits.detach())
