"""The captioner: a decoder that attends to a cell before each word, and a network that knows the caption.

A caption's log-probability is the sum over its words, so for the estimators a rollout of words is like one of glimpses.

Source: Xu et al. 2015 (Show, Attend and Tell), the decoder; Ba et al. 2015, the inference network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.data.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from wsram.errors import UserError
from wsram.glimpse.actions import CellDistribution, at_least_float32, draw_categorical
from wsram.models.decoder import CaptionDecoder, CaptionInference, Memory, State
from wsram.models.proposal import Proposer, require_inference
from wsram.models.rollout import Rollout
from wsram.models.vocabulary_layer import log_probability_of
from wsram.runtime import require_memory

STEP = 16
"""Captions are dropped so many at a time once they have ended: for every size of matrices anew, the CPU's library of
matrix products writes itself a program, and sizes that vary freely cost more than the work they save."""


class Attended(NamedTuple):
    """The actions of a rollout.

    cells: (samples, batch, T) int64, the cell attended to before each token.
    real: (batch, T) 1 where there is a token, 0 after a caption's end; floating point.
    """

    cells: Tensor
    real: Tensor


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
        words: the vocabulary, special tokens included.
        channels: features of a cell.
        backbone, grid: what makes the features of an image; see `wsram.models.backbone.build_backbone`.
        attention, embedding, units, attention_units, dropout: see `CaptionDecoder`.
        inference: whether there is an inference network; without it the policy itself proposes.
        precision: that it was trained and measured in, "bf16" or "no" (float32): what prediction uses.

    Raises:
        UserError: a size that cannot be, or soft attention with an inference network, which would have nothing to
            propose.
    """

    task = "image-to-text"

    def __init__(
        self,
        *,
        words: Sequence[str],
        channels: int,
        backbone: str = "efficientnet-lite2",
        grid: int = 7,
        attention: str = "hard",
        embedding: int = 256,
        units: int = 512,
        attention_units: int = 128,
        dropout: float = 0.5,
        inference: bool = True,
        precision: str = "no",
    ) -> None:
        super().__init__()
        self.arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if attention == "soft" and inference:
            raise UserError("soft attention takes no actions that a network could propose; use --proposal policy")
        self.vocabulary = Vocabulary(tuple(words))
        self.backbone, self.grid, self.precision = backbone, grid, precision
        self.decoder = CaptionDecoder(
            channels=channels,
            words=len(words),
            embedding=embedding,
            units=units,
            attention_units=attention_units,
            dropout=dropout,
            attention=attention,
        )
        self.inference = CaptionInference(channels=channels, words=len(words), units=units) if inference else None

    def forward(
        self,
        features: Tensor,
        tokens: Tensor,
        *,
        samples: int,
        generator: torch.Generator,
        with_inference: bool = True,
        temperature: float = 1.0,
        defensive: float = 0.0,
        dreams: int = 0,
        centred: bool = False,
    ) -> Rollout[Attended, CellDistribution]:
        """Draw the cells attended to before each word of given captions, and score words and cells.

        Args:
            features: (batch, cells, channels) floating point.
            tokens: (batch, T) int64, each caption's words and END, then PAD.
            samples: sequences of cells for each caption, M.
            generator: draws the cells; on the features' device.
            with_inference: let the inference network propose, if there is one; else the policy does.
            temperature, defensive: see `wsram.models.proposal.Proposer`.
            dreams: for each caption's image, for the sleep phase; see `dream`.
            centred: also work out the policy's mean log-probability under what proposes.

        Returns:
            `Rollout`, axes samples, batch, words. Where a caption has ended, log-probabilities are 0. Soft attention
            takes no actions: the log-probabilities of its cells, the most probable ones, are 0 everywhere.

        Raises:
            UserError: fewer than 1 sample, a share of the policy below 0 or not below 1, or dreams without an inference
                network.
        """
        wanted = 4 * samples * tokens.numel() * features.shape[1]
        require_memory(wanted, features.device, f"{samples:,} samples of {len(tokens):,} captions")
        proposer = Proposer((samples, len(tokens)), generator, temperature=temperature, defensive=defensive)
        decoder, inference = self.decoder, self.inference if with_inference else None
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
        if inference is not None:
            read = inference.captions(sorted_tokens).transpose(0, 1)[going_on].split(going)
            keys = inference.key(decoder.normalize(features))
        energies: list[Tensor] = []
        cells: list[Tensor] = []
        log_q: list[Tensor] = []
        means: list[Tensor] = []
        contexts: list[Tensor] = []
        outputs: list[Tensor] = []
        for t, n in enumerate(going):
            state = State(*(s[:, :n] for s in state))
            looked_at = Memory(*(m[:n] for m in memory))
            policy = decoder.attend(looked_at, state.h)
            if decoder.attention == "soft":
                cell, context = policy.mode(), decoder.soft_context(looked_at, policy)
                log_q.append(cell.new_zeros(cell.shape, dtype=policy.logits.dtype))
            else:
                informed = None if inference is None else inference(policy, keys[:n], state.h, read[t])
                cell, proposal = proposer.draw(policy, informed)
                context = decoder.context(looked_at, cell)
                log_q.append(proposal.log_prob(cell))
                if centred:
                    means.append(policy.mean_log_prob(proposal.detach()))
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
        log_p_a = policies.log_prob(chosen) * real
        if decoder.attention == "soft":
            log_p_a = torch.zeros_like(log_p_a)
        log_q_a = whole(log_q) * real
        log_proposal = proposer.density(log_p_a, log_q_a)
        # Packed, since the vocabulary is large.
        logits = decoder.word_logits(embedded, torch.cat(contexts, 1), torch.cat(outputs, 1))
        log_p_words = log_probability_of(logits, sorted_tokens.T[going_on].expand(samples, -1))
        return Rollout(
            log_p_y=whole(list(log_p_words.split(going, 1))) * real,
            log_p_a=log_p_a,
            log_q_a=log_q_a,
            action=Attended(chosen, real),
            policy=policies,
            log_proposal=log_proposal,
            mean_log_p_a=proposer.mean(whole(means) * real, log_p_a, log_proposal) if means else None,
            log_q_dreams=self.dream(features, dreams, generator, tokens.shape[1]) if dreams else None,
        )

    def dream(self, features: Tensor, dreams: int, generator: torch.Generator, longest: int) -> Tensor:
        """log q of each cell that the captioner dreamt of attending to, told the caption it dreamt: the sleep phase.

        Args:
            features: (batch, cells, channels).
            dreams: for each image, drawn from the model itself; nothing of the decoder learns from them.
            generator: draws them.
            longest: tokens of a dream at most.

        Returns:
            (dreams, batch, longest) nats, 0 where a caption has ended; gradient: η.

        Raises:
            UserError: there is no inference network.

        Source: Hinton et al. 1995 (wake-sleep); Bornschein & Bengio 2015, its use beside the reweighted wake phase.
        """
        decoder, inference = self.decoder, require_inference(self.inference)
        tokens: list[Tensor] = []
        seen: list[tuple[CellDistribution, Tensor, Tensor]] = []
        with torch.no_grad():
            memory = decoder.memory(features)
            state = decoder.start(memory).expand(dreams)
            words = torch.full((dreams, len(features)), START, device=features.device)
            for _ in range(longest):
                ended = (words == END) | (words == PAD)
                policy = decoder.attend(memory, state.h)
                cell = policy.sample(generator)
                seen.append((policy, state.h, cell))
                context = decoder.context(memory, cell)
                embedded = decoder.embed(words)
                state = decoder.advance(decoder.gates_of_word(embedded), context, state)
                logits = decoder.word_logits(embedded, context, state.h)
                logits[..., [PAD, START]] = -torch.inf
                words = draw_categorical(logits, generator).masked_fill(ended, PAD)
                tokens.append(words)
            dreamt = torch.stack(tokens, -1)
        read = inference.captions(dreamt.flatten(0, 1)).unflatten(0, dreamt.shape[:2]).unbind(2)
        keys = inference.key(decoder.normalize(features))
        scored = [
            inference(policy, keys, h, word).log_prob(cell) for (policy, h, cell), word in zip(seen, read, strict=True)
        ]
        return torch.stack(scored, -1) * (dreamt != PAD)

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
        wanted = 4 * beam * batch * len(self.vocabulary)
        require_memory(wanted, features.device, f"{beam:,} captions of each of {batch:,} images at a time")
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
            cell = policy.mode()
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
