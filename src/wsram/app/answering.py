"""What the page says of an image, as HTML: the picture, the probability after each glimpse, the words of a caption."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from wsram.answers import Caption, Prediction
from wsram.app.fitting import Fitted
from wsram.heat import heat_picture
from wsram.models.classifier import AttentionClassifier
from wsram.predictor import Predictor
from wsram.stepping import SIDE
from wsram.viewing import png

SAMPLES = 100
"""Sequences of glimpses that stand for the posterior: fewer than elsewhere, since somebody waits."""
DPI = 70
PATCH = 56
"""Pixels of the side that what a glimpse showed is drawn with."""
_DRAWING = threading.Lock()  # matplotlib draws for one at a time


@dataclass(frozen=True)
class Answer:
    """What is shown of one network.

    said: in a few words, for who does not see the page.
    html: of its answer.
    steps: that an animation of it has after the first picture: glimpses or words.
    """

    said: str
    html: str
    steps: int = 0


def looked(predictor: Predictor, fitted: Fitted, glimpses: int = 0, step: int | None = None) -> Answer:
    """What a network says of an image, and where it looked.

    Args:
        predictor: answers.
        fitted: the image.
        glimpses: how many are taken, or words said; 0 for as many as the network was made for, or has to say.
        step: of an animation, after so many of them; by default the end.

    Raises:
        UserError: the image cannot be read.
    """
    if isinstance(predictor.network, AttentionClassifier):
        found = predictor.predict(fitted.image, glimpses=glimpses or None)
        assert isinstance(found, Prediction)
        return _glimpses(found, fitted.notes, step)
    said = predictor.predict(fitted.image)
    assert isinstance(said, Caption)
    return _words(said, fitted.notes, glimpses, step)


def evidence(predictor: Predictor, fitted: Fitted, label: str | None = None) -> Answer:
    """Where a network finds the evidence for a label, and where that for the likeliest other one.

    Args:
        predictor: is asked.
        fitted: the image.
        label: by default the network's own answer.

    Raises:
        UserError: the image cannot be read, the network does not know the label, or it writes captions.
    """
    if label is None:
        answer = predictor.predict(fitted.image)
        label = answer.best[0] if isinstance(answer, Prediction) else ""
    found = predictor.explain(fitted.image, label, samples=SAMPLES)
    size = (found.given.height, found.given.width)
    maps = []
    for support, told in zip((found.label, found.against), str(found).splitlines(), strict=True):
        x, y = found.peak() if support is found.label else (-1, -1)
        where = f"densest at ({x:.0f}, {y:.0f})" if support is found.label else "the likeliest other label"
        picture = heat_picture(found.given.unit(), size, support.heat, round(SIDE * DPI))
        tag = _tag(_bytes(picture), f"Map of the evidence for {told}; {where}.")
        maps.append(f"<figure>{tag}<figcaption>{escape(told)}; {where}</figcaption></figure>")
    notes = [*fitted.notes, f"{found.samples} sequences of glimpses"]
    if found.proposal == "policy":
        notes.append(
            "this network came without an inference network: its policy alone draws them, so of a label that it does "
            "not believe in few count (effective samples)"
        )
    return Answer(str(found), f'<div class="maps">{"".join(maps)}</div>{_notes(notes)}')


def side_by_side(answers: Iterable[tuple[str, str]]) -> str:
    """The answers of one or two networks as one piece of HTML: the name of each and its answer's HTML."""
    articles = (f"<article><h2>{escape(name)}</h2>{html}</article>" for name, html in answers)
    return f'<div class="answers">{"".join(articles)}</div>'


def line(text: str, kind: Literal["hint", "wrong", "unseen"]) -> str:
    """One line about what was asked for; `unseen` by eyes, since the page shows it elsewhere."""
    return f'<p class="{kind}">{escape(text)}</p>'


def _glimpses(found: Prediction, notes: Sequence[str], step: int | None) -> Answer:
    count = len(found.glimpses)
    shown = count if step is None else min(step, count)
    said = "before the first glimpse"
    if shown:
        said = f"after {shown} glimpse{'s' if shown > 1 else ''}: {found.after(shown)}"
    places = ", ".join(
        f"{n} from ({g.left:.0f}, {g.top:.0f}) on, {g.side:.0f} wide" for n, g in enumerate(found.glimpses[:shown], 1)
    )
    picture = _image(found.trace(step if step is None else shown), f"The image, {said}. Glimpses in pixels: {places}.")
    rows = "".join(_row(found, n) for n in range(1, shown + 1))
    head = "<tr><th scope='col'>glimpse</th><th scope='col'>it saw</th><th scope='col'>it believed</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" if shown else ""
    return Answer(said, f'<p class="said">{escape(said)}</p>{picture}{table}{_notes(notes)}', count)


def _row(found: Prediction, n: int) -> str:
    glimpse = found.glimpses[n - 1]
    planes = (found.patches[n - 1].clamp(0, 1) * 255).round().byte().numpy()
    array = planes[0] if len(planes) == 1 else np.ascontiguousarray(np.moveaxis(planes, 0, -1))
    drawn = Image.fromarray(array).resize((PATCH, PATCH), Image.Resampling.NEAREST)
    saw = _tag(_bytes(drawn), f"What glimpse {n} showed, a pixel of it {glimpse.scale} wide", PATCH)
    best = 0.0 if found.is_number else max(glimpse.belief)
    bar = (
        "" if found.is_number else f'<div class="bar" aria-hidden="true"><i style="width:{100 * best:.1f}%"></i></div>'
    )
    return f"<tr><th scope='row'>{n}</th><td>{saw}</td><td>{escape(str(found.after(n)))}{bar}</td></tr>"


def _words(said: Caption, notes: Sequence[str], glimpses: int, step: int | None) -> Answer:
    words = [*said.words, "(end)"]
    count = min(glimpses or len(said.attended), len(said.attended))
    shown = count if step is None else min(step, count)
    lit = None if step is None and not glimpses else shown
    sentence = " ".join(
        f"<mark>{escape(word)}</mark>" if n == lit else escape(word) for n, word in enumerate(words[:shown], 1)
    )
    if lit is None:
        sentence = escape(said.caption)
        about = f"The photograph, captioned: {said.caption}."
    else:
        word = words[shown - 1] if shown else ""
        about = f"The photograph; light is the cell it attended to before: {word}." if word else "The photograph, dark."
    spoken = " ".join(words[:shown]) if lit is not None else said.caption
    return Answer(
        spoken, f'<p class="said">{sentence or "…"}</p>{_image(said.trace(lit), about)}{_notes(notes)}', count
    )


def _notes(notes: Sequence[str]) -> str:
    return f'<p class="notes">{escape("; ".join(notes))}.</p>' if notes else ""


def _image(figure: Figure, about: str) -> str:
    with _DRAWING:
        data = png(figure, dpi=DPI)
    return _tag(data, about)


def _bytes(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _tag(data: bytes, about: str, side: int | None = None) -> str:
    size: Any = f' width="{side}" height="{side}"' if side else ""
    return f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{escape(about)}"{size}>'
