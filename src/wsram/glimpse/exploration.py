r"""Three ways to keep a policy looking around: pure functions, for every estimator alike.

1. A raised temperature of the proposal: `GlimpseDistribution.tempered`; the importance weights account for it.
2. `coverage_penalty`: asks the policy, averaged over a batch, to visit every part of the image.
3. `entropy_bonus`: asks each single decision to stay undecided.

The last two are functions of the policy's distributions alone, which no parameter of the inference network enters: a
term that reached both networks would carry the label into the network that is used at test time.

Source: Ba et al. 2015, which needs them for the variational baseline.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsram.glimpse.actions import GlimpseDistribution


def entropy_bonus(policy: GlimpseDistribution, *, location: float, scale: float) -> Tensor:
    """Mean entropy of a glimpse decision, in nats (scalar), to be maximised.

    Location and scale are weighed apart: a location's differential entropy has no upper bound of its own, so a weight
    that keeps scales in play can drown out where to look.

    Args:
        policy: distributions of any batch shape.
        location, scale: the weights of the two entropies.
    """
    return location * policy.location_entropy().mean() + scale * policy.scale_entropy().mean()


def coverage_penalty(policy: GlimpseDistribution, parts: int = 8) -> Tensor:
    r"""How far the locations of a whole batch are from visiting every part of the image, in nats (scalar).

    $$\mathrm{KL}(u \,\|\, v) = -\frac{1}{C}\sum_c \log (C\, v_c)$$

    over a grid of C = parts² equal parts of the image, with $v_c$ the policy's probability of part c, averaged over
    samples, batch and glimpses and normalised over the image, and u uniform. Zero, its least, when
    all parts are equally likely.

    Args:
        policy: distributions of any batch shape.
        parts: along each axis.

    Example:
        >>> wide = GlimpseDistribution(torch.zeros(2), torch.full((2,), 4.0), torch.zeros(3))
        >>> narrow = GlimpseDistribution(torch.zeros(2), torch.full((2,), -2.0), torch.zeros(3))
        >>> bool(coverage_penalty(wide) < 0.001 < 1 < coverage_penalty(narrow))
        True
    """
    edges = torch.linspace(-1, 1, parts + 1, device=policy.mean.device, dtype=policy.mean.dtype)
    z = (edges - policy.mean.unsqueeze(-1)) / policy.log_std.exp().unsqueeze(-1)
    inside = torch.special.ndtr(z).diff(dim=-1).reshape(-1, 2, parts)
    visits = torch.einsum("rx,ry->xy", inside[:, 0], inside[:, 1])
    # A part that is never visited has log 0; the floor keeps its penalty, and gradient, finite.
    share = visits / visits.sum().clamp(min=1e-12)
    return -(share * parts**2).clamp(min=1e-6).log().mean()
