"""What to watch while importance weights train a network: pure functions of a rollout's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn


def effective_sample_size(weights: Tensor) -> Tensor:
    r"""$1/\sum_m (w^m)^2$ of normalised weights (samples, batch): (batch,), from 1 (one sample counts) to M (all do).

    Source: Kong 1992; a diagnostic of Ba et al. 2015.

    Example:
        >>> effective_sample_size(torch.tensor([[0.5, 1.0], [0.5, 0.0]]))
        tensor([2., 1.])
    """
    return 1.0 / weights.square().sum(0)


def posterior_divergence(log_p_y: Tensor, log_p_a: Tensor, log_r_a: Tensor, log_proposal: Tensor) -> Tensor:
    r"""How far a distribution over action sequences is from the posterior, (batch,) nats, from many samples.

    $$\mathrm{KL}(p(a|y,I) \,\|\, r) \approx \sum_m w^m \left[\log p(y|a^m,I) + \log p(a^m|I) - \log r(a^m)\right]
      - \log \tfrac1M \sum_m \tilde w^m$$

    Self-normalised, so consistent as the samples grow, and as good a reference as the proposal lets it be.

    Args:
        log_p_y, log_p_a: (samples, batch) of sequences drawn from the proposal.
        log_r_a: (samples, batch) the same sequences under the distribution that is judged: policy or inference network.
        log_proposal: (samples, batch) under what they were drawn from.

    Example:
        >>> everything = torch.zeros(4, 1)
        >>> posterior_divergence(everything, everything, everything, everything)
        tensor([0.])
    """
    log_joint = log_p_y + log_p_a
    log_w = log_joint - log_proposal
    log_evidence = torch.logsumexp(log_w, 0) - math.log(len(log_w))
    return (torch.softmax(log_w, 0) * (log_joint - log_r_a)).sum(0) - log_evidence


def scale_usage(scale: Tensor, scales: int) -> Tensor:
    """The share of glimpses taken at each scale, (scales,) float, from scale indices of any shape.

    Example:
        >>> scale_usage(torch.tensor([0, 1, 1, 1]), 3)
        tensor([0.2500, 0.7500, 0.0000])
    """
    return torch.bincount(scale.flatten(), minlength=scales).float() / scale.numel()


def location_coverage(location: Tensor, parts: int = 8) -> float:
    r"""How much of the image is looked at: $e^H / C$ of the shares of glimpses in C = parts² equal parts of it.

    From 1/C, if all glimpses are in one part, to 1, if every part gets the same; H is the shares' entropy in nats.

    Args:
        location: (..., 2) in [-1, 1]; what lies beyond counts for the nearest part.
        parts: along each axis.

    Example:
        >>> location_coverage(torch.tensor([[-0.5, -0.5], [0.5, 0.5]]), parts=2)
        0.5
    """
    at = ((location.reshape(-1, 2) + 1) / 2 * parts).long().clamp(0, parts - 1)
    shares = torch.bincount(at[:, 1] * parts + at[:, 0], minlength=parts**2).double() / len(at)
    return float(torch.special.entr(shares).sum().exp()) / parts**2


def gradient_variance(
    draw: Callable[[int], Tensor], groups: Mapping[str, Iterable[nn.Parameter]], draws: int
) -> dict[str, dict[str, float]]:
    """Mean and noise of a stochastic gradient on one fixed batch, for each group of parameters.

    Args:
        draw: given the number of the draw, a scalar loss from fresh samples; its gradient is one estimate.
        groups: parameters by name of their group.
        draws: how many estimates, at least 2.

    Returns:
        For each group: "variance", the trace of the estimates' covariance (unbiased, divisor draws - 1), and
        "squared_norm", the squared norm of their mean, freed of the variance's share in it.

    Raises:
        ValueError: fewer than 2 draws.

    Source: Ba et al. 2015, which compares estimators by it.
    """
    if draws < 2:
        raise ValueError(f"a variance needs at least 2 draws, got {draws}")
    members = {name: list(parameters) for name, parameters in groups.items()}
    every = [p for parameters in members.values() for p in parameters]
    # Welford's update in float64: the variance can be a small difference of large sums.
    mean = [torch.zeros_like(p, dtype=torch.float64) for p in every]
    spread = [torch.zeros((), dtype=torch.float64, device=p.device) for p in every]
    for n in range(draws):
        gradients = torch.autograd.grad(draw(n), every, allow_unused=True)
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            delta = gradient.double() - mean[i]
            mean[i] += delta / (n + 1)
            spread[i] += (delta * (gradient.double() - mean[i])).sum()
    result, start = {}, 0
    for name, parameters in members.items():
        end = start + len(parameters)
        variance = sum(float(s) for s in spread[start:end]) / (draws - 1)
        norm = sum(float(m.square().sum()) for m in mean[start:end])
        result[name] = {"variance": variance, "squared_norm": norm - variance / draws}
        start = end
    return result
