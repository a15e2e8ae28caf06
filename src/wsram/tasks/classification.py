"""Naming what an image shows: rollouts of glimpses, error and likelihood named after the way the network looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsram.config import ClassificationConfig, ExplorationConfig, changed
from wsram.data import Batch, Dataset, Spec, Splits, open_data
from wsram.data.augment import augmented
from wsram.data.digits import SCENE
from wsram.data.mnist import is_digits
from wsram.errors import UserError
from wsram.estimators import ESTIMATORS
from wsram.estimators.diagnostics import scale_usage
from wsram.estimators.resampled import along
from wsram.glimpse.actions import Action
from wsram.glimpse.exploration import coverage_penalty, entropy_bonus
from wsram.glimpse.policies import Policy
from wsram.glimpse.source import in_unit
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import ClassHead, Head, LabelsHead, NumberHead
from wsram.models.inheriting import begin_from
from wsram.models.rollout import Rollout
from wsram.models.trunk import fill_pretrained
from wsram.runtime import Autocast
from wsram.tables import Panel, Table
from wsram.tasks.choices import choose_by_images
from wsram.tasks.distilling import distil
from wsram.tasks.figures import (
    error_by_class,
    expected_calibration_error,
    fitted_temperature,
    fitted_thresholds,
    risk_coverage,
)
from wsram.tasks.measuring import ROWS, VOTES, answered, evaluate_mode, evaluate_sampled, nll
from wsram.tasks.task import Options, Tell, Update, centred
from wsram.tasks.troubles import look_again, troubles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GlimpseRollout = Rollout[Action, Policy]


def glimpses_at(config: ClassificationConfig, step: int) -> int:
    """How many glimpses update `step` takes: 1 at first, one more in equal stages, all after `glimpse_growth`.

    The last update takes all in any case, and is what the network is evaluated with.

    Grown so, every glimpse joins a network that can already name what it is shown, and so looks for more of it. If all
    start at once, later glimpses first learn not to disturb the first one, by looking where there is nothing.
    """
    growing = min(config.glimpse_growth * config.schedule.updates, config.schedule.updates - 1)
    if step >= growing:
        return config.model.glimpses
    return 1 + int((config.model.glimpses - 1) * step / growing)


def exploration_terms(explore: ExplorationConfig, policy: Policy) -> Tensor | float:
    """The exploration terms that are switched on, to be added to the loss; scalar, nats."""
    terms: Tensor | float = 0.0
    if explore.location_entropy or explore.scale_entropy:
        terms = terms - entropy_bonus(policy, location=explore.location_entropy, scale=explore.scale_entropy)
    if explore.coverage:
        terms = terms + explore.coverage * coverage_penalty(policy)
    return terms


def early_loss(after: Tensor) -> Tensor:
    """Minus the log-probability of the answer after every glimpse but the last, on average; scalar, nats.

    Args:
        after: (samples, batch, glimpses) the log-probability after each.

    Source: deep supervision (Lee et al. 2015), here of a recurrent network's earlier answers.
    """
    early = after[..., :-1]
    return -early.mean() if early.numel() else early.sum()


class Classification:
    """See `wsram.tasks.task.Task`."""

    name = "image-classification"
    watched = "error_mode"

    def open(self, config: ClassificationConfig) -> Splits:
        """Images and their answers."""
        splits = open_data(config.data, config.schedule.seed)
        return replace(splits, train=augmented(splits.train, config.augmentation, config.schedule.seed))

    def choose(self, config: ClassificationConfig, splits: Splits) -> tuple[ClassificationConfig, tuple[str, ...]]:
        """What the images ask for, where it is left to them; and the scene that digits are placed in."""
        if is_digits(config.data.source) and config.data.scene is None:
            config = changed(config, scene=SCENE)
        return choose_by_images(config, splits) if config.choose else (config, ())

    def fitting(self, network: AttentionClassifier, dataset: Dataset) -> Dataset:
        """The same examples, if they have the channels and answers that the network was made for."""
        made_for = (network.arguments["channels"], tuple(network.arguments["names"]))
        if made_for != (dataset.spec.channels, dataset.spec.names):
            raise UserError(
                f"the network is for images of {made_for[0]} channel(s) of {', '.join(made_for[1])}; got "
                f"{dataset.spec.channels} channel(s) of {', '.join(dataset.spec.names)}; name other data"
            )
        return dataset

    def build(self, config: ClassificationConfig, spec: Spec) -> AttentionClassifier:
        """The classifier, whose patches must fit the images."""
        network = AttentionClassifier(
            names=spec.names,
            answer=spec.answer,
            channels=spec.channels,
            unit=spec.unit,
            longest=spec.longest,
            inference=config.estimator.proposal == "inference",
            precision=config.schedule.precision,
            **vars(config.model),
        )
        if spec.size is not None:
            network.prediction.sensor.check(*spec.size)
        return network

    def begin(
        self, config: ClassificationConfig, network: AttentionClassifier, examples: Dataset, tell: Tell
    ) -> tuple[str, ...]:
        """With the weights of the network that it is to start from, if there is one, else those of pretrained parts."""
        if config.start_from is not None:
            return begin_from(network, config.start_from)
        filled = fill_pretrained(network)
        if not config.distil:
            return filled
        return filled + distil(network, examples, epochs=config.distil, seed=config.schedule.seed, tell=tell)

    def rollout(self, config: ClassificationConfig, model: nn.Module, batch: Batch, update: Update) -> GlimpseRollout:
        """Glimpses at images, as many as this update takes."""
        return model(
            batch.images,
            batch.answers,
            samples=config.estimator.samples,
            generator=update.generator,
            with_inference=config.estimator.proposal == "inference",
            temperature=config.exploration.temperature,
            defensive=config.estimator.defensive,
            sum_scale=config.sum_scale,
            dreams=int(config.estimator.sleep > 0),
            centred=centred(config.estimator),
            pathwise=config.estimator.pathwise,
            resample=ESTIMATORS[config.estimator.name].resamples,
            glimpses=glimpses_at(config, update.step),
        )

    def additions(self, config: ClassificationConfig, rollout: GlimpseRollout, fade: float) -> Tensor | float:
        """Entropy bonuses and coverage penalty; the label after every glimpse; and what the view says of it."""
        terms = fade * exploration_terms(config.exploration, rollout.policy)
        if rollout.log_p_y_view is not None:
            terms = terms - rollout.log_p_y_view.mean()
        if config.every_glimpse:
            terms = terms + config.every_glimpse * early_loss(along(rollout.log_p_y, rollout.ancestors))
        return terms

    def measures(self, rollout: GlimpseRollout) -> dict[str, Tensor]:
        """Glimpses taken, the spread of locations and the use of scales."""
        with torch.no_grad():
            return {
                "glimpses": torch.full((), float(rollout.action.scale.shape[-1]), device=rollout.log_p_y.device),
                "location_std": rollout.policy.location_std().mean(),
                "scale_entropy": rollout.policy.scale_entropy().mean(),
                "scale_usage": scale_usage(rollout.action.scale, rollout.policy.scale_logits.shape[-1]),
            }

    def validate(
        self,
        config: ClassificationConfig,
        network: AttentionClassifier,
        dataset: Dataset,
        step: int,
        autocast: Autocast,
    ) -> dict[str, float]:
        """Error and likelihood of the mode with as many glimpses as training takes at that update."""
        return evaluate_mode(network, dataset, glimpses=glimpses_at(config, step), autocast=autocast)

    def troubles(
        self,
        config: ClassificationConfig,
        network: AttentionClassifier,
        dataset: Dataset,
        row: Mapping[str, Any],
        autocast: Autocast,
    ) -> dict[str, str]:
        """See `wsram.tasks.troubles`."""
        glimpses = glimpses_at(config, row["step"] - 1)
        late = row["step"] > max(0.5, config.glimpse_growth) * config.schedule.updates
        looking = look_again(network, dataset, glimpses, autocast)
        return troubles(looking, row["scale_usage"], config.model.scales, glimpses, late=late)

    def evaluate(
        self, network: AttentionClassifier, dataset: Dataset, options: Options, autocast: Autocast
    ) -> dict[str, Any]:
        """Error and likelihood of the mode, of one sample and of a vote."""
        if options.beam is not None:
            raise UserError("a beam is for captions, and this network names classes; leave --beam out")
        samples = VOTES if options.samples is None else options.samples
        outputs, answers = answered(network, dataset, ROWS, autocast, lambda images, start: network.predict(images))
        figures: dict[str, Any] = {"error_mode": network.head.error(outputs, answers)}
        figures["nll_mode"] = nll(network, outputs, answers)
        figures |= evaluate_sampled(network, dataset, samples=samples, autocast=autocast)
        if isinstance(network.head, ClassHead):
            confidence, said = outputs.exp().max(-1)
            figures["ece_mode"] = expected_calibration_error(confidence, said == answers)
            figures["risk_coverage"] = risk_coverage(confidence, said == answers)
            figures["error_by_class"] = error_by_class(said, answers, network.head.names)
        return figures

    def calibrate(self, network: AttentionClassifier, dataset: Dataset, autocast: Autocast) -> list[float] | None:
        """The temperature of classes, or the thresholds of labels, that validation examples ask for."""
        network.calibrate(None)
        outputs, answers = answered(network, dataset, ROWS, autocast, lambda images, start: network.predict(images))
        if isinstance(network.head, ClassHead):
            return [fitted_temperature(outputs, answers)]
        return fitted_thresholds(outputs, answers) if isinstance(network.head, LabelsHead) else None

    def parameter_groups(self, network: AttentionClassifier) -> dict[str, list[nn.Parameter]]:
        """The parameters: "prediction" (glimpses to answer), "policy" (where to look), "inference" (η)."""
        p = network.prediction
        groups: dict[str, list[Any]] = {
            "prediction": [p.glimpse_network, p.lower, p.head],
            "policy": [p.view_network, p.upper, p.policy_head, nn.ParameterList([] if p.trust is None else [p.trust])],
            "inference": [] if network.inference is None else [network.inference],
        }
        learning = {
            name: [q for m in modules for q in m.parameters() if q.requires_grad] for name, modules in groups.items()
        }
        return {name: parameters for name, parameters in learning.items() if parameters}

    def about(self, config: ClassificationConfig) -> str:
        """The scene, with clutter that is not blended as usual, and the source of its digits."""
        added = " (clutter added)" if config.data.clutter_blend == "add" else ""
        scene = f"scene {config.data.scene}{added} of " if config.data.scene else ""
        return f"{scene}{Path(config.data.source).name}"

    def table(self, records: Mapping[str, Mapping[str, Any]]) -> Table:
        """One row for each set and way of looking; of a number the error is in its own unit."""
        number = any(found.get("answer") == "number" for found in records.values())
        error, figure = ("mean absolute error", ".4g") if number else ("error", ".2%")
        rows = []
        for name, found in records.items():
            vote = next(key for key in found if key.startswith("error_vote_")).removeprefix("error_")
            ways = {"mode": "mode", "one_sample": "one sample", vote: f"vote of {vote.removeprefix('vote_')}"}
            of = [f"{found['examples']:,}", f"{found['step']:,}", f"{found['training_seconds']:.0f}"]
            rows += [
                [name, said, f"{found[f'error_{way}']:{figure}}", f"{found[f'nll_{way}']:.4f}", *of]
                for way, said in ways.items()
            ]
        header = ["set", "looking at", error, "nats", "examples", "updates", "seconds of training"]
        return Table("", header, rows, words=2)

    def headline(self, record: Mapping[str, Any]) -> str:
        """The error of the mode, by the kind of answer; records of old say none, and are of classes."""
        error = record["error_mode"]
        told = {"labels": f"{error:.2%} of its labels wrong at the mode", "number": f"off by {error:.4g} at the mode"}
        return told.get(record.get("answer", "class"), f"{error:.2%} error of the mode")

    def merits(self, answer: str, record: Mapping[str, Any]) -> dict[str, float]:
        """The mode's accuracy among classes, or its mean absolute error in a number."""
        error = record["error_mode"]
        return {"class": {"accuracy": 1 - error}, "number": {"mae": error}}.get(answer, {})

    def panels(
        self, config: ClassificationConfig, network: AttentionClassifier, metrics: Sequence[Mapping[str, Any]]
    ) -> list[Panel]:
        """Validation error, bounds, effective sample size and the use of scales."""
        steps = [row["step"] for row in metrics]
        evaluated = [row for row in metrics if "error_mode" in row]
        factor, unit = (1, "mean absolute error") if isinstance(network.head, NumberHead) else (100, "%")
        error = [factor * row["error_mode"] for row in evaluated]
        names = {"bound": "variational bound F", "log_evidence": "log-evidence bound"}
        bounds = [(label, steps, [row[name] for row in metrics]) for name, label in names.items()]
        shares = zip(*(row["scale_usage"] for row in metrics), strict=True)
        usage = [(f"×{k}", steps, list(share)) for k, share in zip(config.model.scales, shares, strict=True)]
        at = [row["step"] for row in evaluated]
        return [
            Panel("validation error of the mode", "updates", unit, [("validation error", at, error)], log=True),
            Panel("bounds on log p(y|I), training", "updates", "nats", bounds),
            Panel("effective sample size", "updates", "samples", [("ESS", steps, [row["ess"] for row in metrics])]),
            Panel("glimpse scales, training", "updates", "share", usage, stacked=True),
        ]

    def look(self, network: AttentionClassifier, dataset: Dataset, count: int) -> Figure:
        """The modes of the policy on the first examples."""
        from wsram.viewing import draw_glimpses

        examples = dataset.batch(torch.arange(min(count, len(dataset))))
        with torch.no_grad():
            looked = network.eval().predict(examples.images)
        titles = _titles(network.head, looked.outputs, examples.answers)
        several = len(network.prediction.sensor.scales) > 1
        spans = "; ×k: a glimpse pixel spans k image pixels" if several else ""
        heading = f"{network.prediction.glimpses} glimpses, in order{spans}"
        given: list[Any] = [examples.images[n] for n in range(len(examples.images))]
        device = looked.outputs.device
        images = [
            each if isinstance(each, Tensor) else in_unit(each.read(0, 0, each.height, each.width)).to(device)
            for each in given
        ]
        return draw_glimpses(images, network.prediction.sensor, looked.action, titles, heading=heading)


def _titles(head: Head, outputs: Tensor, answers: Tensor) -> list[str]:
    """What each image shows, and of classes what it was taken for."""
    if isinstance(head, ClassHead):
        probability, said = outputs.exp().max(-1)
        rows = zip(answers.tolist(), said.tolist(), probability.tolist(), strict=True)
        return [f"{head.names[answer]} seen as {head.names[name]} ({p:.0%})" for answer, name, p in rows]
    if isinstance(head, LabelsHead):
        present = (
            [name for name, is_there in zip(head.names, row, strict=True) if is_there] for row in answers.tolist()
        )
        return [", ".join(names) or "none of them" for names in present]
    assert isinstance(head, NumberHead)
    mean, spread = head.unit
    return [f"{mean + spread * answer:.4g}" for answer in answers.tolist()]
