"""Light, and which of figure and ground is the darker: taken out of an image before it is looked at."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

STRIDE = 2
"""Of the pixels that the background is found from, along each axis."""
FAINTEST = 0.1
"""Difference from the background below which nothing is drawn out further: an empty image stays empty."""


def in_contrast(images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Every image as its difference from its background, the greatest difference being 1.

    The background is each channel's median. So an image, its negative, the same on grey and the same in dimmer light
    look alike; what is lost is whether the figure was lighter or darker than its ground.

    Args:
        images: (batch, channels, height, width), or each (channels, height, width); floating point in [0, 1].

    Returns:
        Images of the same sizes in [0, 1].

    Example:
        >>> import torch
        >>> image = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.5]).view(1, 1, 3, 3)
        >>> torch.equal(in_contrast(image), in_contrast(1 - image))
        True
    """
    if not isinstance(images, Tensor):
        return [_apart(image) for image in images]
    return _apart(images)


def _apart(image: Tensor) -> Tensor:
    background = image[..., ::STRIDE, ::STRIDE].flatten(-2).median(-1).values[..., None, None]
    apart = (image - background).abs()
    return apart / apart.amax((-3, -2, -1), keepdim=True).clamp(min=FAINTEST)
