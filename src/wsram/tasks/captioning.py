"""Saying what an image shows: rollouts of cells, likelihood of people's captions, BLEU of the network's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsram.config import CaptioningConfig
from wsram.data import Batch, Dataset, Spec, Splits, open_data
from wsram.data.bleu import PROTOCOLS, bleu
from wsram.data.captioned import CaptionDataset
from wsram.errors import UserError
from wsram.glimpse.actions import CellDistribution
from wsram.glimpse.draws import own_stream
from wsram.models.captioner import Attended, AttentionCaptioner
from wsram.models.rollout import Rollout
from wsram.runtime import Autocast
from wsram.tables import Panel, Table
from wsram.tasks.task import Options, Tell, Update, centred

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CellRollout = Rollout[Attended, CellDistribution]
ROWS = 500
"""Captions looked at together."""
VALIDATION_SAMPLES = 5
"""Sequences of cells that a likelihood is estimated from while training."""
SAMPLES, BEAM = 16, 5
"""Of an evaluation, by default."""


def attention_entropy(rollout: CellRollout) -> Tensor:
    """Mean entropy of where to look before a word, in nats (scalar)."""
    real = rollout.action.real
    return (rollout.policy.entropy().mean(0) * real).sum() / real.sum()


def evaluate_likelihood(
    captioner: AttentionCaptioner, dataset: CaptionDataset, *, samples: int, autocast: Autocast = nullcontext
) -> dict[str, float]:
    """How probable given captions are, with attention drawn from the policy, which does not know them.

    Args:
        captioner: the networks; the inference network takes no part.
        dataset: the captions.
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
    generator = torch.Generator(dataset.device).manual_seed(0)
    evidence, bound = 0.0, 0.0
    order = dataset.lengths.argsort()  # captions of like length together: less padding
    training = captioner.training
    captioner.eval()
    with torch.no_grad():
        for part in order.split(max(1, ROWS // samples)):
            batch = dataset.batch(part)
            with autocast():
                rollout = captioner(
                    batch.images, batch.answers, samples=samples, generator=generator, with_inference=False
                )
            log_p_y = rollout.log_p_y.sum(-1)
            evidence += float(torch.logsumexp(log_p_y, 0).sum()) - len(part) * math.log(samples)
            bound += float(log_p_y.mean(0).sum())
    captioner.train(training)
    words = int(dataset.lengths.sum())
    return {"nll_word": -evidence / words, "bound_word": -bound / words}


def caption_images(
    captioner: AttentionCaptioner, dataset: CaptionDataset, *, beam: int, autocast: Autocast = nullcontext
) -> list[str]:
    """A caption for each image of a split, attending to the most probable cells.

    Args:
        captioner: the networks.
        dataset: the split.
        beam: captions kept for each image while they grow; 1 is greedy.
        autocast: the precision to compute in.
    """
    training = captioner.training
    captioner.eval()
    said: list[str] = []
    for part in torch.arange(len(dataset.images)).split(max(1, ROWS // max(1, beam))):
        with autocast():
            spoken = captioner.speak(dataset.views(part.tolist()), beam=beam)
        said += [captioner.vocabulary.decode(tokens) for tokens in spoken.tokens.cpu()]
    captioner.train(training)
    return said


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """BLEU under every protocol, as it goes into a file: scores in percent, length ratio and sacrebleu's signature."""
    found = {name: bleu(captions, references, name) for name in PROTOCOLS}
    return {
        name: {"bleu": list(b.scores), "length_ratio": b.length_ratio, "signature": b.signature}
        for name, b in found.items()
    }


class Captioning:
    """See `wsram.tasks.task.Task`."""

    name = "image-to-text"
    watched = "nll_word"

    def open(self, config: CaptioningConfig) -> Splits:
        """Captions with the features of their images."""
        return open_data(config.data)

    def choose(self, config: CaptioningConfig, splits: Splits) -> tuple[CaptioningConfig, tuple[str, ...]]:
        """Nothing is left to the data."""
        return config, ()

    def fitting(self, network: AttentionCaptioner, dataset: Dataset) -> Dataset:
        """The captions in the network's words."""
        assert isinstance(dataset, CaptionDataset)
        if dataset.spec.channels != network.arguments["channels"]:
            raise UserError(
                f"the network reads features of {network.arguments['channels']} channels, got {dataset.spec.channels}; "
                f"extract those of {network.backbone}"
            )
        return dataset.with_words(network.vocabulary.words).to(dataset.device)

    def build(self, config: CaptioningConfig, spec: Spec) -> AttentionCaptioner:
        """The captioner, as wide as the features and the vocabulary ask."""
        return AttentionCaptioner(
            words=spec.names,
            channels=spec.channels,
            backbone=config.data.backbone,
            grid=config.data.grid,
            inference=config.estimator.proposal == "inference",
            precision=config.schedule.precision,
            **vars(config.model),
        )

    def begin(
        self, config: CaptioningConfig, network: AttentionCaptioner, examples: Dataset, tell: Tell
    ) -> tuple[str, ...]:
        """As it is."""
        return ()

    def rollout(self, config: CaptioningConfig, model: nn.Module, batch: Batch, update: Update) -> CellRollout:
        """Cells drawn for captions."""
        return model(
            batch.images,
            batch.answers,
            samples=config.estimator.samples,
            generator=own_stream(update.generator),  # as many numbers as its captions have words
            with_inference=config.estimator.proposal == "inference",
            temperature=config.exploration.temperature,
            defensive=config.estimator.defensive,
            dreams=int(config.estimator.sleep > 0),
            centred=centred(config.estimator),
        )

    def additions(self, config: CaptioningConfig, rollout: CellRollout, fade: float) -> Tensor | float:
        """Entropy bonus and coverage penalty, over real words."""
        explore = config.exploration
        real = rollout.action.real
        terms: Tensor | float = 0.0
        if explore.entropy:
            terms = terms - explore.entropy * attention_entropy(rollout)
        if explore.coverage:
            # Doubly stochastic attention (Xu et al. 2015, eq. 14): over a caption each cell gets its share.
            attended = (rollout.policy.probabilities() * real.unsqueeze(-1)).sum(-2)
            even = real.sum(-1, keepdim=True) / attended.shape[-1]
            terms = terms + explore.coverage * (even - attended).square().sum(-1).mean()
        return fade * terms

    def measures(self, rollout: CellRollout) -> dict[str, Tensor]:
        """Nats for a word under the bound, and the entropy of where to look."""
        with torch.no_grad():
            return {
                "nll_word_training": -rollout.log_p_y.sum(-1).mean(0).sum() / rollout.action.real.sum(),
                "attention_entropy": attention_entropy(rollout),
            }

    def validate(
        self, config: CaptioningConfig, network: AttentionCaptioner, dataset: Dataset, step: int, autocast: Autocast
    ) -> dict[str, float]:
        """Likelihood of the captions, and BLEU-1 and -4 (protocol `papers`) of greedy ones."""
        assert isinstance(dataset, CaptionDataset)
        samples = 1 if config.model.attention == "soft" else VALIDATION_SAMPLES
        found = evaluate_likelihood(network, dataset, samples=samples, autocast=autocast)
        said = caption_images(network, dataset, beam=1, autocast=autocast)
        scores = bleu(said, [image.captions for image in dataset.images.images], "papers").scores
        return found | {"bleu1_greedy": scores[0], "bleu4_greedy": scores[3]}

    def troubles(
        self,
        config: CaptioningConfig,
        network: AttentionCaptioner,
        dataset: Dataset,
        row: Mapping[str, Any],
        autocast: Autocast,
    ) -> dict[str, str]:
        """Nothing that is known."""
        return {}

    def evaluate(
        self, network: AttentionCaptioner, dataset: Dataset, options: Options, autocast: Autocast
    ) -> dict[str, Any]:
        """Likelihood, and BLEU under every protocol of greedy captions and of a beam."""
        assert isinstance(dataset, CaptionDataset)
        soft = network.decoder.attention == "soft"
        samples = (1 if soft else SAMPLES) if options.samples is None else options.samples
        if soft and samples > 1:
            raise UserError(f"soft attention draws nothing; leave --samples out, got {samples}")
        references = [image.captions for image in dataset.images.images]
        found: dict[str, Any] = {"images": len(references), "samples": samples}
        found |= evaluate_likelihood(network, dataset, samples=samples, autocast=autocast)
        for width in dict.fromkeys((1, BEAM if options.beam is None else options.beam)):
            said = caption_images(network, dataset, beam=width, autocast=autocast)
            found["greedy" if width == 1 else f"beam_{width}"] = score_captions(said, references)
        return found

    def calibrate(self, network: AttentionCaptioner, dataset: Dataset, autocast: Autocast) -> list[float] | None:
        """Nothing: words are ranked, not believed."""
        return None

    def parameter_groups(self, network: AttentionCaptioner) -> dict[str, list[nn.Parameter]]:
        """The parameters: "prediction" (cells to words), "policy" (where to look), "inference" (η)."""
        decoder = network.decoder
        policy = [p for module in (decoder.key, decoder.query) for p in module.parameters()]
        chosen = {id(p) for p in policy}
        groups = {"prediction": [p for p in decoder.parameters() if id(p) not in chosen], "policy": policy}
        return groups if network.inference is None else groups | {"inference": [*network.inference.parameters()]}

    def about(self, config: CaptioningConfig) -> str:
        """The features."""
        return f"captions on {config.data.backbone}, {config.data.grid}×{config.data.grid} cells"

    def table(self, records: Mapping[str, Mapping[str, Any]]) -> Table:
        """One row for each set, way of captioning and protocol."""
        rows = [
            [
                name,
                way.replace("_", " "),
                protocol,
                *(f"{value:.1f}" for value in score["bleu"]),
                f"{score['length_ratio']:.2f}",
                f"{found['nll_word']:.4f}",
                f"{found['bound_word']:.4f}",
                score["signature"],
            ]
            for name, found in records.items()
            for way, scores in found.items()
            if way == "greedy" or way.startswith("beam_")
            for protocol, score in scores.items()
        ]
        bleus = [f"BLEU-{n}" for n in range(1, 5)]
        header = ["set", "captions", "protocol", *bleus, "length", "nats a word", "under F", "signature"]
        return Table("", header, rows, words=3)

    def headline(self, record: Mapping[str, Any]) -> str:
        """BLEU of the widest beam under the protocol of the papers."""
        way = _widest(record)
        scores = " / ".join(f"{value:.1f}" for value in record[way]["papers"]["bleu"])
        return f"BLEU-1 to 4: {scores} ({way.replace('_', ' ')}, protocol papers)"

    def merits(self, answer: str, record: Mapping[str, Any]) -> dict[str, float]:
        """BLEU-4 of the widest beam under the protocol of the papers, of 100."""
        return {"bleu": record[_widest(record)]["papers"]["bleu"][3]}

    def panels(
        self, config: CaptioningConfig, network: AttentionCaptioner, metrics: Sequence[Mapping[str, Any]]
    ) -> list[Panel]:
        """Likelihood, BLEU, effective sample size and the entropy of attention."""
        steps = [row["step"] for row in metrics]
        evaluated = [row for row in metrics if "nll_word" in row]
        at = [row["step"] for row in evaluated]
        nll = [
            ("training, bound F", steps, [row["nll_word_training"] for row in metrics]),
            ("validation, bound F", at, [row["bound_word"] for row in evaluated]),
            ("validation, evidence bound", at, [row["nll_word"] for row in evaluated]),
        ]
        scores = [(f"BLEU-{n}", at, [row[f"bleu{n}_greedy"] for row in evaluated]) for n in (1, 4)]
        entropy = [("entropy", steps, [row["attention_entropy"] for row in metrics])]
        return [
            Panel("negative log-likelihood of a word", "updates", "nats", nll),
            Panel("validation, greedy captions, protocol papers", "updates", "%", scores),
            Panel("effective sample size", "updates", "samples", [("ESS", steps, [row["ess"] for row in metrics])]),
            Panel("entropy of attention", "updates", "nats", entropy),
        ]

    def look(self, network: AttentionCaptioner, dataset: Dataset, count: int) -> Figure | None:
        """None: the data set holds features, not images."""
        return None


def _widest(record: Mapping[str, Any]) -> str:
    """The way of captioning with the widest beam."""
    widths = {key: int(key.removeprefix("beam_")) for key in record if key.startswith("beam_")}
    return max(widths, key=lambda key: widths[key]) if widths else "greedy"
