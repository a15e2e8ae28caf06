"""The caption decoder, which attends to one cell before each word, and the network that proposes cells to it.

Decoder (θ), one long short-term memory over the words:

    h_t-1, cells ──► p(a_t | a_1..t-1, y_1..t-2, I)       a_t, y_t-1, h_t-1 ──► h_t ──► p(y_t | a_1..t, y_1..t-1, I)

The inference network (η) reads the whole caption in both directions and proposes a_t knowing it.

Source: Xu et al. 2015 (Show, Attend and Tell), the decoder, its hard attention; Ba et al. 2015, the inference network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsram.data.vocabulary import PAD
from wsram.errors import UserError, require_at_least, require_dropout
from wsram.glimpse.actions import CellDistribution, at_least_float32

ATTENTIONS = ("hard", "soft")


class Memory(NamedTuple):
    """What a decoder keeps of the images while it speaks of them.

    cells: (batch, cells, channels) the features.
    keys: (batch, cells, attention_units) what attention compares its state with.
    """

    cells: Tensor
    keys: Tensor


class State(NamedTuple):
    """The decoder between two words: output and memory of its recurrent layer, each (..., units)."""

    h: Tensor
    c: Tensor

    def expand(self, samples: int) -> State:
        """The same state (samples, ...) for each of so many."""
        return State(*(s.expand(samples, *s.shape) for s in self))


class CaptionDecoder(nn.Module):
    """Attends to cells and says words (parameters θ).

    Args:
        channels: features of a cell.
        words: size of the vocabulary, special tokens included.
        embedding: units of a word's embedding, and of the layer that words are read from.
        units: of the recurrent layer.
        attention_units: of the layer that compares a cell with the state.
        dropout: share of units dropped before words are read, and of the embeddings.
        attention: "hard" attends to one cell, an action; "soft" to the mean of all cells weighed by their
            probabilities, which is deterministic: the reference that hard attention is compared with.

    Raises:
        UserError: a size below 1, fewer than 5 words, a dropout outside [0, 1), an unknown attention.
    """

    def __init__(
        self,
        *,
        channels: int,
        words: int,
        embedding: int,
        units: int,
        attention_units: int,
        dropout: float,
        attention: str,
    ) -> None:
        super().__init__()
        require_at_least(1, channels=channels, embedding=embedding, units=units, attention_units=attention_units)
        require_at_least(5, words=words)
        require_dropout(dropout=dropout)
        if attention not in ATTENTIONS:
            raise UserError(f"unknown attention {attention!r}; choose one of {', '.join(ATTENTIONS)}")
        self.attention = attention
        # Without weights of its own: what reads the cells has them, and no gradient need flow back to each cell.
        self.normalize = nn.LayerNorm(channels, elementwise_affine=False)
        self.begin = nn.Linear(channels, 2 * units)
        self.key = nn.Linear(channels, attention_units)
        self.query = nn.Linear(units, attention_units)
        self.embed = nn.Embedding(words, embedding, padding_idx=PAD)
        # A long short-term memory whose gates read words and, together, cells and state: a caption's words are known
        # beforehand when it is scored, so what they add is one product for all of them.
        self.gates_of_word = nn.Linear(embedding, 4 * units)
        self.gates_of_rest = nn.Linear(channels + units, 4 * units, bias=False)
        self.read_state = nn.Linear(units, embedding)
        self.read_cell = nn.Linear(channels, embedding)
        self.say = nn.Linear(embedding, words)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            nn.init.normal_(self.embed.weight, std=0.1)
            self.gates_of_word.bias[units : 2 * units].fill_(1.0)  # to remember is where it begins

    def memory(self, features: Tensor) -> Memory:
        """What is computed once for images with features (batch, cells, channels)."""
        cells = self.normalize(features)
        return Memory(cells, self.key(cells))

    def start(self, memory: Memory) -> State:
        """The state before the first word, from the mean of the cells: (batch, units) each."""
        h, c = torch.tanh(self.begin(memory.cells.mean(-2))).chunk(2, -1)
        return State(h, c)

    def attend(self, memory: Memory, h: Tensor) -> CellDistribution:
        """Where to look next from outputs h (..., batch, units): a distribution over cells, batched (..., batch).

        Scaled products of keys and query, where Xu et al. have a hidden layer for each cell: as good on words (Luong et
        al. 2015), and without a row of units for every sample, caption, word and cell.
        """
        energy = torch.einsum("...bk,blk->...bl", self.query(h), memory.keys) / memory.keys.shape[-1] ** 0.5
        return CellDistribution(at_least_float32(energy))

    def context(self, memory: Memory, cell: Tensor) -> Tensor:
        """Features (..., batch, channels) of the cells (..., batch) attended to."""
        index = torch.arange(len(memory.cells), device=cell.device)
        return memory.cells[index, cell]

    def soft_context(self, memory: Memory, policy: CellDistribution) -> Tensor:
        """The expected features (..., batch, channels)."""
        return torch.einsum("...bl,blc->...bc", policy.probabilities().to(memory.cells.dtype), memory.cells)

    def advance(self, gates: Tensor, context: Tensor, state: State) -> State:
        """The state after a word, as `gates_of_word` reads it, and what was attended to (..., channels)."""
        rest = self.gates_of_rest(torch.cat([context, state.h], -1))
        keep_in, forget, keep_out, new = (gates + rest).split(state.c.shape[-1], -1)
        c = forget.sigmoid() * state.c + keep_in.sigmoid() * new.tanh()
        return State(keep_out.sigmoid() * c.tanh(), c)

    def word_logits(self, embedded: Tensor, context: Tensor, h: Tensor) -> Tensor:
        """log p(word) (..., words) but for a constant, from the last word's embedding, the attended cell and the state.

        In training all samples of a caption lose the same units: their weights compare what they attended to.
        """
        read = torch.tanh(embedded + self.read_state(h) + self.read_cell(context))
        return self.say(read * self.dropout(torch.ones_like(embedded)))


class CaptionInference(nn.Module):
    """Proposes cells knowing the whole caption (parameters η); used in training only.

    It corrects the policy: its energies are added to the policy's own (detached) ones and start at zero, so training
    begins with q = p.

    Args:
        channels: features of a cell.
        words: size of the vocabulary.
        units: of the decoder's recurrent layer.
        hidden: units of each direction of the layer that reads the caption, and of the comparison with the cells.
    """

    def __init__(self, *, channels: int, words: int, units: int, hidden: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, hidden, padding_idx=PAD)
        self.read = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.key = nn.Linear(channels, hidden)
        self.query = nn.Linear(units + 2 * hidden, hidden)
        self.correct = nn.Linear(hidden, hidden, bias=False)
        nn.init.zeros_(self.correct.weight)

    def captions(self, tokens: Tensor) -> Tensor:
        """Each word in the light of the others, (batch, T, 2 hidden), of tokens (batch, T)."""
        # Padding comes last and its embedding is zero: the backward direction starts from a state of its own making,
        # the same for every caption of that length.
        return self.read(self.embed(tokens))[0]

    def forward(self, policy: CellDistribution, keys: Tensor, h: Tensor, word: Tensor) -> CellDistribution:
        """The proposal from the policy, `key` of the cells (batch, cells, hidden), outputs h and the word read.

        Detaches the policy and h, so η's gradient is η's alone.
        """
        read = torch.cat([h.detach(), word.expand(*h.shape[:-1], -1)], -1)
        query = self.correct(torch.tanh(self.query(read)))
        energy = torch.einsum("...bh,blh->...bl", query, keys) / keys.shape[-1] ** 0.5
        return CellDistribution(policy.logits.detach() + energy)
