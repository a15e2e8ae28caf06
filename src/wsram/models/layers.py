"""What the classifier's networks are made of: recurrent layers, and networks that read glimpses and the view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.errors import UserError
from wsram.glimpse.actions import Action
from wsram.models.trunk import TRUNKS, Trunk, is_trunk

RECURRENCES = ("relu", "gru", "lstm")
NETWORKS = ("fc", "conv")
VIEW_STAGE = 3
"""The last stage of a pretrained network that reads the view: 8 pixels to a cell, which still tells places apart."""


class Recurrence(nn.Module):
    """One recurrent layer over any leading axes: ReLU (the paper's), GRU or LSTM.

    The state is one tensor (..., size * `width`); its first `size` features are the layer's output.
    """

    def __init__(self, kind: str, inputs: int, size: int) -> None:
        super().__init__()
        if kind not in RECURRENCES:
            raise UserError(f"unknown recurrence {kind!r}; choose one of {', '.join(RECURRENCES)}")
        self.size = size
        self.kind = kind
        if kind == "relu":
            self.unit: nn.RNNCell | nn.GRUCell | nn.LSTMCell = nn.RNNCell(inputs, size, nonlinearity="relu")
            # The identity keeps what earlier glimpses saw without the gradient exploding (Le, Jaitly & Hinton 2015).
            nn.init.eye_(self.unit.weight_hh)
        else:
            self.unit = nn.GRUCell(inputs, size) if kind == "gru" else nn.LSTMCell(inputs, size)

    def initial(self, output: Tensor) -> Tensor:
        """The state whose output is `output` (..., size)."""
        return torch.cat([output, torch.zeros_like(output)], -1) if self.kind == "lstm" else output

    def output(self, state: Tensor) -> Tensor:
        """The layer's output (..., size)."""
        return state[..., : self.size]

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The next state, of the leading axes of `inputs` (..., inputs) and `state`, which must agree."""
        if inputs.ndim == 2 and not isinstance(self.unit, nn.LSTMCell):
            return self.unit(inputs, state)
        lead = inputs.shape[:-1]
        inputs, state = inputs.flatten(0, -2), state.flatten(0, -2)
        if isinstance(self.unit, nn.LSTMCell):
            after = torch.cat(self.unit(inputs, tuple(state.chunk(2, -1))), -1)
        else:
            after = self.unit(inputs, state)
        return after.unflatten(0, lead)


def convolutions(channels: int, widths: tuple[int, int]) -> nn.Sequential:
    """Two small convolutions that halve the image twice, of `widths` channels.

    From (rows, channels, s, s) to (rows, widths[1], s // 4, s // 4), none below 0.
    """
    first, second = widths
    layers = nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
    )
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs


class _MeanAndMost(nn.Module):
    """The mean and the largest value of each feature, (rows, 2 * features), of features (rows, features, s, s)."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features.mean((-2, -1)), features.amax((-2, -1))], -1)


def _check_network(kind: str, side: int) -> None:
    if kind not in NETWORKS and not is_trunk(kind):
        raise UserError(f"unknown network {kind!r}; choose one of {', '.join((*NETWORKS, *TRUNKS))}")
    if side < (least := 4 if kind == "conv" else 1):
        raise UserError(f"the {kind} network needs at least {least}x{least} pixels, got {side}x{side}")


class GlimpseNetwork(nn.Module):
    """What a glimpse shows and where it was taken, as one vector: the ReLU of the sum of both.

    "fc": fully connected, the paper's. "conv": two small convolutions before the fully connected layer. A pretrained
    network, see `wsram.models.trunk`: mean and largest value of each of its features before that layer.
    """

    kinds: Tensor

    def __init__(
        self,
        kind: str,
        *,
        channels: int,
        side: int,
        scales: int,
        features: int,
        widths: tuple[int, int],
        freeze: bool = True,
    ) -> None:
        super().__init__()
        _check_network(kind, side)
        if kind == "fc":
            layers: tuple[nn.Module, ...] = (
                nn.Flatten(),
                nn.Linear(channels * side**2, features),
                nn.ReLU(),
                nn.Linear(features, features),
            )
        elif kind == "conv":
            layers = (
                convolutions(channels, widths),
                nn.Flatten(),
                nn.Linear(widths[1] * (side // 4) ** 2, features),
            )
        else:
            trunk = Trunk(kind, channels, freeze=freeze)
            layers = (trunk, _MeanAndMost(), nn.LayerNorm(2 * trunk.channels), nn.Linear(2 * trunk.channels, features))
        self.register_buffer("kinds", torch.arange(scales), persistent=False)
        self.what = nn.Sequential(*layers)
        self.where = nn.Sequential(nn.Linear(2 + scales, features // 2), nn.ReLU(), nn.Linear(features // 2, features))

    def forward(self, patch: Tensor, action: Action) -> Tensor:
        """Features (..., features) of glimpses (..., channels, side, side) taken by `action` (...)."""
        what = self.what(patch.flatten(0, -4)).unflatten(0, patch.shape[:-3])
        # As `F.one_hot` has it, which checks its argument's range first.
        scale = action.scale.unsqueeze(-1) == self.kinds
        return F.relu(what + self.where(torch.cat([action.location, scale], -1).to(patch.dtype)))


class ViewNetwork(nn.Module):
    """The low-resolution view of the whole image, as the upper layer's first output.

    "fc": fully connected, the paper's. "conv": convolutions, read both as they lie and through the centre of mass of
    each channel (after the spatial softmax of Finn et al. 2016), in which where something is, is linear. A pretrained
    network's features, up to its stage `VIEW_STAGE`, are rectified and read in the same way.
    """

    def __init__(
        self, kind: str, *, channels: int, side: int, features: int, widths: tuple[int, int], freeze: bool = True
    ) -> None:
        super().__init__()
        _check_network(kind, side)
        self.side = side
        self.layers: nn.Sequential | None = None
        inputs = channels * side**2
        if kind == "conv":
            self.layers = convolutions(channels, widths)
            inputs = widths[1] * ((side // 4) ** 2 + 2)
        elif kind != "fc":
            trunk = Trunk(kind, channels, freeze=freeze, deepest=VIEW_STAGE)
            self.layers = nn.Sequential(trunk, nn.ReLU())
            inputs = trunk.channels * (trunk.cells(side) ** 2 + 2)
        self.read = nn.Linear(inputs, features)

    def forward(self, view: Tensor) -> Tensor:
        """Features (batch, features) of views (batch, channels, side, side)."""
        if self.layers is None:
            return F.relu(self.read(view.flatten(1)))
        seen = self.layers(view)
        x = torch.linspace(-1, 1, seen.shape[-1], device=seen.device, dtype=seen.dtype)
        mass = seen.sum((-2, -1)) + 0.1  # an empty channel has its centre in the middle
        centres = [(seen.sum(axis) * x).sum(-1) / mass for axis in (-2, -1)]
        return F.relu(self.read(torch.cat([seen.flatten(1), *centres], -1)))
