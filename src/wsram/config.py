"""Every setting of a run: frozen dataclasses, which are the command line, and JSON in the run's folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from wsram.errors import UserError, require_at_least, require_finite
from wsram.image_settings import AugmentConfig, ImageData

Proposal = Literal["inference", "policy"]
Precision = Literal["auto", "bf16", "no"]
Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]
LARGEST_SEED = 2**63 - 1
WARMUP = 200
"""Updates until the learning rate peaks, of runs that are ten times as long."""


@dataclass(frozen=True)
class ClassifierConfig:
    """The networks that look and answer. The defaults of recurrence and network are the paper's."""

    glimpses: int = 4
    """Glimpses for each image."""
    patch: int = 16
    """Side of a glimpse, in pixels."""
    scales: tuple[int, ...] = (1, 2, 3)
    """Image pixels under one glimpse pixel, along each axis: what the policy may choose from."""
    sensor: Literal["bilinear", "nearest"] = "bilinear"
    """Interpolate glimpses between pixels, or take the nearest."""
    contrast: bool = False
    """Look at images as their difference from their background: light and the sign of contrast then do not matter."""
    recurrence: Literal["relu", "gru", "lstm", "evidence"] = "relu"
    """Kind of both recurrent layers; or evidence, with which the lower one gathers what each glimpse says by itself, as
    is best where one glimpse of many decides, and the upper one is relu."""
    network: str = "fc"
    """What reads glimpses and the view: fc (fully connected layers), conv (small convolutions), or, pretrained,
    efficientnet-lite0 or efficientnet-lite2, with :1 to :7 for the last stage that is used (by default 5)."""
    freeze: bool = True
    """Leave a pretrained network as it is; --no-freeze trains its stages after the third on, at a tenth of the rate."""
    widths: tuple[int, ...] = (16, 32)
    """Channels of each convolution of the conv network; every one halves what it reads."""
    lower_units: int = 256
    """Units of the lower recurrent layer, which answers."""
    upper_units: int = 128
    """Units of the upper recurrent layer, which chooses glimpses."""
    view: int = 25
    """Side of the low-resolution view, in pixels; only the policy sees it."""
    std_range: tuple[float, float] = (0.05, 1.0)
    """Bounds of the location's standard deviation; the image is 2 wide."""
    aim: Literal["middle", "contrast"] = "middle"
    """What a gaussian policy's place is learned as a difference from: the middle of the image, or the centre of what
    stands out from its background."""
    policy: Literal["gaussian", "map"] = "gaussian"
    """One place with a spread, or a map over cells of the view, which can point at one of many things."""
    map_stride: int = 1
    """Pixels of the view along the side of a map's cell. A pretrained network reads the view up to its last stage of
    such cells: with 8 it sees textures, with 16 what things are, at twice the arithmetic."""
    map_apart: bool = False
    """Read each cell of a map as a small picture of its own, by all stages of a pretrained network: for images of many
    parts that have nothing to do with each other, as large as the cells."""
    map_query: bool = True
    """What was seen asks for cells of a map; --no-map-query looks at them by what each says, where nothing that one
    shows tells where the others lie."""
    map_toll: float = 20.0
    """Nats that a map's cells lose at first once they were looked at, with those around them unless cells are apart;
    learned."""
    map_evidence: bool = False
    """Teach a map's cells the answer by themselves: each gives evidence for every one, their smooth maximum is taught
    the image's answer, and the map begins where there is most of it."""
    map_freeze: bool = True
    """Leave what a map is read from as it is; --no-map-freeze trains a pretrained network's stages after the third on
    in the view alone, at a tenth of the rate, for far less than --no-freeze takes."""
    map_dropout: float = 0.0
    """Share of the features that a map's cells are read from, dropped in training."""
    binding: Literal["sum", "product", "none"] = "sum"
    """What is seen and where are added; or what is seen is weighed by where, too: which thing lies higher, say; or what
    is seen counts alone, wherever it is."""
    leak: float = 0.0
    """Slope below zero of the numbers that say what a glimpse shows: above 0, none of them can die."""
    warp: float = 0.0
    """Strength of random rotation, shear, stretch and bending of every glimpse in training; 1 is about a hand's."""
    dropout: float = 0.0
    """Share of a glimpse's features dropped in training."""
    read_dropout: float = 0.0
    """Share of the numbers that a glimpse's features are read from dropped in training; with --recurrence evidence."""
    scale_toll: float = 0.0
    """Nats that a scale loses at the policy's modes each time it was used, so that what is seen again is seen at
    another scale. Nothing that is drawn, and so nothing of training, depends on it."""

    def __post_init__(self) -> None:
        require_finite(self)


@dataclass(frozen=True)
class EstimatorConfig:
    """How samples become gradients."""

    name: Annotated[str, tyro.conf.arg(name="estimator")] = "wake-sleep"
    """wake-sleep (WS-RAM) or variational (REINFORCE), each also with -credit for every glimpse; wake-sleep-exact;
    wake-sleep-resampled, a particle filter; or vimco."""
    proposal: Proposal = "inference"
    """Who proposes glimpses in training: the inference network, which sees the label, or the policy."""
    control_variates: bool = True
    """Subtract the zero-mean score terms (wake-sleep) or a baseline (variational, vimco)."""
    samples: int = 5
    """Glimpse sequences for each image, M."""
    defensive: float = 0.0
    """Probability that a sequence comes from the policy, whoever proposes; bounds the ratios p / q by its inverse."""
    pathwise: float = 0.0
    """Share of the locations' gradient that goes through the glimpses, not their scores; with --proposal policy."""
    sleep: float = 0.0
    """Share of the inference network's gradient that comes from one dream of the model for each example."""

    def __post_init__(self) -> None:
        require_finite(self)
        if self.samples < 1:
            raise UserError(f"samples must be at least 1, got {self.samples}")
        if self.control_variates and self.samples < 2:
            raise UserError("control variates need at least 2 samples, got 1; draw more, or use --no-control-variates")
        if not 0 <= self.defensive < 1:
            raise UserError(f"the policy's share of a defensive mixture is from 0 to below 1, got {self.defensive}")
        if not 0 <= self.pathwise <= 1:
            raise UserError(f"the pathwise share of the locations' gradient is from 0 to 1, got {self.pathwise}")
        if self.pathwise and (self.proposal != "policy" or self.name.startswith("wake-sleep")):
            raise UserError(
                "only the policy's own locations are followed through the glimpses, and only under the variational "
                "estimators and vimco; use one of them with --proposal policy, or --pathwise 0"
            )
        if not 0 <= self.sleep <= 1:
            raise UserError(
                f"the sleep phase's share of the inference network's gradient is from 0 to 1, got {self.sleep}"
            )
        if self.sleep and self.proposal != "inference":
            raise UserError("the sleep phase teaches an inference network; use --proposal inference, or --sleep 0")


@dataclass(frozen=True)
class ExplorationConfig:
    """Heuristics that keep the policy looking around; all off by default.

    The two weights of entropies and the coverage weight fade to 0 along the learning rate's cosine.
    """

    temperature: float = 1.0
    """Of the proposal; above 1 explores more."""
    location_entropy: float = 0.0
    """Weight of the bonus for undecided locations, per nat."""
    scale_entropy: float = 0.0
    """Weight of the bonus for undecided scales, per nat."""
    coverage: float = 0.0
    """Weight of the penalty for parts of the image never visited, per nat."""

    def __post_init__(self) -> None:
        require_finite(self)
        _require_warm(self.temperature)
        require_at_least(0, location_entropy=self.location_entropy, scale_entropy=self.scale_entropy)
        require_at_least(0, coverage=self.coverage)


@dataclass(frozen=True)
class ScheduleConfig:
    """How long and how fast any network is trained, in what precision and from which seed."""

    updates: int = 4000
    """Optimizer steps in all."""
    minutes: float | None = None
    """Minutes of training, in place of --updates: as many are made as fit, by the time that a few of them take here."""
    batch: int = 128
    """Examples in an update, over all processes."""
    learning_rate: float = 1e-3
    """Peak of Adam's rate; it rises over the warm-up and then falls to 0 along a cosine."""
    warmup: int | None = None
    """Updates until the learning rate peaks; by default 200, but no more than a tenth of all."""
    weight_decay: float = 0.0
    """Decoupled (AdamW)."""
    clip: float = 5.0
    """Bound on the gradient's norm."""
    precision: Precision = "auto"
    """Matrix products in bfloat16 (bf16) or everything in float32 (no); auto takes bf16 where the processor has it."""
    seed: int = 0
    """Of the initial weights, the order of the examples and everything drawn."""
    evaluate_every: int = 500
    """Updates between looks at the validation examples; a checkpoint is written each time."""
    patience: int = 0
    """Evaluations in a row without a better one after which training stops, the best kept; 0 goes on to the end."""
    variance_draws: int = 0
    """Gradient estimates drawn at each evaluation to measure their variance; 0 measures none."""

    def __post_init__(self) -> None:
        require_finite(self)
        require_at_least(1, updates=self.updates, batch=self.batch, evaluate_every=self.evaluate_every)
        require_at_least(0, warmup=self.peak, patience=self.patience, variance_draws=self.variance_draws)
        require_at_least(0, weight_decay=self.weight_decay)
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"minutes must be above 0, got {self.minutes}; or leave them out and say --updates")
        if not self.learning_rate > 0:
            raise UserError(f"the learning rate must be above 0, got {self.learning_rate}; nothing is learned at 0")
        if not self.clip > 0:
            raise UserError(f"clip must be above 0, got {self.clip}; a large one clips nothing")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UserError(f"seed must be from 0 to {LARGEST_SEED}, got {self.seed}")
        if self.variance_draws == 1:
            raise UserError("a variance needs at least 2 draws, got 1; use --variance-draws 0 to measure none")

    @property
    def peak(self) -> int:
        """The update at which the learning rate peaks: the warm-up that was asked for, or what fits the run."""
        return min(WARMUP, self.updates // 10) if self.warmup is None else self.warmup


@dataclass(frozen=True)
class ClassificationConfig:
    """A whole training run of a classifier."""

    task: Annotated[Literal["image-classification"], tyro.conf.Suppress] = "image-classification"
    """What is trained; told apart by it in a run's folder."""
    # The command line names every setting by itself, without the section it belongs to.
    data: Annotated[ImageData, tyro.conf.arg(name="")] = field(default_factory=ImageData)
    augmentation: Annotated[AugmentConfig, tyro.conf.arg(name="")] = field(default_factory=AugmentConfig)
    model: Annotated[ClassifierConfig, tyro.conf.arg(name="")] = field(default_factory=ClassifierConfig)
    estimator: Annotated[EstimatorConfig, tyro.conf.arg(name="")] = field(default_factory=EstimatorConfig)
    exploration: Annotated[ExplorationConfig, tyro.conf.arg(name="")] = field(default_factory=ExplorationConfig)
    schedule: Annotated[ScheduleConfig, tyro.conf.arg(name="")] = field(default_factory=ScheduleConfig)
    glimpse_growth: float = 0.0
    """Share of the updates over which the number of glimpses grows from 1 to all; 0 takes all from the start."""
    every_glimpse: float = 0.0
    """Weight of the answer's loss after every glimpse but the last, beside the last one's; what answers learns by it,
    and by the share of --pathwise where glimpses are as well."""
    start_from: str | None = None
    """A network to go on from, by folder or name: its weights where they fit, its answers by their names."""
    distil: int = 0
    """Epochs in which a pretrained network, before anything else, is taught to tell of glimpses, and of a map's cells
    that are apart, what it tells of the same places at 224 pixels; without answers."""
    choose: bool = False
    """Choose glimpses, patch, scales, view, batch and updates by the images, where nothing else was asked for."""
    sum_scale: bool = False
    """Take the last glimpse at every scale in training and sum over them, instead of drawing one (Rao-Blackwell)."""

    def __post_init__(self) -> None:
        if not 0 <= self.glimpse_growth <= 1:
            raise UserError(f"glimpse growth is a share of the updates, from 0 to 1, got {self.glimpse_growth}")
        require_finite(self)
        require_at_least(0, every_glimpse=self.every_glimpse, distil=self.distil)
        if self.distil and self.start_from is not None:
            raise UserError("a network that goes on was taught before; leave --distil out, or --start-from")
        if self.estimator.pathwise and (self.model.sensor == "nearest" or self.exploration.temperature != 1):
            raise UserError(
                "locations are followed through bilinear glimpses that the policy itself drew; use --sensor bilinear "
                "--temperature 1, or --pathwise 0"
            )
        if self.estimator.pathwise and self.model.policy == "map":
            raise UserError("cells of a map are one or another and cannot be followed; use --pathwise 0")


@dataclass(frozen=True)
class CaptionData:
    """Which captioned images, and what they are made of."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = ""
    """The official Flickr8k folder, or one of Karpathy's JSON files."""
    images: Path | None = None
    """Folder of the images, where it is not the one beside the captions."""
    features: Path | None = None
    """Folder that keeps the images' features; by default features/BACKBONE-GRID-HASH in the working folder."""
    backbone: str = "efficientnet-lite2"
    """efficientnet-lite0 or -lite2, with +head or not; timm:NAME[:STAGE]."""
    grid: Literal[7, 14] = 7
    """Cells along each side of an image."""
    min_count: int = 5
    """Times a word must be in the training captions to be known."""
    longest: int = 24
    """Training captions are cut to this many words."""

    def __post_init__(self) -> None:
        require_at_least(1, min_count=self.min_count, longest=self.longest)


@dataclass(frozen=True)
class CaptionerConfig:
    """The captioner's networks."""

    attention: Literal["hard", "soft"] = "hard"
    """Attend to one cell before each word, or to the mean of all (the reference; takes one sample, no estimator)."""
    embedding: int = 256
    """Units of a word's embedding."""
    units: int = 512
    """Units of the recurrent layer."""
    attention_units: int = 128
    """Units of the layer that compares cells with the state."""
    dropout: float = 0.5
    """Share of units dropped in training before a word is read."""

    def __post_init__(self) -> None:
        require_finite(self)


@dataclass(frozen=True)
class CaptionExploration:
    """Heuristics that keep attention looking around; all off by default. Both weights fade with the learning rate."""

    temperature: float = 1.0
    """Of the proposal; above 1 explores more."""
    entropy: float = 0.0
    """Weight of the bonus for undecided attention, per nat and word."""
    coverage: float = 0.0
    """Weight of the penalty for cells attended to more, or less, than once in a caption."""

    def __post_init__(self) -> None:
        require_finite(self)
        _require_warm(self.temperature)
        require_at_least(0, entropy=self.entropy, coverage=self.coverage)


@dataclass(frozen=True)
class CaptioningConfig:
    """A whole training run of a captioner."""

    task: Annotated[Literal["image-to-text"], tyro.conf.Suppress] = "image-to-text"
    """What is trained; told apart by it in a run's folder."""
    data: Annotated[CaptionData, tyro.conf.arg(name="")] = field(default_factory=CaptionData)
    model: Annotated[CaptionerConfig, tyro.conf.arg(name="")] = field(default_factory=CaptionerConfig)
    estimator: Annotated[EstimatorConfig, tyro.conf.arg(name="")] = field(default_factory=EstimatorConfig)
    exploration: Annotated[CaptionExploration, tyro.conf.arg(name="")] = field(default_factory=CaptionExploration)
    schedule: Annotated[ScheduleConfig, tyro.conf.arg(name="")] = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        estimator = self.estimator
        if estimator.pathwise:
            raise UserError("cells are one or another and cannot be followed; use --pathwise 0 for captions")
        if estimator.name == "wake-sleep-resampled":
            raise UserError("captions are not resampled between words; use another --estimator")
        if self.model.attention == "soft" and (
            estimator.samples > 1 or estimator.control_variates or estimator.proposal == "inference"
        ):
            raise UserError(
                "soft attention draws nothing; use --samples 1 --no-control-variates --proposal policy with it"
            )


Config = ClassificationConfig | CaptioningConfig
C = TypeVar("C", bound=ClassificationConfig | CaptioningConfig)
CONFIGS: dict[str, type[Config]] = {
    "image-classification": ClassificationConfig,
    "image-to-text": CaptioningConfig,
}
"""The settings of every task, by its name."""


def changed(config: C, **changes: Any) -> C:
    """A copy of a run's settings; `changes` are its fields, or fields of one of its sections, by their own names.

    Raises:
        TypeError: no section has such a field.

    Example:
        >>> changed(ClassificationConfig(), updates=10, glimpses=2).schedule.updates
        10
    """
    whole: dict[str, Any] = {}
    for section in dataclasses.fields(config):
        part = getattr(config, section.name)
        if section.name in changes:
            whole[section.name] = changes.pop(section.name)
        elif dataclasses.is_dataclass(part) and not isinstance(part, type):
            inside = {f.name: changes.pop(f.name) for f in dataclasses.fields(part) if f.name in changes}
            if inside:
                whole[section.name] = dataclasses.replace(part, **inside)
    if changes:
        raise TypeError(f"no setting is called {', '.join(changes)}")
    return dataclasses.replace(config, **whole)


def asked(config: C, **changes: Any) -> C:
    """A recipe with what somebody asks for, as `changed`; a number of updates takes the place of the recipe's time.

    Example:
        >>> asked(changed(ClassificationConfig(), minutes=2.0), updates=10).schedule.minutes
    """
    return changed(config, **({"minutes": None} if "updates" in changes else {}) | changes)


def _require_warm(temperature: float) -> None:
    if not temperature > 0:
        raise UserError(f"the proposal's temperature must be above 0, got {temperature}")
