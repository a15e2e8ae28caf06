"""When to stop is learned from what answers show, and no example is judged by what was learned from itself."""

from __future__ import annotations

import torch
from torch import Tensor

from wsram.halting import evidence, fitted, of_the_other_half


def drawn(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of three classes after three glimpses, and what is right: the first answer where it is sure."""
    generator = torch.Generator().manual_seed(seed)
    sure = torch.rand(count, generator=generator) < 0.5
    first = torch.where(sure, 8.0, 1.0)
    logits = torch.zeros(count, 3, 3)
    logits[:, 0, 0] = first
    logits[:, 1:, 1] = torch.where(sure, 0.0, 9.0).unsqueeze(-1)
    logits[:, 1:, 0] += torch.where(sure, 9.0, 0.0).unsqueeze(-1)
    answers = torch.where(sure, 0, 1)
    log_p = logits.log_softmax(-1)
    return log_p, log_p.argmax(-1) == answers.unsqueeze(-1)


def test_evidence_is_what_it_says() -> None:
    log_p = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]]).log()
    found = evidence(log_p)
    odds, lead, entropy, moved, same = found[0, :, :5].unbind(-1)
    torch.testing.assert_close(odds, torch.tensor([1.0, 4.0]).double().log())
    torch.testing.assert_close(lead, torch.tensor([0.5 / 0.3, 8.0]).double().log())
    torch.testing.assert_close(entropy.float(), -(log_p.exp() * log_p).sum(-1)[0])
    torch.testing.assert_close(moved.float(), torch.tensor([2.0, 0.4 + 0.5 + 0.1]))
    assert same.tolist() == [0, 0] and torch.equal(found[0, :, 5:], torch.eye(2).double())
    certain = evidence(torch.tensor([[[0.0, -torch.inf, -torch.inf]] * 2]))
    assert certain[0, 1, 4] == 1 and certain[..., [0, 2, 3, 4]].isfinite().all()


def test_it_learns_when_more_glimpses_gain_nothing() -> None:
    log_p, right = drawn(400)
    sure = right[:, 0]
    found = of_the_other_half(evidence(log_p), right)
    assert found[sure, 0].min() > 0.9 > 0.1 > found[~sure, 0].max()
    assert found[:, 1:].min() > 0.9  # by then the answer is right, or as right as it will be


def test_no_example_is_judged_by_itself() -> None:
    log_p, right = drawn(40)
    shown = evidence(log_p)
    before = of_the_other_half(shown, right)
    changed = right.clone()
    changed[6, 0] = ~changed[6, 0]
    after = of_the_other_half(shown, changed)
    even = torch.arange(40) % 2 == 0
    assert torch.equal(before[even], after[even]) and not torch.equal(before[~even], after[~even])


def test_weights_are_finite_where_all_examples_are_alike() -> None:
    log_p, right = drawn(20)
    assert fitted(evidence(log_p), torch.ones_like(right)).isfinite().all()
