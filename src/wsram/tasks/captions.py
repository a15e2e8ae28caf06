"""Saying what an image shows: the captioner's examples, rollouts and held-out likelihood and BLEU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from torch import Tensor, nn

from wsram.actions import CellDistribution
from wsram.caption_evaluation import caption_images, evaluate_likelihood
from wsram.config import CaptionConfig, CaptionDataConfig
from wsram.data.captions import SPLITS, CaptionSet, load_captions
from wsram.data.features import Features, cache_key, extract_features, image_set, open_features
from wsram.data.vocabulary import Vocabulary
from wsram.errors import UserError
from wsram.evaluation import Autocast
from wsram.models.build import build_captioner
from wsram.models.captioner import Attended, AttentionCaptioner
from wsram.models.encoder import build_encoder
from wsram.rollout import Rollout
from wsram.scores import bleu
from wsram.tasks import Update

VOCABULARY = "vocabulary.json"
EVALUATION_SAMPLES = 5

CellRollout = Rollout[Attended, CellDistribution]


def load_splits(data: CaptionDataConfig) -> dict[str, CaptionSet]:
    """All three splits; `UserError` if the settings name no captions or they cannot be read."""
    if data.captions is None:
        raise UserError("expected captions to work with, got none; name Flickr8k's folder or a JSON with --captions")
    return {split: load_captions(data.captions, split, data.images) for split in SPLITS}


def features_of(data: CaptionDataConfig, splits: dict[str, CaptionSet], console: Console | None = None) -> Features:
    """The features of all splits' images, from their cache, or extracted now if a console is given to show it on."""
    paths = [image.path for part in splits.values() for image in part.images]
    default = Path("features", f"{data.encoder}-{data.grid}-{image_set(paths)[:8]}".replace(":", "-"))
    folder = data.features or default
    if console is None:
        return open_features(folder, cache_key(data.encoder, data.grid, paths))
    return extract_features(folder, paths, build_encoder(data.encoder, data.grid), console)


@dataclass(frozen=True)
class Examples:
    """Captions as numbers, one for each time somebody described an image.

    rows: (captions,) int64, the image's row in the features.
    tokens: (captions, T) int64.
    lengths: (captions,) int64, END counted.
    """

    rows: Tensor
    tokens: Tensor
    lengths: Tensor


def examples_of(part: CaptionSet, features: Features, vocabulary: Vocabulary) -> Examples:
    """Every caption of a split."""
    each = [(image.path, caption) for image in part.images for caption in image.captions]
    tokens, lengths = vocabulary.encode([caption for _, caption in each])
    return Examples(features.index([path for path, _ in each]), tokens, lengths)


def attention_entropy(rollout: CellRollout) -> Tensor:
    """Mean entropy of where to look before a word, in nats (scalar)."""
    real = rollout.action.real
    return (rollout.policy.entropy().mean(0) * real).sum() / real.sum()


class CaptionTask:
    """See `wsram.tasks.Task`."""

    watched = "nll_word"

    def __init__(self, config: CaptionConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        splits = load_splits(config.data)
        self.features = features_of(config.data, splits)
        captions = [caption for image in splits["train"].images for caption in image.captions]
        self.vocabulary = Vocabulary.build(captions, config.data.min_count)
        self.train = examples_of(splits["train"], self.features, self.vocabulary)
        self.dev_set = splits["dev"]
        self.dev = examples_of(self.dev_set, self.features, self.vocabulary)
        self.dev_rows = self.features.index([image.path for image in self.dev_set.images])
        self.examples = len(self.train.rows)

    def build(self) -> AttentionCaptioner:
        """The captioner, as wide as the features and the vocabulary ask."""
        channels = self.features.array.shape[-1]
        return build_captioner(self.config.model, self.config.estimator, channels=channels, words=len(self.vocabulary))

    def files(self) -> dict[str, str]:
        """The vocabulary, without which a captioner's numbers are no words."""
        return {VOCABULARY: self.vocabulary.to_json()}

    def rollout(self, model: nn.Module, update: Update) -> CellRollout:
        """Cells drawn for the captions of the update's examples, cut to the longest that training reads."""
        index = update.index.cpu()
        width = min(int(self.train.lengths[index].max()), self.config.data.longest)
        return model(
            self.features.take(self.train.rows[index]).to(self.device),
            self.train.tokens[index, :width].to(self.device),
            samples=self.config.estimator.samples,
            generator=update.generator,
            temperature=self.config.exploration.temperature,
            defensive=self.config.estimator.defensive,
            dreams=int(self.config.estimator.sleep > 0),
        )

    def exploration(self, rollout: CellRollout) -> Tensor | float:
        """Entropy bonus and coverage penalty, over real words."""
        explore = self.config.exploration
        real = rollout.action.real
        terms: Tensor | float = 0.0
        if explore.entropy:
            terms = terms - explore.entropy * attention_entropy(rollout)
        if explore.coverage:
            # Doubly stochastic attention (Xu et al. 2015, eq. 14): over a caption each cell gets its share.
            attended = (rollout.policy.probabilities() * real.unsqueeze(-1)).sum(-2)
            even = real.sum(-1, keepdim=True) / attended.shape[-1]
            terms = terms + explore.coverage * (even - attended).square().sum(-1).mean()
        return terms

    def measures(self, rollout: CellRollout) -> dict[str, Tensor]:
        """Nats for a word under the bound, and the entropy of where to look."""
        with torch.no_grad():
            return {
                "nll_word_training": -rollout.log_p_y.mean(0).sum() / rollout.action.real.sum(),
                "attention_entropy": attention_entropy(rollout),
            }

    def evaluate(self, network: nn.Module, step: int, autocast: Autocast) -> dict[str, float]:
        """Likelihood of the dev captions, and BLEU-4 (protocol `papers`) of greedy ones."""
        captioner = cast(AttentionCaptioner, network)
        samples = 1 if self.config.model.attention == "soft" else EVALUATION_SAMPLES
        dev = self.dev
        found = evaluate_likelihood(
            captioner, self.features, dev.rows, dev.tokens, dev.lengths, samples=samples, autocast=autocast
        )
        said = caption_images(captioner, self.features, self.dev_rows, self.vocabulary, beam=1, autocast=autocast)
        scores = bleu(said, [image.captions for image in self.dev_set.images], "papers").scores
        return found | {"bleu1_greedy": scores[0], "bleu4_greedy": scores[3]}

    def parameter_groups(self, network: nn.Module) -> dict[str, list[nn.Parameter]]:
        """The parameters by what they do: "prediction" (cells to words), "policy" (where to look), "inference" (η)."""
        captioner = cast(AttentionCaptioner, network)
        decoder = captioner.decoder
        policy = [p for module in (decoder.key, decoder.query) for p in module.parameters()]
        chosen = {id(p) for p in policy}
        groups = {"prediction": [p for p in decoder.parameters() if id(p) not in chosen], "policy": policy}
        return groups if captioner.inference is None else groups | {"inference": [*captioner.inference.parameters()]}
