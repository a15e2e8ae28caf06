"""Reweighted wake-sleep on sequences that were resampled between their glimpses: a particle filter's weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wsram.estimators.base import (
    Estimate,
    by_step,
    check,
    log_ratio_of,
    possible,
    product,
    share,
    surrogate,
)


def resample(log_weights: Tensor, uniform: Tensor) -> Tensor:
    r"""Which sequence each of the next step goes on from, in proportion to weights: systematic resampling.

    Of M sequences, one of weight w gets $\lfloor M w \rfloor$ or $\lceil M w \rceil$ heirs, M w on average; even
    weights leave everything as it is.

    Args:
        log_weights: (samples, batch) logarithms of the weights, of any sum; none possible, all even.
        uniform: (batch,) in [0, 1), one draw for each image.

    Returns:
        (samples, batch) int64, ascending along samples.

    Example:
        >>> resample(torch.tensor([[0.1], [0.6], [0.3]]).log(), torch.tensor([0.5])).T
        tensor([[1, 1, 2]])

    Source: Carpenter et al. 1999; Kitagawa 1996.
    """
    count = len(log_weights)
    # Both sides of the comparison in one type, summed in a finer one: even weights must have even edges.
    edges = share(log_weights).double().cumsum(0).to(uniform.dtype)
    at = (torch.arange(count, device=edges.device).unsqueeze(-1) + uniform) / count
    # Rounding may leave the last edge below 1.
    return torch.searchsorted(edges.T.contiguous(), at.T.contiguous(), right=True).clamp(max=count - 1).T


def along(gained: Tensor, ancestors: Tensor | None) -> Tensor:
    """Running totals of (samples, batch, steps), each step's on top of that of the sequence it went on from.

    Args:
        gained: what each step adds.
        ancestors: (samples, batch, steps) int64, see `wake_sleep_resampled`; None if every sequence goes on from
            itself.
    """
    if ancestors is None:
        return gained.cumsum(-1)
    totals = [gained[..., 0]]
    for n in range(1, gained.shape[-1]):
        totals.append(totals[-1].gather(0, ancestors[..., n]) + gained[..., n])
    return torch.stack(totals, -1)


def wake_sleep_resampled(
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    *,
    control_variates: bool = True,
    log_proposal: Tensor | None = None,
    ancestors: Tensor | None = None,
) -> Estimate:
    r"""Reweighted wake-sleep with a particle filter: after each glimpse the likely sequences are gone on with.

    Sequence m at step n goes on from sequence $A^m_n$ of step n - 1, drawn in proportion to the weights there
    (`resample`), which are even from then on. With $g^m_n$ what its glimpse gains in log p(y) over the sequence that it
    went on from,

    $$\hat w^m_n = \frac{p(a^m_n | \cdot)}{q(a^m_n | \cdot)}\, e^{g^m_n}, \qquad
      \hat p(y|I) = \prod_n \frac1M \sum_m \hat w^m_n, \qquad w^m = \frac{\hat w^m_N}{\sum_i \hat w^i_N}$$

    $$\nabla_\theta \approx \sum_{m,n} D^m_n \nabla g^m_n
        + \sum_{m,n} (D^m_n - \psi^m_n)\, \nabla \log p(a^m_n | \cdot), \qquad
      \nabla_\eta \approx \sum_{m,n} (D^m_n - \tfrac1M)\, \nabla \log q(a^m_n | \cdot)$$

    $D^m_n$ is the sum of the weights w of those that descend from sequence m of step n, itself at the last step. Given
    its past, a glimpse's score under what drew it has mean zero, whatever becomes of the sequence, and all of a step's
    sequences count the same: hence 1/M, and $\psi^m_n = \rho^m_n / \sum_i \rho^i_n$ of that step's ratios alone.

    $\hat p(y|I)$ is unbiased, and so is its product with the gradient without control variates, for $\nabla p(y|I)$.
    The gradient of the logarithm is biased at finite M and consistent, as that of `wake_sleep` is. No gradient goes
    through the resampling, and none is missing: what is estimated is the posterior's mean of a gradient.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch) or (samples, batch, steps) nats; of log_p_y a step is what it gains
            over the sequence it went on from.
        control_variates: whether to subtract ψ and 1/M; needs 2 samples.
        log_proposal: same shape, nats, the density that the samples were drawn from, if it is not q; for 1/M then
            stands $\phi^m_n$, that step's $(q/q')^m_n$ as a share of all.
        ancestors: (samples, batch, steps) int64, A; its first step is not read. None if nothing was resampled: the
            weights are then those of `wake_sleep`.

    Raises:
        ValueError: shapes that differ, or one sample with control variates.

    Source: Gu et al. 2015 (neural adaptive sequential Monte Carlo), the gradient; Gordon et al. 1993; the control
    variates are ours.
    """
    check(log_p_y, log_p_a, log_q_a, log_proposal, control_variates)
    gained, log_p_a, log_q_a = by_step(log_p_y), by_step(log_p_a), by_step(log_q_a)
    if ancestors is not None and ancestors.shape != gained.shape:
        raise ValueError(f"ancestors are (samples, batch, steps), {tuple(gained.shape)}, got {tuple(ancestors.shape)}")
    drawn_from = log_q_a.detach() if log_proposal is None else by_step(log_proposal).detach()
    log_ratio = log_ratio_of(log_p_a, drawn_from)
    count, steps = len(gained), gained.shape[-1]
    log_step = log_ratio + gained.detach()
    log_w, log_prior, log_evidence = log_step[..., 0], log_ratio[..., 0], log_step.new_zeros(log_step.shape[1])
    for n in range(1, steps):
        if ancestors is not None:
            log_evidence = log_evidence + torch.logsumexp(log_w, 0) - math.log(count)
            # A sequence of share s had M s heirs: by so much the policy's own weights are less.
            log_heirs = share(log_w).clamp(min=torch.finfo(log_w.dtype).tiny).log() + math.log(count)
            log_prior = (log_prior - log_heirs).gather(0, ancestors[..., n])
            log_w = torch.zeros_like(log_w)
        log_w, log_prior = log_w + log_step[..., n], log_prior + log_ratio[..., n]
    log_evidence = log_evidence + torch.logsumexp(log_w, 0) - math.log(count)
    weights, psi = share(possible(log_w, log_prior)), share(log_prior)
    descended = [weights]
    for n in range(steps - 1, 0, -1):
        heirs = descended[-1]
        if ancestors is not None:
            heirs = torch.zeros_like(heirs).scatter_add(0, ancestors[..., n], heirs)
        descended.append(heirs)
    credit = torch.stack(descended[::-1], -1)

    def zero_mean(log_prob: Tensor) -> Tensor:
        return share(log_ratio_of(log_prob, drawn_from)) if control_variates else torch.zeros_like(credit)

    return Estimate(
        prediction_loss=surrogate(credit, gained),
        policy_loss=surrogate(credit - zero_mean(log_p_a), log_p_a),
        proposal_loss=surrogate(credit - zero_mean(log_q_a), log_q_a),
        weights=weights,
        bound=product(psi, along(gained.detach(), ancestors)[..., -1]).sum(0),
        log_evidence=log_evidence,
    )
