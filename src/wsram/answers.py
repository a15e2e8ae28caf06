"""What networks say of images, as values: a prediction with its glimpses, a caption with its cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from wsram.data.given import Given
from wsram.errors import UserError, require_at_least
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.models.heads import Head, LabelsHead, NumberHead, require_label
from wsram.stepping import draw_caption, draw_cell, draw_trace
from wsram.tables import percent, shortened
from wsram.viewing import Look, animate, draw_looking, glimpse_box

MOMENT, END = 1.2, 4.0
"""Seconds that an animation shows each step, and the last."""


class Glimpse(NamedTuple):
    """One glimpse of an image, in pixels of the image as it was given, upright; its left and top edge are at 0.

    left, top: of the square that was seen; outside the image everything is black.
    side: of the square.
    scale: pixels that one pixel of the glimpse is the mean of, along each axis, of the image as the network saw it,
        which may have been shrunk.
    belief: what the network would have answered after this glimpse: of each name, as in `Prediction.probabilities`.
    """

    left: float
    top: float
    side: float
    scale: int
    belief: tuple[float, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What a classifier says of one image, and where it looked.

    given: the image.
    head: what was asked of the network.
    sensor: what cut the glimpses.
    outputs: (sequences, glimpses, outputs) the head's, after each glimpse of each sequence, on the CPU.
    action: location (sequences, glimpses, 2) and scale (sequences, glimpses), on the CPU.
    look: looks at the image again, at so many sequences drawn from that seed.
    """

    given: Given
    head: Head
    sensor: Sensor
    outputs: Tensor
    action: Action
    look: Callable[[int, int], Prediction]

    @property
    def is_number(self) -> bool:
        """Whether the answer is a number, and not a name with its probability."""
        return isinstance(self.head, NumberHead)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes or labels, or of the one number."""
        return self.head.names

    @cached_property
    def beliefs(self) -> Tensor:
        """(glimpses, names) the probabilities after each glimpse, of a vote those of all its sequences."""
        return self.head.probabilities(self.head.vote(self.outputs))

    @property
    def probabilities(self) -> Tensor:
        """(names,) of each class, or of each label by itself; of a number, its mean."""
        return self.beliefs[-1]

    @property
    def best(self) -> tuple[str, float]:
        """The likeliest name and its probability; of a number, its name and mean."""
        return self._ranked[0]

    @property
    def runner_up(self) -> tuple[str, float] | None:
        """The second likeliest name and its probability; none of a number, or where there is one label alone."""
        return self._ranked[1] if len(self._ranked) > 1 else None

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that are said: of classes the likeliest, of labels all above their thresholds, of a number none."""
        if isinstance(self.head, LabelsHead):
            above = self.head.vote(self.outputs)[-1] > torch.tensor(self.head.thresholds)
            return tuple(name for name, present in zip(self.names, above.tolist(), strict=True) if present)
        return () if self.is_number else (self.best[0],)

    @cached_property
    def sequences(self) -> tuple[tuple[Glimpse, ...], ...]:
        """The glimpses of every sequence that voted; of the mode, the only one."""
        beliefs = self.head.probabilities(self.outputs).tolist()
        size = self.given.size
        across, down = self.given.ratio
        # Rounding can shrink both axes by a little different ratios: a side is as long as the longer axis makes it.
        along = across if self.given.width >= self.given.height else down
        found = []
        for locations, scales, after in zip(
            self.action.location.tolist(), self.action.scale.tolist(), beliefs, strict=True
        ):
            glimpses = []
            for location, scale, belief in zip(locations, scales, after, strict=True):
                left, top, side = glimpse_box(self.sensor, size, location, scale)
                # The box's own pixels have their centres at whole numbers, a file's have their edges there.
                middle = ((left + 0.5 + side / 2) * across, (top + 0.5 + side / 2) * down)
                side *= along
                corner = (middle[0] - side / 2, middle[1] - side / 2)
                glimpses.append(Glimpse(*corner, side, self.sensor.scales[scale], tuple(belief)))
            found.append(tuple(glimpses))
        return tuple(found)

    @property
    def glimpses(self) -> tuple[Glimpse, ...]:
        """The glimpses, in order; of a vote, those of its first sequence."""
        return self.sequences[0]

    @cached_property
    def patches(self) -> Tensor:
        """(glimpses, channels, side, side) what each of `glimpses` showed, in [0, 1]."""
        pyramid = self.sensor.pyramid([self.given.source], len(self.glimpses))
        action = Action(self.action.location[0].unsqueeze(1), self.action.scale[0].unsqueeze(1))
        return self.sensor(pyramid, *action)[:, 0]

    def after(self, glimpses: int) -> Prediction:
        """The prediction as it stood after so many of its glimpses, at least 1: those that followed changed nothing.

        Raises:
            UserError: fewer than 1.
        """
        require_at_least(1, glimpses=glimpses)
        location, scale = self.action
        action = Action(location[:, :glimpses], scale[:, :glimpses])
        return replace(
            self,
            outputs=self.outputs[:, :glimpses],
            action=action,
            look=lambda samples, seed: self.look(samples, seed).after(glimpses),
        )

    def believed(self, glimpse: Glimpse) -> str:
        """The likeliest answer after a glimpse, in a few words."""
        best = max(range(len(self.names)), key=lambda n: glimpse.belief[n])
        value = glimpse.belief[best]
        return f"{value:.4g}" if self.is_number else f"{self.names[best]} ({percent(value)})"

    def votes(self, samples: int = 16, *, seed: int = 0) -> Prediction:
        """The mean prediction of sequences that are drawn from the policy, instead of the likeliest one.

        Raises:
            UserError: fewer than 1 sample.
        """
        return self.look(samples, seed)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the image, as JSON holds it: the answer, probabilities by name, and glimpses in order."""
        digits = 6
        best, value = self.best
        shares = {name: round(p, digits) for name, p in zip(self.names, self.probabilities.tolist(), strict=True)}
        if self.is_number:
            said: dict[str, Any] = {best: value}
        elif isinstance(self.head, LabelsHead):
            said = {"labels": list(self.labels), "probabilities": shares}
        else:
            said = {"class": best, "probability": round(value, digits), "probabilities": shares}
        glimpses = [
            {
                "left": round(g.left, 3),
                "top": round(g.top, 3),
                "side": round(g.side, 3),
                "scale": g.scale,
                "belief": [round(p, digits) for p in g.belief],
            }
            for g in self.glimpses
        ]
        return said | {"sequences": len(self.sequences), "glimpses": glimpses}

    def require_label(self, label: str) -> None:
        """`UserError` for a label that the network does not know."""
        if self.is_number:
            raise UserError(
                "a label is for networks that name what they see, and this one gives a number; leave it out"
            )
        require_label(label, self.names)

    def draw(self, label: str | None = None) -> Figure:
        """The image with its numbered glimpses, and beside it what each showed and what was believed after it.

        Args:
            label: what the image truly shows, if that is known: a mistake is told as one.

        Raises:
            UserError: a label that the network does not know.
        """
        return self._picture(label, None)

    def trace(self, shown: int | None = None) -> Figure:
        """The image and on it the numbered glimpses, nothing else.

        Args:
            shown: so many glimpses at first, the last of them lit: one picture of an animation. By default all.
        """
        boxes = [glimpse[:3] for glimpse in self.glimpses]
        return draw_trace(self.given.unit(), (self.given.height, self.given.width), boxes, shown=shown)

    def animate(self, path: str | Path, label: str | None = None) -> Path:
        """Write the same as an animated GIF, one glimpse after the other; the file must not be there yet.

        Raises:
            UserError: the file is there already or cannot be written, or a label that the network does not know.
        """
        count = len(self.glimpses)
        frames = [self._picture(label, n) for n in range(count + 1)]
        return animate([*frames, self._picture(label, None)], Path(path), seconds=[MOMENT] * (count + 1) + [END])

    def __str__(self) -> str:
        """The answer in a few words."""
        name, value = self.best
        if self.is_number:
            return f"{name} {value:.4g}"
        if isinstance(self.head, LabelsHead):
            present = ", ".join(f"{name} ({percent(self._of(name))})" for name in self.labels)
            return present or f"none of its labels (at most {name}, {percent(value)})"
        other = self.runner_up
        return f"{name} ({percent(value)})" + (f", then {other[0]} ({percent(other[1])})" if other else "")

    def __repr__(self) -> str:
        """The answer, as a notebook shows it."""
        return f"{type(self).__name__}({self})"

    @cached_property
    def _ranked(self) -> list[tuple[str, float]]:
        """Names with their probabilities, the likeliest first; of a number, its name and mean."""
        return sorted(zip(self.names, self.probabilities.tolist(), strict=True), key=lambda pair: -pair[1])

    def _of(self, name: str) -> float:
        return float(self.probabilities[self.names.index(name)])

    def _picture(self, label: str | None, shown: int | None) -> Figure:
        if label is not None:
            self.require_label(label)
        looks = [
            Look((g.left, g.top, g.side), g.scale, patch, g.belief)
            for g, patch in zip(self.glimpses, self.patches, strict=True)
        ]
        title = "before the first glimpse"
        if shown is None:
            title = str(self)
        elif shown:
            title = f"after glimpse {shown}: {self.believed(self.glimpses[shown - 1])}"
        if label is not None and shown is None:
            right = label in self.labels
            title += (
                f": right, it is {label}" if right else f": wrong, it is {label} (given {percent(self._of(label))})"
            )
        if len(self.sequences) > 1:
            title += f"\na vote of {len(self.sequences)} sequences; this is the first of them"
        return draw_looking(
            self.given.unit(),
            (self.given.height, self.given.width),
            looks,
            self.names,
            title=f"{shortened(self.given.title)}: {title}" if self.given.name else title,
            truth=label,
            shown=shown,
            shares=not self.is_number,
        )


class Cell(NamedTuple):
    """A cell that was attended to, in pixels of the image as it was given, upright; its edges are at 0."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, eq=False)
class Caption:
    """What a captioner says of one image, and where it attended before each word.

    given: the image, as it is drawn.
    words: of the caption.
    attended: the number of the cell attended to before each word and before the end, row by row from the top left.
    grid: cells along each side of the image.
    log_probability: of the words at these cells, in nats.
    """

    given: Given = field(repr=False)
    words: tuple[str, ...]
    attended: tuple[int, ...]
    grid: int
    log_probability: float

    @property
    def caption(self) -> str:
        """The words as a sentence."""
        return " ".join(self.words)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cell attended to before each word and before the end."""
        width, height = self.given.width / self.grid, self.given.height / self.grid
        places = (divmod(cell, self.grid) for cell in self.attended)
        return tuple(Cell(column * width, row * height, width, height) for row, column in places)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the image, as JSON holds it."""
        cells = [{name: round(value, 3) for name, value in cell._asdict().items()} for cell in self.cells]
        return {
            "caption": self.caption,
            "words": list(self.words),
            "log_probability": round(self.log_probability, 6),
            "cells": cells,
        }

    def draw(self) -> Figure:
        """The image once for each word, with the cell lit that was attended to before it."""
        return self._picture(len(self.attended))

    def trace(self, shown: int | None = None) -> Figure:
        """The image alone, and of it the cell lit that was attended to before word number `shown`; by default all."""
        cell = self.attended[shown - 1] if shown else None
        return draw_cell(self.given.unit(), cell, self.grid, dimmed=shown == 0)

    def animate(self, path: str | Path) -> Path:
        """Write the same as an animated GIF, one word after the other; the file must not be there yet.

        Raises:
            UserError: the file is there already or cannot be written.
        """
        count = len(self.attended)
        frames = [self._picture(n) for n in range(count + 1)]
        return animate(frames, Path(path), seconds=[MOMENT] * count + [END])

    def __str__(self) -> str:
        """The sentence."""
        return self.caption

    def _picture(self, shown: int) -> Figure:
        words: Sequence[str] = [*self.words, "(end)"]
        return draw_caption(self.given.unit(), words, torch.tensor(self.attended), self.grid, shown=shown)
