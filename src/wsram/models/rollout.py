"""The value every model hands to every estimator: the log-probabilities of sampled action sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

A = TypeVar("A")
P = TypeVar("P")


@dataclass(frozen=True)
class Rollout(Generic[A, P]):
    """Sampled action sequences and how probable the networks find them; axes: samples, batch, steps.

    A step is a glimpse, or the word before which a captioner attends.

    log_p_y: (samples, batch, steps) what log p(y | a, I) gains after each step: how much more probable the answer
        became, or the next word of a caption. Their sum is the prediction that all led to. Gradient: θ.
    log_p_a: (samples, batch, steps) log p(a_n | a_1..n-1, I) of each action under the policy. Gradient: θ.
    log_q_a: (samples, batch, steps) log-probability under the network that proposes. Gradient: η if it is the inference
        network, none otherwise.
    action: the actions, in whatever form the model takes them, batched (samples, batch, steps).
    policy: the policy's distributions, batched (samples, batch, steps), for the exploration terms. Gradient: θ.
    log_proposal: (samples, batch, steps) log-density that the actions were drawn from, if it is another than log_q_a: a
        defensive mixture of both networks. No gradient.
    mean_log_p_a: (samples, batch, steps) log p(a_n | a_1..n-1, I) on average over what could have been action n,
        if an estimator wants to know. Its gradient is what is meant: θ, the mean of the policy's score.
    log_p_y_view: (batch,) log p(y | view), if the view gives evidence of its own; no answer is read from it.
        Gradient: θ.
    ancestors: (samples, batch, steps) int64, the sequence of the step before that each one goes on from, if sequences
        were resampled between steps; of the first step, itself. What log_p_y gains is over that one.
    log_q_dreams: (dreams, batch, steps) log-probability under the inference network of what the model dreamt, if it
        did. Gradient: η.
    """

    log_p_y: Tensor
    log_p_a: Tensor
    log_q_a: Tensor
    action: A
    policy: P
    log_proposal: Tensor | None = None
    mean_log_p_a: Tensor | None = None
    log_p_y_view: Tensor | None = None
    ancestors: Tensor | None = None
    log_q_dreams: Tensor | None = None
