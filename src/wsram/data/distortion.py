"""Random rotation, shear, stretch and bending of training digits: more handwriting than was collected.

Like the scenes it is a pure function of numbers that belong to an example, so that every digit can be made again.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

CONTROL = 5
"""Points along each axis that are pulled about; between them the displacement is smooth."""
DRAWS = 4 + 2 * CONTROL**2
"""Uniform numbers that one digit's distortion takes."""

# At strength 1, about what a hand varies by. In radians, in shares, and in shares of half the digit's side.
ROTATION, SHEAR, STRETCH, BEND = math.radians(10), 0.15, 0.1, 0.06


def distort(digits: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Each digit rotated, sheared, stretched along each axis and bent by its own random amounts.

    Args:
        digits: (batch, h, w) floating point, 0 around the digit.
        uniform: (batch, DRAWS) numbers in [0, 1).
        strength: 0 leaves digits as they are; at 1, up to 10° of rotation, a shear and a stretch of up to 0.15 and 0.1,
            and displacements of up to 0.8 pixels of 28 at each of 5×5 points.

    Returns:
        (batch, h, w), interpolated linearly; without autocast, since half precision is too coarse for places.

    Source: affine and elastic distortions of handwriting, Simard et al. 2003.
    """
    with torch.autocast(digits.device.type, enabled=False):
        amount = ((2 * uniform - 1) * strength).to(digits.dtype)
        angle, shear = amount[:, 0] * ROTATION, amount[:, 1] * SHEAR
        width, height = (1 + STRETCH * amount[:, 2:4]).unbind(-1)
        cos, sin = angle.cos(), angle.sin()
        # Where each pixel of the result comes from.
        rows = [torch.stack([cos * width, (shear - sin) * height], -1), torch.stack([sin * width, cos * height], -1)]
        linear = torch.stack(rows, -2)
        matrix = F.pad(linear, (0, 1))
        grid = F.affine_grid(matrix, [len(digits), 1, *digits.shape[-2:]], align_corners=False)
        pulled = BEND * amount[:, 4:].view(-1, 2, CONTROL, CONTROL)
        down, across = (_spline(length, pulled.dtype, pulled.device) for length in digits.shape[-2:])
        grid = grid + torch.einsum("hi,bcij,wj->bhwc", down, pulled, across)
        return F.grid_sample(digits.unsqueeze(1), grid, align_corners=False).squeeze(1)


@lru_cache(maxsize=16)
def _spline(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(length, CONTROL) what each point adds to each place along an axis: a bicubic spline from end to end.

    As torch interpolates a grid of points; it does that place by place, and two products of matrices give it sooner.
    """
    with torch.inference_mode(False), torch.no_grad():
        each = torch.eye(CONTROL, dtype=torch.float64).view(1, CONTROL, CONTROL, 1)
        return F.interpolate(each, (length, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T.to(device, dtype)
