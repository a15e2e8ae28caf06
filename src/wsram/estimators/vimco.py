"""VIMCO: the multi-sample bound, differentiated through the density that was drawn from."""

from __future__ import annotations

import torch
from torch import Tensor

from wsram.estimators.base import (
    Estimate,
    centred,
    check,
    itself,
    log_ratio_of,
    mean_of_others,
    possible,
    posterior,
    product,
    surrogate,
    whole,
)


def vimco(
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    *,
    control_variates: bool = True,
    log_proposal: Tensor | None = None,
    mean_log_p_a: Tensor | None = None,
) -> Estimate:
    r"""VIMCO: the multi-sample bound $\mathcal{L}_M = E_q[\hat L]$ with $\hat L = \log \frac1M \sum_m \tilde w^m$.

    $$\nabla_\theta \approx \sum_m w^m \nabla L^m + \sum_m (w^m - \tfrac1M) \nabla \log p(a^m|I)
        + \tfrac1M \sum_{m,n} E_q \nabla \log p(a_n|a^m_{<n}, I), \qquad
      \nabla_\eta \approx \sum_m \left[(\hat L - \hat L_{-m}) - (w^m - \tfrac1M)\right] \nabla \log q(a^m|y,I)$$

    η's first bracket is the score of drawing the samples, its second what q in the weights' denominator adds. With
    `control_variates`, $\hat L_{-m}$ is $\hat L$ with $\log \tilde w^m$ replaced by the mean of the others' (the
    geometric mean of their weights), which does not depend on $a^m$. Without, it is 0, and the variance grows with M.
    The three $\tfrac1M$ are our addition, left out without `control_variates`: a score less its mean, which is zero for
    log q and known for log p, glimpse by glimpse. Those for θ need `mean_log_p_a`. ($\rho^m / M$ times the policy's
    score has mean zero too, but no bound; ψ in its place is biased.)

    If log q carries no gradient, the policy itself is what was drawn from, and log p takes the score's terms:

    $$\nabla_\theta \approx \sum_m w^m \nabla L^m + \sum_m (\hat L - \hat L_{-m})\, \nabla \log p(a^m|I)$$

    Unbiased for $\mathcal{L}_M$ in all its parameters, at every M; $\mathcal{L}_1 = F$ if the policy proposes.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch) or (samples, batch, steps) nats. A log_q_a without a gradient must
            be the policy's own, not that of a raised temperature.
        control_variates: whether to use the baseline; needs 2 samples.
        log_proposal: must be None: the bound is differentiated through the density that was drawn from.
        mean_log_p_a: same shape, nats, each action's log p on average over q; see `wsram.models.rollout.Rollout`.

    Raises:
        ValueError: shapes that differ, one sample with a baseline, or another density that was drawn from.

    Source: Mnih & Rezende 2016, equations 5 to 8; the bound, Burda et al. 2016.
    """
    if log_proposal is not None:
        raise ValueError("vimco needs samples of the proposal that it trains; use wake-sleep with a defensive mixture")
    check(log_p_y, log_p_a, log_q_a, None, control_variates, mean_log_p_a)
    log_p_y, log_p_a, log_q_a = whole(log_p_y), whole(log_p_a), whole(log_q_a)
    log_ratio = log_ratio_of(log_p_a, log_q_a)
    weights, psi, log_evidence = posterior(log_p_y, log_ratio)
    signal = log_evidence.expand_as(log_ratio)
    if control_variates:
        log_w = possible(possible(log_ratio + log_p_y.detach(), log_ratio))
        typical = mean_of_others(log_w, torch.zeros_like(log_w))
        without = torch.where(itself(log_w), typical.unsqueeze(1), log_w)
        signal = torch.logsumexp(log_w, 0) - torch.logsumexp(without, 1)
    zero_mean = 1.0 / len(log_p_y) if control_variates else 0.0
    trains_q = log_q_a.requires_grad
    if not trains_q:
        policy_loss = surrogate(signal, log_p_a)
    elif mean_log_p_a is None or not control_variates:
        policy_loss = surrogate(weights, log_p_a)
    else:
        policy_loss = centred(weights, torch.full_like(weights, zero_mean), log_p_a, whole(mean_log_p_a))
    return Estimate(
        prediction_loss=surrogate(weights, log_p_y),
        policy_loss=policy_loss,
        proposal_loss=surrogate(signal - (weights - zero_mean), log_q_a) if trains_q else log_p_y.new_zeros(()),
        weights=weights,
        bound=product(psi, log_p_y.detach()).sum(0),
        log_evidence=log_evidence,
    )
