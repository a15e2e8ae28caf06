"""The commands that ask a network about images: `wsram predict`, `wsram look`, `wsram explain` and `wsram app`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import tyro

from wsram.errors import UserError
from wsram.tables import Table
from wsram.terminal import Screen, saying

BUNDLED = "robust"
"""The network that is asked where none is named."""


@dataclass(frozen=True)
class Predict:
    """Say what images show. An image that cannot be read is named, skipped and counted, and the exit code is then 1."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """Image files, folders of them, or - for paths from the standard input, one to a line."""
    network: str = BUNDLED
    """Folder of a run or a network, a released network, or a name on the Hugging Face Hub."""
    samples: int | None = None
    """Sequences that vote; by default the network looks once, where it is likeliest to."""
    stop_at: float | None = None
    """Take no more glimpses of an image once its answer has this probability, 0.99 say."""
    beam: int | None = None
    """Captions kept for each image while they grow; of a captioner, by default 5."""
    json: bool = False
    """Say everything as JSON, one object to a line, and nothing else on the standard output."""
    pictures: Path | None = None
    """Folder for pictures, NAME.glimpses.png for each image; no file that is there is replaced."""
    gif: Path | None = None
    """Folder for the same as animated GIFs, NAME.glimpses.gif."""


@dataclass(frozen=True)
class Look:
    """Watch a network look at one image: its glimpses in order, and what it believed after each."""

    image: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """An image file."""
    network: str = BUNDLED
    """Folder of a run or a network, a released network, or a name on the Hugging Face Hub."""
    label: str | None = None
    """What the image truly shows, if that is known: a mistake is told as one."""
    samples: int | None = None
    """Sequences that vote; by default the network looks once, where it is likeliest to."""
    to: Path | None = None
    """A picture, .png, .svg or .pdf, or a .gif that moves; by default NAME.glimpses.png here."""


@dataclass(frozen=True)
class Explain:
    """Say where the evidence for a label is, and where that for another one: a map of the posterior over glimpses."""

    image: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """An image file."""
    label: str
    """The answer asked about."""
    against: str | None = None
    """Another answer; by default the likeliest other one."""
    network: str = BUNDLED
    """Folder of a run or a network, a released network, or a name on the Hugging Face Hub."""
    samples: int = 500
    """Sequences of glimpses that stand for the posterior."""
    picture: Path | None = None
    """File for both maps; none that is there is replaced."""


@dataclass(frozen=True)
class App:
    """Open a page on this machine to draw a digit or choose an image, and watch networks look at it."""

    networks: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK")] = (BUNDLED,)
    """Folders of runs or networks, released networks, or names on the Hub; the first two stand side by side."""
    host: str = "127.0.0.1"
    """Address to listen at; by default for this machine alone, 0.0.0.0 for whoever reaches it."""
    port: int = 7860
    """Port to listen at; 0 for any that is free."""
    at_once: int = 2
    """Requests answered at the same time; others wait for their turn."""


def predict(args: Predict, screen: Screen) -> None:
    """Answer about each image; exits with 1 if one could not be read."""
    from wsram.predictor import from_pretrained
    from wsram.viewing import save

    predictor = from_pretrained(args.network, inference=False)
    pictures = None if args.pictures is None else _Names(args.pictures, ".png")
    animations = None if args.gif is None else _Names(args.gif, ".gif")
    errors = Screen(error=True)
    total = bad = 0
    options: dict[str, Any] = {"samples": args.samples, "stop_at": args.stop_at, "beam": args.beam}
    for path, answer in predictor.predict_many(_paths(args.images), **options):
        total += 1
        if isinstance(answer, UserError):
            bad += 1
            errors.say(f"wsram: {answer}")
            continue
        made = []
        if pictures is not None:
            made.append(save(answer.draw(), pictures.of(path)))
        if animations is not None:
            made.append(answer.animate(animations.of(path)))
        if args.json:
            with saying():
                print(json.dumps({"path": str(path)} | answer.to_dict()))
        else:
            screen.say(f"{path}: {answer}")
            for file in made:
                screen.say(f"  where it looked: {file}")
    if not total:
        raise UserError("expected images, got none; name files, a folder that holds some, or - for a list of paths")
    if bad:
        errors.say(f"wsram: {bad:,} of {total:,} images could not be read")
        raise SystemExit(1)


def look(args: Look, screen: Screen) -> None:
    """Say what was believed after each glimpse, and draw it."""
    from wsram.answers import Caption
    from wsram.predictor import from_pretrained
    from wsram.viewing import require_picture, save

    if args.to is not None:
        require_picture(args.to)
    answer = from_pretrained(args.network, inference=False).predict(args.image, args.samples)
    assert not isinstance(answer, list)
    if isinstance(answer, Caption):
        if args.label is not None:
            raise UserError("a label is for networks that name what they see, and this one writes captions")
        rows = [[word, *_place(cell)] for word, cell in zip((*answer.words, "(end)"), answer.cells, strict=True)]
        screen.show(Table(str(answer), ["word", "left", "top", "width", "height"], rows))
        draw, animate = answer.draw, answer.animate
    else:
        if args.label is not None:
            answer.require_label(args.label)
        rows = [
            [answer.believed(glimpse), str(n), *_place(glimpse[:3]), f"×{glimpse.scale}"]
            for n, glimpse in enumerate(answer.glimpses, 1)
        ]
        screen.show(Table(str(answer), ["believed after it", "glimpse", "left", "top", "side", "scale"], rows))
        label = args.label
        draw, animate = (lambda: answer.draw(label)), (lambda path: answer.animate(path, label))
    to = args.to
    if to is None:
        to = _Names(Path(), ".png").of(Path(args.image))
    screen.say(f"Where it looked: {animate(to) if to.suffix.lower() == '.gif' else save(draw(), to)}")


def explain(args: Explain, screen: Screen) -> None:
    """Say how much speaks for either answer, and draw where."""
    from wsram.predictor import from_pretrained
    from wsram.viewing import require_picture, save

    if args.picture is not None:
        require_picture(args.picture)
    found = from_pretrained(args.network).explain(args.image, args.label, args.against, samples=args.samples)
    screen.say(str(found))
    x, y = found.peak()
    screen.say(f"Most of what speaks for {args.label} is at ({x:.0f}, {y:.0f}), in pixels from the top left.")
    if args.picture is not None:
        screen.say(f"Where: {save(found.draw(), args.picture)}")


def app(args: App, screen: Screen) -> None:
    """Serve the page until Ctrl-C."""
    from wsram.app.serving import serve

    serve(args.networks, screen, host=args.host, port=args.port, at_once=args.at_once)


def _place(numbers: Sequence[float]) -> list[str]:
    return [f"{number:.1f}" for number in numbers]


def _paths(words: Sequence[str]) -> Iterator[Path]:
    """The files that words of the command line name, one after the other."""
    for word in words:
        if word == "-":
            # Bytes, since a name need not be text; one after the other, however many there are.
            names = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
            yield from (Path(name) for name in names if name)
        elif os.path.isdir(folder := Path(os.path.expanduser(word))):
            from wsram.data.listing import images_in
            from wsram.data.tiled import is_zarr

            yield from [folder] if is_zarr(folder) else images_in(folder)
        else:
            yield Path(word)


_LONGEST_STEM = 220
"""Bytes of an image's name that go into others; with what is put behind it a file system takes 255."""


class _Names:
    """Names for new files in a folder: after the image, and numbered where there is such a file already."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = folder.expanduser(), suffix
        self.taken: dict[str, int] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder} ({error.strerror}); name another") from error

    def of(self, image: Path) -> Path:
        """The next free name for something made of that image, which a file system takes."""
        stem, bytes_of = image.stem, os.fsencode(image.stem)
        if len(bytes_of) > _LONGEST_STEM:
            stem = bytes_of[:_LONGEST_STEM].decode(errors="ignore")  # no half of a letter at the end
        for n in count(self.taken.get(stem, 0) + 1):
            path = self.folder / f"{stem}.glimpses{'' if n == 1 else f'-{n}'}{self.suffix}"
            if not os.path.lexists(path):
                self.taken[stem] = n
                return path
        raise AssertionError("numbers do not end")
