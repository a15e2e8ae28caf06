"""The captioner: a decoder that attends to one cell of an image before each word, and a network that knows the caption.

Decoder (θ), one long short-term memory over the words:

    h_t-1, cells ──► p(a_t | a_1..t-1, y_1..t-1, I)       a_t, y_t-1, h_t-1 ──► h_t ──► p(y_t | a_1..t, y_1..t-1, I)

The inference network (η) reads the whole caption in both directions and proposes a_t knowing it; in training only. A
caption's log-probability is the sum over its words, so for the estimators a rollout of words is like one of glimpses.

Source: Xu et al. 2015 (Show, Attend and Tell), the decoder, its hard attention; Ba et al. 2015, the inference network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.actions import CellDistribution, at_least_float32
from wsram.data.vocabulary import END, PAD, START, UNKNOWN
from wsram.errors import UserError, require_at_least
from wsram.estimators import defensive_mixture
from wsram.models.dreams import dream_of_captions
from wsram.models.vocabulary_layer import log_probability_of
from wsram.rollout import Rollout

ATTENTIONS = ("hard", "soft")
STEP = 16
"""Captions are dropped so many at a time once they have ended: for every size of matrices anew, the CPU's library of
matrix products writes itself a program, and sizes that vary freely cost more than the work they save."""


class Memory(NamedTuple):
    """What a decoder keeps of the images while it speaks of them.

    cells: (batch, cells, channels) the features.
    keys: (batch, cells, attention_units) what attention compares its state with.
    """

    cells: Tensor
    keys: Tensor


class Attended(NamedTuple):
    """The actions of a rollout.

    cells: (samples, batch, T) int64, the cell attended to before each token.
    real: (batch, T) 1 where there is a token, 0 after a caption's end; floating point.
    """

    cells: Tensor
    real: Tensor


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
        embedding: int = 256,
        units: int = 512,
        attention_units: int = 256,
        dropout: float = 0.5,
        attention: str = "hard",
    ) -> None:
        super().__init__()
        require_at_least(1, channels=channels, embedding=embedding, units=units, attention_units=attention_units)
        require_at_least(5, words=words)
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is a share of the units, from 0 to below 1, got {dropout}")
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


class Spoken(NamedTuple):
    """A caption for each image, and where it was attended to before each word.

    tokens: (batch, T) int64, END after the last word and PAD after that.
    cells: (batch, T) int64, the cell attended to before each token.
    log_p: (batch,) log-probability of the tokens at these cells, in nats.
    """

    tokens: Tensor
    cells: Tensor
    log_p: Tensor


class AttentionCaptioner(nn.Module):
    """A decoder with, in training, the inference network that teaches it where to look.

    Args:
        decoder: the decoder.
        inference: the inference network, or None to propose with the policy itself.

    Raises:
        UserError: soft attention with an inference network, which would have nothing to propose.
    """

    def __init__(self, decoder: CaptionDecoder, inference: CaptionInference | None = None) -> None:
        super().__init__()
        if decoder.attention == "soft" and inference is not None:
            raise UserError("soft attention takes no actions that a network could propose; use --proposal policy")
        self.decoder = decoder
        self.inference = inference

    def forward(
        self,
        features: Tensor,
        tokens: Tensor,
        *,
        samples: int,
        generator: torch.Generator,
        temperature: float = 1.0,
        defensive: float = 0.0,
        dreams: int = 0,
    ) -> Rollout[Attended, CellDistribution]:
        """Draw the cells attended to before each word of given captions, and score words and cells.

        Args:
            features: (batch, cells, channels) floating point.
            tokens: (batch, T) int64, each caption's words and END, then PAD.
            samples: sequences of cells for each caption, M.
            generator: draws the cells; on the features' device.
            temperature: of the proposal; above 1 explores more (an exploration heuristic).
            defensive: with which probability a sequence is drawn from the policy instead of the proposal, for weights
                that are bounded (see `wsram.estimators.defensive_mixture`).
            dreams: for each caption's image, for the sleep phase (see `wsram.models.dreams`).

        Returns:
            `Rollout`, axes samples, batch, words. Where a caption has ended, log-probabilities are 0. Soft attention
            takes no actions: the log-probabilities of its cells, the most probable ones, are 0 everywhere.

        Raises:
            UserError: fewer than 1 sample, a share of the policy below 0 or not below 1, or dreams without an inference
                network.
        """
        if samples < 1:
            raise UserError(f"samples must be at least 1, got {samples}")
        shape = (samples, len(tokens))
        defend = torch.rand(shape, generator=generator, device=features.device) < defensive if defensive else None
        decoder = self.decoder
        # Longest first: before each word only the captions that have one are worked on, and they come first.
        lengths = (tokens != PAD).sum(-1)
        order = lengths.argsort(descending=True)
        features, sorted_tokens = features[order], tokens[order]
        words = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(-1)
        going = [min(len(tokens), -(-n // STEP) * STEP) for n in (lengths > words).sum(-1).tolist()]
        # (T, batch): a value for each of these, one after the other, is packed; split by `going`, it is one word's.
        going_on = torch.arange(len(tokens), device=tokens.device) < torch.tensor(going, device=tokens.device)[:, None]
        memory = decoder.memory(features)
        state = decoder.start(memory).expand(samples)
        said = torch.cat([sorted_tokens.new_full((len(tokens), 1), START), sorted_tokens[:, :-1]], 1)
        embedded = decoder.dropout(decoder.embed(said.T[going_on]))
        gates = decoder.gates_of_word(embedded).split(going)
        if self.inference is not None:
            read = self.inference.captions(sorted_tokens).transpose(0, 1)[going_on].split(going)
            keys = self.inference.key(decoder.normalize(features))
        energies: list[Tensor] = []
        cells: list[Tensor] = []
        log_q: list[Tensor] = []
        contexts: list[Tensor] = []
        outputs: list[Tensor] = []
        for t, n in enumerate(going):
            state = State(*(s[:, :n] for s in state))
            looked_at = Memory(*(m[:n] for m in memory))
            policy = decoder.attend(looked_at, state.h)
            if decoder.attention == "soft":
                cell, context = policy.mean_action(), decoder.soft_context(looked_at, policy)
                log_q.append(cell.new_zeros(cell.shape, dtype=policy.logits.dtype))
            else:
                proposal = policy.detach()
                if self.inference is not None:
                    proposal = self.inference(policy, keys[:n], state.h, read[t])
                proposal = proposal.tempered(temperature)
                cell = proposal.sample(generator)
                if defend is not None:
                    cell = torch.where(defend[:, :n], policy.sample(generator), cell)
                context = decoder.context(looked_at, cell)
                log_q.append(proposal.log_prob(cell))
            state = decoder.advance(gates[t], context, state)
            for kept, value in ((energies, policy.logits), (cells, cell), (contexts, context), (outputs, state.h)):
                kept.append(value)

        back = order.argsort()

        def whole(parts: list[Tensor]) -> Tensor:
            """Each word's values (samples, captions going on, ...) as (samples, batch, T, ...), 0 after the ends."""
            padded = [F.pad(part, (0, 0) * (part.ndim - 2) + (0, len(tokens) - part.shape[1])) for part in parts]
            return torch.stack(padded, 2)[:, back]

        policies, chosen = CellDistribution(whole(energies)), whole(cells)
        real = (tokens != PAD).to(policies.logits.dtype)
        log_p_glimpses = policies.log_prob(chosen) * real
        if decoder.attention == "soft":
            log_p_glimpses = torch.zeros_like(log_p_glimpses)
        log_q_glimpses = whole(log_q) * real
        # Packed, since the vocabulary is large.
        logits = decoder.word_logits(embedded, torch.cat(contexts, 1), torch.cat(outputs, 1))
        log_p_words = log_probability_of(logits, sorted_tokens.T[going_on].expand(samples, -1))
        return Rollout(
            log_p_y_glimpses=whole(list(log_p_words.split(going, 1))) * real,
            log_p_glimpses=log_p_glimpses,
            log_q_glimpses=log_q_glimpses,
            action=Attended(chosen, real),
            policy=policies,
            log_proposal_glimpses=defensive_mixture(log_p_glimpses, log_q_glimpses, defensive) if defensive else None,
            log_q_dreams=dream_of_captions(self, features, dreams, generator, tokens.shape[1]) if dreams else None,
        )

    @torch.no_grad()
    def speak(self, features: Tensor, *, beam: int = 1, longest: int = 20) -> Spoken:
        """Caption images by beam search, attending to the most probable cells; a beam of 1 is greedy.

        Args:
            features: (batch, cells, channels).
            beam: captions kept for each image while they grow; the most probable whole one is given.
            longest: words that a caption has at most.

        Raises:
            UserError: a beam or a length below 1.
        """
        if beam < 1 or longest < 1:
            raise UserError(f"a beam and a caption's length must be at least 1, got {beam} and {longest}")
        decoder, batch = self.decoder, len(features)
        memory = decoder.memory(features)
        state = decoder.start(memory).expand(beam)
        # Axes: beam, batch. All beams begin alike, so at first only one of them counts.
        score = features.new_full((beam, batch), -torch.inf, dtype=torch.float32)
        score[0] = 0.0
        words = torch.full((beam, batch), START, device=features.device)
        tokens = words.new_empty(beam, batch, 0)
        cells = words.new_empty(beam, batch, 0)
        images = torch.arange(batch, device=features.device)
        for _ in range(longest + 1):
            ended = (words == END) | (words == PAD)
            policy = decoder.attend(memory, state.h)
            cell = policy.mean_action()
            soft = decoder.attention == "soft"
            context = decoder.soft_context(memory, policy) if soft else decoder.context(memory, cell)
            embedded = decoder.embed(words)
            state = decoder.advance(decoder.gates_of_word(embedded), context, state)
            log_p = at_least_float32(decoder.word_logits(embedded, context, state.h)).log_softmax(-1)
            log_p[..., [PAD, START, UNKNOWN]] = -torch.inf
            if tokens.shape[-1] == longest:  # no room for another word
                log_p[..., END + 1 :] = -torch.inf
            # A caption that has ended goes on as padding, at no cost.
            log_p = log_p.masked_fill(ended.unsqueeze(-1), -torch.inf)
            log_p[..., PAD] = torch.where(ended, 0.0, -torch.inf)
            total = (score.unsqueeze(-1) + log_p).transpose(0, 1).flatten(1)
            best, index = total.topk(beam, -1)
            score, source = best.T, (index // log_p.shape[-1]).T
            words = (index % log_p.shape[-1]).T
            state = State(*(s[source, images] for s in state))
            tokens = torch.cat([tokens[source, images], words.unsqueeze(-1)], -1)
            cells = torch.cat([cells[source, images], cell[source, images].unsqueeze(-1)], -1)
            if bool(((words == END) | (words == PAD))[0].all()):  # no unfinished caption can overtake the first
                break
        return Spoken(tokens[0], cells[0], score[0])
