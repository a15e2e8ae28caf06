r"""Three ways to keep a policy looking around: pure functions, for every estimator alike.

1. A raised temperature of the proposal: `GlimpseDistribution.tempered`; the importance weights account for it.
2. `coverage_penalty`: asks the policy, averaged over a batch, to visit every part of the image.
3. `entropy_bonus`: asks each single decision to stay undecided.

The last two are functions of the policy's distributions alone, which no parameter of the inference network enters: a
term that reached both networks would carry the label into the network that is used at test time.

Source: Ba et al. 2015, which needs them for the variational baseline.
"""

from __future__ import annotations

from torch import Tensor

from wsram.glimpse.policies import Policy


def entropy_bonus(policy: Policy, *, location: float, scale: float) -> Tensor:
    """Mean entropy of a glimpse decision, in nats (scalar), to be maximised.

    Location and scale are weighed apart: a location's differential entropy has no upper bound of its own, so a weight
    that keeps scales in play can drown out where to look.

    Args:
        policy: distributions of any batch shape.
        location, scale: the weights of the two entropies.
    """
    return location * policy.location_entropy().mean() + scale * policy.scale_entropy().mean()


def coverage_penalty(policy: Policy, parts: int = 8) -> Tensor:
    r"""How far the locations of a whole batch are from visiting every part of the image, in nats (scalar).

    $$\mathrm{KL}(u \,\|\, v) = -\frac{1}{C}\sum_c \log (C\, v_c)$$

    over a grid of C = parts² equal parts of the image, with $v_c$ the policy's probability of part c, averaged over
    samples, batch and glimpses and normalised over the image, and u uniform. Zero, its least, when
    all parts are equally likely.

    Args:
        policy: distributions of any batch shape.
        parts: along each axis.

    Example:
        >>> import torch
        >>> from wsram.glimpse.actions import GlimpseDistribution
        >>> wide = GlimpseDistribution(torch.zeros(2), torch.full((2,), 4.0), torch.zeros(3))
        >>> narrow = GlimpseDistribution(torch.zeros(2), torch.full((2,), -2.0), torch.zeros(3))
        >>> bool(coverage_penalty(wide) < 0.001 < 1 < coverage_penalty(narrow))
        True
    """
    visits = policy.visits(parts)
    # A part that is never visited has log 0; the floor keeps its penalty, and gradient, finite.
    share = visits / visits.sum().clamp(min=1e-12)
    return -(share * parts**2).clamp(min=1e-6).log().mean()
