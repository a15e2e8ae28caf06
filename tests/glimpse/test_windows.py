"""Windows that are read one by one show what a whole pyramid shows, and are chosen where they cost less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.glimpse.test_sensor import Case, cases
from tests.models.networks import CLASSES, NAMES, classifier
from wsram.data.given import Given
from wsram.data.tiled import tiled_array
from wsram.errors import UserError
from wsram.evidence import explain
from wsram.glimpse.pyramid import Pyramid
from wsram.glimpse.sensor import MODES, Sensor
from wsram.glimpse.source import STREAMED, Glimpsable, Held, Source, averaged_down, in_unit
from wsram.glimpse.windows import Windows, windows_of


@settings(derandomize=True, deadline=None, max_examples=60)
@given(cases())
def test_windows_show_the_same_bits_as_a_whole_pyramid(case: Case) -> None:
    sensor = Sensor(*case[:3])
    images, location, scale = case[3:]
    sources = [Held(image) for image in images]
    expected = sensor(sensor.pyramid(images), location, scale)
    assert torch.equal(sensor(windows_of(sources, sensor.scales), location, scale), expected)
    if isinstance(images, torch.Tensor):
        together = windows_of(sources, sensor.scales, images)
        assert torch.equal(sensor(together, location, scale), expected)
        last = torch.tensor([len(images) - 1])
        chosen = sensor(together.select(last), location[..., last, :], scale[..., last])
        assert torch.equal(chosen, expected[..., last, :, :, :])


@pytest.mark.parametrize("mode", MODES)
def test_bytes_are_seen_as_their_share_of_255(mode: str) -> None:
    sensor = Sensor(5, (1, 3), mode)
    images = [torch.randint(256, (3, h, w), dtype=torch.uint8) for h, w in ((20, 31), (900, 700))]
    location, scale = torch.rand(40, 2, 2) * 2.4 - 1.2, torch.randint(2, (40, 2))
    apart = sensor(windows_of([Held(image) for image in images], sensor.scales), location, scale)
    dense = sensor.pyramid([in_unit(image) for image in images])
    assert torch.equal(apart, sensor(dense, location, scale))


def test_few_glimpses_of_large_images_are_cut_one_by_one_and_many_of_small_ones_together() -> None:
    sensor = Sensor(16, (1, 2, 3))
    small, large = torch.rand(2, 1, 100, 100), torch.rand(2, 1, 800, 800)
    assert isinstance(sensor.pyramid(small, 4), Pyramid)
    assert isinstance(sensor.pyramid(large, 4), Windows)
    assert isinstance(sensor.pyramid(large, 4000), Pyramid)
    assert isinstance(sensor.pyramid(large), Pyramid)
    assert isinstance(sensor.pyramid([Held(image) for image in small], 4), Pyramid)
    assert isinstance(sensor.pyramid([Held(image) for image in large], 4), Windows)


@pytest.mark.parametrize("contrast", [False, True])
def test_whichever_is_chosen_the_view_is_the_same(contrast: bool) -> None:
    sensor = Sensor(8, (1, 2), contrast=contrast)
    images = [torch.randint(256, (1, h, w), dtype=torch.uint8) for h, w in ((720, 801), (30, 40))]
    chosen = [sensor.pyramid([Held(image) for image in images], looks) for looks in (1, 4000)]
    assert [type(pyramid) for pyramid in chosen] == [Windows, Pyramid]
    first, second = (pyramid.view(12) for pyramid in chosen)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("side", [7, 25])
def test_a_large_image_is_averaged_down_as_torch_has_it(dtype: torch.dtype, side: int) -> None:
    image = torch.randint(256, (2, 701, 803))
    image = image.to(torch.uint8) if dtype == torch.uint8 else image.to(dtype) / 255
    assert image[0].numel() > STREAMED
    expected = torch.nn.functional.adaptive_avg_pool2d(in_unit(image).double(), side)
    torch.testing.assert_close(averaged_down(image, side).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("looks", [1, 4000])
def test_a_selection_is_looked_at_as_if_it_were_alone(looks: int) -> None:
    sensor = Sensor(4, (1, 2))
    images = [torch.rand(1, 800, 700), torch.rand(1, 30, 900), torch.rand(1, 640, 640)]
    pyramid = sensor.pyramid(images, looks)
    location, scale = torch.rand(2, 2) - 0.5, torch.tensor([1, 0])
    chosen, alone = pyramid.select(torch.tensor([2, 0])), sensor.pyramid([images[2], images[0]], looks)
    assert isinstance(chosen, Glimpsable) and len(chosen) == 2
    assert torch.equal(sensor(chosen, location, scale), sensor(alone, location, scale))
    assert torch.equal(chosen.view(5), alone.view(5))


def test_windows_need_images_of_one_number_of_channels() -> None:
    for sources in ([], [Held(torch.zeros(1, 2, 2)), Held(torch.zeros(3, 2, 2))]):
        with pytest.raises(UserError, match="channels"):
            windows_of(sources, (1,))


def test_gradients_reach_the_pixels_of_a_window() -> None:
    sensor = Sensor(3, (2,))
    images = torch.rand(1, 1, 600, 600, requires_grad=True)
    pyramid = sensor.pyramid(images, 1)
    assert isinstance(pyramid, Windows)
    (sensor(pyramid, torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)).sum() + pyramid.view(4).sum()).backward()
    assert images.grad is not None
    assert images.grad.sum() == pytest.approx(9 / 1 + 16, rel=1e-4)


def tiled_and_held(device: str) -> list[Source]:
    """An image in tiles, and one in memory."""
    pixels = np.random.default_rng(0).integers(256, size=(64, 50), dtype=np.uint8)
    return [tiled_array(pixels, 1, "an array"), Held(torch.zeros(1, 30, 40, device=device))]


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0,)])
def test_tiles_are_looked_at_where_the_network_is(order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def tolist(tensor: Tensor) -> list[Any]:
        return listed(torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor)

    # "meta" stands in for an accelerator: it minds what lies elsewhere, but has no numbers.
    listed = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", tolist)
    network, sources = classifier().to("meta"), tiled_and_held("meta")
    looked = network.predict([sources[n] for n in order])
    assert looked.outputs.is_meta and looked.outputs.shape == (len(order), CLASSES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_sees_of_tiles_what_the_cpu_sees() -> None:
    network = classifier().eval()
    expected = network.predict(tiled_and_held("cpu")).outputs
    network.cuda()
    torch.testing.assert_close(network.predict(tiled_and_held("cuda")).outputs.cpu(), expected, rtol=0, atol=1e-4)
    assert explain(network, Given(tiled_and_held("cpu")[0], 64, 50, ""), NAMES[0], samples=4).samples == 4
