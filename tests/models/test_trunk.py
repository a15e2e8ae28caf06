"""A pretrained trunk computes what its package does, learns only when asked to, and is kept with the network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.networks import classifier
from tests.refusals import refusal
from tests.tiny import checkpoint, rows, tiny_config, trained
from wsram.config import changed
from wsram.models.classifier import AttentionClassifier
from wsram.models.pretrained import from_pretrained, load_network
from wsram.models.trunk import TRUNKS, Trunk, fill_pretrained

KIND = "efficientnet-lite0:2"


@pytest.fixture(autouse=True)
def _packages() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the captions extra is not installed")


def trunks(network: Any) -> list[Trunk]:
    return [module for module in network.modules() if isinstance(module, Trunk)]


def of_the_package(name: str, images: Tensor, blocks: int) -> Tensor:
    """What the package's own network has after so many blocks."""
    from wsram.models.backbone import load_lite

    network: Any = load_lite(name, images.shape[-1])
    with torch.no_grad():
        x = network._bn0(network._conv_stem((images.expand(-1, 3, -1, -1) * 255 - 127) / 128)).clamp(0, 6)
        for block in network._blocks[:blocks]:
            x = block(x)
    return x


@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize(("channels", "side", "stage"), [(3, 33, 7), (1, 40, 5)])
def test_a_trunk_gives_what_the_package_gives(name: str, channels: int, side: int, stage: int) -> None:
    trunk = Trunk(f"{name}:{stage}", channels)
    fill_pretrained(trunk)
    images = torch.rand(2, channels, side, side)
    features = trunk(images)
    assert features.shape == (2, trunk.channels, trunk.cells(side), trunk.cells(side))
    expected = of_the_package(name, images, len(trunk.blocks))
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    alone = trunk(images[:1])
    torch.testing.assert_close(features[:1], alone, rtol=1e-4, atol=1e-4)  # whatever else is in a batch


def test_grey_images_are_read_as_colour_ones_whose_colours_agree() -> None:
    grey, colour = Trunk(KIND, 1), Trunk(KIND, 3)
    fill_pretrained(torch.nn.ModuleList([grey, colour]))
    images = torch.rand(2, 1, 17, 17)
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_a_frozen_trunk_stays_and_is_kept_with_the_network(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(digits, network=KIND, updates=4)
    network = trained(tmp_path / "run", config)
    fresh: Any = classifier(network=KIND, patch=8)
    fill_pretrained(fresh)
    for ours, theirs in zip(trunks(network), trunks(fresh), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)  # it loads where the packages are not
    again = from_pretrained(tmp_path / "run")
    assert isinstance(network, AttentionClassifier) and isinstance(again, AttentionClassifier)
    images = torch.rand(3, 1, 60, 60)
    with torch.no_grad():
        assert torch.equal(again.predict(images).outputs, network.eval().predict(images).outputs)
    # And a run goes on, or another begins from it, without them.
    trained(tmp_path / "run", changed(config, updates=6), resume=True)
    assert rows(tmp_path / "run")[-1]["step"] == 6
    trained(tmp_path / "next", changed(config, start_from=str(tmp_path / "run")))
    begun = load_network(checkpoint(tmp_path / "next"))
    assert torch.equal(trunks(begun)[0].stem.weight, trunks(network)[0].stem.weight)


def test_stages_that_are_not_frozen_learn(tmp_path: Path, digits: Path) -> None:
    network = trained(tmp_path / "run", tiny_config(digits, network="efficientnet-lite0:4", freeze=False, updates=2))
    fresh: Any = classifier(network="efficientnet-lite0:4", patch=8)
    assert fill_pretrained(fresh) == ("efficientnet-lite0 as ImageNet taught it, of which 0 numbers go on learning",)
    ours, theirs = (dict(trunks(each)[0].named_parameters()) for each in (network, fresh))
    moved = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert moved == {
        name for name in ours if name.startswith(("blocks.5.", "blocks.6.", "blocks.7."))
    }  # the fourth stage
    for name in moved:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0.05)


def test_there_is_nothing_to_fill_in_a_network_without_a_trunk() -> None:
    assert fill_pretrained(classifier()) == ()


def test_what_is_no_trunk_is_refused() -> None:
    for kind in ("efficientnet-lite0:8", "efficientnet-lite0:0", "efficientnet-lite2:", "efficientnet-lite0:five"):
        refusal(lambda kind=kind: classifier(network=kind), "efficientnet-lite2", ":7", repr(kind))  # type: ignore[misc]
    refusal(lambda: classifier(network="efficientnet-lite1"), "fc", "conv", "efficientnet-lite0")
    refusal(lambda: classifier(network=KIND, channels=4), "1 or 3 channels", "4")
    refusal(lambda: classifier(network=KIND, freeze=False), "first 3 stages", "--no-freeze")


def test_without_the_packages_training_says_how_to_install_them(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    config = tiny_config(digits, network=KIND)
    refusal(lambda: trained(tmp_path / "run", config), 'pip install "wsram[captions]"')
    assert not (tmp_path / "run").exists()


def test_depthwise_convolutions_that_learn_stay_in_float32_under_autocast_and_others_do_not() -> None:
    for freeze, expected in ((False, torch.float32), (True, torch.bfloat16)):
        trunk = Trunk("efficientnet-lite0:4", 1, freeze=freeze)
        last: Any = trunk.blocks[-1]
        found = []
        last.depthwise.register_forward_hook(lambda module, given, result, found=found: found.append(result.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            trunk(torch.rand(1, 1, 32, 32))
        assert found == [expected]
