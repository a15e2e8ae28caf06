"""What the tests of the estimators share: which estimators, worlds and groups of parameters they go through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.estimators.enumeration import SEQUENCES, World, gradient, world
from wsram.estimators import ESTIMATORS

Y, P, Q = range(3)  # the groups of parameters: θ_y, θ_p, η
EACH = pytest.mark.parametrize("each", [entry.function for entry in ESTIMATORS.values()], ids=ESTIMATORS)
CONTROL = pytest.mark.parametrize("control_variates", [False, True], ids=["without", "with"])
PROPOSAL = pytest.mark.parametrize("inference", [False, True], ids=["q=p", "q"])
SEED = pytest.mark.parametrize("seed", [1, 2, 3])
SAMPLES_AND_CONTROL = pytest.mark.parametrize(
    ("samples", "control_variates"), [(1, False), *((m, c) for m in (2, 3, 8, 16) for c in (False, True))]
)

RATIONAL = World(
    theta_y=world(1, inference=False).theta_y,
    # Sequences of probability 1/8, 1/8, 1/4, 1/2 under the policy and 1/8, 3/8, 1/4, 1/4 under the proposal.
    theta_p=torch.tensor([1 / 4, 3 / 4, 1 / 2, 1 / 2, 1 / 3, 2 / 3], dtype=torch.float64).log().requires_grad_(),
    eta=torch.tensor([1 / 2, 1 / 2, 1 / 4, 3 / 4, 1 / 2, 1 / 2], dtype=torch.float64).log().requires_grad_(),
)
RATIONAL_POLICY = World(RATIONAL.theta_y, RATIONAL.theta_p, None)


def in_proportion(inference: bool, copies: int) -> tuple[World, Tensor]:
    """A world whose probabilities are rational, and (samples,) of its sequences, each as often as the proposal says."""
    of, often = (RATIONAL, [1, 3, 2, 2]) if inference else (RATIONAL_POLICY, [1, 1, 2, 4])
    return of, torch.arange(SEQUENCES).repeat_interleave(copies * torch.tensor(often))


def close(ours: Tensor, exact: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, exact, rtol=tolerance, atol=tolerance)


def exact_gradients(of: World) -> tuple[Tensor, ...]:
    """What wake-sleep estimates: ∇ log p(y|I) for θ_y and θ_p, and -∇ KL(p(a|y,I) || q) for η, if there is one."""
    policy = gradient(of.evidence(), of.theta_y, of.theta_p)
    return policy if of.eta is None else (*policy, *gradient(-of.divergence(), of.eta))


def extrapolated(at_8: Tensor, at_32: Tensor) -> Tensor:
    """The limit for large M of a quantity c + d / M + ..., from its values at 8 and 32."""
    return (4 * at_32 - at_8) / 3
