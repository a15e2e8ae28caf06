"""Named settings to start from; every one of them is an ordinary config whose values the command line can change."""

from __future__ import annotations

from dataclasses import replace

from wsram.config import (
    CaptionerConfig,
    CaptioningConfig,
    ClassificationConfig,
    ClassifierConfig,
    Config,
    EstimatorConfig,
    ExplorationConfig,
    ScheduleConfig,
)
from wsram.errors import UserError
from wsram.image_settings import AugmentConfig, ImageData

_CAPTIONS = CaptioningConfig(
    # As good after equally many updates as 512 units, in two thirds of the time.
    model=CaptionerConfig(units=256),
    estimator=EstimatorConfig("wake-sleep-credit"),
    schedule=ScheduleConfig(
        updates=6000, batch=64, learning_rate=1e-3, warmup=300, weight_decay=0.01, evaluate_every=500, patience=3
    ),
)

_BEST = ClassificationConfig(
    data=ImageData("mnist", distortion=0.5),
    model=ClassifierConfig(network="conv", widths=(32, 64), lower_units=384),
    estimator=EstimatorConfig("variational-credit", "policy", samples=2),
    exploration=ExplorationConfig(scale_entropy=0.1),
    schedule=ScheduleConfig(updates=20_000, learning_rate=3e-3, clip=20.0, evaluate_every=1000),
    glimpse_growth=0.3,
)

_FAST = ClassificationConfig(
    data=ImageData("mnist"),
    model=ClassifierConfig(network="conv", aim="contrast", scale_toll=1.0),
    estimator=EstimatorConfig("variational-credit", "policy", samples=2),
    exploration=ExplorationConfig(scale_entropy=0.1),
    schedule=ScheduleConfig(updates=800, minutes=1.65, learning_rate=4e-3, clip=20.0, evaluate_every=800),
    glimpse_growth=0.3,
    every_glimpse=0.5,
)

RECIPES: dict[str, Config] = {
    # The demo: small enough for minutes on a laptop, on digits that are installed with it.
    "demo": ClassificationConfig(
        data=ImageData("mnist5k"),
        model=ClassifierConfig(network="conv", aim="contrast"),
        estimator=EstimatorConfig("wake-sleep-credit"),
        exploration=ExplorationConfig(scale_entropy=0.1),
        schedule=ScheduleConfig(updates=1500, learning_rate=4e-3, clip=20.0),
        glimpse_growth=0.3,
    ),
    # The paper's networks and estimator on the paper's task: fully connected glimpses, ReLU recurrence.
    "paper": ClassificationConfig(
        data=ImageData("mnist"),
        schedule=ScheduleConfig(updates=100_000, learning_rate=2e-3, clip=20.0, evaluate_every=5000),
        glimpse_growth=0.3,
    ),
    # Our best network, sized for a quarter of an hour on two cores.
    "quarter-hour": ClassificationConfig(
        data=ImageData("mnist"),
        model=ClassifierConfig(network="conv"),
        estimator=EstimatorConfig("wake-sleep-credit"),
        exploration=ExplorationConfig(scale_entropy=0.1),
        schedule=ScheduleConfig(updates=8000, learning_rate=4e-3, clip=20.0, evaluate_every=1000),
        glimpse_growth=0.3,
    ),
    # The lowest error of one sequence that we know of: the bound F trains the label network on every sequence. Two of
    # each image instead of five pay for wider convolutions.
    "best": _BEST,
    # The error that a time buys: of two cores, everything included. Glimpses begin at what stands out,
    # and the answer is taught after every one, so that looking can stop early.
    "two-minutes": _FAST,
    "five-minutes": replace(_FAST, schedule=replace(_FAST.schedule, updates=2100, minutes=4.6, evaluate_every=2100)),
    "half-hour": replace(
        _BEST,
        model=replace(_BEST.model, aim="contrast", scale_toll=1.0),
        # Less than half an hour: a machine that warms up, or is not alone, does not keep the pace it was timed at.
        schedule=replace(_BEST.schedule, updates=8500, minutes=27.0, evaluate_every=1700),
        every_glimpse=0.5,
    ),
    # Images of one's own: sizes of glimpses and of the run are chosen by the images.
    "folder": ClassificationConfig(
        data=ImageData(""),
        augmentation=AugmentConfig(flip="horizontal", rotate=10.0, zoom=0.15, shift=0.05, brightness=(0.8, 1.2)),
        model=ClassifierConfig(glimpses=6, network="conv", widths=(24, 48)),
        estimator=EstimatorConfig("variational-credit", "policy", samples=2),
        exploration=ExplorationConfig(scale_entropy=0.1),
        schedule=ScheduleConfig(updates=4000, batch=64, learning_rate=2e-3, clip=20.0, evaluate_every=200, patience=8),
        glimpse_growth=0.3,
        choose=True,
    ),
    # Digits of any size, in any light, light on dark or dark on light, in noise; and one answer for no digit. Contrast
    # takes light and sign out before the network looks, which leaves it noise to learn.
    "robust": replace(
        _BEST,
        data=ImageData("mnist", scene="any-size", distortion=0.5, empty=0.06),
        augmentation=AugmentConfig(brightness=(0.5, 1.6), noise=0.13),
        model=replace(_BEST.model, contrast=True),
    ),
    # One of many small things on a large image: a map that points at them, and small glimpses of what it points at.
    "megapixel": ClassificationConfig(
        data=ImageData("mnist", scene="megapixel-majority"),
        model=ClassifierConfig(
            glimpses=10,
            patch=40,
            scales=(1,),
            network="conv",
            widths=(16, 32, 64),
            lower_units=256,
            view=150,
            policy="map",
            map_stride=2,
            warp=1.0,
            dropout=0.3,
        ),
        estimator=EstimatorConfig("wake-sleep-credit", "policy", samples=2),
        schedule=ScheduleConfig(updates=5200, batch=32, learning_rate=1.5e-3, weight_decay=0.05, evaluate_every=250),
        glimpse_growth=0.3,
        every_glimpse=0.3,
    ),
    # One photo of many decides. What ImageNet taught reads glimpses and the view; the rest learns from the answers, and
    # no more than what a glimpse or a cell of the view says by itself: what remembers more soon has the few hundred
    # photos that decide by heart.
    "mosaic": ClassificationConfig(
        data=ImageData("", scene="mosaic", mirrored=True),
        model=ClassifierConfig(
            glimpses=10,
            patch=224,
            scales=(1,),
            recurrence="evidence",
            network="efficientnet-lite0:7",
            widths=(32, 256),
            view=720,
            policy="map",
            map_stride=60,
            map_apart=True,
            map_evidence=True,
            map_query=False,
            map_dropout=0.5,
            map_toll=100.0,
            binding="none",
            read_dropout=0.5,
        ),
        estimator=EstimatorConfig("wake-sleep-credit", "policy", samples=2),
        schedule=ScheduleConfig(updates=2000, batch=16, learning_rate=2e-3, weight_decay=0.1, evaluate_every=500),
        every_glimpse=0.3,
    ),
    # Reweighted wake-sleep with the inference network that reads the caption.
    "captions": _CAPTIONS,
    # The variational baseline (REINFORCE) that it is compared with; everything else is the same.
    "captions-variational": replace(_CAPTIONS, estimator=EstimatorConfig("variational-credit", "policy")),
    # Attention to the mean of all cells: deterministic, the usual reference.
    "captions-soft": replace(
        _CAPTIONS,
        model=replace(_CAPTIONS.model, attention="soft"),
        estimator=EstimatorConfig("wake-sleep", "policy", False, 1),
    ),
}
"""The recipes by name; `docs/cli.md` says what each is for."""


def require_heeded(config: Config, beside: Config) -> None:
    """`UserError` for what was asked of a map, or of a pretrained network, where there is none; see `beside`.

    Args:
        config: what a run is to have.
        beside: what it had before anything was asked for, a recipe say, whose own such settings are no mistake.

    Example:
        >>> from wsram.config import changed
        >>> plain = RECIPES["paper"]
        >>> require_heeded(changed(plain, policy="map", map_stride=2), plain)
    """
    if not (isinstance(config, ClassificationConfig) and isinstance(beside, ClassificationConfig)):
        return
    model = config.model
    unheeded: dict[str, str] = {}
    if model.policy != "map":
        of_maps = (name for name in vars(model) if name.startswith("map_"))
        unheeded |= dict.fromkeys(of_maps, f"--policy map, and the policy is {model.policy}")
    if model.network in ("fc", "conv"):
        unheeded["freeze"] = f"a pretrained --network, and this one is {model.network}"
    for name, what in unheeded.items():
        value = getattr(model, name)
        if value != getattr(beside.model, name):
            option = ("no-" if value is False else "") + name.replace("_", "-")
            raise UserError(f"--{option} is for {what}; leave it out")
