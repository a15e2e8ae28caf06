"""What the classifier's networks are made of: recurrent layers, and networks that read glimpses and the view."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.data.distortion import DRAWS, distort
from wsram.errors import UserError, require_at_least, require_dropout
from wsram.glimpse.actions import Action, at_least_float32
from wsram.glimpse.policies import Cells, contrast_of
from wsram.models.trunk import TRUNKS, Trunk, is_trunk, last_stage, require_learning

RECURRENCES = ("relu", "gru", "lstm", "evidence")
NETWORKS = ("fc", "conv")
BINDINGS = ("sum", "product", "none")
VIEW_STAGE = 3
"""The last stage of a pretrained network that reads the view: 8 pixels to a cell, which still tells places apart."""


class Recurrence(nn.Module):
    """One recurrent layer over any leading axes: ReLU (the paper's), GRU, LSTM, or evidence.

    "evidence" gathers what is given, each number by itself and in any order: a state is the logarithm of one plus the
    sum of the exponentials of what every input says alone. One input that says much is enough, whatever the others are
    (the smooth maximum of multiple-instance learning: Ramon & De Raedt 2000), and there is less to learn by heart.

    The state is one tensor (..., size * `width`); its first `size` features are the layer's output.
    """

    def __init__(self, kind: str, inputs: int, size: int) -> None:
        super().__init__()
        if kind not in RECURRENCES:
            raise UserError(f"unknown recurrence {kind!r}; choose one of {', '.join(RECURRENCES)}")
        self.size = size
        self.kind = kind
        if kind == "relu":
            self.unit: nn.RNNCell | nn.GRUCell | nn.LSTMCell | nn.Linear = nn.RNNCell(inputs, size, nonlinearity="relu")
            # The identity keeps what earlier glimpses saw without the gradient exploding (Le, Jaitly & Hinton 2015).
            nn.init.eye_(self.unit.weight_hh)
        elif kind == "evidence":
            self.unit = nn.Linear(inputs, size)
        else:
            self.unit = nn.GRUCell(inputs, size) if kind == "gru" else nn.LSTMCell(inputs, size)

    def initial(self, output: Tensor) -> Tensor:
        """The state whose output is `output` (..., size)."""
        return torch.cat([output, torch.zeros_like(output)], -1) if self.kind == "lstm" else output

    def output(self, state: Tensor) -> Tensor:
        """The layer's output (..., size)."""
        return state if state.shape[-1] == self.size else state[..., : self.size]

    def told(self, output: Tensor, count: int | Tensor) -> Tensor:
        """What is read of outputs (..., size) after so many inputs.

        They begin as a sum of the inputs; the mean speaks as loudly after one as after many. Evidence stays what it is.
        """
        return output if self.kind == "evidence" else output / count

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The next state, of the leading axes of `inputs` (..., inputs) and `state`, which must agree."""
        if isinstance(self.unit, nn.Linear):
            said = at_least_float32(self.unit(inputs))
            return torch.logaddexp(at_least_float32(state), said).to(self.unit.weight.dtype)
        if inputs.ndim == 2 and not isinstance(self.unit, nn.LSTMCell):
            return self.unit(inputs, state)
        lead = inputs.shape[:-1]
        inputs, state = inputs.flatten(0, -2), state.flatten(0, -2)
        if isinstance(self.unit, nn.LSTMCell):
            after = torch.cat(self.unit(inputs, tuple(state.chunk(2, -1))), -1)
        else:
            after = self.unit(inputs, state)
        return after.unflatten(0, lead)


def convolutions(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """Small convolutions of `widths` channels, each of which halves the image.

    From (rows, channels, s, s) to (rows, widths[-1], s // 2^n, s // 2^n), n the number of widths; none below 0.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise((channels, *widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in stubs


class MeanAndMost(nn.Module):
    """Features of an image as one vector, wherever they are: the mean and the largest value of each."""

    def forward(self, features: Tensor) -> Tensor:
        """(rows, 2 * features) of features (rows, features, height, width)."""
        return torch.cat([features.mean((-2, -1)), features.amax((-2, -1))], -1)


def _check_network(kind: str, side: int, widths: Sequence[int]) -> None:
    if kind not in NETWORKS and not is_trunk(kind):
        raise UserError(f"unknown network {kind!r}; choose one of {', '.join((*NETWORKS, *TRUNKS))}")
    if side < (least := 2 ** len(widths) if kind == "conv" else 1):
        raise UserError(f"the {kind} network needs at least {least}x{least} pixels, got {side}x{side}")


class GlimpseNetwork(nn.Module):
    """What a glimpse shows and where it was taken, as one vector: the ReLU of the sum of both.

    With `binding` "product" every number of it is then multiplied by one that depends on where alone, 1 at first: a sum
    over glimpses cannot tell which of two things lies higher, and a sum of products can (after Larochelle & Hinton 2010
    and Ba et al. 2015, DRAM, who multiply both). With "none" it is what is shown alone, so that where things lie cannot
    be learned by heart.

    "fc": fully connected, the paper's. "conv": small convolutions before the fully connected layer. A pretrained
    network, see `wsram.models.trunk`: mean and largest value of each of its features before that layer.

    With a `leak` above 0 what is below zero is weakened by that factor rather than taken away (Maas et al. 2013), so
    that a number that no glimpse makes positive any more still learns.

    In training a glimpse is bent as `wsram.data.distortion.distort` bends digits, by the strength `warp`, and a share
    of its features is dropped (`dropout`), or of what these are read from (`read_dropout`): where evidence is gathered
    the latter, since of many thinned voices the loudest is heard, which is louder than any that is whole.
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
        widths: Sequence[int],
        freeze: bool = True,
        binding: str = "sum",
        leak: float = 0.0,
        warp: float = 0.0,
        dropout: float = 0.0,
        read_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_network(kind, side, widths)
        require_at_least(0, warp=warp, leak=leak)
        if binding not in BINDINGS:
            raise UserError(f"unknown binding {binding!r}; choose one of {', '.join(BINDINGS)}")
        require_dropout(dropout=dropout, read_dropout=read_dropout)
        self.warp, self.dropout, self.leak = warp, dropout, leak
        if kind == "fc":
            inputs = features
            layers: tuple[nn.Module, ...] = nn.Flatten(), nn.Linear(channels * side**2, features), nn.ReLU()
        elif kind == "conv":
            inputs = widths[-1] * (side // 2 ** len(widths)) ** 2
            layers = convolutions(channels, widths), nn.Flatten()
        else:
            if not freeze:
                require_learning(kind, "--no-freeze")
            trunk = Trunk(kind, channels, freeze=freeze)
            inputs = 2 * trunk.channels
            layers = trunk, MeanAndMost(), nn.LayerNorm(inputs)
        self.register_buffer("kinds", torch.arange(scales), persistent=False)
        numbered: dict[str, nn.Module] = {str(n): layer for n, layer in enumerate(layers)}
        if read_dropout:
            numbered["dropped"] = nn.Dropout(read_dropout)  # which moves no other's number, by which weights are named
        self.what = nn.Sequential(OrderedDict(numbered | {str(len(layers)): nn.Linear(inputs, features)}))
        self.where = None if binding == "none" else _embedding(2 + scales, features)
        self.share = None
        if binding == "product":
            self.share = _embedding(2 + scales, features)
            for parameter in self.share[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, patch: Tensor, action: Action) -> Tensor:
        """Features (..., features) of glimpses (..., channels, side, side) taken by `action` (...)."""
        lead = patch.shape[:-3]
        patch = patch.flatten(0, -4)
        if self.training and self.warp:
            uniform = torch.rand(len(patch), DRAWS, device=patch.device).repeat_interleave(patch.shape[1], 0)
            patch = distort(patch.flatten(0, 1), uniform, self.warp).view_as(patch)
        features = self.what(patch).unflatten(0, lead)
        # As `F.one_hot` has it, which checks its argument's range first.
        scale = action.scale.unsqueeze(-1) == self.kinds
        taken = torch.cat([action.location, scale], -1).to(patch.dtype)
        if self.where is not None:
            features = features + self.where(taken)
        features = F.leaky_relu(features, self.leak) if self.leak else F.relu(features)
        if self.share is not None:
            features = features * (1 + self.share(taken))
        return F.dropout(features, self.dropout, self.training) if self.dropout else features


def _embedding(inputs: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, features // 2), nn.ReLU(), nn.Linear(features // 2, features))


class ViewNetwork(nn.Module):
    """The low-resolution view of the whole image, as the upper layer's first output.

    "fc": fully connected, the paper's. "conv": convolutions, read both as they lie and through the centre of mass of
    each channel (after the spatial softmax of Finn et al. 2016), in which where something is, is linear. A pretrained
    network's features, up to its stage `VIEW_STAGE`, are rectified and read in the same way.
    """

    def __init__(
        self, kind: str, *, channels: int, side: int, features: int, widths: Sequence[int], freeze: bool = True
    ) -> None:
        super().__init__()
        _check_network(kind, side, widths)
        self.side = side
        self.layers: nn.Sequential | None = None
        inputs = channels * side**2
        if kind == "conv":
            self.layers = convolutions(channels, widths)
            inputs = widths[-1] * ((side // 2 ** len(widths)) ** 2 + 2)
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


class MapNetwork(nn.Module):
    """The low-resolution view of the whole image, as cells that a policy can point at.

    Two convolutions see a cell and those around it; or one that reads the features of a pretrained network, up to its
    last stage whose cells are as large as the map's. The map starts at the contrast of the view (see `contrast_of`),
    whose weight is learned.

    Cells that are `apart` are small pictures of their own: nothing of the others reaches into one, a pretrained network
    reads each with all of its stages, as it reads glimpses, its middle is what is pointed at, and those around it are
    no less worth a look once it was looked at.

    Args:
        kind: of network, see `GlimpseNetwork`; what is not pretrained are the two convolutions.
        channels: of the images.
        side: of the view, in pixels, a multiple of `stride`.
        stride: pixels of the view along the side of a cell.
        apart: whether each cell is read by itself.
        features: of the whole view, from the mean of the cells.
        units: of a cell's key; 0 where no query is asked.
        widths: channels of the two convolutions are the first of these.
        toll: nats that cells lose at first once they were looked at; learned.
        answers: numbers of evidence that each cell gives, see `Cells`; 0 for none.
        freeze: whether a pretrained network stays as it is.
        dropout: share of the features that cells are read from, dropped in training, the same ones in all of an image.
    """

    def __init__(
        self,
        kind: str,
        *,
        channels: int,
        side: int,
        stride: int,
        apart: bool = False,
        features: int,
        units: int,
        widths: Sequence[int],
        toll: float,
        freeze: bool = True,
        answers: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if stride < 1 or side % stride or side < stride:
            raise UserError(f"the view's side must be a multiple of the map's stride, got {side} and {stride}")
        require_dropout(map_dropout=dropout)
        self.stride = stride
        self.apart = apart
        self.around = 0 if apart else 1
        self.dropout = dropout
        first, second = widths[:2] if len(widths) > 1 else (*widths, *widths)
        seeing: tuple[nn.Module, ...]
        if is_trunk(kind) and apart:
            trunk = Trunk(kind, channels, freeze=freeze)
            first = 2 * trunk.channels
            seeing = (_Apart(stride, trunk, MeanAndMost(), nn.LayerNorm(first, elementwise_affine=False)),)
        elif is_trunk(kind):
            trunk = Trunk(kind, channels, freeze=freeze, deepest=last_stage(stride))
            if stride != trunk.stride:
                raise UserError(f"{kind} sees cells of {trunk.stride} pixels, got a map's stride of {stride}")
            # Over all cells at once, so that they still differ by as much as they did. Nothing of it is learned: torch
            # 2.13 crashes in its backward pass in bfloat16 where the features before it have no gradient.
            seeing = (trunk, nn.GroupNorm(1, trunk.channels, affine=False))
            first = trunk.channels
        else:
            # Of twice a cell's side, unless it is apart: a whole number of pixels on each side of it.
            reach = 0 if apart else (stride + stride % 2) // 2
            seeing = (nn.Conv2d(channels, first, stride + 2 * reach, stride, padding=reach), nn.ReLU())
        self.seeing = len(seeing)
        again = nn.Conv2d(first, second, 1 + 2 * self.around, padding=self.around)
        layers = nn.Sequential(*seeing, again, nn.ReLU())
        self.layers = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in stubs
        self.read = nn.Linear(second, features)
        self.key = nn.Linear(second, units) if units else None
        self.trust = nn.Parameter(torch.ones(()))
        self.toll = nn.Parameter(torch.tensor(float(toll)))
        self.evidence = nn.Linear(second, answers) if answers else None

    def forward(self, view: Tensor) -> Cells:
        """The cells of views (batch, channels, side, side)."""
        return self.cells(self.features(view), *contrast_of(view, self.stride))

    def features(self, view: Tensor) -> Tensor:
        """What of views is read of each cell by itself: (batch, channels, cells, cells)."""
        return self.layers[: self.seeing](view)

    def cells(self, features: Tensor, contrast: Tensor, offset: Tensor) -> Cells:
        """The cells of views with these features, and contrast and offsets as `contrast_of` gives them."""
        if self.dropout:
            features = F.dropout2d(features, self.dropout, self.training)
        seen = self.layers[self.seeing :](features).flatten(-2).mT
        whole = F.relu(self.read(seen.mean(-2)))
        prior = at_least_float32(self.trust * contrast)
        evidence = None
        if self.evidence is not None:
            evidence = at_least_float32(self.evidence(seen))
            said = torch.logsumexp(evidence, -1)
            prior = prior + said - said.mean(-1, keepdim=True)
        if self.apart:
            offset = torch.zeros_like(offset)
        keys = None if self.key is None else self.key(seen)
        return Cells(keys, prior, offset, self.toll, whole, evidence, around=self.around)


class _Apart(nn.Module):
    """Layers that make a vector of a picture, of each of the pictures of `side` pixels that a view is cut into."""

    def __init__(self, side: int, *layers: nn.Module) -> None:
        super().__init__()
        self.side = side
        self.read = nn.Sequential(*layers)

    def forward(self, view: Tensor) -> Tensor:
        """Features (batch, features, cells, cells) of views (batch, channels, cells * side, cells * side)."""
        cut = view.unflatten(-1, (-1, self.side)).unflatten(-3, (-1, self.side))  # batch, channels, row, down, column
        cut = cut.permute(0, 2, 4, 1, 3, 5)
        return self.read(cut.flatten(0, 2)).unflatten(0, cut.shape[:3]).permute(0, 3, 1, 2)
