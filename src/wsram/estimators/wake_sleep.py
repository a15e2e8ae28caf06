"""Reweighted wake-sleep (WS-RAM) with its control variates, and with credit for single glimpses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wsram.estimators.base import (
    Estimate,
    before,
    by_step,
    centred,
    check,
    foreseen,
    log_ratio_of,
    possible,
    posterior,
    product,
    share,
    surrogate,
    whole,
)


def wake_sleep(
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    *,
    control_variates: bool = True,
    log_proposal: Tensor | None = None,
) -> Estimate:
    r"""Reweighted wake-sleep on $\log p(y|I)$ with self-normalised importance weights (WS-RAM).

    $$\nabla_\theta \approx \sum_m w^m \nabla L^m + \sum_m (w^m - \psi^m)\, \nabla \log p(a^m|I), \qquad
      \nabla_\eta \approx \sum_m (w^m - \phi^m)\, \nabla \log q(a^m|y,I)$$

    The subtracted terms estimate a score function's mean, which is zero, from the same samples; without
    `control_variates` they are left out. $\phi^m = 1/M$ if q itself was drawn from. If a `log_proposal` q' was, it
    stands for q in w and ψ, and $\phi^m = (q/q')^m / \sum_i (q/q')^i$. When the policy itself proposes, log q carries
    no gradient, ψ = 1/M, and the last term is constant. Biased at finite M, consistent as M grows; under another
    proposal ψ is itself an estimate, and takes part of the gradient along, of order 1/M.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch) or (samples, batch, steps) nats.
        control_variates: whether to subtract ψ and φ; needs 2 samples.
        log_proposal: same shape, nats, the density that the samples were drawn from, if it is not q.

    Raises:
        ValueError: shapes that differ, or one sample with control variates.

    Source: Ba et al. 2015, the wake-sleep updates and their control variates; Bornschein & Bengio 2015.
    """
    check(log_p_y, log_p_a, log_q_a, log_proposal, control_variates)
    log_p_y, log_p_a, log_q_a = whole(log_p_y), whole(log_p_a), whole(log_q_a)
    drawn_from = log_q_a.detach() if log_proposal is None else whole(log_proposal).detach()
    weights, psi, log_evidence = posterior(log_p_y, log_ratio_of(log_p_a, drawn_from))
    zero_mean_p = psi if control_variates else torch.zeros_like(psi)
    zero_mean_q = share(log_ratio_of(log_q_a, drawn_from)) if control_variates else torch.zeros_like(psi)
    return Estimate(
        prediction_loss=surrogate(weights, log_p_y),
        policy_loss=surrogate(weights - zero_mean_p, log_p_a),
        proposal_loss=surrogate(weights - zero_mean_q, log_q_a),
        weights=weights,
        bound=product(psi, log_p_y.detach()).sum(0),
        log_evidence=log_evidence,
    )


def wake_sleep_credit(
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    *,
    control_variates: bool = True,
    log_proposal: Tensor | None = None,
    mean_log_p_a: Tensor | None = None,
) -> Estimate:
    r"""`wake_sleep`, whose control variates know what each glimpse's own past was already worth.

    $$\nabla_\theta \approx \sum_m w^m \nabla L^m
        + \sum_{m,n} (w^m - \psi^m_n)\, \nabla \log p(a^m_n|a^m_{<n},I), \qquad
      \nabla_\eta \approx \sum_{m,n} (w^m - \phi^m_n)\, \nabla \log q(a^m_n|a^m_{<n},y,I)$$

    $$\psi^m_n = (1 - \beta_n)\, \psi^m + \beta_n \frac{\rho^m e^{L^m_{<n}}}{\sum_i \rho^i e^{L^i_{<n}}}, \qquad
      \phi^m_n = (1 - \beta'_n) \tfrac{1}{M}
        + \beta'_n \frac{\rho^m_{<n} e^{L^m_{<n}}}{\sum_i \rho^i_{<n} e^{L^i_{<n}}}$$

    $L_{<n}$ and $\rho_{<n}$ are made of the steps before glimpse n. They predict w, and glimpse n had no part in them:
    given its past its score has mean zero, so what they predict can be subtracted. $\beta_n$ and $\beta'_n$ say how
    far w follows these predictions, from the other images of the batch (`base.foreseen`). The mean for η where q itself
    was drawn from, and for θ when the policy itself proposes, is exactly that without control variates; else ψ and φ
    are self-normalised, as those of `wake_sleep` are. With one step or fewer than three images this is `wake_sleep`.

    With `mean_log_p_a` (`wake-sleep-exact`) θ needs no ψ. From the score of each glimpse its mean under what was drawn
    from is subtracted, which is known exactly, in the share $\phi^m_n$ that q's score has if q was drawn from:

    $$\nabla_\theta \approx \sum_m w^m \nabla L^m + \sum_{m,n} w^m\, \nabla \log p(a^m_n|a^m_{<n},I)
        - \phi^m_n \left[\nabla \log p(a^m_n|a^m_{<n},I) - E_q \nabla \log p(a_n|a^m_{<n},I)\right]$$

    Its mean is that without control variates, whatever proposes.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch, steps) nats.
        control_variates: whether to subtract ψ and φ; needs 2 samples.
        log_proposal: same shape, nats, the density that the samples were drawn from, if it is not q; 1/M then becomes
            the φ of `wake_sleep`, which multiplies the prediction as ψ's ρ does.
        mean_log_p_a: same shape, nats, each action's log p on average over what it was drawn from; its gradient is
            what counts. See `wsram.models.rollout.Rollout`.

    Raises:
        ValueError: shapes that differ, or one sample with control variates.

    Source: ours; the weights before a step are those of a particle filter (Gordon et al. 1993), and what is settled
    before an action may be its baseline (Williams 1992).
    """
    check(log_p_y, log_p_a, log_q_a, log_proposal, control_variates, mean_log_p_a)
    plain = wake_sleep(log_p_y, log_p_a, log_q_a, control_variates=False, log_proposal=log_proposal)
    if not control_variates:
        return plain
    log_p_a, log_q_a, gained = by_step(log_p_a), by_step(log_q_a), by_step(log_p_y).detach()
    drawn_from = log_q_a.detach() if log_proposal is None else by_step(log_proposal).detach()
    weights = plain.weights.unsqueeze(-1)

    def foretold(log_prob: Tensor) -> Tensor:
        """What of the weights the scores of `log_prob` have no part in; (samples, batch, steps)."""
        log_ratio = log_ratio_of(log_prob, drawn_from).sum(-1, keepdim=True)
        worth = log_ratio_of(log_p_a, log_prob) + gained
        zero_mean = share(log_ratio)
        known = share(possible(log_ratio + before(worth), log_ratio)) - zero_mean
        return zero_mean + foreseen(known, weights - zero_mean)

    if mean_log_p_a is None:
        policy_loss = surrogate(weights - foretold(log_p_a), log_p_a)
    else:
        policy_loss = centred(weights, foretold(drawn_from), log_p_a, by_step(mean_log_p_a))
    return replace(plain, policy_loss=policy_loss, proposal_loss=surrogate(weights - foretold(log_q_a), log_q_a))
