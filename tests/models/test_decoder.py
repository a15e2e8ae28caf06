"""The caption decoder and the network that proposes to it, each by itself: what they attend to, read and refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.networks import gradients
from tests.refusals import refusal
from wsram.data.vocabulary import END, PAD
from wsram.glimpse.actions import CellDistribution
from wsram.models.decoder import CaptionDecoder, CaptionInference, State

CHANNELS, WORDS, UNITS = 3, 9, 5


def decoder(**changes: Any) -> CaptionDecoder:
    sizes = dict(
        channels=CHANNELS, words=WORDS, embedding=6, units=UNITS, attention_units=4, dropout=0.0, attention="hard"
    )
    return CaptionDecoder(**(sizes | changes))


def test_samples_of_a_caption_lose_the_same_units() -> None:
    """Else their weights would compare what dropout left them, not where they looked."""
    model = decoder(dropout=0.5)
    embedded, context, h = torch.randn(4, 6), torch.randn(1, 4, CHANNELS), torch.randn(1, 4, UNITS)
    logits = model.word_logits(embedded, context.expand(3, -1, -1), h.expand(3, -1, -1))
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], model.word_logits(embedded, context, h)[0])


def test_cells_are_compared_whatever_their_brightness() -> None:
    model, features = decoder(), torch.randn(2, 4, CHANNELS)
    one, other = model.memory(features), model.memory(3 * features + 7)
    torch.testing.assert_close(one.cells, other.cells, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.cells.mean(-1), torch.zeros(2, 4))


def test_a_cell_attended_to_is_seen_alone_and_a_soft_context_is_the_mean_expected() -> None:
    model = decoder()
    memory = model.memory(torch.randn(2, 4, CHANNELS))
    cells = torch.tensor([[0, 3], [2, 1], [3, 3]])  # 3 samples of 2 images
    context = model.context(memory, cells)
    for m in range(3):
        for b in range(2):
            assert torch.equal(context[m, b], memory.cells[b, cells[m, b]])
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.5, 0.5]])
    soft = model.soft_context(memory, CellDistribution(shares.log()))
    torch.testing.assert_close(soft, (shares.unsqueeze(-1) * memory.cells).sum(1))


def test_a_state_is_the_long_short_term_memorys_after_its_gates() -> None:
    model = decoder()
    gates, context = torch.randn(2, 4 * UNITS), torch.randn(2, CHANNELS)
    state = State(torch.randn(2, UNITS), torch.randn(2, UNITS))
    after = model.advance(gates, context, state)
    keep_in, forget, keep_out, new = (gates + model.gates_of_rest(torch.cat([context, state.h], -1))).chunk(4, -1)
    c = forget.sigmoid() * state.c + keep_in.sigmoid() * new.tanh()
    torch.testing.assert_close(after.c, c)
    torch.testing.assert_close(after.h, keep_out.sigmoid() * c.tanh())
    assert [tuple(part.shape) for part in state.expand(3)] == [(3, 2, UNITS)] * 2


def test_to_remember_is_where_it_begins() -> None:
    bias = decoder().gates_of_word.bias.view(4, UNITS)
    assert torch.equal(bias[1], torch.ones(UNITS)) and not bool((bias[[0, 2, 3]] == 1).any())


# The network that proposes


def proposing() -> tuple[CaptionInference, CellDistribution, Tensor, Tensor]:
    network = CaptionInference(channels=CHANNELS, words=WORDS, units=UNITS, hidden=4)
    policy = CellDistribution(torch.randn(2, 7, requires_grad=True))
    return network, policy, network.key(torch.randn(2, 7, CHANNELS)), torch.randn(2, UNITS, requires_grad=True)


def test_at_first_the_policy_is_proposed_again() -> None:
    network, policy, keys, h = proposing()
    read = network.captions(torch.tensor([[4, END], [5, END]]))[:, 0]
    assert torch.equal(network(policy, keys, h, read).logits, policy.logits)


def test_the_proposal_teaches_neither_policy_nor_state() -> None:
    network, policy, keys, h = proposing()
    torch.nn.init.normal_(network.correct.weight)
    read = network.captions(torch.tensor([[4, END], [5, END]]))[:, 0]
    proposal = network(policy, keys, h, read)
    assert not torch.allclose(proposal.logits, policy.logits)
    value = proposal.log_prob(torch.tensor([1, 2])).sum()
    assert torch.autograd.grad(value, [policy.logits, h], retain_graph=True, allow_unused=True) == (None, None)
    assert all(g is not None for g in gradients(value, network))


def test_a_caption_is_read_in_both_directions() -> None:
    network = CaptionInference(channels=CHANNELS, words=WORDS, units=UNITS, hidden=4)
    read, last, first = (network.captions(torch.tensor([tokens])) for tokens in ([4, 5, 6], [4, 5, 7], [8, 5, 6]))
    assert read.shape == (1, 3, 8)
    for other in (last, first):
        assert not any(torch.allclose(read[:, t], other[:, t]) for t in range(3))


def test_padding_tells_it_nothing() -> None:
    network, *_ = proposing()
    assert not bool(network.embed(torch.tensor([PAD])).any()) and bool(network.embed(torch.tensor([END])).any())


# What is refused

BAD = {
    "no channels": (dict(channels=0), "channels must be at least 1"),
    "no words": (dict(words=4), "words must be at least 5"),
    "no units": (dict(units=0), "units must be at least 1"),
    "all dropped": (dict(dropout=1.0), "dropout"),
    "no number dropped": (dict(dropout=float("nan")), "dropout"),
    "unknown attention": (dict(attention="loud"), "'loud'"),
}


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_decoders_that_cannot_be_are_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    refusal(lambda: decoder(**changes), words)
