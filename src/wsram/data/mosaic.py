"""A needle among photos: large mosaics of captioned photos, of which one alone decides the answer.

A photo *shows* a scene if at least `AGREED` of its captions have a word of that scene and none has a word of another
one; it is a *bystander* if no caption has a word of any scene, nor one of `AKIN`. All others are ambiguous and left
out. A mosaic is a square of bystanders, each once, and of one photo that shows a scene: which scene it is is what is
asked. Photos of training, validation and test mosaics are those of the data set's own splits. In training every epoch
has mosaics of its own, from the same photos, or from these and their mirror images.

A mosaic is held as a list of which photo lies where, and read where it is looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.data.captions import load_captions
from wsram.data.dataset import Batch, Spec, Splits
from wsram.data.images import read_square
from wsram.data.vocabulary import tokenize
from wsram.errors import UserError, require_at_least
from wsram.glimpse.source import in_unit, view_of
from wsram.image_settings import ImageData

SIDE = 224
"""Of a photo, in pixels."""
AGREED = 3
"""Captions of a photo that must name its scene."""
SCENES = {
    "snow": "snow snowy snowing snowball snowballs snowboard snowboarder snowboarders snowboarding snowboards "
    "snowmobile snowbank snowman ski skis skier skiers skiing skies sled sleds sledding sledge sleigh toboggan",
    "beach": "beach beaches sand sandy seashore shore shoreline ocean sea seaside coast tide wave waves surf surfs "
    "surfer surfers surfing surfboard surfboards bodyboard wakeboard",
    "pool": "pool pools swim swims swimming swimmer swimmers",
    "rock": "rock rocks rocky cliff cliffs boulder boulders climb climbs climbed climbing climber climbers mountain "
    "mountains mountaintop canyon cave peak",
}
"""Words of each scene."""
AKIN = (
    "water waters lake lakes river rivers stream streams creek pond ponds splash splashes splashing wet boat "
    "boats canoe kayak kayaks raft rafting wakeboarder wakeboarding waterfall fountain puddle puddles dock pier "
    "underwater swimsuit dive dives diving ice icy frozen winter hill hills slope desert dune dunes"
)
"""Words of what looks like a scene without being named as one."""
VALIDATION, TEST = 200, 500
"""Mosaics of validation photos, unless told otherwise, and of test photos."""
THREADS = 2
"""Photos unpacked at a time."""


def scene_of(captions: Sequence[str]) -> str | None:
    """The scene that a photo with these captions shows, "" of a bystander, None where it is ambiguous.

    Example:
        >>> scene_of(["A dog in snow .", "Snow and a dog", "A snowy field", "A dog", "A dog"])
        'snow'
        >>> scene_of(["A dog ."]), scene_of(["A dog in snow ."])
        ('', None)
    """
    said = [set(tokenize(caption)) for caption in captions]
    named = {scene: sum(not words.isdisjoint(each) for each in said) for scene, words in _WORDS.items()}
    there = [scene for scene, count in named.items() if count]
    if not there:
        return "" if all(_AKIN.isdisjoint(each) for each in said) else None
    return there[0] if len(there) == 1 and named[there[0]] >= AGREED else None


_WORDS = {scene: frozenset(words.split()) for scene, words in SCENES.items()}
_AKIN = frozenset(AKIN.split())


@dataclass(frozen=True)
class Photos:
    """Unpacked photos.

    pixels: (photos, channels, side, side) uint8.
    small: (photos, channels, height, width) in [0, 1], averaged down, by height and width; made when first asked for.
    """

    pixels: Tensor
    small: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def side(self) -> int:
        """Of a photo, in pixels."""
        return self.pixels.shape[-1]

    def averaged(self, height: int, width: int) -> Tensor:
        """All of them averaged down to (photos, channels, height, width)."""
        size = height, width
        if size not in self.small:
            parts = [F.adaptive_avg_pool2d(in_unit(part), size) for part in self.pixels.split(64)]
            self.small[size] = torch.cat(parts)
        return self.small[size]


@dataclass(frozen=True)
class Mosaic:
    """One mosaic as a `wsram.glimpse.source.Source`.

    photos: that it is made of.
    places: (rows, columns) int64, which photo lies in each row and column.
    """

    photos: Photos
    places: Tensor
    in_memory: None = None

    @property
    def channels(self) -> int:
        """Of the photos."""
        return self.photos.pixels.shape[1]

    @property
    def height(self) -> int:
        """In pixels."""
        return len(self.places) * self.photos.side

    @property
    def width(self) -> int:
        """In pixels."""
        return self.places.shape[1] * self.photos.side

    @property
    def block(self) -> tuple[int, int]:
        """A row of photos."""
        return self.photos.side, self.width

    def overview(self) -> Mosaic:
        """Itself."""
        return self

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The pixels (channels, height, width) of a rectangle, uint8, of the photos that it touches."""
        side = self.photos.side
        found = self.photos.pixels.new_empty(self.channels, height, width)
        for row in range(top // side, (top + height - 1) // side + 1):
            rows = slice(max(top, row * side), min(top + height, (row + 1) * side))
            for column in range(left // side, (left + width - 1) // side + 1):
                columns = slice(max(left, column * side), min(left + width, (column + 1) * side))
                photo = self.photos.pixels[self.places[row, column]]
                found[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = photo[
                    :, rows.start - row * side : rows.stop - row * side,
                    columns.start - column * side : columns.stop - column * side,
                ]  # fmt: skip
        return found

    def view(self, side: int) -> Tensor:
        """All of it averaged down to (channels, side, side); of photos averaged down once, where edges are cells'."""
        rows, columns = self.places.shape
        if side % rows or side % columns:
            return view_of(self, side)
        return self.averaged(side // rows, side // columns)

    def averaged(self, height: int, width: int) -> Tensor:
        """All of it (channels, rows * height, columns * width), every photo averaged down to height by width."""
        tiles = self.photos.averaged(height, width)[self.places]  # rows, columns, channels, height, width
        return tiles.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2)


class Drawn(NamedTuple):
    """What a mosaic is: see `Mosaic.places`, the row and column of the photo that decides, and its scene's number."""

    places: Tensor
    needle: tuple[int, int]
    answer: int

    @property
    def decides(self) -> Tensor:
        """(rows, columns) bool, where the photo that decides lies."""
        there = torch.zeros(self.places.shape, dtype=torch.bool)
        there[self.needle] = True
        return there


@dataclass(frozen=True)
class Mosaics:
    """Mosaics of photos; see `wsram.data.dataset.Dataset`.

    photos: that they are made of.
    scenes: (photos,) int64, the number of each one's scene, -1 of bystanders.
    along: photos along each side of a mosaic.
    count: of mosaics, or of those in an epoch.
    seed: of training mosaics.
    title: of the set.
    device: where answers are; photos stay where they are.
    """

    photos: Photos
    scenes: Tensor
    along: int
    count: int
    seed: int
    title: str
    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable

    @property
    def spec(self) -> Spec:
        """Scenes, on large squares in colour."""
        side = self.along * self.photos.side
        return Spec(3, "class", tuple(SCENES), (side, side))

    def __len__(self) -> int:
        """How many mosaics there are."""
        return self.count

    def draw(self, number: int, epoch: int | None = None) -> Drawn:
        """What lies where in a mosaic: every scene is as likely as another, and every photo of it."""
        random = np.random.default_rng((0, number) if epoch is None else (1, self.seed, epoch, number))
        scenes = self.scenes.numpy()
        places = random.choice(np.flatnonzero(scenes < 0), self.along**2, replace=False)
        answer, at = int(random.integers(len(SCENES))), int(random.integers(self.along**2))
        places[at] = random.choice(np.flatnonzero(scenes == answer))
        return Drawn(torch.from_numpy(places).view(self.along, self.along), divmod(at, self.along), answer)

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """Mosaics as sources, and the numbers of their scenes (batch,) int64."""
        drawn = [self.draw(number, epoch) for number in index.tolist()]
        answers = torch.tensor([each.answer for each in drawn], device=self.device)
        return Batch([Mosaic(self.photos, each.places) for each in drawn], answers)

    def to(self, device: torch.device) -> Mosaics:
        """The same with answers on another device."""
        return replace(self, device=device)

    def fingerprint(self) -> str:
        """Of the photos, their scenes and how mosaics are made of them."""
        whole = hashlib.sha256(f"{self.along} {self.count}".encode())
        for part in (self.photos.pixels, self.scenes):
            whole.update(part.numpy().tobytes())
        return whole.hexdigest()[:16]


def open_mosaics(data: ImageData, seed: int) -> Splits:
    """Mosaics of a folder of captioned photos in Flickr8k's layout, or of one of Karpathy's JSON files.

    Raises:
        UserError: they cannot be read, too few of them are bystanders, or a scene has no photo.
    """
    require_at_least(1, training_images=data.training_images)
    require_at_least(2, photos=data.photos)
    notes: list[str] = []

    def part(split: str, count: int, title: str) -> Mosaics:
        found = load_captions(Path(data.source).expanduser(), split)
        shown = [(image.path, scene_of(image.captions)) for image in found.images]
        used = [(path, scene) for path, scene in shown if scene is not None]
        numbers = {scene: n for n, scene in enumerate(("", *SCENES), -1)}
        scenes = torch.tensor([numbers[scene] for _, scene in used])
        counts = {name: int((scenes == n).sum()) for name, n in numbers.items()}
        bystanders = counts.pop("")
        if bystanders < data.photos**2 or not all(counts.values()):
            said = ", ".join(f"{count} of {name}" for name, count in counts.items())
            raise UserError(
                f"a mosaic of {data.photos} by {data.photos} photos needs {data.photos**2} bystanders and a photo of "
                f"every scene; {title} have {bystanders} bystanders, {said}; lower --photos or name other data"
            )
        said = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        notes.append(
            f"{title} are made of {len(used):,} photos ({said}, {bystanders:,} bystanders); "
            f"{len(shown) - len(used):,} are ambiguous"
        )
        notes.extend(found.flaws)
        pixels = _unpacked([path for path, _ in used])
        if data.mirrored and split == "train":
            pixels, scenes = torch.cat([pixels, pixels.flip(-1)]), scenes.repeat(2)
        return Mosaics(Photos(pixels), scenes, data.photos, count, seed, title)

    train = part("train", data.training_images, "training mosaics")
    validation = part("dev", VALIDATION if data.validation is None else data.validation, "validation mosaics")
    return Splits(train, validation, lambda: part("test", TEST, "test mosaics"), tuple(dict.fromkeys(notes)))


def _unpacked(paths: Sequence[Path]) -> Tensor:
    """Photos (photos, channels, side, side) uint8."""
    pixels = torch.empty(len(paths), 3, SIDE, SIDE, dtype=torch.uint8)
    with ThreadPoolExecutor(THREADS) as pool:
        for n, photo in enumerate(pool.map(lambda path: read_square(path, SIDE), paths)):
            pixels[n] = photo
    return pixels
