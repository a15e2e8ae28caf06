"""Drawing actions in training, the same for every model: who proposes, how warm, and how much of it is the policy's."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wsram.errors import UserError
from wsram.estimators import defensive_mixture
from wsram.estimators.base import before
from wsram.estimators.resampled import resample
from wsram.glimpse.draws import drawn


class Proposer:
    """Draws the actions of one rollout, step by step.

    Args:
        shape: (samples, batch) of the sequences; samples at least 1.
        generator: draws everything.
        temperature: of the proposal; above 1 explores more (an exploration heuristic).
        defensive: with which probability a sequence is drawn from the policy instead of the proposal, for weights that
            are bounded (see `wsram.estimators.defensive_mixture`).

    Raises:
        UserError: fewer than 1 sample.
    """

    def __init__(
        self, shape: tuple[int, int], generator: torch.Generator, *, temperature: float = 1.0, defensive: float = 0.0
    ) -> None:
        if shape[0] < 1:
            raise UserError(f"samples must be at least 1, got {shape[0]}")
        self.generator, self.temperature, self.share = generator, temperature, defensive
        # Drawn only where asked for: the actions of other rollouts do not depend on it.
        self.from_policy = None
        if defensive:
            uniform = drawn(torch.rand, (*shape, 1), generator, torch.empty(0, device=generator.device))
            self.from_policy = uniform.squeeze(-1) < defensive

    def draw(self, policy: Any, informed: Any = None, sample_shape: tuple[int, ...] = ()) -> tuple[Any, Any]:
        """An action for each sequence, and the distribution it is scored under as the proposal's.

        Args:
            policy: the policy's distribution of this step.
            informed: the inference network's; without it the policy proposes.
            sample_shape: (samples,) at a step whose distributions are not batched by samples yet.
        """
        proposal = (policy.detach() if informed is None else informed).tempered(self.temperature)
        action = proposal.sample(self.generator, sample_shape)
        if self.from_policy is not None:
            chosen = self.from_policy[:, : self._batch(action)]
            action = _where(chosen, policy.sample(self.generator, sample_shape), action)
        return action, proposal

    def density(self, log_p_a: Tensor, log_q_a: Tensor) -> Tensor | None:
        """The log-density that was drawn from, step by step, where it is not the proposal's own."""
        if not self.share:
            return None
        try:
            return defensive_mixture(log_p_a, log_q_a, self.share)
        except ValueError as error:
            raise UserError(str(error)) from error

    def mean(self, mean_log_p_a: Tensor, log_p_a: Tensor, log_proposal: Tensor | None) -> Tensor:
        """The policy's mean log-probabilities, step by step, as far as what was drawn from is not the policy itself.

        Under itself a policy's score has mean zero; by so much as a sequence is likely to have been the policy's, the
        next step is drawn from it.
        """
        if log_proposal is None:
            return mean_log_p_a
        log_own = math.log(self.share) + before(log_p_a.detach() - log_proposal)
        return mean_log_p_a * -torch.expm1(log_own).clamp(max=0.0)

    @staticmethod
    def _batch(action: Any) -> int:
        """How many examples take this step: those come first whose sequences are longest."""
        return int((action if isinstance(action, Tensor) else action[-1]).shape[1])


def _where(mask: Tensor, a: Any, b: Any) -> Any:
    """`a` where the mask (samples, batch) is true, else `b`, also of actions that are several tensors."""
    if isinstance(a, Tensor):
        return torch.where(mask.view(*mask.shape, *[1] * (a.ndim - mask.ndim)), a, b)
    return type(a)(*(_where(mask, x, y) for x, y in zip(a, b, strict=True)))


class Resampler:
    """Resamples the sequences of one rollout between its steps; see `wsram.estimators.resampled`.

    Args:
        generator: draws one number for each example and step.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.taken: list[Tensor] = []
        self.before: Tensor | None = None

    def heirs(self, log_ratio: Tensor, after: Tensor) -> Tensor:
        """Which sequence (samples, batch) int64 each one goes on from.

        Args:
            log_ratio: (samples, batch) log p - log q of the actions that were just taken.
            after: (samples, batch) log-probability of the answer after them.
        """
        after = after.detach()
        gained = after if self.before is None else after - self.before
        uniform = drawn(torch.rand, (after.shape[1], 1), self.generator, gained).squeeze(-1)
        ancestors = resample(log_ratio + gained, uniform)
        self.before = after.gather(0, ancestors)
        self.taken.append(ancestors)
        return ancestors

    def ancestors(self, like: Tensor) -> Tensor:
        """(samples, batch, steps) of the whole rollout, whose shape is that of `like`; each itself before the first."""
        first = torch.arange(len(like), device=like.device).unsqueeze(-1).expand(like.shape[:2])
        return torch.stack([first, *self.taken], -1)


def gains(after: Tensor, ancestors: Tensor | None) -> Tensor:
    """What each step adds to (samples, batch, steps) `after` it, over what the sequence had that it went on from."""
    earlier = after[..., :-1]
    if ancestors is not None:
        earlier = earlier.gather(0, ancestors[..., 1:])
    return torch.cat([after[..., :1], after[..., 1:] - earlier], -1)


N = TypeVar("N", bound=nn.Module)


def require_inference(inference: N | None) -> N:
    """The inference network, which dreams need somebody to teach; `UserError` if there is none."""
    if inference is None:
        raise UserError("dreams teach an inference network, and there is none; use --proposal inference")
    return inference
