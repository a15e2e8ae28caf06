"""REINFORCE on the variational bound, with a baseline of the other samples, and with credit for single glimpses."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from wsram.estimators.base import (
    Estimate,
    before,
    by_step,
    check,
    foreseen,
    log_ratio_of,
    mean_of_others,
    possible,
    posterior,
    product,
    share,
    surrogate,
    whole,
)


def variational(
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    *,
    control_variates: bool = True,
    log_proposal: Tensor | None = None,
) -> Estimate:
    r"""REINFORCE on the variational bound $F = \sum_a p(a|I) \log p(y|a,I) \le \log p(y|I)$.

    $$\nabla F \approx \sum_m \psi^m \left[ \nabla L^m + (L^m - b^m)\, \nabla \log p(a^m|I) \right]$$

    $\psi^m = 1/M$ when the policy itself proposes, which is the usual case and unbiased; under another proposal (a
    raised temperature) the self-normalised ratios keep the estimate consistent. With `control_variates`, $b^m$ is
    the mean of the other samples' $L$ under their own ψ: it does not depend on $a^m$, so it costs no bias. Without,
    $b = 0$.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch) or (samples, batch, steps) nats.
        control_variates: whether to use the baseline; needs 2 samples.
        log_proposal: same shape, nats, the density that the samples were drawn from, if it is not q.

    Raises:
        ValueError: shapes that differ, or one sample with a baseline.

    Source: Mnih et al. 2014 (RAM); Ba et al. 2015, its variational baseline; the leave-one-out mean, Mnih & Rezende
    2016 (VIMCO).
    """
    check(log_p_y, log_p_a, log_q_a, log_proposal, control_variates)
    log_ratio = whole(log_ratio_of(log_p_a, log_q_a if log_proposal is None else log_proposal))
    log_p_y, log_p_a = whole(log_p_y), whole(log_p_a)
    weights, psi, log_evidence = posterior(log_p_y, log_ratio)
    reward = log_p_y.detach()
    if control_variates:
        reward = possible(reward)
        reward = reward - mean_of_others(reward, log_ratio)
    return Estimate(
        prediction_loss=surrogate(psi, log_p_y),
        policy_loss=surrogate(product(psi, reward), log_p_a),
        proposal_loss=log_p_y.new_zeros(()),
        weights=weights,
        bound=product(psi, log_p_y.detach()).sum(0),
        log_evidence=log_evidence,
    )


def variational_credit(
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    *,
    control_variates: bool = True,
    log_proposal: Tensor | None = None,
) -> Estimate:
    r"""`variational`, whose baseline knows what each glimpse's own past had already earned.

    $$\nabla F \approx \sum_m \psi^m \left[ \nabla L^m
      + \sum_n \left(L^m - b^m - \beta_n (L^m_{<n} - b^m_{<n})\right) \nabla \log p(a^m_n|a^m_{<n}, I) \right]$$

    $L_{<n}$ is the sum of the steps of log p(y|a,I) before glimpse n: settled before glimpse n was chosen, so that its
    score owes it nothing; $b_{<n}$ is the mean of the other samples'. $\beta_n$ says how far $L$ follows
    $L_{<n}$, from the other images of the batch (`base.foreseen`): at 1 a glimpse answers only for the reward that
    comes after it, at 0 for all of it, as in `variational`, to which this reduces with one step, fewer than three
    images or no `control_variates`.
    When the policy itself proposes, unbiased for ∇F at every number of samples and images.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch, steps) nats.
        control_variates: whether to use baselines; needs 2 samples.
        log_proposal: same shape, nats, the density that the samples were drawn from, if it is not q.

    Raises:
        ValueError: shapes that differ, or one sample with baselines.

    Source: ours; reward to go, Williams 1992 and Sutton et al. 2000; baselines as control variates with fitted
    coefficients, Greensmith et al. 2004.
    """
    plain = variational(log_p_y, log_p_a, log_q_a, control_variates=control_variates, log_proposal=log_proposal)
    if not control_variates:
        return plain
    log_p_a = by_step(log_p_a)
    gained = by_step(log_p_y).detach()
    log_ratio = log_ratio_of(log_p_a, by_step(log_q_a if log_proposal is None else log_proposal)).sum(-1)
    reward, earned = possible(gained.sum(-1, keepdim=True)), possible(before(gained))
    reward, earned = (values - mean_of_others(values, log_ratio) for values in (reward, earned))
    reward = reward - foreseen(earned, reward)
    return replace(plain, policy_loss=surrogate(product(share(log_ratio).unsqueeze(-1), reward), log_p_a))
