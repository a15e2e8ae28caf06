"""The value every model hands to every estimator: the log-probabilities of sampled glimpse sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

A = TypeVar("A")
P = TypeVar("P")


@dataclass(frozen=True)
class Rollout(Generic[A, P]):
    """Sampled action sequences and how probable the networks find them; axes: samples, batch, glimpses.

    log_p_y_glimpses: (samples, batch, glimpses) what log p(y | a, I) gains after each glimpse: how much more probable
        the label became, or the next word of a caption. Gradient of the sum, the prediction that all led to: θ.
    log_p_glimpses: (samples, batch, glimpses) log p(a_n | a_1..n-1, I) of each action under the policy. Gradient: θ.
    log_q_glimpses: (samples, batch, glimpses) log-probability under the network that proposes. Gradient: η if it is the
        inference network, none otherwise.
    action: the actions, in whatever form the model takes them, batched (samples, batch, glimpses).
    policy: the policy's distributions, batched (samples, batch, glimpses), for the exploration terms. Gradient: θ.
    log_proposal_glimpses: (samples, batch, glimpses) log-density that the actions were drawn from, if it is another
        than log_q_glimpses: a defensive mixture of both networks. No gradient.
    log_q_dreams: (dreams, batch, glimpses) log-probability under the inference network of what the model dreamt, if it
        did (see `wsram.models.dreams`). Gradient: η.
    """

    log_p_y_glimpses: Tensor
    log_p_glimpses: Tensor
    log_q_glimpses: Tensor
    action: A
    policy: P
    log_proposal_glimpses: Tensor | None = None
    log_q_dreams: Tensor | None = None

    @property
    def log_p_y(self) -> Tensor:
        """(samples, batch) log p(y | a, I), the prediction that the glimpses led to."""
        return self.log_p_y_glimpses.sum(-1)

    @property
    def log_p_a(self) -> Tensor:
        """(samples, batch) log p(a | I) of whole sequences."""
        return self.log_p_glimpses.sum(-1)

    @property
    def log_q_a(self) -> Tensor:
        """(samples, batch) log q(a | y, I) of whole sequences under the proposal."""
        return self.log_q_glimpses.sum(-1)
