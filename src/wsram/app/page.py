"""The page: what is given on one side, what the networks say of it on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from wsram.app.answering import Answer, evidence, line, looked, side_by_side
from wsram.app.fitting import Fitted, fit_drawing, fit_file, read_drawing, scene_of
from wsram.data.scenes import SceneSpec
from wsram.errors import UserError
from wsram.models.classifier import AttentionClassifier
from wsram.predictor import Predictor

DRAW, UPLOAD = "a drawing", "a file"
OWN = "its own answer"
"""Of labels: the one that the network believes in."""
NONE = "none"
"""Of the second network: there is none beside the first."""
MOST = 24
"""Glimpses, or words, that can be asked for."""
MOMENT = 1.2
"""Seconds between the pictures of an animation."""
WAITING = 100
"""Requests that wait for their turn; those beyond are told to come again."""
HINT = "Draw a digit on the black square, or choose a file; then watch the network look."
LIVE = '<div role="status">${value}</div>'
"""Stays in the page, so that what changes in it is read out."""
Act = Callable[[Predictor, Fitted], Answer]


class Networks:
    """The networks that the page asks, by the names that it shows: no other can be asked for.

    Args:
        predictors: by name, in order; the first is asked where none is chosen.
    """

    def __init__(self, predictors: Mapping[str, Predictor]) -> None:
        self.predictors = dict(predictors)
        self._scenes: dict[str, SceneSpec | None] = {name: scene_of(each) for name, each in self.predictors.items()}

    @property
    def names(self) -> list[str]:
        """As the page shows them."""
        return list(self.predictors)

    def labels(self, name: str) -> list[str]:
        """What evidence can be asked for; of a network that writes captions nothing."""
        predictor = self.predictors.get(name)
        classifier = predictor is not None and isinstance(predictor.network, AttentionClassifier)
        return list(predictor.names) if predictor is not None and classifier else []

    def answer(self, kind: str, drawn: str, file: str | None, chosen: list[str], act: Act) -> list[tuple[str, Answer]]:
        """What each of the chosen networks says of a drawing or a file.

        Raises:
            UserError: no such network, or no image that can be read.
        """
        if unknown := [name for name in chosen if name not in self.predictors]:
            raise UserError(f"expected a network among {', '.join(self.names)}, got {unknown[0]!r}; choose one")
        if kind == UPLOAD:
            if not file:
                raise UserError("no file is chosen yet: choose an image")
            fitted = [fit_file(Path(file), self._scenes[name]) for name in chosen]
        else:
            grey = read_drawing(drawn)
            fitted = [fit_drawing(grey, self._scenes[name]) for name in chosen]
        return [(name, act(self.predictors[name], given)) for name, given in zip(chosen, fitted, strict=True)]


def build_page(networks: Networks, *, at_once: int = 2) -> gr.Blocks:
    """The page, not served yet.

    Args:
        networks: that can be asked.
        at_once: requests that are answered at the same time, at least 1; others wait in a queue.
    """

    def shown(kind: str, drawn: Any, file: str | None, first: str, second: str, act: Act) -> tuple[str, str, int]:
        """A line, the answers' HTML, and the steps that an animation of them has."""
        chosen = [first] if second in (NONE, first) else [first, second]
        try:
            found = networks.answer(kind, drawn or "", file, chosen, act)
        except UserError as error:
            nothing = not (file if kind == UPLOAD else drawn)
            return line(str(error), "hint" if nothing else "wrong"), "", 0
        said = "; ".join(f"{name}: {answer.said}" for name, answer in found)
        html = side_by_side((name, answer.html) for name, answer in found)
        return line(said, "unseen"), html, max(answer.steps for _, answer in found)

    def look(kind: str, drawn: Any, file: str | None, first: str, second: str, count: float) -> tuple[str, str]:
        return shown(kind, drawn, file, first, second, lambda each, to: looked(each, to, int(count)))[:2]

    def explain(kind: str, drawn: Any, file: str | None, first: str, second: str, label: Any) -> tuple[str, str]:
        about = None if label in (None, OWN) else str(label)
        return shown(kind, drawn, file, first, second, lambda each, to: evidence(each, to, about))[:2]

    def begin(
        kind: str, drawn: Any, file: str | None, first: str, second: str, count: float
    ) -> tuple[str, str, int, Any]:
        return step(kind, drawn, file, first, second, count, -1)

    def step(
        kind: str, drawn: Any, file: str | None, first: str, second: str, count: float, at: int
    ) -> tuple[str, str, int, Any]:
        at += 1
        said, html, steps = shown(kind, drawn, file, first, second, lambda each, to: looked(each, to, int(count), at))
        if at > steps or not html:  # one picture more than there are steps: all of it
            return *look(kind, drawn, file, first, second, count), 0, gr.Timer(active=False)
        return said, html, at, gr.Timer(active=True)

    def rest() -> Any:
        return gr.Timer(active=False)

    def kind_changed(kind: str) -> tuple[Any, Any]:
        return gr.HTML(visible=kind == DRAW), gr.File(visible=kind == UPLOAD)

    def network_changed(first: str) -> Any:
        return gr.Dropdown(choices=[OWN, *networks.labels(first)], value=OWN)

    first_name, *others = networks.names
    labels = networks.labels(first_name)
    starts_with = DRAW if labels and networks.predictors[first_name].network.channels == 1 else UPLOAD
    with gr.Blocks(title="wsram: watch a network look", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML("<h1>Watch a network look</h1>", apply_default_css=False)
        with gr.Row(elem_id="page"):
            with gr.Column(elem_id="give"):
                kind = gr.Radio([DRAW, UPLOAD], value=starts_with, label="Look at")
                drawing = gr.HTML(
                    "",
                    html_template=_own("sketch.html"),
                    js_on_load=_own("sketch.js"),
                    label="Drawing",
                    visible=starts_with == DRAW,
                    apply_default_css=False,
                )
                file = gr.File(label="Image file", type="filepath", visible=starts_with == UPLOAD, height=140)
                watch = gr.Button("Watch it look, step by step", variant="primary")
            with gr.Column(elem_id="see"):
                said = gr.HTML(line(HINT, "hint"), html_template=LIVE, elem_id="line", apply_default_css=False)
                answers = gr.HTML("", apply_default_css=False)
            with gr.Column(elem_id="ask"):
                count = gr.Slider(
                    0, MOST, value=0, step=1, label="Glimpses, or words", info="0: as many as the network was made for"
                )
                first = gr.Dropdown(networks.names, value=first_name, label="Network")
                beside = others[0] if others else NONE
                second = gr.Dropdown([NONE, *networks.names], value=beside, label="Beside it", visible=bool(others))
                label = gr.Dropdown(
                    [OWN, *labels], value=OWN, label="Where is the evidence for", allow_custom_value=True
                )
                ask = gr.Button("Show the evidence")
        at, timer = gr.State(0), gr.Timer(MOMENT, active=False)

        given: list[Any] = [kind, drawing, file, first, second]
        shared: dict[str, Any] = {"concurrency_id": "looking", "concurrency_limit": at_once, "show_progress": "hidden"}
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        changes = [drawing.input, file.change, kind.change, first.change, second.change, count.input]
        gr.on(
            changes,
            look,
            [*given, count],
            [said, answers],
            api_name="look",
            api_description="A drawing (the data URL of a PNG) or a file, and what one or two networks say of it.",
            trigger_mode="always_last",
            **shared,
        )
        ask.click(
            explain,
            [*given, label],
            [said, answers],
            api_name="explain",
            api_description="Where one or two networks find the evidence for a label.",
            **shared,
        )
        moving = {**shared, **private}
        watch.click(begin, [*given, count], [said, answers, at, timer], **moving)
        timer.tick(step, [*given, count, at], [said, answers, at, timer], **moving)
        quick: dict[str, Any] = {**private, "concurrency_limit": None}
        gr.on([*changes, ask.click], rest, None, timer, **quick)
        kind.change(kind_changed, kind, [drawing, file], **quick)
        first.change(network_changed, first, label, **quick)
    return page.queue(max_size=WAITING, default_concurrency_limit=at_once)


def _own(name: str) -> str:
    """A file that lies beside this one."""
    return (files("wsram.app") / name).read_text(encoding="utf-8")
