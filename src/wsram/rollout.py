"""The value every model hands to every estimator: the log-probabilities of sampled glimpse sequences."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from wsram.actions import Action, GlimpseDistribution


@dataclass(frozen=True)
class Rollout:
    """Sampled action sequences and how probable the networks find them; axes: samples, batch, glimpses.

    log_p_y_glimpses: (samples, batch, glimpses) what each glimpse adds to the label's log-probability; they sum to that
        of the prediction after the last glimpse. Gradient of the sum: θ.
    log_p_glimpses: (samples, batch, glimpses) log p(a_n | a_1..n-1, I) of each action under the policy. Gradient: θ.
    log_q_glimpses: (samples, batch, glimpses) log-probability under the network that proposes. Gradient: η if it is the
        inference network, none otherwise.
    action: the actions, location (samples, batch, glimpses, 2) and scale (samples, batch, glimpses).
    policy: the policy's distributions, batched (samples, batch, glimpses), for the exploration terms. Gradient: θ.
    log_proposal_glimpses: (samples, batch, glimpses) log-density that the actions were drawn from, if it is another
        than log_q_glimpses: a defensive mixture of both networks. No gradient.
    """

    log_p_y_glimpses: Tensor
    log_p_glimpses: Tensor
    log_q_glimpses: Tensor
    action: Action
    policy: GlimpseDistribution
    log_proposal_glimpses: Tensor | None = None

    @property
    def log_p_y(self) -> Tensor:
        """(samples, batch) log p(y | a, I), the prediction after the last glimpse."""
        return self.log_p_y_glimpses.sum(-1)

    @property
    def log_p_a(self) -> Tensor:
        """(samples, batch) log p(a | I) of whole sequences."""
        return self.log_p_glimpses.sum(-1)

    @property
    def log_q_a(self) -> Tensor:
        """(samples, batch) log q(a | y, I) of whole sequences under the proposal."""
        return self.log_q_glimpses.sum(-1)
