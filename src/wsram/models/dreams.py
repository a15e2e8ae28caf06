r"""Dreams: what a model would attend to and say if it were asked, for the sleep phase of its inference network.

A dream is drawn from the model itself, $a, y \sim p(a, y \mid I)$ at a real image, and its answer y is then the one
that the inference network is told. Nothing of the prediction network learns from it.

Source: Hinton et al. 1995 (wake-sleep); Bornschein & Bengio 2015, its use beside the reweighted wake phase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from wsram.actions import Action, CellDistribution, GlimpseDistribution
from wsram.data.vocabulary import END, PAD, START
from wsram.errors import UserError

if TYPE_CHECKING:
    from wsram.models.captioner import AttentionCaptioner
    from wsram.models.classifier import AttentionClassifier

N = TypeVar("N", bound=nn.Module)


def draw_categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Indices (...) with probabilities softmax(logits) (..., choices); carries no gradient."""
    return CellDistribution(logits.detach()).sample(generator)


def _taught(inference: N | None) -> N:
    if inference is None:
        raise UserError("dreams teach an inference network, and there is none; use --proposal inference")
    return inference


def dream_of_labels(
    classifier: AttentionClassifier,
    images: Tensor,
    dreams: int,
    generator: torch.Generator,
    glimpses: int | None,
    sum_scale: bool,
) -> Tensor:
    """log q of each glimpse that the classifier dreamt of, told the label it dreamt.

    Args:
        classifier: the model, with its inference network.
        images: (batch, channels, height, width).
        dreams: for each image.
        generator: draws them.
        glimpses, sum_scale: as of the classifier.

    Returns:
        (dreams, batch, glimpses) nats; gradient: η.

    Raises:
        UserError: there is no inference network.
    """
    inference, prediction = _taught(classifier.inference), classifier.prediction
    seen: list[tuple[Tensor, Tensor]] = []

    def choose(policy: GlimpseDistribution, raw: Tensor, r2: Tensor) -> Action:
        shape = () if seen else (dreams,)
        seen.append((raw, r2))
        return policy.sample(generator, shape)

    with torch.no_grad():
        looked = prediction.look(images, choose, glimpses, sum_scale=sum_scale)
        labels = draw_categorical(looked.log_p_labels, generator)
    proposals = [prediction.policy(inference(raw, r2, labels)) for raw, r2 in seen]
    actions = [Action(*(part.select(2, n) for part in looked.action)) for n in range(len(seen))]
    scored = [proposal.log_prob(action) for proposal, action in zip(proposals, actions, strict=True)]
    if sum_scale:
        scored[-1] = proposals[-1].location_log_prob(actions[-1].location)
    return torch.stack(scored, -1)


def dream_of_captions(
    captioner: AttentionCaptioner, features: Tensor, dreams: int, generator: torch.Generator, longest: int
) -> Tensor:
    """log q of each cell that the captioner dreamt of attending to, told the caption it dreamt.

    Args:
        captioner: the model, with its inference network.
        features: (batch, cells, channels).
        dreams: for each image.
        generator: draws them.
        longest: tokens of a dream at most.

    Returns:
        (dreams, batch, longest) nats, 0 where a caption has ended; gradient: η.

    Raises:
        UserError: there is no inference network.
    """
    decoder, inference = captioner.decoder, _taught(captioner.inference)
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
