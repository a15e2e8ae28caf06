r"""Gradient estimators: pure functions of three log-probabilities, for any model that attends.

Every estimator takes `log_p_y`, `log_p_a` and `log_q_a` of action sequences drawn from the proposal q, and returns
surrogate losses whose gradients are the estimates. A model that yields these three numbers can be trained by every
estimator; a new estimator is one function and one line in `ESTIMATORS`.

The three are (samples, batch) of whole sequences, or (samples, batch, steps) of their glimpses, whose sum over steps is
the sequence's. Of `log_p_y`, a step is what the label's log-probability gains after that step's action: of a caption,
the next word's log-probability; of a classifier, how much more probable the label became. Estimators that assign credit
to single glimpses need the steps; the others take their sum.

Notation: $L^m = \log p(y|a^m, I)$, $\tilde w^m = p(a^m|I)\,p(y|a^m,I)/q(a^m|y,I)$,
$w^m = \tilde w^m/\sum_i \tilde w^i$, $\rho^m = p(a^m|I)/q(a^m|y,I)$ and $\psi^m = \rho^m / \sum_i \rho^i$.
Weights never carry a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

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


def _check(
    log_p_y: Tensor, log_p_a: Tensor, log_q_a: Tensor, log_proposal: Tensor | None, control_variates: bool
) -> None:
    given = (log_p_y, log_p_a, log_q_a) if log_proposal is None else (log_p_y, log_p_a, log_q_a, log_proposal)
    shapes = [tuple(t.shape) for t in given]
    if len(set(shapes)) != 1 or log_p_y.ndim not in (2, 3):
        raise UserError(
            f"log_p_y, log_p_a and log_q_a must all be (samples, batch) or (samples, batch, steps), got {shapes}"
        )
    if control_variates and log_p_y.shape[0] < 2:
        raise UserError(
            f"control variates compare samples with one another and need at least 2, got {log_p_y.shape[0]}; "
            "draw more samples or turn control variates off"
        )


def _whole(log_prob: Tensor) -> Tensor:
    """(samples, batch) of whole sequences, from that or from (samples, batch, steps)."""
    return log_prob.sum(-1) if log_prob.ndim == 3 else log_prob


def _by_step(log_prob: Tensor) -> Tensor:
    """(samples, batch, steps), from that or from (samples, batch): sequences of one step."""
    return log_prob if log_prob.ndim == 3 else log_prob.unsqueeze(-1)


def _posterior(log_p_y: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights w and ψ (samples, batch) and the log-evidence (batch,), all detached, in log space throughout."""
    log_w = log_ratio + log_p_y.detach()
    log_evidence = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])
    return torch.softmax(log_w, 0), torch.softmax(log_ratio, 0), log_evidence


def _surrogate(coefficient: Tensor, log_prob: Tensor) -> Tensor:
    """Minus the sum over samples, and steps if there are any, averaged over the batch."""
    return -(coefficient * log_prob).sum() / log_prob.shape[1]


def _itself(values: Tensor) -> Tensor:
    """(samples, samples, 1, ...) bool, true where a sample meets itself: what leaving one out leaves out."""
    itself = torch.eye(len(values), dtype=torch.bool, device=values.device)
    return itself.view(*itself.shape, *[1] * (values.ndim - 1))


def _mean_of_others(values: Tensor, log_ratio: Tensor) -> Tensor:
    """For each sample the mean of the other samples' values (samples, batch, ...), weighed by their own ψ."""
    # Row m holds the normalised ratios of all samples but m.
    others = torch.softmax(
        log_ratio.expand(len(values), *log_ratio.shape).masked_fill(_itself(log_ratio), -math.inf), 1
    )
    return (others.view(*others.shape, *[1] * (values.ndim - log_ratio.ndim)) * values).sum(1)


def _slope_of_others(regressor: Tensor, response: Tensor) -> Tensor:
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
        UserError: shapes that differ, or one sample with a baseline.

    Source: Mnih et al. 2014 (RAM); Ba et al. 2015, its variational baseline; the leave-one-out mean, Mnih & Rezende
    2016 (VIMCO).
    """
    _check(log_p_y, log_p_a, log_q_a, log_proposal, control_variates)
    log_ratio = _whole(log_p_a - (log_q_a if log_proposal is None else log_proposal)).detach()
    log_p_y, log_p_a = _whole(log_p_y), _whole(log_p_a)
    weights, psi, log_evidence = _posterior(log_p_y, log_ratio)
    reward = log_p_y.detach()
    if control_variates:
        reward = reward - _mean_of_others(reward, log_ratio)
    return Estimate(
        prediction_loss=_surrogate(psi, log_p_y),
        policy_loss=_surrogate(psi * reward, log_p_a),
        proposal_loss=log_p_y.new_zeros(()),
        weights=weights,
        bound=(psi * log_p_y.detach()).sum(0),
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
    score owes it nothing; $b_{<n}$ is the mean of the other samples'. $\beta_n$ is the slope with which $L$ follows
    $L_{<n}$, fitted to the other images of the batch: at 1 a glimpse answers only for the reward that comes after it,
    at 0 for all of it, as in `variational`, to which this reduces with one step, one image or no `control_variates`.
    When the policy itself proposes, unbiased for ∇F at every number of samples and images.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch, steps) nats.
        control_variates: whether to use baselines; needs 2 samples.
        log_proposal: same shape, nats, the density that the samples were drawn from, if it is not q.

    Raises:
        UserError: shapes that differ, or one sample with baselines.

    Source: ours; reward to go, Williams 1992 and Sutton et al. 2000; baselines as control variates with fitted
    coefficients, Greensmith et al. 2004.
    """
    plain = variational(log_p_y, log_p_a, log_q_a, control_variates=control_variates, log_proposal=log_proposal)
    if not control_variates:
        return plain
    log_p_a = _by_step(log_p_a)
    gained = _by_step(log_p_y).detach()
    log_ratio = (log_p_a - _by_step(log_q_a if log_proposal is None else log_proposal)).detach().sum(-1)
    reward, earned = gained.sum(-1, keepdim=True), gained.cumsum(-1) - gained
    reward, earned = (values - _mean_of_others(values, log_ratio) for values in (reward, earned))
    reward = reward - _slope_of_others(earned, reward) * earned
    return replace(plain, policy_loss=_surrogate(torch.softmax(log_ratio, 0).unsqueeze(-1) * reward, log_p_a))


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
    no gradient, ψ = 1/M, and the last term is constant. Biased at finite M, consistent as M grows.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch) or (samples, batch, steps) nats.
        control_variates: whether to subtract ψ and φ; needs 2 samples.
        log_proposal: same shape, nats, the density that the samples were drawn from, if it is not q.

    Raises:
        UserError: shapes that differ, or one sample with control variates.

    Source: Ba et al. 2015, the wake-sleep updates and their control variates; Bornschein & Bengio 2015.
    """
    _check(log_p_y, log_p_a, log_q_a, log_proposal, control_variates)
    log_p_y, log_p_a, log_q_a = _whole(log_p_y), _whole(log_p_a), _whole(log_q_a)
    drawn_from = log_q_a.detach() if log_proposal is None else _whole(log_proposal).detach()
    weights, psi, log_evidence = _posterior(log_p_y, log_p_a.detach() - drawn_from)
    zero_mean_p = psi if control_variates else torch.zeros_like(psi)
    zero_mean_q = torch.softmax(log_q_a.detach() - drawn_from, 0) if control_variates else torch.zeros_like(psi)
    return Estimate(
        prediction_loss=_surrogate(weights, log_p_y),
        policy_loss=_surrogate(weights - zero_mean_p, log_p_a),
        proposal_loss=_surrogate(weights - zero_mean_q, log_q_a),
        weights=weights,
        bound=(psi * log_p_y.detach()).sum(0),
        log_evidence=log_evidence,
    )


def wake_sleep_credit(
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    *,
    control_variates: bool = True,
    log_proposal: Tensor | None = None,
) -> Estimate:
    r"""`wake_sleep`, whose control variates know what each glimpse's own past was already worth.

    $$\nabla_\theta \approx \sum_m w^m \nabla L^m
        + \sum_{m,n} (w^m - \psi^m_n)\, \nabla \log p(a^m_n|a^m_{<n},I), \qquad
      \nabla_\eta \approx \sum_{m,n} (w^m - \phi^m_n)\, \nabla \log q(a^m_n|a^m_{<n},y,I)$$

    $$\psi^m_n = (1 - \beta_n)\, \psi^m + \beta_n \frac{\rho^m e^{L^m_{<n}}}{\sum_i \rho^i e^{L^i_{<n}}}, \qquad
      \phi^m_n = (1 - \beta'_n) \tfrac{1}{M}
        + \beta'_n \frac{\rho^m_{<n} e^{L^m_{<n}}}{\sum_i \rho^i_{<n} e^{L^i_{<n}}}$$

    $L_{<n}$ and $\rho_{<n}$ are made of the steps before glimpse n. They predict w, and glimpse n had no part in them:
    given its past its score has mean zero, so what they predict can be subtracted. $\beta_n$ and $\beta'_n$ are the
    slopes with which w follows these predictions, fitted to the other images of the batch. The mean for η, and for θ
    when the policy itself proposes, is exactly that without control variates; else ψ is self-normalised, as that of
    `wake_sleep` is. With one step or one image this is `wake_sleep`.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch, steps) nats.
        control_variates: whether to subtract ψ and φ; needs 2 samples.
        log_proposal: same shape, nats, the density that the samples were drawn from, if it is not q; 1/M then becomes
            the φ of `wake_sleep`, which multiplies the prediction as ψ's ρ does.

    Raises:
        UserError: shapes that differ, or one sample with control variates.

    Source: ours; the weights before a step are those of a particle filter (Gordon et al. 1993), and what is settled
    before an action may be its baseline (Williams 1992).
    """
    _check(log_p_y, log_p_a, log_q_a, log_proposal, control_variates)
    plain = wake_sleep(log_p_y, log_p_a, log_q_a, control_variates=False, log_proposal=log_proposal)
    if not control_variates:
        return plain
    log_p_a, log_q_a, gained = _by_step(log_p_a), _by_step(log_q_a), _by_step(log_p_y).detach()
    drawn_from = log_q_a.detach() if log_proposal is None else _by_step(log_proposal).detach()
    weights = plain.weights.unsqueeze(-1)

    def remainder(log_prob: Tensor) -> Tensor:
        """What the weights exceed their prediction by, for the scores of `log_prob`; (samples, batch, steps)."""
        scored = log_prob.detach()
        log_ratio = (scored - drawn_from).sum(-1, keepdim=True)
        worth = log_p_a.detach() - scored + gained
        zero_mean = torch.softmax(log_ratio, 0)
        known = torch.softmax(log_ratio + worth.cumsum(-1) - worth, 0) - zero_mean
        return weights - zero_mean - _slope_of_others(known, weights - zero_mean) * known

    return replace(
        plain,
        policy_loss=_surrogate(remainder(log_p_a), log_p_a),
        proposal_loss=_surrogate(remainder(log_q_a), log_q_a),
    )


def vimco(
    log_p_y: Tensor,
    log_p_a: Tensor,
    log_q_a: Tensor,
    *,
    control_variates: bool = True,
    log_proposal: Tensor | None = None,
) -> Estimate:
    r"""VIMCO: the multi-sample bound $\mathcal{L}_M = E_q[\hat L]$ with $\hat L = \log \frac1M \sum_m \tilde w^m$.

    $$\nabla_\theta \approx \sum_m w^m \nabla L^m
        + \sum_m \left(w^m - \tfrac{\rho^m}{M}\right) \nabla \log p(a^m|I), \qquad
      \nabla_\eta \approx \sum_m \left[(\hat L - \hat L_{-m}) - (w^m - \tfrac1M)\right] \nabla \log q(a^m|y,I)$$

    η's first bracket is the score of drawing the samples, its second what q in the weights' denominator adds. With
    `control_variates`, $\hat L_{-m}$ is $\hat L$ with $\log \tilde w^m$ replaced by the mean of the others' (the
    geometric mean of their weights), which does not depend on $a^m$. Without, it is 0, and the variance grows with M.
    The terms in $\tfrac1M$ are our addition, left out without `control_variates`: score functions of mean exactly zero.
    ψ in place of $\tfrac{\rho}{M}$ would be bounded, but biased; so it helps only while q is not far from the policy.

    If log q carries no gradient, the policy itself is what was drawn from, and log p takes the score's terms:

    $$\nabla_\theta \approx \sum_m w^m \nabla L^m + \sum_m (\hat L - \hat L_{-m})\, \nabla \log p(a^m|I)$$

    Unbiased for $\mathcal{L}_M$ in all its parameters, at every M; $\mathcal{L}_1 = F$ if the policy proposes.

    Args:
        log_p_y, log_p_a, log_q_a: (samples, batch) or (samples, batch, steps) nats. A log_q_a without a gradient must
            be the policy's own, not that of a raised temperature.
        control_variates: whether to use the baseline; needs 2 samples.
        log_proposal: must be None: the bound is differentiated through the density that was drawn from.

    Raises:
        UserError: shapes that differ, one sample with a baseline, or another density that was drawn from.

    Source: Mnih & Rezende 2016, equations 5 to 8; the bound, Burda et al. 2016.
    """
    if log_proposal is not None:
        raise UserError("vimco needs samples of the proposal that it trains; use wake-sleep with a defensive mixture")
    _check(log_p_y, log_p_a, log_q_a, None, control_variates)
    log_p_y, log_p_a, log_q_a = _whole(log_p_y), _whole(log_p_a), _whole(log_q_a)
    log_ratio = (log_p_a - log_q_a).detach()
    weights, psi, log_evidence = _posterior(log_p_y, log_ratio)
    signal = log_evidence.expand_as(log_ratio)
    if control_variates:
        log_w = log_ratio + log_p_y.detach()
        typical = _mean_of_others(log_w, torch.zeros_like(log_w))
        without = torch.where(_itself(log_w), typical.unsqueeze(1), log_w)
        signal = signal - (torch.logsumexp(without, 1) - math.log(len(log_w)))
    zero_mean = 1.0 / len(log_p_y) if control_variates else 0.0
    trains_q = log_q_a.requires_grad
    return Estimate(
        prediction_loss=_surrogate(weights, log_p_y),
        policy_loss=_surrogate(weights - zero_mean * log_ratio.exp() if trains_q else signal, log_p_a),
        proposal_loss=_surrogate(signal - (weights - zero_mean), log_q_a) if trains_q else log_p_y.new_zeros(()),
        weights=weights,
        bound=(psi * log_p_y.detach()).sum(0),
        log_evidence=log_evidence,
    )


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
        UserError: a share outside these bounds.

    Source: Hesterberg 1995; the mixture's density in the weights, Owen & Zhou 2000.

    Example:
        >>> log_p, log_q = torch.tensor([[[0.1]]]).log(), torch.tensor([[[0.6]]]).log()
        >>> defensive_mixture(log_p, log_q, 0.2).exp()
        tensor([[[0.5000]]])
    """
    if not 0 < share < 1:
        raise UserError(f"the policy's share of a defensive mixture must be above 0 and below 1, got {share}")
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
        UserError: a share outside these bounds.

    Source: Bornschein & Bengio 2015, its wake and sleep updates of q and their mean.
    """
    if not 0 <= share <= 1:
        raise UserError(f"the sleep phase's share must be from 0 to 1, got {share}")
    asleep = _surrogate(torch.full_like(_whole(log_q_dreams), 1 / len(log_q_dreams)), _whole(log_q_dreams))
    return replace(estimate, proposal_loss=(1 - share) * estimate.proposal_loss + share * asleep)


Estimator = Callable[..., Estimate]

ESTIMATORS: dict[str, Estimator] = {
    "variational": variational,
    "variational-credit": variational_credit,
    "wake-sleep": wake_sleep,
    "wake-sleep-credit": wake_sleep_credit,
    "vimco": vimco,
}


def estimator(name: str) -> Estimator:
    """The estimator of that name; `UserError` names the choices if there is none."""
    if name not in ESTIMATORS:
        raise UserError(f"unknown estimator {name!r}; choose one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]
