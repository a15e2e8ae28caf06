r"""What every estimator shares: the estimate, and the few sums over samples that estimators are made of.

Notation: $L^m = \log p(y|a^m, I)$, $\tilde w^m = p(a^m|I)\,p(y|a^m,I)/q(a^m|y,I)$,
$w^m = \tilde w^m/\sum_i \tilde w^i$, $\rho^m = p(a^m|I)/q(a^m|y,I)$ and $\psi^m = \rho^m / \sum_i \rho^i$.
Weights never carry a gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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


def check(
    log_p_y: Tensor, log_p_a: Tensor, log_q_a: Tensor, log_proposal: Tensor | None, control_variates: bool
) -> None:
    """`ValueError` unless shapes agree, and there are 2 samples if they are compared with one another."""
    given = (log_p_y, log_p_a, log_q_a) if log_proposal is None else (log_p_y, log_p_a, log_q_a, log_proposal)
    shapes = [tuple(t.shape) for t in given]
    if len(set(shapes)) != 1 or log_p_y.ndim not in (2, 3):
        raise ValueError(
            f"log_p_y, log_p_a and log_q_a must all be (samples, batch) or (samples, batch, steps), got {shapes}"
        )
    if control_variates and log_p_y.shape[0] < 2:
        raise ValueError(
            f"control variates compare samples with one another and need at least 2, got {log_p_y.shape[0]}; "
            "draw more samples or turn control variates off"
        )


def whole(log_prob: Tensor) -> Tensor:
    """(samples, batch) of whole sequences, from that or from (samples, batch, steps)."""
    return log_prob.sum(-1) if log_prob.ndim == 3 else log_prob


def by_step(log_prob: Tensor) -> Tensor:
    """(samples, batch, steps), from that or from (samples, batch): sequences of one step."""
    return log_prob if log_prob.ndim == 3 else log_prob.unsqueeze(-1)


def posterior(log_p_y: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights w and ψ (samples, batch) and the log-evidence (batch,), all detached, in log space throughout."""
    log_w = log_ratio + log_p_y.detach()
    log_evidence = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])
    return torch.softmax(log_w, 0), torch.softmax(log_ratio, 0), log_evidence


def surrogate(coefficient: Tensor, log_prob: Tensor) -> Tensor:
    """Minus the sum over samples, and steps if there are any, averaged over the batch."""
    return -(coefficient * log_prob).sum() / log_prob.shape[1]


def itself(values: Tensor) -> Tensor:
    """(samples, samples, 1, ...) bool, true where a sample meets itself: what leaving one out leaves out."""
    itself = torch.eye(len(values), dtype=torch.bool, device=values.device)
    return itself.view(*itself.shape, *[1] * (values.ndim - 1))


def mean_of_others(values: Tensor, log_ratio: Tensor) -> Tensor:
    """For each sample the mean of the other samples' values (samples, batch, ...), weighed by their own ψ."""
    # Row m holds the normalised ratios of all samples but m.
    others = torch.softmax(log_ratio.expand(len(values), *log_ratio.shape).masked_fill(itself(log_ratio), -math.inf), 1)
    return (others.view(*others.shape, *[1] * (values.ndim - log_ratio.ndim)) * values).sum(1)


def slope_of_others(regressor: Tensor, response: Tensor) -> Tensor:
    r"""The least-squares slope $\beta$ of the response, fitted for each image to the *other* images of the batch.

    The samples of different images are independent, so what is multiplied by β keeps its mean. Kept within 0 (the
    regressor says nothing; also where there is no other image) and 1 (it is believed as it stands).

    Args:
        regressor, response: (samples, batch, steps), both with mean zero over samples.

    Returns:
        (batch, steps).
    """
    shared, own = (regressor * response).sum(0), regressor.square().sum(0)
    shared, own = shared.sum(0) - shared, own.sum(0) - own
    return (shared / own.clamp(min=torch.finfo(own.dtype).tiny)).clamp(0.0, 1.0)
