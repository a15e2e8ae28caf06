"""What to watch while importance weights train a network: pure functions of a rollout's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

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
    # Not `torch.bincount`, for which an accelerator is waited for: it looks for the largest index first.
    chosen = scale.flatten().unsqueeze(-1) == torch.arange(scales, device=scale.device)
    return chosen.sum(0).float() / scale.numel()


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


LEVEL = 0.95
"""Of every interval."""
RESAMPLED = 2000
"""Sets of draws that an interval is read off."""


class GradientSpread:
    r"""Mean and noise of a stochastic gradient on one fixed batch, from draws that are seen one at a time and not kept.

    Draw n adds $e_n = \frac{n-1}{n} |g_n - \bar g_{n-1}|^2$ to the sum of squared deviations. Each $e_n$ has the trace
    of the covariance as its mean, and where draws are Gaussian they are independent, so that they say how sure their
    own mean is: that is the variance (unbiased, divisor draws - 1), whatever the number of parameters.

    Args:
        groups: parameters by name of their group.

    Source: Welford 1962; the e_n are the squares of Helmert's contrasts (1876). The variance as a means to compare
    estimators: Ba et al. 2015.

    Example:
        >>> spread = GradientSpread({"all": [nn.Parameter(torch.zeros(1))]})
        >>> for value in (1.0, 2.0, 3.0):
        ...     spread.add([torch.tensor([value])])
        >>> spread.measured()["all"]["variance"]
        1.0
    """

    def __init__(self, groups: Mapping[str, Iterable[nn.Parameter]]) -> None:
        members = {name: list(parameters) for name, parameters in groups.items()}
        self.parameters = [p for parameters in members.values() for p in parameters]
        """In the order that gradients are added in."""
        self.increments: dict[str, list[float]] = {name: [] for name in members}
        """For each group e_2, e_3, ..."""
        self._sizes = {name: len(parameters) for name, parameters in members.items()}
        # In float64: the variance can be a small difference of large sums.
        self._mean = [torch.zeros_like(p, dtype=torch.float64) for p in self.parameters]
        self._draws = 0

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Take one draw's gradient of each of `parameters`; None where it is zero."""
        self._draws += 1
        added = []
        for mean, gradient in zip(self._mean, gradients, strict=True):
            delta = -mean if gradient is None else gradient.double() - mean
            mean += delta / self._draws
            added.append((delta.square().sum() * (1 - 1 / self._draws)).reshape(()))
        start = 0
        for name, count in self._sizes.items():
            if self._draws > 1:
                self.increments[name].append(float(sum(added[start : start + count])))
            start += count

    def measured(self) -> dict[str, dict[str, float]]:
        """For each group "variance", and "squared_norm", that of the mean, freed of the variance's share in it.

        Raises:
            ValueError: fewer than 2 draws.
        """
        if self._draws < 2:
            raise ValueError(f"a variance needs at least 2 draws, got {self._draws}")
        result, start = {}, 0
        for name, increments in self.increments.items():
            end = start + self._sizes[name]
            variance = math.fsum(increments) / len(increments)
            norm = sum(float(m.square().sum()) for m in self._mean[start:end])
            result[name] = {"variance": variance, "squared_norm": norm - variance / self._draws}
            start = end
        return result


def gradient_variance(
    draw: Callable[[int], Tensor], groups: Mapping[str, Iterable[nn.Parameter]], draws: int
) -> dict[str, dict[str, float]]:
    """Mean and noise of a stochastic gradient on one fixed batch, for each group of parameters.

    Args:
        draw: given the number of the draw, a scalar loss from fresh samples; its gradient is one estimate.
        groups: parameters by name of their group.
        draws: how many estimates, at least 2.

    Returns:
        See `GradientSpread.measured`.

    Raises:
        ValueError: fewer than 2 draws.
    """
    spread = GradientSpread(groups)
    for n in range(draws):
        spread.add(torch.autograd.grad(draw(n), spread.parameters, allow_unused=True))
    return spread.measured()


def mean_interval(values: Sequence[float], over: Sequence[float] | None = None) -> tuple[float, float] | None:
    """The 95% interval of the values' mean, or of its ratio to that of other values of the same draws.

    Whole draws are drawn again, both values of one together: two estimators that saw the same actions are compared far
    more closely than either is known. None where there are fewer than two values, or the others' mean is 0.

    Source: the percentile bootstrap, Efron 1979. It is too narrow where a few draws carry the whole mean.

    Example:
        >>> mean_interval([1.0, 5.0, 2.0], over=[2.0, 10.0, 4.0])
        (0.5, 0.5)
    """
    if len(values) < 2:
        return None
    ours = torch.tensor(values, dtype=torch.float64)
    theirs = torch.ones_like(ours) if over is None else torch.tensor(over, dtype=torch.float64)
    index = torch.randint(len(ours), (RESAMPLED, len(ours)), generator=torch.Generator().manual_seed(0))
    means = ours[index].mean(1) / theirs[index].mean(1)
    if not bool(means.isfinite().all()):
        return None
    low, high = means.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()
    return low, high
