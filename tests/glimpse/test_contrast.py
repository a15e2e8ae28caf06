import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsram.glimpse.contrast import in_contrast
from wsram.glimpse.sensor import Sensor


def a_figure(seed: int = 0, channels: int = 1) -> torch.Tensor:
    """Something light on black in a part of the image, its greatest value 1."""
    images = torch.zeros(3, channels, 21, 17)
    images[..., 3:9, 5:12] = torch.rand(3, channels, 6, 7, generator=torch.Generator().manual_seed(seed))
    return images / images.amax((-3, -2, -1), keepdim=True)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 0.8), st.floats(0.15, 1.0), st.booleans(), st.integers(0, 99))
def test_level_light_and_sign_do_not_matter(level: float, factor: float, negative: bool, seed: int) -> None:
    figure = a_figure(seed)
    seen = level + (1 - level) * factor * figure
    found = in_contrast(1 - seen if negative else seen)
    if (1 - level) * factor >= 0.1:
        torch.testing.assert_close(found, figure, atol=1e-5, rtol=1e-5)
    else:
        assert (found <= figure + 1e-5).all()


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_an_even_image_is_empty(level: float) -> None:
    assert in_contrast(torch.full((2, 3, 8, 8), level)).abs().max() == 0


def test_colours_keep_their_proportions() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[0, :, 2, 2] = torch.tensor([0.4, 0.2, 0.1])
    torch.testing.assert_close(in_contrast(0.3 + image)[0, :, 2, 2], torch.tensor([1.0, 0.5, 0.25]))


def test_images_of_several_sizes_are_each_treated_by_themselves() -> None:
    images = [a_figure()[0], 0.5 * a_figure(1)[1, :, :15]]
    for image, found in zip(images, in_contrast(images), strict=True):
        assert torch.equal(found, in_contrast(image.unsqueeze(0))[0])


def test_the_sensor_sees_the_view_and_glimpses_in_contrast() -> None:
    images = 0.5 - 0.4 * a_figure()
    at, scale = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    plain, contrast = Sensor(5, (1, 2)), Sensor(5, (1, 2), contrast=True)
    expected = plain.pyramid(in_contrast(images))
    seen = contrast.pyramid(images)
    assert torch.equal(seen.view(4), expected.view(4))
    assert torch.equal(contrast(seen, at, scale), plain(expected, at, scale))
    assert not torch.equal(seen.view(4), plain.pyramid(images).view(4))
