"""The classifier: a prediction network (θ) that glances and answers, an inference network (η) that knows the answer.

The inference network reads the answer and a detached r2, and proposes the glimpses of training.

Source: Ba et al. 2015, its prediction and inference networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.errors import UserError
from wsram.estimators.base import log_ratio_of
from wsram.glimpse.actions import Action, GlimpseDistribution
from wsram.glimpse.policies import MapDistribution, Policy
from wsram.glimpse.pyramid import Images
from wsram.glimpse.sensor import Sensor
from wsram.glimpse.source import Glimpsable
from wsram.models.heads import ClassHead, Head, LabelsHead
from wsram.models.looking import Looked
from wsram.models.prediction import PredictionNetwork
from wsram.models.proposal import Proposer, Resampler, gains, require_inference
from wsram.models.rollout import Rollout
from wsram.runtime import require_memory


class InferenceNetwork(nn.Module):
    """Proposes glimpses knowing the answer (parameters η); used in training, and to ask where evidence for it is.

    It corrects the policy: its outputs are added to the policy's own (detached) raw outputs and start at zero, so
    training begins with q = p and the importance weights of a network that does not yet know where to look are sound.

    Args:
        head: says how an answer is told.
        hidden: units of r2 and of this network's hidden layer.
        outputs: raw outputs of the policy head.
    """

    def __init__(self, head: Head, *, hidden: int, outputs: int) -> None:
        super().__init__()
        self.read = nn.Linear(hidden, hidden)
        self.answer = head.embedding(hidden)
        self.correct = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.correct.weight)
        nn.init.zeros_(self.correct.bias)

    def forward(self, raw: Tensor, r2: Tensor, answers: Tensor) -> Tensor:
        """Raw outputs (..., batch, outputs) of the proposal; detaches `raw` and `r2`, so η's gradient is η's alone."""
        told = answers.to(r2.dtype) if answers.is_floating_point() else answers
        hidden = F.relu(self.read(r2.detach()) + self.answer(told))
        return raw.detach() + self.correct(hidden)


class AttentionClassifier(nn.Module):
    """A prediction network with, in training, the inference network that teaches it.

    Args:
        answer: the kind of answer, one of `wsram.models.heads.HEADS`.
        names: of the answers.
        channels: of the images.
        glimpses: for each image.
        patch: side of a glimpse, in pixels.
        scales: image pixels under one glimpse pixel, along each axis: what the policy may choose from.
        sensor, contrast: see `Sensor`.
        recurrence, network, freeze, widths, lower_units, upper_units, view, std_range: see `PredictionNetwork`.
        aim, policy, map_stride, map_apart, map_toll, map_evidence, map_freeze, map_dropout: see `PredictionNetwork`.
        binding, leak, warp, dropout, read_dropout, scale_toll: see `PredictionNetwork`.
        unit: of a number, see `wsram.models.heads.NumberHead`.
        longest: pixels on the longer side that larger images are shrunk to before they are looked at.
        calibration: what `calibrate` takes.
        inference: whether there is an inference network; without it the policy itself proposes.
        precision: that it was trained and measured in, "bf16" or "no" (float32): what prediction uses.

    Raises:
        UserError: a size, kind or range that cannot be.

    Example:
        >>> network = AttentionClassifier(names=("cat", "dog"), patch=8, glimpses=2)
        >>> network.predict(torch.rand(3, 1, 40, 60)).outputs.shape
        torch.Size([3, 2])
    """

    task = "image-classification"

    def __init__(
        self,
        *,
        names: Sequence[str],
        answer: str = "class",
        channels: int = 1,
        glimpses: int = 4,
        patch: int = 16,
        scales: Sequence[int] = (1, 2, 3),
        sensor: str = "bilinear",
        contrast: bool = False,
        recurrence: str = "relu",
        network: str = "fc",
        freeze: bool = True,
        widths: Sequence[int] = (16, 32),
        lower_units: int = 256,
        upper_units: int = 128,
        view: int = 25,
        std_range: Sequence[float] = (0.05, 1.0),
        unit: Sequence[float] = (0.0, 1.0),
        longest: int | None = None,
        calibration: Sequence[float] | None = None,
        inference: bool = True,
        precision: str = "no",
        aim: str = "middle",
        policy: str = "gaussian",
        map_stride: int = 1,
        map_apart: bool = False,
        map_query: bool = True,
        map_toll: float = 20.0,
        map_evidence: bool = False,
        map_freeze: bool = True,
        map_dropout: float = 0.0,
        binding: str = "sum",
        leak: float = 0.0,
        warp: float = 0.0,
        dropout: float = 0.0,
        read_dropout: float = 0.0,
        scale_toll: float = 0.0,
    ) -> None:
        super().__init__()
        self.arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        low, high = std_range
        mean, spread = unit
        self.precision, self.longest, self.channels = precision, longest, channels
        self.prediction = PredictionNetwork(
            Sensor(patch, tuple(scales), sensor, contrast=contrast),
            answer=answer,
            names=names,
            channels=channels,
            glimpses=glimpses,
            lower_units=lower_units,
            upper_units=upper_units,
            recurrence=recurrence,
            network=network,
            freeze=freeze,
            widths=tuple(widths),
            view=view,
            std_range=(low, high),
            unit=(mean, spread),
            aim=aim,
            policy=policy,
            map_stride=map_stride,
            map_apart=map_apart,
            map_query=map_query,
            map_toll=map_toll,
            map_evidence=map_evidence,
            map_freeze=map_freeze,
            map_dropout=map_dropout,
            binding=binding,
            leak=leak,
            warp=warp,
            dropout=dropout,
            read_dropout=read_dropout,
            scale_toll=scale_toll,
        )
        self.calibrate(calibration)
        self.inference = None
        if inference:
            if policy == "map" and not map_query:
                raise UserError("an inference network asks a map for cells; use --proposal policy with --no-map-query")
            outputs = self.prediction.policy_head.out_features
            self.inference = InferenceNetwork(self.prediction.head, hidden=upper_units, outputs=outputs)

    @property
    def head(self) -> Head:
        """What is asked of the network."""
        return self.prediction.head

    def calibrate(self, values: Sequence[float] | None) -> None:
        """What validation asked for: of classes one temperature, of labels a threshold each, in log-odds; None resets.

        Raises:
            UserError: another number of values, or a temperature that is not above 0.
        """
        head = self.head
        expected = 1 if isinstance(head, ClassHead) else len(head.names) if isinstance(head, LabelsHead) else 0
        if values is not None and len(values) != expected:
            raise UserError(f"expected {expected} value(s) to calibrate with, got {len(values)}")
        if isinstance(head, ClassHead):
            head.temperature = 1.0 if values is None else float(values[0])
            if not head.temperature > 0:
                raise UserError(f"a temperature must be above 0, got {head.temperature}")
        elif isinstance(head, LabelsHead):
            head.thresholds = [0.0] * expected if values is None else [float(value) for value in values]
        self.arguments["calibration"] = None if values is None else list(values)

    def forward(
        self,
        images: Images | Glimpsable,
        answers: Tensor,
        *,
        samples: int,
        generator: torch.Generator,
        with_inference: bool = True,
        temperature: float = 1.0,
        glimpses: int | None = None,
        defensive: float = 0.0,
        sum_scale: bool = False,
        dreams: int = 0,
        centred: bool = False,
        pathwise: float = 0.0,
        resample: bool = False,
    ) -> Rollout[Action, Policy]:
        """Draw action sequences from the proposal and score them.

        Args:
            images: (batch, channels, height, width) floating point, a list of images, or their pyramid.
            answers: (batch, ...) as the head takes them; classes are int64.
            samples: sequences for each image, M.
            generator: draws the actions; on the images' device.
            with_inference: let the inference network propose, if there is one; else the policy does.
            temperature, defensive: see `wsram.models.proposal.Proposer`.
            glimpses: how many to take; by default all.
            sum_scale: sum over the last glimpse's scale instead of drawing it (Rao-Blackwell): it is then no part of
                the action that is scored, and the policy's gradient through it is exact, in log p(y | a, I).
            dreams: for each image, for the sleep phase; see `dream`.
            centred: also work out the policy's mean log-probability under what proposes.
            pathwise: share of the locations' gradient that goes through the glimpses instead of through their scores;
                for actions of the policy itself.
            resample: go on, after each glimpse but the last, from sequences drawn in proportion to their weights.

        Returns:
            `Rollout`, axes samples, batch, glimpses.

        Raises:
            UserError: fewer than 1 sample, a share of the policy below 0 or not below 1, or any with resampling, a sum
                over scales of anything but classes, or dreams without an inference network.
        """
        if sum_scale and not isinstance(self.head, ClassHead):
            raise UserError("only the probabilities of classes can be summed over scales; use --no-sum-scale")
        count = self.prediction.glimpses if glimpses is None else glimpses
        self.require_room(samples * len(images), glimpses)
        pyramid = self.prediction.pyramid(images, samples * count)
        proposer = Proposer((samples, len(pyramid)), generator, temperature=temperature, defensive=defensive)
        inference = self.inference if with_inference else None
        resampler = Resampler(generator) if resample else None
        if resample and defensive:
            raise UserError("resampled sequences are no mixture's; use --defensive 0")
        log_q: list[Tensor] = []
        means: list[Tensor] = []
        log_ratio = torch.zeros(())

        def choose(policy: Policy, raw: Tensor, r2: Tensor) -> Action:
            nonlocal log_ratio
            informed = None if inference is None else self.prediction.proposal(inference(raw, r2, answers), policy)
            action, proposal = proposer.draw(policy, informed, () if log_q else (samples,))
            scale_is_summed = sum_scale and len(log_q) == count - 1
            if centred:
                mean = policy.location_mean_log_prob if scale_is_summed else policy.mean_log_prob
                means.append(mean(proposal.detach()).expand(action.scale.shape))
            log_q.append(proposal.location_log_prob(action.location) if scale_is_summed else proposal.log_prob(action))
            if resample and len(log_q) < count:
                log_ratio = log_ratio_of(policy.log_prob(action), log_q[-1])
            return policy.followed(action, pathwise) if isinstance(policy, GlimpseDistribution) and pathwise else action

        def heirs(outputs: Tensor) -> Tensor:
            assert resampler is not None
            return resampler.heirs(log_ratio, self.head.log_prob(outputs.unsqueeze(-2), answers).squeeze(-1))

        looked = self.prediction.look(
            pyramid, choose, glimpses, sum_scale=sum_scale, resample=None if resampler is None else heirs
        )
        after = self.head.log_prob(looked.outputs_after, answers)
        ancestors = None if resampler is None else resampler.ancestors(after)
        policy = looked.policy
        log_p_scales = policy.scale_log_prob(looked.action.scale)
        if sum_scale:
            log_p_scales = torch.cat([log_p_scales[..., :-1], torch.zeros_like(log_p_scales[..., -1:])], -1)
        log_p_location = policy.location_log_prob(looked.action.location.detach())
        if pathwise:  # what is left to the score of each location; that of the scales, and of what follows, stays
            log_p_location = torch.lerp(log_p_location, log_p_location.detach(), pathwise)
        log_p_a = log_p_location + log_p_scales
        log_q_a = torch.stack(log_q, -1)
        log_proposal = proposer.density(log_p_a, log_q_a)
        return Rollout(
            log_p_y=gains(after, ancestors),
            log_p_a=log_p_a,
            log_q_a=log_q_a,
            action=looked.action,
            policy=policy,
            log_proposal=log_proposal,
            mean_log_p_a=proposer.mean(torch.stack(means, -1), log_p_a, log_proposal) if centred else None,
            log_p_y_view=self._from_view(policy, answers),
            ancestors=ancestors,
            log_q_dreams=self.dream(pyramid, dreams, generator, glimpses, sum_scale) if dreams else None,
        )

    def _from_view(self, policy: Policy, answers: Tensor) -> Tensor | None:
        """log p(answer | view) (batch,), of a map whose cells give evidence."""
        cells = policy.cells if isinstance(policy, MapDistribution) else None
        if cells is None or cells.scores is None:
            return None
        assert isinstance(self.head, ClassHead | LabelsHead)  # no other gives evidence
        return self.head.log_prob(self.head.outputs(cells.scores).unsqueeze(-2), answers).squeeze(-1)

    def require_room(self, sequences: int, glimpses: int | None) -> None:
        """`UserError` unless what is kept of so many sequences of glimpses, whatever else is, can be in memory."""
        prediction = self.prediction
        each = (glimpses or prediction.glimpses) * (len(self.head.names) + prediction.policy_head.out_features)
        weight = prediction.policy_head.weight
        if not torch.compiler.is_compiling():
            require_memory(4 * sequences * each, weight.device, f"looking {sequences:,} times")

    def dream(
        self,
        images: Images | Glimpsable,
        dreams: int,
        generator: torch.Generator,
        glimpses: int | None = None,
        sum_scale: bool = False,
    ) -> Tensor:
        r"""log q of each glimpse that the model dreamt of, told the answer it dreamt: the sleep phase.

        A dream is drawn from the model itself, $a, y \sim p(a, y \mid I)$ at a real image, and its answer y is the one
        that the inference network is told. Nothing of the prediction network learns from it.

        Args:
            images: as of `forward`.
            dreams: for each image.
            generator: draws them.
            glimpses, sum_scale: as of `forward`.

        Returns:
            (dreams, batch, glimpses) nats; gradient: η.

        Raises:
            UserError: there is no inference network.

        Source: Hinton et al. 1995 (wake-sleep); Bornschein & Bengio 2015, its use beside the reweighted wake phase.
        """
        inference, prediction = require_inference(self.inference), self.prediction
        seen: list[tuple[Policy, Tensor, Tensor]] = []

        def choose(policy: Policy, raw: Tensor, r2: Tensor) -> Action:
            shape = () if seen else (dreams,)
            seen.append((policy, raw, r2))
            return policy.sample(generator, shape)

        with torch.no_grad():
            looked = prediction.look(images, choose, glimpses, sum_scale=sum_scale)
            answers = self.head.sample(looked.outputs, generator)
        proposals = [prediction.proposal(inference(raw, r2, answers), policy) for policy, raw, r2 in seen]
        actions = [Action(*(part.select(2, n) for part in looked.action)) for n in range(len(seen))]
        scored = [proposal.log_prob(action) for proposal, action in zip(proposals, actions, strict=True)]
        if sum_scale:
            scored[-1] = proposals[-1].location_log_prob(actions[-1].location)
        return torch.stack(scored, -1)

    def predict(
        self,
        images: Images | Glimpsable,
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
        glimpses: int | None = None,
    ) -> Looked:
        """Look without knowing the answer: at the policy's modes, or at `samples` sequences drawn from it.

        Returns:
            `Looked`, with leading axes (batch) for the mode and (samples, batch) otherwise.

        Raises:
            UserError: samples without a generator, or fewer than 1.
        """
        if samples is None:
            return self.prediction.look(images, None, glimpses)
        if samples < 1 or generator is None:
            raise UserError(f"sampled prediction needs a generator and at least 1 sample, got {samples} samples")
        self.require_room(samples * len(images), glimpses)
        first = True
        count = self.prediction.glimpses if glimpses is None else glimpses
        pyramid = self.prediction.pyramid(images, samples * count)

        def choose(policy: Policy, raw: Tensor, r2: Tensor) -> Action:
            nonlocal first
            shape, first = ((samples,) if first else ()), False
            return policy.sample(generator, shape)

        return self.prediction.look(pyramid, choose, glimpses)
