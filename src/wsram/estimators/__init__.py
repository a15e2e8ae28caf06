"""Gradient estimators: pure functions of three log-probabilities, for any model that attends. They need torch alone.

Every estimator takes `log_p_y`, `log_p_a` and `log_q_a` of action sequences drawn from the proposal q, and returns
surrogate losses whose gradients are the estimates. A model that yields these three numbers can be trained by every
estimator; a new estimator is one function and one line in `wsram.estimators.registry`.

The three are (samples, batch) of whole sequences, or (samples, batch, steps) of their glimpses, whose sum over steps is
the sequence's. Of `log_p_y`, a step is what the label's log-probability gains after that step's action: of a caption,
the next word's log-probability; of a classifier, how much more probable the label became. Estimators that assign credit
to single glimpses need the steps; the others take their sum.

A log-probability of -inf concerns its own image: what weighs nothing counts as nothing, samples none of which is
possible weigh what their ratios say, and a gradient that has no finite limit is not finite. NaN stays NaN, there alone.
"""

from wsram.estimators.base import Estimate
from wsram.estimators.mixtures import defensive_mixture, sleep
from wsram.estimators.registry import ESTIMATORS, Entry, Estimator, estimator
from wsram.estimators.resampled import wake_sleep_resampled
from wsram.estimators.variational import variational, variational_credit
from wsram.estimators.vimco import vimco
from wsram.estimators.wake_sleep import wake_sleep, wake_sleep_credit

__all__ = [
    "ESTIMATORS",
    "Entry",
    "Estimate",
    "Estimator",
    "defensive_mixture",
    "estimator",
    "sleep",
    "variational",
    "variational_credit",
    "vimco",
    "wake_sleep",
    "wake_sleep_credit",
    "wake_sleep_resampled",
]
