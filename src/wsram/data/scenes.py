"""Scenes made on the fly: a digit at a random place and size on a black canvas, with or without clutter.

Placement is a pure function of (seed, epoch, index), for a given set of digits: any scene can be made again by itself,
in any order, on any device and in any worker. That needs a random number generator addressed by a counter, which torch
does not offer on every device, so `uniform_hash` is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from wsram.data.distortion import DRAWS, distort
from wsram.errors import UserError
from wsram.image_settings import Blend


@dataclass(frozen=True)
class SceneSpec:
    """What a scene looks like, in pixels.

    canvas: side of the square image.
    min_side, max_side: the digit's side is uniform over the whole numbers between them, both included.
    clutter: number of pieces of other digits (Mnih et al. 2014).
    clutter_side: side of one such piece, cut from a digit at its original size.
    blend: how clutter and digit meet: "max", the brighter pixel wins and no piece is of the digit itself; or "add",
        their sum, at most 1, and pieces of any digit, as in the generator that Mnih et al. 2014 made known.
    """

    canvas: int
    min_side: int
    max_side: int
    clutter: int = 0
    clutter_side: int = 8
    # Out of the representation, by which kept runs know their data: theirs were made before there was a choice.
    blend: Blend = field(default="max", repr=False)


SCENES = {
    "translated-scaled": SceneSpec(canvas=100, min_side=14, max_side=56),
    "any-size": SceneSpec(canvas=100, min_side=10, max_side=80),
    "translated": SceneSpec(canvas=60, min_side=28, max_side=28),
    "cluttered-60": SceneSpec(canvas=60, min_side=28, max_side=28, clutter=4),
    "cluttered-100": SceneSpec(canvas=100, min_side=28, max_side=28, clutter=8),
}


def scene_spec(name: str, blend: Blend = "max") -> SceneSpec:
    """The named scene's description; `UserError` names the choices if there is none of that name or with that blend."""
    if name not in SCENES:
        raise UserError(f"unknown scene {name!r}; choose one of {', '.join(SCENES)}")
    spec = SCENES[name]
    if blend != spec.blend and not spec.clutter:
        cluttered = ", ".join(each for each, other in SCENES.items() if other.clutter)
        raise UserError(f"scene {name} has no clutter to {blend}; leave --clutter-blend out, or choose {cluttered}")
    return replace(spec, blend=blend)


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64 tensors (torch shifts arithmetically, so the sign bits are masked away)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniform_hash(seed: int, epoch: int, index: Tensor, draws: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 of shape (*index.shape, draws), a pure function of the arguments.

    Args:
        seed, epoch: integers of 64 bits.
        index: integer tensor, the examples' own numbers.
        draws: how many numbers for each example.
    """
    if index.device.type == "mps":  # which has no float64
        return uniform_hash(seed, epoch, index.cpu(), draws).float().to(index.device)
    golden = -7046029254386353131  # 0x9E3779B97F4A7C15, splitmix64's increment
    # Two numbers on the host, which an accelerator takes as it takes constants: it need not be waited for.
    state = torch.tensor([seed, epoch], device="cpu", dtype=torch.int64)
    key = _mix(_mix(state[0] * golden + 1) + state[1] * golden)
    state = _mix(_mix(key + index.long() * golden).unsqueeze(-1) + torch.arange(draws, device=index.device) * golden)
    return ((state >> 11) & 0x1FFFFFFFFFFFFF).double() * 2.0**-53


def _resize_weights(start: Tensor, side: Tensor, canvas: int, source: int, dtype: torch.dtype) -> Tensor:
    """(batch, canvas, source) weights that put `source` pixels on `side` canvas pixels from `start` on, one axis.

    A canvas pixel averages the source over an interval as wide as itself, at least one source pixel: area averaging
    when the digit shrinks; the interval is one source pixel wide otherwise: linear interpolation when it grows.
    """
    pixel = torch.arange(canvas, device=start.device, dtype=dtype) - start.unsqueeze(-1).to(dtype)
    ratio = (source / side.to(dtype)).unsqueeze(-1)
    centre, half = (pixel + 0.5) * ratio, ratio.clamp(min=1.0) / 2
    middle = torch.arange(source, device=start.device, dtype=dtype) + 0.5
    inside = (pixel >= 0) & (pixel < side.unsqueeze(-1))
    # How much of a unit pixel lies in the interval: a trapezoid in the distance of their centres.
    distance = (centre.unsqueeze(-1) - middle).abs_()
    overlap = torch.sub((half + 0.5).unsqueeze(-1), distance).clamp_(0, 1)
    return overlap.mul_((inside / (2 * half)).unsqueeze(-1))


def place(digits: Tensor, spec: SceneSpec, side: Tensor, left: Tensor, top: Tensor) -> Tensor:
    """Draw each digit at its size and place on a black canvas.

    Args:
        digits: (batch, h, w) floating point.
        spec: gives the canvas.
        side: (batch,) the digit's side on the canvas, in pixels.
        left, top: (batch,) first column and first row of the digit.

    Returns:
        (batch, 1, canvas, canvas) of the digits' dtype.
    """
    rows = _resize_weights(top, side, spec.canvas, digits.shape[-2], digits.dtype)
    columns = _resize_weights(left, side, spec.canvas, digits.shape[-1], digits.dtype)
    return (rows @ (digits @ columns.mT)).unsqueeze(1)


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes and where their digits are, in canvas pixels (for analyses, never for training)."""

    images: Tensor
    side: Tensor
    left: Tensor
    top: Tensor


def make_scenes(
    digits: Tensor, index: Tensor, spec: SceneSpec, *, seed: int, epoch: int = 0, distortion: float = 0.0
) -> Scenes:
    """Scenes of the digits numbered `index`, the same for the same (seed, epoch, index).

    Args:
        digits: (count, h, w) uint8 or floating point in [0, 1]; all digits, since clutter is cut from others.
        index: (batch,) integer, which digits to place.
        spec: the kind of scene.
        seed: chooses the family of scenes.
        epoch: changes every placement.
        distortion: strength of `wsram.data.distortion.distort`, for training; the placement does not depend on it.

    Returns:
        `Scenes` with images (batch, 1, canvas, canvas) float32 in [0, 1] on the digits' device.

    Source: translated scaled MNIST, Ba et al. 2015; clutter, Mnih et al. 2014.
    """
    index = index.to(digits.device)
    placing = 3 + 5 * spec.clutter
    u = uniform_hash(seed, epoch, index, placing + (DRAWS if distortion else 0))
    side = spec.min_side + (u[:, 0] * (spec.max_side - spec.min_side + 1)).long()
    left = (u[:, 1] * (spec.canvas - side + 1)).long()
    top = (u[:, 2] * (spec.canvas - side + 1)).long()
    chosen = _as_unit(digits[index])
    if distortion:
        chosen = distort(chosen, u[:, placing:], distortion)
    with torch.autocast(digits.device.type, enabled=False):  # pixels are what they are, in whatever precision one looks
        images = place(chosen, spec, side, left, top).clamp_(max=1.0)  # rounding can pass 1
    if spec.clutter:
        _add_clutter(images, digits, index, spec, u[:, 3:placing].unflatten(-1, (spec.clutter, 5)))
    return Scenes(images, side, left, top)


def evaluation_scenes(digits: Tensor, index: Tensor, spec: SceneSpec) -> Scenes:
    """The one fixed scene of each digit on which networks are evaluated, the same for every run and every seed.

    Training's epochs count up from 0, so no training scene is ever drawn from this family.
    """
    return make_scenes(digits, index, spec, seed=0, epoch=-1)


def _as_unit(digits: Tensor) -> Tensor:
    return digits.float() / 255 if digits.dtype == torch.uint8 else digits.float()


def _add_clutter(images: Tensor, digits: Tensor, index: Tensor, spec: SceneSpec, u: Tensor) -> None:
    """Lay pieces of digits over `images` in place, as `spec.blend` says. u: (batch, clutter, 5) uniform."""
    count, height, width = digits.shape
    piece, canvas = spec.clutter_side, spec.canvas
    # Of the brighter pixels, one of the count - 1 other digits: an offset of at least 1 never comes back to itself.
    least = 1 if spec.blend == "max" else 0
    other = (index.unsqueeze(-1) + least + (u[..., 0] * max(count - least, 1)).long()) % count
    span = torch.arange(piece, device=digits.device)

    def axis(uniform: Tensor, room: int) -> Tensor:
        return (uniform * (room - piece + 1)).long().unsqueeze(-1) + span

    cut_rows, cut_columns = axis(u[..., 1], height), axis(u[..., 2], width)
    rows, columns = axis(u[..., 3], canvas), axis(u[..., 4], canvas)
    pieces = _as_unit(digits[other[..., None, None], cut_rows[..., :, None], cut_columns[..., None, :]])
    target = rows[..., :, None] * canvas + columns[..., None, :]
    if spec.blend == "max":
        # "amax" is commutative, so overlapping pieces give the same scene in any order of execution, also on CUDA.
        images.flatten(1).scatter_reduce_(1, target.flatten(1), pieces.flatten(1), "amax")
        return
    for n in range(spec.clutter):  # sums are not: one piece after the other, whose own pixels never meet
        images.flatten(1).scatter_add_(1, target[:, n].flatten(1), pieces[:, n].flatten(1))
    images.clamp_(max=1.0)
