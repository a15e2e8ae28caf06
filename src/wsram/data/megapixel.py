"""Megapixel MNIST: a few digits and much scribble on a large black image, and a question about the digits.

The images are those of the two programs that made the data set known, drawn from the same random numbers in the same
order: 1500 by 1500 pixels, five digits of 28 by 28, three of them of one class, and fifty scribbles from a bank of as
many. An image is held as a list of what lies where, and drawn where it is looked at.

The two differ in what lies above: "noise-last" (the first) lays scribbles over digits, "digits-last" (the second)
digits over scribbles. A square covers all that is below it, its black included.

Source: Katharopoulos & Fleuret 2019 (Attention Sampling), scripts/make_mnist.py; Bergner et al. 2023 (Iterative Patch
Selection), data/megapixel_mnist/make_mnist.py, which adds the tasks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsram.data.dataset import Batch, Spec, Splits
from wsram.data.mnist import Digits, load_test, load_train
from wsram.data.scenes import uniform_hash
from wsram.errors import UserError, require_at_least
from wsram.glimpse.patchwork import Patchwork, patchwork
from wsram.image_settings import ImageData

TASKS = {
    "megapixel-majority": "the digit that three of five are",
    "megapixel-max": "the largest digit",
    "megapixel-top": "the digit nearest to the upper edge",
    "megapixel-multi": "every digit that is there",
    "megapixel-all": "all four at once, as the second program's networks are asked",
}
"""What is asked, by the name of the scene."""
QUESTIONS = tuple(task.removeprefix("megapixel-") for task in list(TASKS)[:4])
"""What "megapixel-all" asks, in the order of its labels: ten of each question, the digit that is its answer present."""
TEST_IMAGES = 1000
Part = TypeVar("Part", Tensor, np.ndarray)
THROWS = 8
"""Throws of the digits of an image, of which the first counts that leaves them apart."""
STRETCHES = 5
"""Pieces of an axis, each stretched or pressed together by itself."""
HELD_OUT = 0.1
"""Share of the training images held out for tuning, unless told otherwise."""


@dataclass(frozen=True)
class Megapixel:
    """Digits among scribble; see `wsram.data.dataset.Dataset`.

    bank: (squares, h, w) uint8, every digit that is used, then every scribble.
    squares: (images, count) int64, which of them lie on each image, in the order in which they are laid.
    corners: (images, count, 2) int64, row and column of each one's first pixel.
    named: (images, digits) int64, the class of each digit, those of the majority first (for answers alone).
    order: "digits-last" or "noise-last": which squares are the digits.
    task: one of `TASKS`.
    canvas: side of an image, in pixels.
    title: of the set.
    fresh: whether everything lies elsewhere in every epoch.
    elastic: see `stretched`; 0 leaves everything where it is.
    seed: of what is drawn anew for every epoch.
    """

    bank: Tensor
    squares: Tensor
    corners: Tensor
    named: Tensor
    order: str
    task: str
    canvas: int
    title: str
    fresh: bool = False
    elastic: float = 0.0
    seed: int = 0

    @property
    def digits(self) -> Tensor:
        """(images, digits, 2) int64, corners of the digits (for answers and analyses, never for training)."""
        count = self.named.shape[1]
        return self.corners[:, :count] if self.order == "noise-last" else self.corners[:, -count:]

    @property
    def answers(self) -> Tensor:
        """(images,) int64; (images, 10) of 0 and 1 for several digits; (images, 40) for all of `QUESTIONS`."""
        return _answers(self.task, self.named, self.digits)

    @property
    def spec(self) -> Spec:
        """Ten classes, or labels, on large grey squares."""
        several = self.task in ("megapixel-multi", "megapixel-all")
        kind, names = "labels" if several else "class", tuple("0123456789")
        if self.task == "megapixel-all":
            names = tuple(f"{question} {name}" for question in QUESTIONS for name in names)
        return Spec(1, kind, names, (self.canvas, self.canvas))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.squares)

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """Images as a `Patchwork`, the same in every epoch unless places are fresh or stretched."""
        index = index.to(self.bank.device)
        here = self.select(index, self.title)
        if self.fresh and epoch is not None:
            here = here.placed(uniform_hash(self.seed, epoch, index, self._draws))
        answers = here.answers  # before places are rounded, which may set two digits level
        if self.elastic and epoch is not None:
            here = here.stretched(uniform_hash(self.seed + 1, epoch, index, 2 * STRETCHES + 1))
        return Batch(here.images(), answers)

    def images(self, index: Tensor | None = None) -> Patchwork:
        """The images numbered `index`; by default all of them."""
        here = slice(None) if index is None else index
        return patchwork(self.bank[self.squares[here]].float() / 255, self.corners[here], self.canvas)

    @property
    def _draws(self) -> int:
        """Uniform numbers that the places of one image take."""
        count = self.named.shape[1]
        return 2 * (THROWS * count + self.squares.shape[1] - count)

    def placed(self, uniform: Tensor) -> Megapixel:
        """The same with everything elsewhere, as at first: digits apart from one another, scribbles off the edges.

        Digits are thrown together a few times, and the first throw counts that leaves them apart; if none does, which
        on the usual canvas never happens, they stay.

        Args:
            uniform: (images, numbers) in [0, 1).
        """
        count, size = self.named.shape[1], self.bank.shape[-1]
        of_digits, of_scribbles = uniform.split([2 * THROWS * count, uniform.shape[1] - 2 * THROWS * count], 1)
        throws = (of_digits.unflatten(1, (THROWS, count, 2)) * (self.canvas - size)).round().long()
        throws = torch.cat([throws, self.digits.unsqueeze(1)], 1)
        near = ((throws.unsqueeze(2) - throws.unsqueeze(3)).abs() < size).all(-1)
        apart = near.sum((-2, -1)) == count  # each is near itself alone
        apart[:, -1] = True
        digits = throws[torch.arange(len(throws), device=throws.device), apart.int().argmax(1)]
        scribbles = (of_scribbles.unflatten(1, (-1, 2)) * (self.canvas - 2 * size) + size).long()
        return replace(self, corners=torch.cat(_laid(digits, scribbles, self.order), 1))

    def stretched(self, uniform: Tensor) -> Megapixel:
        """The same with places rolled sideways and stretched smoothly along both axes, so that all answers stay.

        What leaves at the right enters at the left, and what lies above stays above. Each of `STRETCHES` pieces of an
        axis is stretched by a factor of 1 ± `elastic`, then all of them together to the length they had. Squares
        are moved as they are; two that are near one another may come to overlap.

        Args:
            uniform: (images, 2 * STRETCHES + 1) in [0, 1).
        """
        last = self.canvas - self.bank.shape[-1]
        rows, columns = self.corners.unbind(-1)
        columns = (columns + (uniform[:, -1:] * (last + 1)).long()) % (last + 1)
        lengths = 1 + self.elastic * (2 * uniform[:, :-1].unflatten(1, (2, STRETCHES)) - 1)
        ends = F.pad(lengths.cumsum(-1), (1, 0)) / lengths.sum(-1, keepdim=True)
        at = torch.stack([rows, columns], 1) * (STRETCHES / last)
        piece = at.long().clamp(max=STRETCHES - 1)
        low, high = ends.gather(-1, piece), ends.gather(-1, piece + 1)
        moved = ((low + (at - piece) * (high - low)) * last).round().long()
        return replace(self, corners=moved.transpose(1, 2))

    def select(self, index: Tensor, title: str) -> Megapixel:
        """The images numbered `index` as a set of its own."""
        chosen = {name: getattr(self, name)[index] for name in ("squares", "corners", "named")}
        return replace(self, title=title, **chosen)

    def to(self, device: torch.device) -> Megapixel:
        """The same on another device."""
        names = ("bank", "squares", "corners", "named")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def fingerprint(self) -> str:
        """Of everything that is drawn, and the answers."""
        changes = [f" fresh {self.seed}"] * self.fresh + [f" elastic {self.elastic} {self.seed}"] * (self.elastic > 0)
        whole = hashlib.sha256(f"{self.task} {self.canvas}{''.join(changes)}".encode())
        for part in (self.bank, self.squares, self.corners, self.answers):
            whole.update(part.cpu().numpy().tobytes())
        return whole.hexdigest()[:16]


def make_megapixel(
    digits: Digits,
    images: int,
    *,
    task: str,
    seed: int,
    canvas: int = 1500,
    count: int = 5,
    noises: int = 50,
    order: str = "digits-last",
    title: str = "",
) -> Megapixel:
    """A set of such images.

    Args:
        digits: that it is made of, 28 by 28 pixels.
        images: how many.
        task: one of `TASKS`.
        seed: of all that is drawn; the known programs take 1 for training images and 0 for test images.
        canvas: side of an image, in pixels.
        count: digits on an image, more than half of them of one class.
        noises: scribbles in the bank, and on an image.
        order: "digits-last" or "noise-last": what is laid over the other.
        title: of the set.

    Raises:
        UserError: a number below 1, digits that do not fit on the canvas, or a class that has none.
    """
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    require_at_least(1, images=images, digits=count)
    require_at_least(0, noises=noises)
    size = digits.images.shape[-1]
    require_at_least(2 * size * (1 + count), canvas=canvas)  # digits find a place that is free after a few throws
    random = np.random.RandomState(seed)
    labels = digits.labels.numpy()
    numbers = _numbers(random, labels, images, count)
    places = np.stack([_apart(random, count, canvas, size) for _ in range(images)])
    scribbles, scribble_places, patterns = _scribbles(random, images, noises, canvas, size)
    used, which = np.unique(numbers, return_inverse=True)
    # As the known programs have it, from bytes to a share and back, which rounds some values down by one.
    ink = (digits.images.numpy()[used].astype(np.float32) / 255.0 * 255).astype(np.uint8)
    bank = np.concatenate([ink, (scribbles * 255).astype(np.uint8)])
    return Megapixel(
        bank=torch.from_numpy(bank),
        squares=torch.from_numpy(np.concatenate(_laid(which.reshape(numbers.shape), patterns + len(used), order), 1)),
        corners=torch.from_numpy(np.concatenate(_laid(places, scribble_places, order), 1)),
        named=torch.from_numpy(labels[numbers]),
        order=order,
        task=task,
        canvas=canvas,
        title=title,
    )


def open_megapixel(data: ImageData, seed: int) -> Splits:
    """The data set that these settings name; `UserError` if it cannot be had.

    Args:
        data: the settings.
        seed: of places that are other ones in every epoch, if they are asked for.
    """
    held = max(1, round(HELD_OUT * data.training_images)) if data.validation is None else data.validation
    if not 1 <= held < data.training_images:
        raise UserError(
            f"validation images must be from 1 to {data.training_images - 1}, to leave images to train on, got {held}; "
            "choose a number with --validation"
        )

    def make(digits: Digits, images: int, seed: int, title: str) -> Megapixel:
        return make_megapixel(
            digits, images, task=data.scene or "", seed=seed, canvas=data.canvas, count=data.digits,
            noises=data.noises, order=data.order, title=title,
        )  # fmt: skip

    whole = make(load_train(data.source, download=data.download), data.training_images, 1, "")
    kept = len(whole) - held
    train = whole.select(torch.arange(kept), f"training images of {data.canvas} by {data.canvas} pixels")
    return Splits(
        replace(train, fresh=data.fresh, elastic=data.elastic, seed=seed),
        whole.select(torch.arange(kept, len(whole)), "validation images, held out of the training images"),
        lambda: make(load_test(data.source, download=data.download), TEST_IMAGES, 0, "test images"),
    )


def _laid(digits: Part, scribbles: Part, order: str) -> list[Part]:
    """What is of digits and of scribbles in the order in which they are laid, the lowest first."""
    return [digits, scribbles] if order == "noise-last" else [scribbles, digits]


def _numbers(random: np.random.RandomState, labels: np.ndarray, images: int, count: int) -> np.ndarray:
    """(images, count) which digits lie on each image: those of the target first."""
    target_digits = count // 2 + 1
    of = [(np.flatnonzero(labels == name), np.flatnonzero(labels != name)) for name in range(10)]
    if empty := [str(name) for name, (same, _) in enumerate(of) if not len(same)]:
        raise UserError(f"expected digits of all ten classes, found none of {', '.join(empty)}; name other data")
    chosen = []
    for _ in range(images):
        same, other = of[int(random.rand() * 10)]
        chosen.append(np.concatenate([random.choice(same, target_digits), random.choice(other, count - target_digits)]))
    return np.array(chosen)


def _apart(random: np.random.RandomState, count: int, canvas: int, size: int) -> np.ndarray:
    """(count, 2) corners of squares that do not overlap."""
    placed: list[np.ndarray] = []
    while len(placed) < count:
        corner = np.round(random.rand(2) * (canvas - size)).astype(np.int64)
        if not any((np.abs(corner - other) < size).all() for other in placed):
            placed.append(corner)
    return np.array(placed)


def _scribbles(
    random: np.random.RandomState, images: int, noises: int, canvas: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bank (noises, size, size) in [0, 1], corners (images, noises, 2), and which of the bank (images, noises).

    A scribble is two straight lines through a corner of its square, the second mirrored at random.
    """
    slopes = np.tan(random.rand(noises) * np.pi / 2.5)
    first = np.zeros((noises, size, size), dtype=bool)
    for one, slope in zip(first, slopes, strict=True):
        end = size - 0.51
        along = np.linspace(0, min(end, end / slope), 2 * size)
        one[np.round(along).astype(int), np.round(slope * along).astype(int)] = True
    second = first.copy()
    random.shuffle(second)
    for _ in range(2):  # twice along the same axis, as the known programs have it
        mirrored = random.rand(noises) < 0.33
        second[mirrored] = np.flip(second[mirrored], 2)
    ink = (first | second) * (random.rand(noises, size, size) * 0.2 + 0.8)
    corners = (random.rand(images, noises, 2) * (canvas - 2 * size) + size).astype(np.int64)
    patterns = (random.rand(images, noises) * noises).astype(np.int64)
    return ink.astype(np.float32), corners, patterns


def _answers(task: str, named: Tensor, places: Tensor) -> Tensor:
    """What is asked of images whose digits, of classes `named` (images, count), lie at corners (images, count, 2)."""
    one_hot = torch.eye(10, device=named.device)
    answers = {
        "megapixel-majority": named[:, 0],
        "megapixel-max": named.amax(1),
        "megapixel-top": named.gather(1, places[..., 0].argmin(1, keepdim=True)).squeeze(1),
        "megapixel-multi": one_hot[named].amax(1),
    }
    if task == "megapixel-all":
        return torch.cat([each if each.ndim > 1 else one_hot[each] for each in answers.values()], 1)
    return answers[task]
