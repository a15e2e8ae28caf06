"""Networks of a few units, and ways to see what can reach what in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wsram.data.vocabulary import SPECIALS
from wsram.estimators.resampled import along
from wsram.glimpse.actions import Action, GlimpseDistribution
from wsram.models.captioner import AttentionCaptioner
from wsram.models.classifier import AttentionClassifier
from wsram.models.decoder import CaptionInference
from wsram.models.looking import Choose
from wsram.models.prediction import PredictionNetwork
from wsram.models.rollout import Rollout

CLASSES = 5
NAMES = tuple("abcde")
WORDS = (*SPECIALS, *NAMES)
CHANNELS, CELLS = 6, 4


def classifier(*, fresh: bool = False, **changes: Any) -> AttentionClassifier:
    """A classifier of five classes; its inference network is as if it had learned something, unless it is fresh."""
    sizes = dict(names=NAMES, glimpses=3, patch=6, scales=(1, 2), lower_units=12, upper_units=10, view=8)
    model = AttentionClassifier(**(sizes | changes))
    if model.inference is not None and not fresh:
        with torch.no_grad():
            for parameter in model.inference.parameters():
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    return model


def prediction(**changes: Any) -> PredictionNetwork:
    """The prediction network of such a classifier."""
    return classifier(inference=False, **changes).prediction


def following(actions: Action) -> Choose:
    """Look at the given places, location (batch, glimpses, 2) and scale (batch, glimpses), whatever the policy says."""
    taken = iter(range(actions.scale.shape[-1]))

    def choose(policy: GlimpseDistribution, raw: Tensor, r2: Tensor) -> Action:
        n = next(taken)
        return Action(actions.location[..., n, :], actions.scale[..., n])

    return choose


def somewhere(batch: int, glimpses: int) -> Action:
    """Places that do not depend on any policy."""
    generator = torch.Generator().manual_seed(5)
    location = torch.rand(batch, glimpses, 2, generator=generator) - 0.5
    return Action(location, torch.randint(2, (batch, glimpses), generator=generator))


def gradients(value: Tensor, module: nn.Module) -> list[Tensor | None]:
    """The value's gradient in each parameter of the module, None where it has no way there."""
    return list(torch.autograd.grad(value, list(module.parameters()), retain_graph=True, allow_unused=True))


def untouched(value: Tensor, module: nn.Module) -> bool:
    """Whether no parameter of the module has any influence on the value."""
    return all(gradient is None for gradient in gradients(value, module))


def captioner(inference: bool = True, **changes: Any) -> AttentionCaptioner:
    """A captioner in float64, the same every time; its inference network is as if it had learned something."""
    torch.manual_seed(0)
    sizes = dict(words=WORDS, channels=CHANNELS, embedding=5, units=7, attention_units=6, dropout=0.0)
    model = AttentionCaptioner(inference=False, **(sizes | changes))
    if inference:
        model.inference = CaptionInference(channels=CHANNELS, words=len(WORDS), units=7, hidden=4)
        nn.init.normal_(model.inference.correct.weight)
    with torch.no_grad():
        model.decoder.query.weight.mul_(6)  # opinions
        model.decoder.say.weight.mul_(4)
    return model.double()


def cell_features(batch: int = 3) -> Tensor:
    """Features (batch, cells, channels) of made-up images."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(batch, CELLS, CHANNELS, generator=generator, dtype=torch.float64)


def check_lineages(model: AttentionClassifier, images: Tensor, answers: Tensor, rollout: Rollout[Any, Any]) -> None:
    """Of resampled sequences each is, all the way to its first glimpse, what its glimpses by themselves would give.

    Numbers and gradients, of sequences that were gone on with and of those that were not.
    """
    assert rollout.ancestors is not None
    network, (samples, batch, steps) = model.prediction, rollout.log_p_y.shape
    after = along(rollout.log_p_y, rollout.ancestors)
    moved = 0
    for n in range(steps):
        at = torch.arange(samples).unsqueeze(-1).expand(samples, batch)
        taken = []
        for k in range(n, -1, -1):
            location = rollout.action.location[:, :, k].gather(0, at.unsqueeze(-1).expand(*at.shape, 2))
            taken.append(Action(location, rollout.action.scale[:, :, k].gather(0, at)))
            at = rollout.ancestors[:, :, k].gather(0, at)
        moved += int((at != torch.arange(samples).unsqueeze(-1)).sum())
        lineage = Action(*(torch.stack(each[::-1], 2) for each in zip(*taken, strict=True)))
        for m in range(samples):
            one = Action(lineage.location[m], lineage.scale[m])
            looked = network.look(images, following(one), n + 1)
            expected = model.head.log_prob(looked.outputs_after, answers)[:, -1]
            torch.testing.assert_close(after[m, :, n], expected)
            torch.testing.assert_close(rollout.log_p_a[m, :, n], looked.policy.log_prob(one)[:, -1])
            both = (gradients(value.sum(), network) for value in (after[m, :, n], expected))
            for ours, theirs in zip(*both, strict=True):
                if theirs is not None and ours is not None:
                    torch.testing.assert_close(ours, theirs)
                else:  # a way that is not gone yet
                    assert theirs is None or not theirs.any()
    assert moved


def check_mean(plain: Rollout[Any, Any], centred: Rollout[Any, Any], inference: nn.Module) -> None:
    """The policy's mean changes nothing else, is what its log-probabilities come to on average, and is none of η's."""
    for name in ("log_p_y", "log_p_a", "log_q_a"):
        assert torch.equal(getattr(plain, name), getattr(centred, name))
    assert centred.mean_log_p_a is not None
    left = centred.log_p_a - centred.mean_log_p_a
    error = left.std(0) / len(left) ** 0.5
    assert bool((left.mean(0).abs() <= 5 * error + 1e-6).all())
    assert float((centred.log_p_a - centred.log_q_a).detach().std()) > 0.1  # the two networks differ
    assert untouched(centred.mean_log_p_a.sum(), inference)
