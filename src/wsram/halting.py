"""When to stop looking, learned from examples whose answers are known, beside stopping when sure."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTY = 1e-3
"""Of the squared weights, so that examples which are all alike leave them finite."""


def evidence(log_p: Tensor) -> Tensor:
    """What the answers so far show of whether looking on would change them.

    Args:
        log_p: (examples, glimpses, classes) log-probabilities after each glimpse.

    Returns:
        (examples, glimpses, 5 + glimpses) float64: log-odds of the likeliest class, its lead over the runner-up, the
        entropy, how far the probabilities moved with the last glimpse, whether they still name the same class, and one
        for each number of glimpses.
    """
    log_p = log_p.double().clamp(min=-40.0)
    p = log_p.exp()
    most, runner_up = log_p.topk(2, -1).values.unbind(-1)
    odds = most - torch.log1p(-most.exp().clamp(max=1 - 1e-9))
    entropy = -(p * log_p).sum(-1)
    moved = F.pad((p[:, 1:] - p[:, :-1]).abs().sum(-1), (1, 0), value=2.0)
    said = p.argmax(-1)
    same = F.pad((said[:, 1:] == said[:, :-1]).double(), (1, 0))
    number = torch.eye(log_p.shape[1], dtype=log_p.dtype, device=log_p.device).expand(len(log_p), -1, -1)
    return torch.cat([torch.stack([odds, most - runner_up, entropy, moved, same], -1), number], -1)


def fitted(shown: Tensor, right: Tensor) -> Tensor:
    """Weights (features,) of logistic regression, by which no answer that is yet to come is better than this one.

    Args:
        shown: (examples, glimpses, features), as of `evidence`.
        right: (examples, glimpses) bool, whether the answer after each glimpse is right.
    """
    enough = (right | ~right[:, -1:]).to(shown.dtype)

    def loss(weights: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(shown @ weights, enough) + PENALTY * weights.square().sum()

    return least(loss, shown.new_zeros(shown.shape[-1]))


def least(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a smooth function of weights is least, sought from `start` on (L-BFGS)."""
    weights = start.requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss(weights)
        value.backward()  # type: ignore[no-untyped-call,unused-ignore]
        return value

    optimizer.step(step)  # type: ignore[arg-type,no-untyped-call,unused-ignore]
    return weights.detach()


def of_the_other_half(shown: Tensor, right: Tensor) -> Tensor:
    """The probability (examples, glimpses) that looking on gains nothing, as the half that an example is not in has it.

    So no example is judged by what was learned from itself.
    """
    found = torch.empty_like(right, dtype=shown.dtype)
    even = torch.arange(len(right), device=right.device) % 2 == 0
    for mine in (even, ~even):
        found[mine] = (shown[mine] @ fitted(shown[~mine], right[~mine])).sigmoid()
    return found
