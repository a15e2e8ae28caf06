"""The estimators by name: what each says of itself is so, and what cannot be combined is refused."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest
import torch

from wsram.estimators import (
    ESTIMATORS,
    estimator,
    variational,
    variational_credit,
    vimco,
    wake_sleep,
    wake_sleep_credit,
    wake_sleep_resampled,
)

NAMED = pytest.mark.parametrize("name", ESTIMATORS)


def test_every_estimator_is_found_by_its_name() -> None:
    assert {name: estimator(name) for name in ESTIMATORS} == {
        "variational": variational,
        "variational-credit": variational_credit,
        "wake-sleep": wake_sleep,
        "wake-sleep-credit": wake_sleep_credit,
        "wake-sleep-exact": wake_sleep_credit,
        "wake-sleep-resampled": wake_sleep_resampled,
        "vimco": vimco,
    }


@pytest.mark.parametrize("name", ["reinforce", "wake_sleep", "Vimco", ""])
def test_an_unknown_name_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ValueError) as raised:
        estimator(name)
    assert str(raised.value) == (
        f"unknown estimator {name!r}; "
        "choose one of variational, variational-credit, wake-sleep, wake-sleep-credit, wake-sleep-exact, "
        "wake-sleep-resampled, vimco"
    )


@NAMED
def test_an_entry_trains_a_proposal_if_its_gradient_reaches_one(name: str) -> None:
    log_p_y, log_p_a, log_q_a = (torch.randn(4, 3, 2, dtype=torch.float64) for _ in range(3))
    log_q_a.requires_grad_()
    loss = ESTIMATORS[name].function(log_p_y, log_p_a, log_q_a).loss
    (reached,) = torch.autograd.grad(loss + 0 * log_q_a.sum(), log_q_a)
    assert bool(reached.any()) == ESTIMATORS[name].trains_proposal


@NAMED
def test_an_entry_reweights_if_it_takes_samples_of_another_density(name: str) -> None:
    entry = ESTIMATORS[name]
    log_p_y, log_p_a, log_q_a, other = (torch.randn(4, 3, 2, dtype=torch.float64) for _ in range(4))
    if not entry.reweights:
        with pytest.raises(ValueError, match="samples of the proposal"):
            entry.function(log_p_y, log_p_a, log_q_a, log_proposal=other)
        return
    weights = entry.function(log_p_y, log_p_a, log_q_a, log_proposal=other).weights
    torch.testing.assert_close(weights, torch.softmax((log_p_y + log_p_a - other).sum(-1), 0))


REFUSED = {
    # inference, tempered, defensive: what the one line says.
    ("variational", True, False, False): "cannot train an inference network",
    ("variational", True, False, True): "cannot train an inference network",
    ("variational", True, True, False): "cannot train an inference network",
    ("variational", True, True, True): "cannot train an inference network",
    ("vimco", False, True, False): "needs the policy's own samples",
    ("vimco", False, False, True): "needs samples of the proposal that it trains",
    ("vimco", False, True, True): "needs samples of the proposal that it trains",
    ("vimco", True, False, True): "needs samples of the proposal that it trains",
    ("vimco", True, True, True): "needs samples of the proposal that it trains",
}
REFUSED |= {
    ("wake-sleep-resampled", inference, tempered, True): "no whole sequences"
    for inference, tempered in product([False, True], repeat=2)
}
REFUSED |= {("variational-credit", *asked): said for (name, *asked), said in REFUSED.items() if name == "variational"}


@NAMED
@pytest.mark.parametrize(("inference", "tempered", "defensive"), list(product([False, True], repeat=3)))
def test_what_cannot_be_combined_is_refused_in_one_line_and_all_else_is_given(
    name: str, inference: bool, tempered: bool, defensive: bool
) -> None:
    said = REFUSED.get((name, inference, tempered, defensive))
    if said is None:
        assert estimator(name, inference=inference, tempered=tempered, defensive=defensive) is ESTIMATORS[name].function
        return
    with pytest.raises(ValueError) as raised:
        estimator(name, inference=inference, tempered=tempered, defensive=defensive)
    message = str(raised.value)
    assert name in message and said in message and "\n" not in message
    assert "; use --" in message  # what to do about it


def test_estimators_need_torch_alone() -> None:
    """In a process of its own: importing them brings in nothing that importing torch has not, but themselves."""
    code = """
import sys, torch
before = set(sys.modules)
import wsram.estimators, wsram.estimators.diagnostics
new = set(sys.modules) - before
print(*sorted(name for name in new if name.split(".")[0] not in {"torch", *sys.stdlib_module_names}))
print(*sorted({"rich", "tyro", "matplotlib", "accelerate", "PIL"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours, forbidden = done.stdout.split("\n")[:2]
    modules = ["base", "diagnostics", "mixtures", "registry", "resampled", "variational", "vimco", "wake_sleep"]
    assert ours.split() == ["wsram", "wsram.estimators", *(f"wsram.estimators.{name}" for name in modules)]
    assert not forbidden
