"""Looking without branches or tables of sizes, so that one graph serves images of any size.

The low-resolution view and a glimpse are both the image I between two matrices, one for each axis,

    R_y I R_xᵀ,

whose rows say how much of each pixel goes into one of the result. For a glimpse pixel they are what average pooling and
bilinear interpolation come to: the hat function around its place among the cells of k pixels. All layers are the
network's own.

Source: attention as two matrices of filters is Gregor et al. 2015 (DRAW), there Gaussian and differentiated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.glimpse.actions import Action, GlimpseDistribution
from wsram.glimpse.contrast import in_contrast
from wsram.glimpse.policies import Cells
from wsram.models.classifier import AttentionClassifier
from wsram.models.heads import LabelsHead, NumberHead
from wsram.models.layers import MapNetwork
from wsram.models.looking import Memory

ANSWERS: dict[str, tuple[str, ...]] = {
    "class": ("probabilities",),
    "labels": ("probabilities", "present"),
    "number": ("mean", "spread"),
}
"""What is said of an image, by the kind of answer."""


class Noise(NamedTuple):
    """What makes a glimpse a draw from the policy: of location standard normal, of scale standard Gumbel."""

    location: Tensor
    scale: Tensor


def noise_of(location: Tensor | None, scale: Tensor | None) -> Noise | None:
    """Noise where both parts of it are given: an exported graph has either or none."""
    return None if location is None or scale is None else Noise(location, scale)


class Canvas(NamedTuple):
    """Images of one size, ready for glimpses; columns stand before lines.

    images: (batch, channels, height, width) the pixels.
    places: (scales, 5) what takes a location to where its glimpse's first pixel lies among the cells of a scale,
        factors and what is added, and the share that one pixel has in a cell.
    cells: (scales, width + height) the cell that each column and each line of pixels lies in.
    axes: (width + height,) 0 for each column, 1 for each line.
    """

    images: Tensor
    places: Tensor
    cells: Tensor
    axes: Tensor


class Looking(nn.Module):
    """The prediction network at work in parts: where it begins, one glimpse, what it says then.

    Args:
        network: whose layers these are.
    """

    scales: Tensor
    pixels: Tensor
    parts: Tensor
    ones: Tensor
    thresholds: Tensor

    def __init__(self, network: AttentionClassifier) -> None:
        super().__init__()
        self.prediction = network.prediction
        self.channels = network.channels
        sensor = network.prediction.sensor
        self.register_buffer("scales", torch.tensor(sensor.scales))
        self.register_buffer("pixels", torch.arange(sensor.patch_size, dtype=torch.float32))
        self.register_buffer("parts", torch.arange(network.prediction.view, dtype=torch.float32).unsqueeze(-1))
        self.register_buffer("ones", torch.ones(1))
        head = network.head
        self.register_buffer("thresholds", torch.tensor(head.thresholds if isinstance(head, LabelsHead) else []))

    def seen(self, images: Tensor) -> Tensor:
        """Images (batch, channels, height, width) as the sensor has them."""
        seen = in_contrast(images) if self.prediction.sensor.contrast else images
        assert isinstance(seen, Tensor)
        return seen

    def canvas(self, seen: Tensor) -> Canvas:
        """Such images, ready for glimpses; the same arithmetic as the sensor's."""
        height, width = seen.shape[-2:]
        k = self.scales.float().unsqueeze(-1)
        reach = torch.cat([self.ones * ((n - 1) / 2) for n in (width, height)])
        first = (reach - (k - 1) / 2) / k - (len(self.pixels) - 1) / 2
        numbers = [torch.arange(n, dtype=torch.float32, device=k.device) for n in (width, height)]
        axes = torch.cat([torch.zeros_like(numbers[0]), torch.ones_like(numbers[1])])
        places = torch.cat([reach / k, first, 1 / k.square()], -1)
        return Canvas(seen, places, torch.floor(torch.cat(numbers) / k), axes.long())

    def begin(self, seen: Tensor) -> Memory:
        """Before the first glimpse."""
        prediction = self.prediction
        view = self._shares(seen, -2) @ seen @ self._shares(seen, -1).T
        upper, cells = prediction.begin(view)
        if cells is not None:
            cells = replace(cells, visited=torch.zeros_like(cells.prior))
        return Memory(upper, prediction.lower.initial(seen.new_zeros(seen.shape[0], prediction.lower.size)), cells)

    def turn(self, state: Memory) -> Memory:
        """The state by which the next glimpse is chosen."""
        return state._replace(upper=self.prediction.turn(state.lower, state.upper))

    def glimpse(self, canvas: Canvas, state: Memory, noise: Noise | None) -> tuple[Action, Memory]:
        """The action, and the state after it; where there is no noise, at the policy's mode."""
        prediction, (upper, lower, cells) = self.prediction, state
        raw = prediction.raw(upper)
        if noise is None:
            action = prediction.mode(raw, upper, cells)
        else:
            policy = prediction.policy(raw)
            assert isinstance(policy, GlimpseDistribution)
            location = policy.mean + policy.log_std.exp() * noise.location
            action = Action(location, (policy.scale_logits + noise.scale).argmax(-1))
        features = prediction.glimpse_network(self._patch(canvas, action), action)
        cells = None if cells is None else cells.after(action.location)
        return action, Memory(prediction.remember(upper, action), prediction.lower(features, lower), cells)

    def told(self, state: Memory) -> tuple[Tensor, Tensor]:
        """A state as two tensors (batch, numbers), which a host hands on as they are: what is of a map is in the first.

        Of a map the keys never change, nor do toll and features, which are the network's and the upper state's.
        """
        upper, lower, cells = state
        if cells is None:
            return upper, lower
        assert cells.visited is not None
        keys = [] if cells.keys is None else [cells.keys.flatten(1)]
        return torch.cat([upper, *keys, cells.prior, cells.offset.flatten(1), cells.visited], -1), lower

    def heard(self, upper: Tensor, lower: Tensor) -> Memory:
        """The state that `told` made two tensors of."""
        network = self.prediction.view_network
        if not isinstance(network, MapNetwork):
            return Memory(upper, lower, None)
        count = (self.prediction.view // network.stride) ** 2
        sizes = [] if network.key is None else [network.key.out_features * count]
        sizes += [count, 2 * count, count]
        upper, *asked, prior, offset, visited = upper.split([upper.shape[-1] - sum(sizes), *sizes], -1)
        keys = asked[0].unflatten(-1, (count, -1)) if asked else None
        offset = offset.unflatten(-1, (count, 2))
        cells = Cells(keys, prior, offset, network.toll, upper, visited=visited, around=network.around)
        return Memory(upper, lower, cells)

    def answer(self, r1: Tensor) -> tuple[Tensor, ...]:
        """What `ANSWERS` names, each (..., names), of mean outputs of the lower layer."""
        head = self.prediction.head
        outputs = head(r1)
        said = head.probabilities(outputs)
        if isinstance(head, LabelsHead):
            return said, outputs > self.thresholds
        return (said, outputs[..., 1:].exp() * head.unit[1]) if isinstance(head, NumberHead) else (said,)

    def factor(self, action: Action) -> Tensor:
        """(...) image pixels under one pixel of each glimpse, int64."""
        return self.scales.index_select(0, action.scale.flatten()).view_as(action.scale)

    def _patch(self, canvas: Canvas, action: Action) -> Tensor:
        """The glimpses (batch, channels, patch, patch)."""
        height, width = canvas.images.shape[-2:]
        factor, first, share = F.embedding(action.scale, canvas.places).split((2, 2, 1), -1)
        corner = torch.addcmul(first, factor, action.location)
        if self.prediction.sensor.mode == "nearest":
            corner = torch.floor(corner + 0.5)
        apart = F.embedding(action.scale, canvas.cells) - corner.index_select(-1, canvas.axes)
        hats = F.relu(1 - (apart.unsqueeze(1) - self.pixels.unsqueeze(-1)).abs()).unsqueeze(1)
        right, left = hats.split((width, height), -1)
        return left @ canvas.images @ right.mT * share.view(-1, 1, 1, 1)

    def _shares(self, seen: Tensor, axis: int) -> Tensor:
        """How much of each pixel of an axis goes into each of the view (view, pixels): adaptive average pooling."""
        side, length = len(self.parts), seen.shape[axis]
        first, last = torch.floor(self.parts * length / side), torch.ceil((self.parts + 1) * length / side)
        at = torch.arange(length, dtype=torch.float32, device=first.device)
        return ((at >= first) & (at < last)).float() / (last - first)


class Look(nn.Module):
    """The whole of it: images to answers, locations and scales.

    Args:
        looking: at work.
    """

    def __init__(self, looking: Looking) -> None:
        super().__init__()
        self.looking = looking

    def forward(
        self, images: Tensor, location_noise: Tensor | None = None, scale_noise: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Look at images.

        Args:
            images: (batch, channels, height, width) in [0, 1].
            location_noise, scale_noise: (batch, glimpses, 2) and (batch, glimpses, scales), see `Noise`; or none.

        Returns:
            Answers (batch, glimpses, names), locations (batch, glimpses, 2), scales (batch, glimpses) in pixels.
        """
        looking, prediction = self.looking, self.looking.prediction
        seen = looking.seen(images)
        canvas, state = looking.canvas(seen), looking.begin(seen)
        actions: list[Action] = []
        sums: list[Tensor] = []
        for n in range(prediction.glimpses):
            if n:
                state = looking.turn(state)
            drawn = noise_of(*(None if part is None else part[:, n] for part in (location_noise, scale_noise)))
            action, state = looking.glimpse(canvas, state, drawn)
            actions.append(action)
            sums.append(prediction.lower.output(state.lower))
        location, scale = (torch.stack(each, 1) for each in zip(*actions, strict=True))
        numbers = torch.arange(1, len(sums) + 1, device=location.device).unsqueeze(-1)
        return (
            *looking.answer(prediction.lower.told(torch.stack(sums, 1), numbers)),
            location,
            looking.factor(Action(location, scale)),
        )


class Start(nn.Module):
    """What the first `Step` begins with.

    Args:
        looking: at work.
    """

    def __init__(self, looking: Looking) -> None:
        super().__init__()
        self.looking = looking

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Upper and lower state (batch, numbers) before the first glimpse at images."""
        return self.looking.told(self.looking.begin(self.looking.seen(images)))


class Step(nn.Module):
    """One glimpse, so that a host can stop when it has seen enough.

    Args:
        looking: at work.
    """

    def __init__(self, looking: Looking) -> None:
        super().__init__()
        self.looking = looking

    def forward(
        self,
        images: Tensor,
        upper: Tensor,
        lower: Tensor,
        number: Tensor,
        location_noise: Tensor | None = None,
        scale_noise: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Take one glimpse.

        Args:
            images: (batch, channels, height, width) in [0, 1].
            upper, lower: states (batch, numbers) of `Start` or of the step before.
            number: scalar, of this glimpse, from 1.
            location_noise, scale_noise: (batch, 2) and (batch, scales), see `Noise`; or none.

        Returns:
            Answers (batch, names), location (batch, 2), scale (batch,) in pixels, and the next upper and lower state.
        """
        looking, prediction = self.looking, self.looking.prediction
        canvas, drawn = looking.canvas(looking.seen(images)), noise_of(location_noise, scale_noise)
        action, state = looking.glimpse(canvas, looking.heard(upper, lower), drawn)
        answers = looking.answer(prediction.lower.told(prediction.lower.output(state.lower), number))
        return *answers, action.location, looking.factor(action), *looking.told(looking.turn(state))
