"""The estimators by name, and what each needs of its samples: a new one is a function and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsram.estimators.base import Estimate
from wsram.estimators.resampled import wake_sleep_resampled
from wsram.estimators.variational import variational, variational_credit
from wsram.estimators.vimco import vimco
from wsram.estimators.wake_sleep import wake_sleep, wake_sleep_credit

Estimator = Callable[..., Estimate]
"""From log_p_y, log_p_a and log_q_a (samples, batch, steps), nats, and the keywords `control_variates` (bool) and
`log_proposal` (None, or the log-density that was drawn from instead of q) to an `Estimate`; `mean_log_p_a` if its entry
says that it is centred, `ancestors` if it says that it resamples."""


@dataclass(frozen=True)
class Entry:
    """An estimator and what it can be asked to do.

    function: the estimator.
    trains_proposal: whether its gradient reaches an inference network.
    reweights: whether it takes samples of another density than those it scores: a tempered policy, a mixture.
    refines: the estimator that it is without what it adds to the control variates, by name.
    centred: whether, beside an inference network, it takes the policy's mean log-probability under it, the keyword
        `mean_log_p_a`.
    resamples: whether its sequences are resampled after each glimpse but the last, and it takes who went on from whom,
        the keyword `ancestors`.
    """

    function: Estimator
    trains_proposal: bool = True
    reweights: bool = True
    refines: str | None = None
    centred: bool = False
    resamples: bool = False


ESTIMATORS: dict[str, Entry] = {
    "variational": Entry(variational, trains_proposal=False),
    "variational-credit": Entry(variational_credit, trains_proposal=False, refines="variational"),
    "wake-sleep": Entry(wake_sleep),
    "wake-sleep-credit": Entry(wake_sleep_credit, refines="wake-sleep"),
    "wake-sleep-exact": Entry(wake_sleep_credit, refines="wake-sleep-credit", centred=True),
    "wake-sleep-resampled": Entry(wake_sleep_resampled, resamples=True),
    "vimco": Entry(vimco, reweights=False, centred=True),
}
"""The estimators by the names that the command line knows."""


def estimator(name: str, *, inference: bool = False, tempered: bool = False, defensive: bool = False) -> Estimator:
    """The estimator of that name, if it can be trained in that way.

    Args:
        name: one of `ESTIMATORS`.
        inference: an inference network is to propose and to be trained.
        tempered: samples come from the policy at another temperature.
        defensive: samples come from a mixture of policy and proposal.

    Raises:
        ValueError: there is no such estimator, or it cannot be trained so.

    Example:
        >>> estimator("wake-sleep", inference=True).__name__
        'wake_sleep'
    """
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator {name!r}; choose one of {', '.join(ESTIMATORS)}")
    entry = ESTIMATORS[name]
    if inference and not entry.trains_proposal:
        raise ValueError(f"the {name} estimator cannot train an inference network; use --proposal policy")
    if defensive and not entry.reweights:
        raise ValueError(f"{name} needs samples of the proposal that it trains; use --defensive 0")
    if defensive and entry.resamples:
        raise ValueError(f"{name} has no whole sequences that a mixture could be of; use --defensive 0")
    if tempered and not inference and not entry.reweights:
        raise ValueError(f"{name} needs the policy's own samples; use --temperature 1 or --proposal inference")
    return entry.function
