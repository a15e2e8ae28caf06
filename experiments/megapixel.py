"""A network that looks at megapixel MNIST: error after each glimpse, digits found, pixels read, time and memory.

Of a network that answers all four questions at once, the errors of each: of majority, max and top the likeliest digit
counts; of multi all ten labels must be right, each present from even odds on.
"""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.pages import require_writable, shown
from wsram.data.megapixel import QUESTIONS, Megapixel
from wsram.errors import UserError
from wsram.evaluate import Trained, open_trained
from wsram.glimpse.sensor import edges_of
from wsram.models.classifier import AttentionClassifier
from wsram.provenance import provenance
from wsram.runtime import autocast
from wsram.tables import Panel, Table
from wsram.tasks.measuring import VOTES, answered_sampled, parts
from wsram.terminal import Screen

FOUND = 0.75
"""Share of a digit's square that one glimpse must hold for the digit to count as looked at."""
TIMED = 20
"""Images that are timed, one at a time; the median counts."""


def megapixel(name: str, source: str | None, screen: Screen, *, test: bool, to: Path | None) -> dict[str, Any]:
    """Show what a network that was trained on a megapixel scene does after each glimpse, and what it costs.

    Args:
        name: of the network.
        source: of the digits.
        screen: where the figures are shown.
        test: measure on the test images rather than those of validation.
        to: a JSON file to keep the figures in, with a picture beside it.

    Raises:
        UserError: a network of other images, or no digits.
    """
    require_writable(to)
    trained = open_trained(name, source=source)
    network, dataset = of_megapixels(trained, test=test)
    after, answers, looked_at = looked(network, dataset)
    context = autocast(network.precision, next(network.parameters()).device)
    drawn, _ = answered_sampled(network, dataset, samples=VOTES, autocast=context)
    vote = network.head.vote(drawn)
    found = {
        "network": trained.name,
        "set": "test" if test else "validation",
        "images": len(dataset),
        "task": dataset.task,
        "precision": network.precision,
        "questions": {
            question: {
                "error_after": errors(after, answers.unsqueeze(1), dataset.task, question).mean(0).tolist(),
                "error_one_sample": errors(drawn, answers, dataset.task, question).mean().item(),
                "error_vote": errors(vote, answers, dataset.task, question).mean().item(),
            }
            for question in asked_of(dataset.task)
        },
        "looked_at_after": looked_at,
        "pixels_read": pixels_read(network, dataset),
        "milliseconds": milliseconds(network, dataset),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "provenance": provenance(),
    }
    return shown(found, table(found), screen, to, panels(found))


def of_megapixels(trained: Trained, *, test: bool) -> tuple[AttentionClassifier, Megapixel]:
    """The network and the images it is measured on; `UserError` if it was trained on others."""
    dataset, network = trained.examples(test=test), trained.network
    if not isinstance(dataset, Megapixel) or not isinstance(network, AttentionClassifier):
        raise UserError(f"{trained.name} was not trained on a megapixel scene; name a network that was")
    return network, dataset


def pixels_read(network: AttentionClassifier, dataset: Megapixel) -> float:
    """The share of an image's pixels that its glimpses read at most; where they overlap, pixels count twice."""
    sensor = network.prediction.sensor
    # A glimpse between pixels is interpolated from one row and one column more.
    window = (sensor.patch_size * max(sensor.scales) + (sensor.mode == "bilinear")) ** 2
    return network.prediction.glimpses * window / dataset.canvas**2


def panels(found: dict[str, Any]) -> list[Panel]:
    """Error, and digits that were looked at, against the pixels that were read."""
    seen, read = found["looked_at_after"], [100 * share for share in _read_after(found)]
    wrong = [
        (question, read, [100 * share for share in of["error_after"]]) for question, of in found["questions"].items()
    ]
    missed = [("digits", read, [100 * (1 - share) for share in seen])]
    return [
        Panel(f"error of the mode, {found['set']} images", "pixels read, %", "%", wrong, log=True),
        Panel("digits not looked at", "pixels read, %", "%", missed, log=True),
    ]


def table(found: dict[str, Any]) -> Table:
    """The figures of the mode after each glimpse, and of a vote."""
    by, seen = found["questions"].values(), found["looked_at_after"]
    rows = [
        [
            str(n + 1),
            *(f"{each['error_after'][n]:.1%}" for each in by),
            f"{share:.1%}",
            f"{read:.2%}",
        ]
        for n, (share, read) in enumerate(zip(seen, _read_after(found), strict=True))
    ]
    rows.append([f"vote of {VOTES}", *(f"{each['error_vote']:.1%}" for each in by), "", ""])
    cost = f"{found['milliseconds']['drawn']:.0f} ms an image, {found['peak_megabytes']:,.0f} MiB at the peak"
    title = f"{found['network']}, {found['images']:,} {found['set']} images, {found['task']}; {cost}"
    named = ["error"] if len(by) == 1 else [f"error, {question}" for question in found["questions"]]
    return Table(title, ["glimpses", *named, "digits looked at", "pixels read"], rows)


def _read_after(found: dict[str, Any]) -> list[float]:
    """The share of the pixels that was read after each glimpse."""
    count = len(found["looked_at_after"])
    return [(n + 1) / count * found["pixels_read"] for n in range(count)]


def asked_of(task: str) -> tuple[str, ...]:
    """What a scene asks, of `QUESTIONS`.

    Example:
        >>> asked_of("megapixel-top")
        ('top',)
    """
    return QUESTIONS if task == "megapixel-all" else (task.removeprefix("megapixel-"),)


def errors(outputs: Tensor, answers: Tensor, task: str, question: str) -> Tensor:
    """Where the answer to a question is wrong: 1, else 0.

    Args:
        outputs: (..., outputs) of the head.
        answers: of a shape that goes with them: (...) classes, or (..., labels).
        task: the scene that the network was trained on.
        question: of `asked_of` it.

    Returns:
        (...) float32.
    """
    if task == "megapixel-all":
        first = 10 * QUESTIONS.index(question)
        outputs, answers = outputs[..., first : first + 10], answers[..., first : first + 10]
        if question != "multi":
            answers = answers.argmax(-1)
    if question == "multi":
        return ((outputs > 0) != (answers > 0.5)).any(-1).float()
    return (outputs.argmax(-1) != answers).float()


def looked(network: AttentionClassifier, dataset: Megapixel) -> tuple[Tensor, Tensor, list[float]]:
    """Outputs of the mode after each glimpse, the answers, and the share of the digits looked at after each glimpse."""
    outputs, answers, seen = [], [], []
    device = next(network.parameters()).device
    for part, batch in parts(network, dataset):
        with torch.no_grad(), autocast(network.precision, device)():
            seeing = network.predict(batch.images)
        outputs.append(seeing.outputs_after)
        answers.append(batch.answers)
        scales = torch.tensor(network.prediction.sensor.scales, device=device)
        side = scales[seeing.action.scale] * network.prediction.sensor.patch_size
        share = overlap(seeing.action.location, side, dataset.digits[part], dataset.canvas, dataset.bank.shape[-1])
        seen.append((share >= FOUND).cummax(1).values.float().mean(-1))
    return torch.cat(outputs), torch.cat(answers), torch.cat(seen).mean(0).tolist()


def overlap(location: Tensor, side: Tensor, corners: Tensor, canvas: int, size: int) -> Tensor:
    """How much of each digit each glimpse holds: (batch, glimpses, digits) shares of the digit's square.

    Args:
        location: (batch, glimpses, 2) of the glimpses, (x, y) in [-1, 1].
        side: (batch, glimpses) of the glimpses, in pixels.
        corners: (batch, digits, 2) row and column of each digit's first pixel.
        canvas: side of the image, in pixels.
        size: side of a digit, in pixels.
    """
    sizes = torch.tensor([canvas, canvas], device=location.device)
    low, high = (edge.unsqueeze(-2) for edge in edges_of(location, side, sizes))
    first = corners.flip(-1).unsqueeze(1)  # x, y
    along = (torch.minimum(high, first + size) - torch.maximum(low, first)).clamp(min=0) / size
    return along.prod(-1)


def milliseconds(network: AttentionClassifier, dataset: Megapixel) -> dict[str, float]:
    """Medians for one image: drawn where it is looked at, and as an array of all its pixels."""
    network.eval()
    kinds: dict[str, list[float]] = {"drawn": [], "array": []}
    with torch.inference_mode():
        for n in range(min(TIMED, len(dataset))):
            images = dataset.images(torch.tensor([n], device=dataset.bank.device))
            for kind, given in (("drawn", images), ("array", images.render())):
                began = time.perf_counter()
                network.predict(given)
                kinds[kind].append(1000 * (time.perf_counter() - began))
    return {kind: statistics.median(times) for kind, times in kinds.items()}
