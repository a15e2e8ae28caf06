"""Named settings to start from; every one of them is an ordinary config whose values the command line can change."""

from __future__ import annotations

from dataclasses import replace

from wsram.config import (
    CaptionConfig,
    CaptionModelConfig,
    DataConfig,
    EstimatorConfig,
    ExplorationConfig,
    ModelConfig,
    ScheduleConfig,
    TrainConfig,
)

RECIPES: dict[str, TrainConfig] = {
    # The demo: small enough for minutes on a laptop, on digits that are installed with it.
    "demo": TrainConfig(
        data=DataConfig(dataset="mnist5k"),
        model=ModelConfig(encoder="conv"),
        estimator=EstimatorConfig("wake-sleep-credit"),
        exploration=ExplorationConfig(scale_entropy=0.1),
        schedule=ScheduleConfig(steps=2500, learning_rate=4e-3, clip=20.0),
        glimpse_growth=0.3,
    ),
    # The paper's networks and estimator on the paper's task: fully connected glimpses, ReLU recurrence.
    "paper": TrainConfig(
        data=DataConfig(dataset="mnist"),
        schedule=ScheduleConfig(steps=100_000, learning_rate=2e-3, clip=20.0, evaluate_every=5000),
        glimpse_growth=0.3,
    ),
    # Our best network, sized for a quarter of an hour on two cores.
    "quarter-hour": TrainConfig(
        data=DataConfig(dataset="mnist"),
        model=ModelConfig(encoder="conv"),
        estimator=EstimatorConfig("wake-sleep-credit"),
        exploration=ExplorationConfig(scale_entropy=0.1),
        schedule=ScheduleConfig(steps=8000, learning_rate=4e-3, clip=20.0, evaluate_every=1000),
        glimpse_growth=0.3,
    ),
    # The lowest error of one sequence that we know of: the bound F trains the label network on every sequence. Two of
    # each image instead of five pay for wider convolutions.
    "best": TrainConfig(
        data=DataConfig(dataset="mnist", distortion=0.5),
        model=ModelConfig(encoder="conv", widths=(32, 64), lower_units=384),
        estimator=EstimatorConfig("variational-credit", "policy", samples=2),
        exploration=ExplorationConfig(scale_entropy=0.1),
        schedule=ScheduleConfig(steps=20_000, learning_rate=3e-3, clip=20.0, evaluate_every=1000),
        glimpse_growth=0.3,
    ),
}

_CAPTIONS = CaptionConfig(
    # As good after equally many updates as 512 units, in two thirds of the time.
    model=CaptionModelConfig(units=256),
    estimator=EstimatorConfig("wake-sleep-credit"),
    schedule=ScheduleConfig(
        steps=6000, batch=64, learning_rate=1e-3, warmup=300, weight_decay=0.01, evaluate_every=500, patience=3
    ),
)

CAPTION_RECIPES: dict[str, CaptionConfig] = {
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
