"""How good a captioner is: likelihood of the captions people wrote, and BLEU of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from wsram.data.features import Features
from wsram.data.vocabulary import Vocabulary
from wsram.errors import UserError
from wsram.evaluation import Autocast
from wsram.models.captioner import AttentionCaptioner
from wsram.scores import PROTOCOLS, Bleu, bleu

ROWS = 500
"""Captions looked at together."""


def evaluate_likelihood(
    captioner: AttentionCaptioner,
    features: Features,
    rows: Tensor,
    tokens: Tensor,
    lengths: Tensor,
    *,
    samples: int,
    autocast: Autocast = nullcontext,
) -> dict[str, float]:
    """How probable given captions are, with attention drawn from the policy, which does not know them.

    Args:
        captioner: the networks; the inference network takes no part.
        features: of the images.
        rows: (captions,) each one's image, as a row of `features`.
        tokens: (captions, T) words, END, PAD.
        lengths: (captions,) words and END.
        samples: sequences of cells for each caption; soft attention needs 1.
        autocast: the precision to compute in.

    Returns:
        In nats for each word (END counted): "nll_word", minus the evidence bound log (1/M) Σ p(y|a), a ~ p; and
        "bound_word", minus the variational bound F.

    Raises:
        UserError: fewer than 1 sample.
    """
    if samples < 1:
        raise UserError(f"a likelihood needs at least 1 sample, got {samples}")
    policy_alone = AttentionCaptioner(captioner.decoder)
    device = next(captioner.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    evidence, bound = 0.0, 0.0
    order = lengths.argsort()  # captions of like length together: less padding
    training = captioner.training
    policy_alone.eval()
    with torch.no_grad():
        for part in order.split(max(1, ROWS // samples)):
            said = tokens[part, : int(lengths[part].max())].to(device)
            with autocast():
                rollout = policy_alone(features.take(rows[part]).to(device), said, samples=samples, generator=generator)
            evidence += float(torch.logsumexp(rollout.log_p_y, 0).sum()) - len(part) * math.log(samples)
            bound += float(rollout.log_p_y.mean(0).sum())
    captioner.train(training)
    words = int(lengths.sum())
    return {"nll_word": -evidence / words, "bound_word": -bound / words}


def caption_images(
    captioner: AttentionCaptioner,
    features: Features,
    rows: Tensor,
    vocabulary: Vocabulary,
    *,
    beam: int,
    autocast: Autocast = nullcontext,
) -> list[str]:
    """A caption for each image, attending to the most probable cells.

    Args:
        captioner: the networks.
        features: of the images.
        rows: (images,) which rows of `features`.
        vocabulary: the words.
        beam: captions kept for each image while they grow; 1 is greedy.
        autocast: the precision to compute in.
    """
    device = next(captioner.parameters()).device
    training = captioner.training
    captioner.eval()
    said: list[str] = []
    for part in rows.split(max(1, ROWS // max(1, beam))):
        with autocast():
            spoken = captioner.speak(features.take(part).to(device), beam=beam)
        said += [vocabulary.decode(tokens) for tokens in spoken.tokens.cpu()]
    captioner.train(training)
    return said


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """BLEU under every protocol, as it goes into a file: scores in percent, length ratio and sacrebleu's signature."""
    found: dict[str, Bleu] = {name: bleu(captions, references, name) for name in PROTOCOLS}
    return {
        name: {"bleu": list(b.scores), "length_ratio": b.length_ratio, "signature": b.signature}
        for name, b in found.items()
    }
