"""What the page says of an image: the picture, what was believed after each glimpse, the words of a caption."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.networks import classifier
from tests.refusals import refusal
from wsram.answers import Caption, Prediction
from wsram.app.answering import SAMPLES, evidence, looked, side_by_side
from wsram.app.fitting import Fitted
from wsram.data.given import given
from wsram.predictor import Predictor

NAMES = ("a", "<b>", "c&d", "d", "e")


class Read(HTMLParser):
    """The pictures of a piece of HTML with what they are called, and that everything that was opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[tuple[Image.Image, str]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "img":
            self.open.append(tag)
            return
        told = dict(attrs)
        head, _, body = (told["src"] or "").partition(",")
        assert head == "data:image/png;base64"
        self.images.append((Image.open(io.BytesIO(base64.b64decode(body))), told["alt"] or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(classifier(names=NAMES))


@pytest.fixture
def fitted() -> Fitted:
    return Fitted(np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8), ("turned around",))


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_every_glimpse_is_said_with_what_was_believed_after_it(predictor: Predictor, fitted: Fitted) -> None:
    answer = looked(predictor, fitted)
    found = predictor.predict(fitted.image)
    assert isinstance(found, Prediction) and answer.steps == 3
    images = Read(answer.html).images
    assert len(images) == 4 and all(about for _, about in images)
    said = unescape(text(answer.html))
    assert said.startswith(f"after 3 glimpses: {found}") and said.endswith("turned around.")
    for n in range(1, 4):
        assert f"{n} {found.after(n)}" in said


@pytest.mark.parametrize("count", [1, 5])
def test_fewer_or_more_glimpses_can_be_asked_for(predictor: Predictor, fitted: Fitted, count: int) -> None:
    answer = looked(predictor, fitted, count)
    assert answer.steps == count and len(Read(answer.html).images) == count + 1
    assert str(predictor.predict(fitted.image, glimpses=count)) in unescape(text(answer.html))


def test_an_animation_goes_from_no_glimpse_to_all(predictor: Predictor, fitted: Fitted) -> None:
    steps = [looked(predictor, fitted, step=n) for n in range(4)]
    assert [len(Read(each.html).images) for each in steps] == [1, 2, 3, 4]
    assert text(steps[0].html).startswith("before the first glimpse")
    assert text(steps[1].html).startswith("after 1 glimpse:")
    assert len({each.html for each in steps}) == 4
    assert looked(predictor, fitted, step=9).html == steps[3].html


def test_evidence_is_two_maps_and_who_proposed(predictor: Predictor, fitted: Fitted) -> None:
    answer = evidence(predictor, fitted, "<b>")
    (first, about), (second, _) = Read(answer.html).images
    assert first.size == second.size and about.startswith("Map of the evidence for <b>: log-evidence")
    assert f"{SAMPLES} sequences of glimpses" in answer.html and "without an inference network" not in answer.html
    refusal(lambda: evidence(predictor, fitted, "z"), "expected a label among")


def test_evidence_lies_over_the_small_picture_of_an_image_in_tiles(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    np.save(tmp_path / "a.npy", image)
    (whole, about), _ = Read(evidence(predictor, Fitted(image), "a").html).images
    monkeypatch.setattr("wsram.data.given.PICTURE", 40)
    (small, again), _ = Read(evidence(predictor, Fitted(tmp_path / "a.npy"), "a").html).images
    assert about == again  # the numbers of the map, and where it is largest
    blue = [np.argwhere((np.asarray(each) == (86, 180, 233)).all(-1)).tolist() for each in (whole, small)]
    assert blue[0] and blue[0] == blue[1]


def test_evidence_is_for_the_networks_own_answer_unless_another_label_is_named(
    predictor: Predictor, fitted: Fitted
) -> None:
    found = predictor.predict(fitted.image)
    assert isinstance(found, Prediction)
    assert evidence(predictor, fitted).said.startswith(f"{found.best[0]}: log-evidence")


def test_a_network_without_its_inference_network_says_so(fitted: Fitted) -> None:
    torch.manual_seed(0)
    alone = Predictor(classifier(inference=False))
    assert "without an inference network" in evidence(alone, fitted, "a").html


def test_a_caption_is_said_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    predictor = Predictor(classifier())  # is not asked: what a captioner says is given
    said = Caption(given(np.zeros((20, 30, 3), np.uint8), 3), ("a", "<dog>"), (0, 3, 1), 2, -1.0)
    monkeypatch.setattr("wsram.app.answering.AttentionClassifier", int)
    monkeypatch.setattr(Predictor, "predict", lambda *_: said)
    whole = looked(predictor, Fitted(np.zeros((20, 30), np.uint8)))
    assert text(whole.html) == "a &lt;dog&gt;" and whole.steps == 3
    steps = [looked(predictor, Fitted(np.zeros((20, 30), np.uint8)), step=n).html for n in range(4)]
    assert [text(each) for each in steps] == ["…", "a", "a &lt;dog&gt;", "a &lt;dog&gt; (end)"]
    assert "<mark>&lt;dog&gt;</mark>" in steps[2] and "light is the cell it attended to before: &lt;dog&gt;" in steps[2]
    assert text(looked(predictor, Fitted(np.zeros((20, 30), np.uint8)), 1).html) == "a"
    assert all(len(Read(each).images) == 1 for each in steps)


def test_names_of_networks_are_text() -> None:
    html = side_by_side([("<script>", "<p>x</p>"), ("b", "")])
    assert "<script>" not in html and html.count("<article>") == 2
    Read(html)
