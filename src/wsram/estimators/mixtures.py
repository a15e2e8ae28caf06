"""What is drawn or taught besides the wake phase: defensive mixtures of policy and proposal, and the sleep phase."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from wsram.estimators.base import Estimate, surrogate, whole


def defensive_mixture(log_p_a: Tensor, log_q_a: Tensor, share: float) -> Tensor:
    r"""Log-density of sequences drawn whole from the policy with probability α, else from q: a bound on the ratios.

    $$q'(a_{1..n}) = \alpha\, p(a_{1..n}|I) + (1 - \alpha)\, q(a_{1..n}|y,I), \qquad p/q' \le 1/\alpha$$

    Which of the two a sequence was drawn from is summed over, so the mixture is one density, the same for all samples.
    Its steps are conditional log-densities, from the densities of the sequences so far.

    Args:
        log_p_a, log_q_a: (samples, batch, steps) nats.
        share: α, above 0 and below 1.

    Returns:
        (samples, batch, steps) nats, detached: what estimators take as `log_proposal`.

    Raises:
        ValueError: a share outside these bounds.

    Source: Hesterberg 1995; the mixture's density in the weights, Owen & Zhou 2000.

    Example:
        >>> log_p, log_q = torch.tensor([[[0.1]]]).log(), torch.tensor([[[0.6]]]).log()
        >>> defensive_mixture(log_p, log_q, 0.2).exp()
        tensor([[[0.5000]]])
    """
    if not 0 < share < 1:
        raise ValueError(f"the policy's share of a defensive mixture must be above 0 and below 1, got {share}")
    so_far = torch.logaddexp(
        log_p_a.detach().cumsum(-1) + math.log(share), log_q_a.detach().cumsum(-1) + math.log1p(-share)
    )
    return so_far.diff(dim=-1, prepend=torch.zeros_like(so_far[..., :1]))


def sleep(estimate: Estimate, log_q_dreams: Tensor, share: float) -> Estimate:
    r"""An estimate whose proposal learns, to a share σ, from the model's dreams instead of the posterior weights.

    $$\nabla_\eta \approx (1 - \sigma) \left[\text{wake: as the estimator has it}\right]
      + \sigma\, \frac1D \sum_d \nabla \log q(a^d|y^d,I), \qquad a^d, y^d \sim p(a, y|I)$$

    The sleep phase minimises $E_{p(y|I)}\,\mathrm{KL}(p(a|y,I)\,\|\,q)$: the wake phase's aim for the labels that the
    model believes in rather than the true ones, without bias and without weights. The two agree once the model's labels
    are the data's.

    Args:
        estimate: of a wake phase.
        log_q_dreams: (dreams, batch) or (dreams, batch, steps) nats, of what the model dreamt.
        share: σ, from 0 to 1.

    Raises:
        ValueError: a share outside these bounds.

    Source: Bornschein & Bengio 2015, its wake and sleep updates of q and their mean.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the sleep phase's share must be from 0 to 1, got {share}")
    asleep = surrogate(torch.full_like(whole(log_q_dreams), 1 / len(log_q_dreams)), whole(log_q_dreams))
    return replace(estimate, proposal_loss=(1 - share) * estimate.proposal_loss + share * asleep)
