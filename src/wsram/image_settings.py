"""Settings of images: which, what is made of digits, and how they are changed in training; see `wsram.config`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from wsram.errors import UserError, require_at_least, require_finite

Scene = Literal[
    "translated-scaled", "any-size", "translated", "cluttered-60", "cluttered-100",
    "megapixel-majority", "megapixel-max", "megapixel-top", "megapixel-multi", "megapixel-all", "mosaic",
]  # fmt: skip
Blend = Literal["max", "add"]
HUB = "hf:"
"""Before OWNER/NAME, or OWNER/NAME:CONFIGURATION, of a data set of the Hugging Face Hub."""
SAVED = ("dataset_dict.json", "dataset_info.json")
"""What lies in a folder that the library of such data sets has saved."""

CELLS = (".csv", ".tsv")
"""Tables by their names, in small letters, whose cells are all text."""
TABLES = (*CELLS, ".jsonl", ".ndjson")
"""Tables of images by their names, in small letters."""


def is_hub(source: str) -> bool:
    """Whether a source is a data set of the Hugging Face library: by its name, or a folder that it saved.

    Example:
        >>> is_hub("hf:ylecun/mnist"), is_hub("photos")
        (True, False)
    """
    folder = os.path.expanduser(source)
    return source.startswith(HUB) or any(os.path.isfile(os.path.join(folder, name)) for name in SAVED)


@dataclass(frozen=True)
class ImageData:
    """Which images, and what is made of them."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = "mnist5k"
    """A folder of images with a sub-folder for each class; a CSV or JSONL of path and label; hf:OWNER/NAME, a data set
    of the Hugging Face Hub, or a folder that its library saved; a folder of MNIST's four IDX files; mnist, in the user
    cache; or mnist5k, 5,000 digits that come with the demo extra."""
    answer: Literal["class", "labels", "number"] | None = None
    """One of several classes, several labels at once, or a number; by default what the labels look like."""
    colour: bool | None = None
    """See colour or grey; by default colour if any image has it."""
    longest: int | None = 1024
    """Larger images are shrunk to so many pixels on the longer side; aspects stay."""
    balance: bool = False
    """Show every class as often in training, however many images it has."""
    scene: Scene | None = None
    """What digits are placed in, by default translated-scaled; or mosaic, of captioned photos of which one decides."""
    clutter_blend: Blend = "max"
    """Where clutter meets a digit, the brighter pixel, or their sum as in the original generator of these scenes."""
    download: bool = False
    """Fetch MNIST, or a data set of the Hub, into the user cache if it is not there."""
    validation: int | None = None
    """Training digits held out for tuning; by default 5,000 of mnist, 1,000 of mnist5k."""
    distortion: float = 0.0
    """Strength of random rotation, shear, stretch and bending of training digits; 1 is about what a hand varies by."""
    empty: float = 0.0
    """Share of training scenes without a digit, which the network learns to call none."""
    training_images: int = 5000
    """Of a megapixel scene: fixed images, a tenth of which are held out unless --validation says otherwise. Of mosaics:
    those of an epoch."""
    canvas: int = 1500
    """Side of a megapixel scene, in pixels."""
    digits: int = 5
    """On a megapixel scene; more than half of them are of one class."""
    noises: int = 50
    """Scribbles on a megapixel scene, drawn from a bank of as many."""
    order: Literal["digits-last", "noise-last"] = "digits-last"
    """What covers the other on a megapixel scene."""
    fresh: bool = False
    """Put what is on a megapixel scene elsewhere in every epoch of training: endless images of the same digits."""
    elastic: float = 0.0
    """Roll a megapixel scene sideways and stretch its places smoothly in every epoch of training, by up to this share;
    what lies above stays above, so that all answers stay."""
    photos: int = 12
    """Along each side of a mosaic, 224 pixels each."""
    mirrored: bool = False
    """Make training mosaics of their photos' mirror images, too."""

    def __post_init__(self) -> None:
        require_finite(self)
        require_at_least(0, distortion=self.distortion)
        if self.longest is not None:
            require_at_least(1, longest=self.longest)
        if not 0 <= self.empty < 1:
            raise UserError(f"the share of empty scenes is from 0 to below 1, got {self.empty}")
        if not 0 <= self.elastic < 1:
            raise UserError(f"places are stretched by a share from 0 to below 1, got --elastic {self.elastic}")


ONE_DIGIT, MEGAPIXEL, MOSAICS, FILES = "scenes of one digit", "megapixel scenes", "mosaics", "images of one's own"
MEANT_FOR = {
    **dict.fromkeys(("clutter_blend", "distortion", "empty"), (ONE_DIGIT,)),
    **dict.fromkeys(("canvas", "digits", "noises", "order", "fresh", "elastic"), (MEGAPIXEL,)),
    **dict.fromkeys(("answer", "colour", "longest", "balance"), (FILES,)),
    **dict.fromkeys(("photos", "mirrored"), (MOSAICS,)),
    "training_images": (MEGAPIXEL, MOSAICS),
    **dict.fromkeys(("validation", "scene"), (ONE_DIGIT, MEGAPIXEL, MOSAICS)),
}
"""Which images a setting says something about; the settings that are not here are of all."""


def require_meant(data: ImageData, kind: str) -> None:
    """`UserError` if a setting was changed that says nothing about images of this kind."""
    plain = ImageData()
    for name, kinds in MEANT_FOR.items():
        if kind not in kinds and getattr(data, name) != getattr(plain, name):
            raise UserError(
                f"--{name.replace('_', '-')} is for {' and '.join(kinds)}, and {data.scene or data.source} has {kind}; "
                "leave it out"
            )


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images, so that a network answers for more than was collected; all off by default."""

    flip: Literal["none", "horizontal", "both"] = "none"
    """Mirror half of the images, left to right or also top to bottom."""
    rotate: float = 0.0
    """Turned by up to so many degrees."""
    zoom: float = 0.0
    """Enlarged or shrunk by a factor of up to e to this power."""
    shift: float = 0.0
    """Moved by up to this share of the side."""
    blur: float = 0.0
    """Blurred with a standard deviation of up to so many pixels."""
    brightness: tuple[float, float] = (1.0, 1.0)
    """Values times a factor between these two, of half of the images."""
    background: float = 0.0
    """Black lifted to a grey of up to this level, of half of the images."""
    invert: float = 0.0
    """Probability that light and dark change places."""
    noise: float = 0.0
    """Added to half of the images, with a standard deviation of up to this; values stay in [0, 1]."""

    def __post_init__(self) -> None:
        require_finite(self)
        require_at_least(0, rotate=self.rotate, zoom=self.zoom, shift=self.shift, blur=self.blur, noise=self.noise)
        for name, share in (("invert", self.invert), ("background", self.background)):
            if not 0 <= share <= 1:
                raise UserError(f"{name} must be from 0 to 1, got {share}")
        if not 0 <= self.brightness[0] <= self.brightness[1]:
            raise UserError(f"brightness must be two factors, 0 <= low <= high, got {self.brightness}")
