"""Figures of merit beyond the error: whether a network knows when it is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy, over bins of equal width of confidence, weighed by their size.

    Args:
        confidence: (examples,) probability of the answer that was given.
        correct: (examples,) bool.
        bins: how many.

    Source: Naeini et al. 2015; Guo et al. 2017.

    Example:
        >>> right = torch.tensor([True, True, True, False])
        >>> round(expected_calibration_error(torch.tensor([0.9, 0.9, 0.6, 0.6]), right), 3)
        0.1
    """
    bin_of = (confidence * bins).long().clamp(0, bins - 1)
    sure, right = (
        torch.zeros(bins, device=confidence.device).index_add_(0, bin_of, values.float())
        for values in (confidence, correct)
    )
    return float((sure - right).abs().sum() / len(confidence))


def risk_coverage(confidence: Tensor, correct: Tensor) -> dict[str, float]:
    """The error among the examples that a network is surest of, at several shares of them, and its mean over all.

    Args:
        confidence: (examples,) of each answer.
        correct: (examples,) bool.

    Returns:
        "aurc", the area under the curve of error against coverage; "error_at_P", the error on the surest P percent.

    Source: El-Yaniv & Wiener 2010; Geifman & El-Yaniv 2017.

    Example:
        >>> found = risk_coverage(torch.tensor([0.9, 0.8, 0.2, 0.1]), torch.tensor([True, True, False, True]))
        >>> found["error_at_50"], round(found["aurc"], 4)
        (0.0, 0.1458)
    """
    order = confidence.argsort(descending=True, stable=True)
    wrong = (~correct[order]).float().cumsum(0)
    risk = wrong / torch.arange(1, len(order) + 1, device=wrong.device)
    shares = {p: max(1, round(len(order) * p / 100)) for p in (50, 80, 90, 95)}
    return {"aurc": float(risk.mean())} | {f"error_at_{p}": float(risk[n - 1]) for p, n in shares.items()}


def stopping_curve(sure: Tensor, right: Tensor, thresholds: Sequence[float]) -> list[dict[str, float]]:
    """Error against mean number of glimpses, where an image is looked at until the network is sure of it.

    Args:
        sure: (examples, glimpses) the probability of the answer after each glimpse.
        right: (examples, glimpses) bool, whether that answer is right.
        thresholds: probabilities to stop at; above 1 none is reached and all glimpses are taken.

    Returns:
        For each threshold "stop_at", "glimpses", "error", and "aurc" as `risk_coverage` has it.

    Example:
        >>> sure, right = torch.tensor([[0.9, 1.0], [0.5, 0.8]]), torch.tensor([[True, True], [False, True]])
        >>> [(row["glimpses"], row["error"]) for row in stopping_curve(sure, right, (0.4, 0.9))]
        [(1.0, 0.5), (1.5, 0.0)]
    """
    rows = []
    for threshold in thresholds:
        last = sure.shape[1] - 1
        reached = sure >= threshold
        at = torch.where(reached.any(-1), reached.int().argmax(-1), last).unsqueeze(-1)
        confidence, correct = sure.gather(-1, at).squeeze(-1), right.gather(-1, at).squeeze(-1)
        rows.append(
            {
                "stop_at": threshold,
                "glimpses": float(at.float().mean()) + 1,
                "error": float((~correct).float().mean()),
                "aurc": risk_coverage(confidence, correct)["aurc"],
            }
        )
    return rows


def error_by_class(said: Tensor, answers: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """The share of each class' examples that were called something else; classes without examples are left out.

    Example:
        >>> error_by_class(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), ("cat", "dog"))
        {'cat': 0.5, 'dog': 0.0}
    """
    found = {}
    for n, name in enumerate(names):
        of_class = answers == n
        if bool(of_class.any()):
            found[name] = float((said[of_class] != n).float().mean())
    return found


def fitted_temperature(log_p: Tensor, answers: Tensor) -> float:
    r"""The temperature T at which $\operatorname{softmax}(\log p / T)$ makes the answers likeliest.

    Args:
        log_p: (examples, classes) log-probabilities.
        answers: (examples,) int64.

    Returns:
        From 0.2 to 20, to three digits; a golden-section search of the logarithm.

    Source: Guo et al. 2017, temperature scaling.

    Example:
        >>> certain = torch.tensor([[4.0, 0.0]]).log_softmax(-1).expand(10, -1)
        >>> fitted_temperature(certain, torch.tensor([0] * 8 + [1] * 2)) > 2
        True
    """

    def nll(log_t: float) -> float:
        scaled = (log_p.double() / torch.tensor(log_t).exp().double()).log_softmax(-1)
        return -float(scaled.gather(-1, answers.unsqueeze(-1)).mean())

    low, high = torch.tensor([0.2, 20.0]).log().tolist()
    golden = (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if nll(left) <= nll(right) else (left, high)
    return float(f"{torch.tensor((low + high) / 2).exp().item():.3g}")


def fitted_thresholds(log_odds: Tensor, answers: Tensor) -> list[float]:
    """For each label the log-odds above which calling it present gives the highest F1.

    Args:
        log_odds: (examples, labels).
        answers: (examples, labels), 1 for present.

    Returns:
        One for each label; 0 for a label that is never present.

    Example:
        >>> fitted_thresholds(torch.tensor([[-2.0], [-1.0], [1.0]]), torch.tensor([[0.0], [1.0], [1.0]]))
        [-1.5]
    """
    thresholds = []
    for scores, present in zip(log_odds.T, answers.T, strict=True):
        order = scores.argsort(descending=True)
        hits = present[order].cumsum(0)
        f1 = 2 * hits / (torch.arange(1, len(order) + 1, device=hits.device) + present.sum())
        ranked = scores[order]
        f1[:-1] *= ranked[:-1] > ranked[1:]  # no threshold parts equal scores
        best = int(f1.argmax())
        below = ranked[best + 1] if best + 1 < len(order) else ranked[best] - 2
        thresholds.append(float((ranked[best] + below) / 2) if bool(present.any()) else 0.0)
    return thresholds
