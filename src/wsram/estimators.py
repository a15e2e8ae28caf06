r"""Gradient estimators: pure functions of three log-probabilities, for any model that attends.

Every estimator takes `log_p_y`, `log_p_a` and `log_q_a`, each (samples, batch), of action sequences drawn from the
proposal q, and returns surrogate losses whose gradients are the estimates. A model that yields these three numbers
can be trained by every estimator; a new estimator is one function and one line in `ESTIMATORS`.

Notation: $L^m = \log p(y|a^m, I)$, $\tilde w^m = p(a^m|I)\,p(y|a^m,I)/q(a^m|y,I)$,
$w^m = \tilde w^m/\sum_i \tilde w^i$, $\rho^m = p(a^m|I)/q(a^m|y,I)$ and $\psi^m = \rho^m / \sum_i \rho^i$.
Weights never carry a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wsram.errors import UserError


@dataclass(frozen=True)
class Estimate:
    """Surrogate losses (to be minimised; scalars, mean over the batch, nats) and what was learned on the way.

    prediction_loss: its gradient reaches θ through log p(y|a,I).
    policy_loss: its gradient reaches θ through log p(a|I).
    proposal_loss: its gradient reaches η through log q(a|y,I); constant zero for estimators that do not train q.
    weights: (samples, batch) posterior importance weights w, each column summing to 1.
    bound: (batch,) Σ ψ log p(y|a,I), the samples' estimate of the variational bound F on log p(y|I).
    log_evidence: (batch,) log (1/M) Σ w̃, in expectation a lower bound on log p(y|I) that tightens with M.
    """

    prediction_loss: Tensor
    policy_loss: Tensor
    proposal_loss: Tensor
    weights: Tensor
    bound: Tensor
    log_evidence: Tensor

    @property
    def loss(self) -> Tensor:
        """The sum of the three losses: one backward pass gives every gradient."""
        return self.prediction_loss + self.policy_loss + self.proposal_loss


def _check(log_p_y: Tensor, log_p_a: Tensor, log_q_a: Tensor, control_variates: bool) -> None:
    shapes = [tuple(t.shape) for t in (log_p_y, log_p_a, log_q_a)]
    if len(set(shapes)) != 1 or log_p_y.ndim != 2:
        raise UserError(f"log_p_y, log_p_a and log_q_a must all be (samples, batch), got {shapes}")
    if control_variates and log_p_y.shape[0] < 2:
        raise UserError(
            f"control variates compare samples with one another and need at least 2, got {log_p_y.shape[0]}; "
            "draw more samples or turn control variates off"
        )


def _posterior(log_p_y: Tensor, log_p_a: Tensor, log_q_a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights w and ψ (samples, batch) and the log-evidence (batch,), all detached, in log space throughout."""
    log_ratio = (log_p_a - log_q_a).detach()
    log_w = log_ratio + log_p_y.detach()
    log_evidence = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])
    return torch.softmax(log_w, 0), torch.softmax(log_ratio, 0), log_evidence


def _surrogate(coefficient: Tensor, log_prob: Tensor) -> Tensor:
    return -(coefficient * log_prob).sum(0).mean()


def variational(log_p_y: Tensor, log_p_a: Tensor, log_q_a: Tensor, *, control_variates: bool = True) -> Estimate:
    r"""REINFORCE on the variational bound $F = \sum_a p(a|I) \log p(y|a,I) \le \log p(y|I)$.

    $$\nabla F \approx \sum_m \psi^m \left[ \nabla L^m + (L^m - b^m)\, \nabla \log p(a^m|I) \right]$$

    $\psi^m = 1/M$ when the policy itself proposes, which is the usual case and unbiased; under another proposal (a
    raised temperature) the self-normalised ratios keep the estimate consistent. With `control_variates`, $b^m$ is
    the mean of the other samples' $L$ under their own ψ: it does not depend on $a^m$, so it costs no bias. Without,
    $b = 0$.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch) nats.
        control_variates: whether to use the baseline; needs 2 samples.

    Raises:
        UserError: shapes that differ, or one sample with a baseline.

    Source: Mnih et al. 2014 (RAM); Ba et al. 2015, its variational baseline; the leave-one-out mean, Mnih & Rezende
    2016 (VIMCO).
    """
    _check(log_p_y, log_p_a, log_q_a, control_variates)
    weights, psi, log_evidence = _posterior(log_p_y, log_p_a, log_q_a)
    reward = log_p_y.detach()
    if control_variates:
        # Leave one out: row m holds the normalised ratios of all samples but m.
        log_ratio = (log_p_a - log_q_a).detach()
        itself = torch.eye(len(reward), dtype=torch.bool, device=reward.device).unsqueeze(-1)
        others = torch.softmax(log_ratio.expand(len(reward), -1, -1).masked_fill(itself, -math.inf), 1)
        reward = reward - (others * reward).sum(1)
    return Estimate(
        prediction_loss=_surrogate(psi, log_p_y),
        policy_loss=_surrogate(psi * reward, log_p_a),
        proposal_loss=log_p_y.new_zeros(()),
        weights=weights,
        bound=(psi * log_p_y.detach()).sum(0),
        log_evidence=log_evidence,
    )


def wake_sleep(log_p_y: Tensor, log_p_a: Tensor, log_q_a: Tensor, *, control_variates: bool = True) -> Estimate:
    r"""Reweighted wake-sleep on $\log p(y|I)$ with self-normalised importance weights (WS-RAM).

    $$\nabla_\theta \approx \sum_m w^m \nabla L^m + \sum_m (w^m - \psi^m)\, \nabla \log p(a^m|I), \qquad
      \nabla_\eta \approx \sum_m (w^m - 1/M)\, \nabla \log q(a^m|y,I)$$

    The subtracted terms estimate a score function's mean, which is zero, from the same samples; without
    `control_variates` they are left out. When the policy itself proposes, log q carries no gradient, ψ = 1/M, and the
    last term is constant. Biased at finite M, consistent as M grows.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch) nats.
        control_variates: whether to subtract ψ and 1/M; needs 2 samples.

    Raises:
        UserError: shapes that differ, or one sample with control variates.

    Source: Ba et al. 2015, the wake-sleep updates and their control variates; Bornschein & Bengio 2015.
    """
    _check(log_p_y, log_p_a, log_q_a, control_variates)
    weights, psi, log_evidence = _posterior(log_p_y, log_p_a, log_q_a)
    zero_mean_p, zero_mean_q = (psi, 1.0 / len(weights)) if control_variates else (0.0, 0.0)
    return Estimate(
        prediction_loss=_surrogate(weights, log_p_y),
        policy_loss=_surrogate(weights - zero_mean_p, log_p_a),
        proposal_loss=_surrogate(weights - zero_mean_q, log_q_a),
        weights=weights,
        bound=(psi * log_p_y.detach()).sum(0),
        log_evidence=log_evidence,
    )


Estimator = Callable[..., Estimate]

ESTIMATORS: dict[str, Estimator] = {"variational": variational, "wake-sleep": wake_sleep}


def estimator(name: str) -> Estimator:
    """The estimator of that name; `UserError` names the choices if there is none."""
    if name not in ESTIMATORS:
        raise UserError(f"unknown estimator {name!r}; choose one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]
