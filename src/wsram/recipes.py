"""Named settings to start from; every one of them is an ordinary config whose values the command line can change."""

from __future__ import annotations

from wsram.config import DataConfig, ExplorationConfig, ModelConfig, ScheduleConfig, TrainConfig

RECIPES: dict[str, TrainConfig] = {
    # The demo: small enough for minutes on a laptop, on digits that are installed with it.
    "demo": TrainConfig(
        data=DataConfig(dataset="mnist5k"),
        model=ModelConfig(encoder="conv"),
        exploration=ExplorationConfig(scale_entropy=0.1),
        schedule=ScheduleConfig(steps=2500, learning_rate=4e-3, clip=20.0),
        glimpse_growth=0.3,
    ),
    # The paper's networks on the paper's task: fully connected glimpses, ReLU recurrence.
    "paper": TrainConfig(data=DataConfig(dataset="mnist"), schedule=ScheduleConfig(steps=100_000, evaluate_every=5000)),
    # Our best network, sized for a quarter of an hour on two cores.
    "quarter-hour": TrainConfig(
        data=DataConfig(dataset="mnist"),
        model=ModelConfig(encoder="conv"),
        exploration=ExplorationConfig(scale_entropy=0.1),
        schedule=ScheduleConfig(steps=8000, learning_rate=4e-3, clip=20.0, evaluate_every=1000),
        glimpse_growth=0.3,
    ),
}
