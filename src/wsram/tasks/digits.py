"""Naming the digit in a scene: the classifier's examples, rollouts and held-out error."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from wsram.actions import Action, GlimpseDistribution
from wsram.config import ExplorationConfig, TrainConfig
from wsram.data.mnist import Digits, load_digits
from wsram.data.scenes import make_scenes, scene_spec
from wsram.diagnostics import scale_usage
from wsram.evaluation import Autocast, evaluate_mean_action
from wsram.exploration import coverage_penalty, entropy_bonus
from wsram.models.build import build_classifier
from wsram.models.classifier import AttentionClassifier
from wsram.rollout import Rollout
from wsram.tasks import Update

GlimpseRollout = Rollout[Action, GlimpseDistribution]


def glimpses_at(config: TrainConfig, step: int) -> int:
    """How many glimpses update `step` takes: 1 at first, one more in equal stages, all after `glimpse_growth`.

    Grown so, every glimpse joins a network that can already name what it is shown, and so looks for more of it. If all
    start at once, later glimpses first learn not to disturb the first one, by looking where there is nothing.
    """
    growing = config.glimpse_growth * config.schedule.steps
    if step >= growing:
        return config.model.glimpses
    return 1 + int((config.model.glimpses - 1) * step / growing)


def exploration_terms(explore: ExplorationConfig, policy: GlimpseDistribution) -> Tensor | float:
    """The exploration terms that are switched on, to be added to the loss; scalar, nats."""
    terms: Tensor | float = 0.0
    if explore.location_entropy or explore.scale_entropy:
        terms = terms - entropy_bonus(policy, location=explore.location_entropy, scale=explore.scale_entropy)
    if explore.coverage:
        terms = terms + explore.coverage * coverage_penalty(policy)
    return terms


def load_digits_of(config: TrainConfig) -> tuple[Digits, Digits]:
    """The training and held-out digits a config asks for."""
    data = config.data
    return load_digits(data.dataset, holdout=data.holdout, data_dir=data.data_dir, download=data.download)


def on(device: torch.device, digits: Digits) -> Digits:
    """The same digits on another device."""
    return Digits(digits.images.to(device), digits.labels.to(device))


def parameter_groups(network: AttentionClassifier) -> dict[str, list[nn.Parameter]]:
    """The parameters by what they do: "prediction" (glimpses to label), "policy" (where to look), "inference" (η)."""
    p = network.prediction
    groups: dict[str, list[nn.Module]] = {
        "prediction": [p.glimpse_encoder, p.lower, p.label_head],
        "policy": [p.view_encoder, p.upper, p.policy_head],
        "inference": [] if network.inference is None else [network.inference],
    }
    return {name: [q for m in modules for q in m.parameters()] for name, modules in groups.items() if modules}


class DigitTask:
    """See `wsram.tasks.Task`."""

    watched = "error_mean_action"

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.spec = scene_spec(config.data.scene)
        self.digits, self.held_out = (on(device, part) for part in load_digits_of(config))
        self.examples = len(self.digits.labels)

    def build(self) -> AttentionClassifier:
        """The classifier, whose patches must fit the scenes."""
        network = build_classifier(self.config.model, self.config.estimator, channels=1, classes=10)
        network.prediction.sensor.check(self.spec.canvas, self.spec.canvas)
        return network

    def files(self) -> dict[str, str]:
        """None: the settings say everything."""
        return {}

    def rollout(self, model: nn.Module, update: Update) -> GlimpseRollout:
        """Glimpses at scenes that are made now."""
        scenes = make_scenes(
            self.digits.images,
            update.index,
            self.spec,
            seed=self.config.schedule.seed,
            epoch=update.epoch,
            distortion=self.config.data.distortion,
        )
        return model(
            scenes.images,
            self.digits.labels[update.index],
            samples=self.config.estimator.samples,
            generator=update.generator,
            temperature=self.config.exploration.temperature,
            defensive=self.config.estimator.defensive,
            sum_scale=self.config.sum_scale,
            dreams=int(self.config.estimator.sleep > 0),
            glimpses=glimpses_at(self.config, update.step),
        )

    def exploration(self, rollout: GlimpseRollout) -> Tensor | float:
        """Entropy bonuses and coverage penalty."""
        return exploration_terms(self.config.exploration, rollout.policy)

    def measures(self, rollout: GlimpseRollout) -> dict[str, Tensor]:
        """Glimpses taken, the spread of locations and the use of scales."""
        with torch.no_grad():
            return {
                "glimpses": torch.tensor(float(rollout.action.scale.shape[-1]), device=rollout.log_p_y.device),
                "location_std": rollout.policy.log_std.exp().mean(),
                "scale_entropy": rollout.policy.scale_entropy().mean(),
                "scale_usage": scale_usage(rollout.action.scale, rollout.policy.scale_logits.shape[-1]),
            }

    def evaluate(self, network: nn.Module, step: int, autocast: Autocast) -> dict[str, float]:
        """Error and likelihood with as many mean-action glimpses as training takes at that update."""
        glimpses = glimpses_at(self.config, step)
        classifier = cast(AttentionClassifier, network)
        return evaluate_mean_action(classifier, self.held_out, self.spec, glimpses=glimpses, autocast=autocast)

    def parameter_groups(self, network: nn.Module) -> dict[str, list[nn.Parameter]]:
        """See `parameter_groups`, the function."""
        return parameter_groups(cast(AttentionClassifier, network))
