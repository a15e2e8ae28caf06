"""The classifier: a prediction network that glances and names, and an inference network that knows the answer.

Prediction network (θ), two recurrent layers:

    low-resolution view ──► r2_0 ──► p(a_1|I)      r2_n ──► p(a_n+1 | a_1..n, I)
                                                     ▲
    glimpse(a_n, I), a_n ──► features ──► r1_n ──────┘        r1_N ──► p(y | a, I)

The label is read from the lower layer alone, so what the low-resolution view shows can reach the prediction only
through the glimpses it makes the network choose. The inference network (η) reads the label and a detached r2.

Source: Ba et al. 2015, its prediction and inference networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.actions import Action, GlimpseDistribution, at_least_float32
from wsram.errors import UserError, require_at_least
from wsram.estimators import defensive_mixture
from wsram.glimpse import Sensor
from wsram.models.dreams import dream_of_labels
from wsram.models.layers import GlimpseEncoder, Recurrence, ViewEncoder
from wsram.rollout import Rollout

Choose = Callable[[GlimpseDistribution, Tensor, Tensor], Action]
"""Given the policy, its raw outputs and r2 before a glimpse, the action to take; all (batch) or (samples, batch)."""


class Looked(NamedTuple):
    """What came of looking: log-probabilities of the labels, and the actions and policies of every glimpse, stacked.

    log_p_labels_after: (..., batch, glimpses, classes) log p(y | a_1..n, I) for every label, were glimpse n the last.
        Gradient: of the last glimpse alone, which is the one that names the label.
    action: location (..., batch, glimpses, 2), scale (..., batch, glimpses).
    policy: the distributions p(a_n | a_1..n-1, I), batched (..., batch, glimpses).
    """

    log_p_labels_after: Tensor
    action: Action
    policy: GlimpseDistribution

    @property
    def log_p_labels(self) -> Tensor:
        """(..., batch, classes) log p(y | a, I) for every label, after the last glimpse."""
        return self.log_p_labels_after[..., -1, :]


class PredictionNetwork(nn.Module):
    """Chooses glimpses and predicts the label (parameters θ).

    Args:
        sensor: cuts the glimpses.
        glimpses: how many it takes.
        channels: of the images.
        classes: number of labels.
        lower_units: units of r1 and of the glimpse features.
        upper_units: units of r2.
        recurrence: "relu", "gru" or "lstm".
        encoder: "fc" or "conv", for the glimpses and the low-resolution view.
        widths: channels of both convolutions of "conv".
        view: side in pixels of the low-resolution view.
        std_range: bounds of the location's standard deviation, in units of location; equal bounds fix it.

    Raises:
        UserError: fewer than 1 glimpse, 2 classes or 2 units, an unknown recurrence or encoder, a bad range.
    """

    def __init__(
        self,
        sensor: Sensor,
        *,
        glimpses: int = 4,
        channels: int = 1,
        classes: int = 10,
        lower_units: int = 256,
        upper_units: int = 256,
        recurrence: str = "relu",
        encoder: str = "fc",
        widths: tuple[int, int] = (16, 32),
        view: int = 20,
        std_range: tuple[float, float] = (0.03, 1.0),
    ) -> None:
        super().__init__()
        require_at_least(1, glimpses=glimpses, channels=channels, widths=min(widths))
        require_at_least(2, classes=classes, lower_units=lower_units, upper_units=upper_units)
        if not 0 < std_range[0] <= std_range[1]:
            raise UserError(f"the range of the location's standard deviation must be 0 < low <= high, got {std_range}")
        self.sensor = sensor
        self.glimpses = glimpses
        self.std_range = std_range
        scales = len(sensor.scales)
        self.glimpse_encoder = GlimpseEncoder(
            encoder, channels=channels, side=sensor.patch_size, scales=scales, features=lower_units, widths=widths
        )
        self.lower = Recurrence(recurrence, lower_units, lower_units)
        self.label_head = nn.Linear(lower_units, classes)
        self.view_encoder = ViewEncoder(encoder, channels=channels, side=view, features=upper_units, widths=widths)
        self.upper = Recurrence(recurrence, lower_units, upper_units)
        self.policy_head = nn.Linear(upper_units, 4 + scales)
        with torch.no_grad():
            # At first r1 does not move r2, so every glimpse of an image is drawn around the same place. Random weights
            # would send later glimpses to some corner, all of them black, where no signal brings them back.
            for weights in (self.upper.cell.weight_ih, self.upper.cell.bias_ih, self.upper.cell.bias_hh):
                weights.zero_()
            self.policy_head.weight.mul_(0.1)
            self.policy_head.bias.zero_()

    def policy(self, raw: Tensor) -> GlimpseDistribution:
        """The distribution over the next glimpse from the head's raw outputs (..., 4 + scales)."""
        raw = at_least_float32(raw)
        low, high = (torch.tensor(bound).log().item() for bound in self.std_range)
        log_std = low + (high - low) * torch.sigmoid(raw[..., 2:4] + 1.0)
        return GlimpseDistribution(torch.tanh(raw[..., :2]), log_std, raw[..., 4:])

    def look(self, images: Tensor, choose: Choose, glimpses: int | None = None, *, sum_scale: bool = False) -> Looked:
        """Take `glimpses` (by default all) in turn at images (batch, channels, height, width), as `choose` decides.

        The first action decides the leading axes: a (samples, batch) action makes everything after it so. With
        `sum_scale` the last glimpse is taken at every scale, whichever is chosen, and the label's probability is the
        mean under the policy: nothing comes after it that would have to be seen at every scale too.
        """
        pyramid = self.sensor.pyramid(images)
        upper = self.upper.initial(self.view_encoder(images))
        lower = images.new_zeros(())
        actions, policies, named = [], [], []
        count = self.glimpses if glimpses is None else glimpses
        for n in range(count):
            if n > 0:
                # Of unit length, whatever r1's size: Adam moves each weight by the same step, and steps times a large
                # r1 would throw the next location into a corner before there is a gradient to stop it.
                r1 = self.lower.output(lower)
                upper = self.upper(F.normalize(at_least_float32(r1), dim=-1).to(r1.dtype), upper)
            r2 = self.upper.output(upper)
            raw = self.policy_head(r2)
            policy = self.policy(raw)
            action = choose(policy, raw, r2)
            policies.append(policy)
            actions.append(action)
            every = sum_scale and n == count - 1
            taken = self._at_every_scale(action) if every else action
            features = self.glimpse_encoder(self.sensor(pyramid, *taken), taken)
            if n == 0:
                lower = self.lower.initial(torch.zeros_like(features[..., : self.lower.size]))
                upper = upper.expand(*action.scale.shape, -1)
            lower = self.lower(features, lower.expand(*features.shape[:-1], -1))
            # r1 begins as a sum over glimpses; their mean speaks as loudly after one glimpse as after many.
            scores = self.label_head(self.lower.output(lower) / len(actions))
            log_p = F.log_softmax(at_least_float32(scores), -1)
            if every:
                log_p = torch.logsumexp(policy.scale_log_prob(taken.scale).unsqueeze(-1) + log_p, 0)
            named.append(log_p)
        lead = named[-1].shape[:-1]

        def stack(tensors: list[Tensor], axis: int) -> Tensor:
            return torch.stack([t.expand(*lead, *t.shape[t.ndim + axis + 1 :]) for t in tensors], axis)

        return Looked(
            torch.stack([*(n.detach() for n in named[:-1]), named[-1]], -2),
            Action(stack([a.location for a in actions], -2), stack([a.scale for a in actions], -1)),
            GlimpseDistribution(
                stack([p.mean for p in policies], -2),
                stack([p.log_std for p in policies], -2),
                stack([p.scale_logits for p in policies], -2),
            ),
        )

    def _at_every_scale(self, action: Action) -> Action:
        """(scales, ...) the same place at each scale."""
        scales = torch.arange(len(self.sensor.scales), device=action.scale.device)
        return Action(
            action.location.expand(len(scales), *action.location.shape),
            scales.view(-1, *[1] * action.scale.ndim).expand(-1, *action.scale.shape),
        )


class InferenceNetwork(nn.Module):
    """Proposes glimpses knowing the label (parameters η); used in training only.

    It corrects the policy: its outputs are added to the policy's own (detached) raw outputs and start at zero, so
    training begins with q = p and the importance weights of a network that does not yet know where to look are sound.

    Args:
        classes: number of labels.
        hidden: units of r2 and of this network's hidden layer.
        outputs: raw outputs of the policy head.
    """

    def __init__(self, *, classes: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.classes = classes
        self.read = nn.Linear(hidden, hidden)
        self.label = nn.Embedding(classes, hidden)
        self.correct = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.correct.weight)
        nn.init.zeros_(self.correct.bias)

    def forward(self, raw: Tensor, r2: Tensor, labels: Tensor) -> Tensor:
        """Raw outputs (..., batch, outputs) of the proposal; detaches `raw` and `r2`, so η's gradient is η's alone."""
        hidden = F.relu(self.read(r2.detach()) + self.label(labels))
        return raw.detach() + self.correct(hidden)


class AttentionClassifier(nn.Module):
    """A prediction network with, in training, the inference network that teaches it.

    Args:
        prediction: the prediction network.
        inference: the inference network, or None to propose with the policy itself.
    """

    def __init__(self, prediction: PredictionNetwork, inference: InferenceNetwork | None = None) -> None:
        super().__init__()
        self.prediction = prediction
        self.inference = inference

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        samples: int,
        generator: torch.Generator,
        temperature: float = 1.0,
        glimpses: int | None = None,
        defensive: float = 0.0,
        sum_scale: bool = False,
        dreams: int = 0,
    ) -> Rollout[Action, GlimpseDistribution]:
        """Draw action sequences from the proposal and score them.

        Args:
            images: (batch, channels, height, width) floating point.
            labels: (batch,) int64.
            samples: sequences for each image, M.
            generator: draws the actions; on the images' device.
            temperature: of the proposal; above 1 explores more (an exploration heuristic).
            glimpses: how many to take; by default all.
            defensive: with which probability a sequence is drawn from the policy instead of the proposal, for weights
                that are bounded (see `wsram.estimators.defensive_mixture`).
            sum_scale: sum over the last glimpse's scale instead of drawing it (Rao-Blackwell): it is then no part of
                the action that is scored, and the policy's gradient through it is exact, in log p(y | a, I).
            dreams: for each image, for the sleep phase (see `wsram.models.dreams`).

        Returns:
            `Rollout`, axes samples, batch, glimpses.

        Raises:
            UserError: fewer than 1 sample, a share of the policy below 0 or not below 1, or dreams without an inference
                network.
        """
        if samples < 1:
            raise UserError(f"samples must be at least 1, got {samples}")
        count = self.prediction.glimpses if glimpses is None else glimpses
        log_q: list[Tensor] = []
        # Drawn only where asked for: the actions of other rollouts do not depend on it.
        shape = (samples, len(images))
        defend = torch.rand(shape, generator=generator, device=images.device) < defensive if defensive else None

        def choose(policy: GlimpseDistribution, raw: Tensor, r2: Tensor) -> Action:
            if self.inference is None:
                proposal = policy.detach().tempered(temperature)
            else:
                proposal = self.prediction.policy(self.inference(raw, r2, labels)).tempered(temperature)
            draw = () if log_q else (samples,)
            action = proposal.sample(generator, draw)
            if defend is not None:
                other = policy.sample(generator, draw)
                action = Action(
                    torch.where(defend.unsqueeze(-1), other.location, action.location),
                    torch.where(defend, other.scale, action.scale),
                )
            scale_is_summed = sum_scale and len(log_q) == count - 1
            log_q.append(proposal.location_log_prob(action.location) if scale_is_summed else proposal.log_prob(action))
            return action

        looked = self.prediction.look(images, choose, glimpses, sum_scale=sum_scale)
        after = looked.log_p_labels_after
        after = after.gather(-1, labels.view(-1, 1, 1).expand(*after.shape[:-1], 1)).squeeze(-1)
        log_p_scales = looked.policy.scale_log_prob(looked.action.scale)
        if sum_scale:
            log_p_scales = torch.cat([log_p_scales[..., :-1], torch.zeros_like(log_p_scales[..., -1:])], -1)
        log_p_glimpses = looked.policy.location_log_prob(looked.action.location) + log_p_scales
        log_q_glimpses = torch.stack(log_q, -1)
        return Rollout(
            log_p_y_glimpses=after.diff(dim=-1, prepend=torch.zeros_like(after[..., :1])),
            log_p_glimpses=log_p_glimpses,
            log_q_glimpses=log_q_glimpses,
            action=looked.action,
            policy=looked.policy,
            log_proposal_glimpses=defensive_mixture(log_p_glimpses, log_q_glimpses, defensive) if defensive else None,
            log_q_dreams=dream_of_labels(self, images, dreams, generator, glimpses, sum_scale) if dreams else None,
        )

    def predict(
        self,
        images: Tensor,
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
        glimpses: int | None = None,
    ) -> Looked:
        """Look without knowing the label: at the mean actions, or at `samples` sequences drawn from the policy.

        Returns:
            `Looked`, with leading axes (batch) for the mean action and (samples, batch) otherwise.
        """
        if samples is None:
            return self.prediction.look(images, lambda policy, raw, r2: policy.mean_action(), glimpses)
        if samples < 1 or generator is None:
            raise UserError(f"sampled prediction needs a generator and at least 1 sample, got {samples} samples")
        first = True

        def choose(policy: GlimpseDistribution, raw: Tensor, r2: Tensor) -> Action:
            nonlocal first
            shape, first = ((samples,) if first else ()), False
            return policy.sample(generator, shape)

        return self.prediction.look(images, choose, glimpses)
