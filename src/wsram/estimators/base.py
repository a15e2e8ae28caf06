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
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    log_proposal: Tensor | None,
    control_variates: bool,
    mean_log_p_a: Tensor | None = None,
) -> None:
    """`ValueError` unless shapes agree, and there are 2 samples if they are compared with one another."""
    given = (log_p_y, log_p_a, log_q_a, log_proposal, mean_log_p_a)
    shapes = [tuple(t.shape) for t in given if t is not None]
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


def log_ratio_of(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log p - log q of the same shape, detached; 0 where the two are the same, also where both are -inf."""
    log_p, log_q = log_p.detach(), log_q.detach()
    return (log_p - log_q).masked_fill(log_p == log_q, 0.0)


def possible(log_x: Tensor, otherwise: Tensor | float = 0.0, dim: int = 0) -> Tensor:
    """`log_x`, or `otherwise` where it is -inf for all samples, which are along `dim`: nothing tells them apart."""
    return torch.where((log_x == -math.inf).all(dim, keepdim=True), otherwise, log_x)


def share(log_x: Tensor) -> Tensor:
    """Each sample's share (samples, batch, ...) of the samples' sum, from its logarithm; even shares of nothing."""
    return torch.softmax(possible(log_x), 0)


def product(coefficient: Tensor, values: Tensor) -> Tensor:
    """Their product, 0 where the coefficient is 0, whatever the value: what does not count may be infinite."""
    return (coefficient * values).masked_fill(coefficient == 0, 0.0)


def posterior(log_p_y: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights w and ψ (samples, batch) and the log-evidence (batch,), all detached, in log space throughout.

    An image none of whose samples can explain the label has w = ψ and log-evidence -inf.
    """
    log_w = log_ratio + log_p_y.detach()
    log_evidence = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])
    return share(possible(log_w, log_ratio)), share(log_ratio), log_evidence


def surrogate(coefficient: Tensor, log_prob: Tensor) -> Tensor:
    """Minus the sum over samples, and steps if there are any, averaged over the batch."""
    return -product(coefficient, log_prob).sum() / log_prob.shape[1]


def centred(weights: Tensor, share: Tensor, log_prob: Tensor, mean_log_prob: Tensor) -> Tensor:
    r"""The loss of $\sum_m w^m s^m - \phi^m (s^m - E s^m)$, s the scores: each is subtracted less its own mean.

    Exact for every $\phi$ that the action had no part in, whatever it was drawn from.
    """
    return surrogate(weights - share, log_prob) + surrogate(share, mean_log_prob)


def itself(values: Tensor) -> Tensor:
    """(samples, samples, 1, ...) bool, true where a sample meets itself: what leaving one out leaves out."""
    itself = torch.eye(len(values), dtype=torch.bool, device=values.device)
    return itself.view(*itself.shape, *[1] * (values.ndim - 1))


def mean_of_others(values: Tensor, log_ratio: Tensor) -> Tensor:
    """For each sample the mean of the other samples' values (samples, batch, ...), weighed by their own ψ."""
    # Row m holds the normalised ratios of all samples but m.
    log_others = log_ratio.expand(len(values), *log_ratio.shape).masked_fill(itself(log_ratio), -math.inf)
    others = torch.softmax(possible(log_others, dim=1).masked_fill(itself(log_ratio), -math.inf), 1)
    return product(others.view(*others.shape, *[1] * (values.ndim - log_ratio.ndim)), values).sum(1)


def before(values: Tensor, dim: int = -1) -> Tensor:
    """What was summed up before each place along `dim`, which has no part in it; 0 before the first.

    The running total less the place's own value would keep that value's rounding errors, and make NaN of infinity.
    """
    total = values.cumsum(dim)
    return torch.cat([torch.zeros_like(total.narrow(dim, 0, 1)), total.narrow(dim, 0, total.shape[dim] - 1)], dim)


def sum_of_others(values: Tensor) -> Tensor:
    """For each image (batch, ...) the sum over the other images, in which its own value has no part, not to the bit."""
    return before(values, 0) + before(values.flip(0), 0).flip(0)


def slope_of_others(regressor: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
    r"""The least-squares slope $\beta$ of the response, fitted for each image to the *other* images of the batch.

    With $s_i = \sum_m x^m_i y^m_i$ and $o_i = \sum_m (x^m_i)^2$ of the n other images,

    $$\beta = \frac{\sum_i s_i}{\sum_i o_i} \left(1 - \frac{\mathrm{se}^2}{\beta_0^2}\right)_+, \qquad
      \frac{\mathrm{se}^2}{\beta_0^2} = \frac{n}{n - 1} \frac{\sum_i (s_i - \beta_0 o_i)^2}{(\sum_i s_i)^2}, \qquad
      \beta_0 = \frac{\sum_i s_i}{\sum_i o_i}.$$

    It is shrunk by what the other images disagree among themselves, so that a regressor that says nothing is left
    alone, and kept within 0 and 1 (believed as it stands). It is 0 with fewer than two other images. Images whose sums
    are not finite count for none.

    Args:
        regressor, response: (samples, batch, steps), x and y, both with mean zero over samples.

    Returns:
        β and Σ o_i, (batch, steps) each, in float32 at least.

    Source: the standard error is clustered by image, Liang & Zeger 1986; the shrinkage, James & Stein 1961.
    """
    shared, own = _sums(regressor, response)
    # Squares are summed below, so they too must be finite.
    counts = (shared.square() + own.square()).isfinite()
    shared, own = shared.masked_fill(~counts, 0.0), own.masked_fill(~counts, 0.0)
    parts = [counts.to(own.dtype), shared, own, shared.square(), shared * own, own.square()]
    n, s, o, ss, so, oo = sum_of_others(torch.stack(parts, -1)).unbind(-1)
    tiny = torch.finfo(o.dtype).tiny
    slope = s / o.clamp(min=tiny)
    misfit = (ss - 2 * slope * so + slope.square() * oo).clamp(min=0.0)
    doubt = n / (n - 1).clamp(min=1) * misfit / s.square().clamp(min=tiny)
    sure = (n > 1) & (s > 0)
    return (slope * (1 - doubt).clamp(min=0.0)).clamp(max=1.0).masked_fill(~sure, 0.0), o


def foreseen(regressor: Tensor, response: Tensor) -> Tensor:
    r"""How much of the response the regressor foretells, $\beta x\, O / (O + o)$; (samples, batch, steps).

    β is the slope, and O the sum of the other images' squared regressors, of `slope_of_others`; o is the image's own
    sum. An image whose regressor is larger than all the others' together is beyond what they can tell of, and one that
    carries most of a batch's noise is of this kind. Of an image's own samples only x enters: what was settled before.

    Args:
        regressor, response: (samples, batch, steps), both with mean zero over samples.

    Source: ours; the own square in the denominator as in the forecaster of Vovk 2001 and Azoury & Warmuth 2001.
    """
    slope, size = slope_of_others(regressor, response)
    _, own = _sums(regressor, regressor)
    reach = size / (size + own).clamp(min=torch.finfo(size.dtype).tiny)
    return product((slope * reach).to(regressor.dtype), regressor)


def _sums(regressor: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
    """Σ x y and Σ x² over samples, (batch, steps), in float32 at least: half precision's squares overflow."""
    dtype = torch.promote_types(regressor.dtype, torch.float32)
    regressor, response = regressor.to(dtype), response.to(dtype)
    return (regressor * response).sum(0), regressor.square().sum(0)
