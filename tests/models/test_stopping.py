"""Looking stops once a network is sure, image by image, and says what it would have said by then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.networks import classifier
from tests.refusals import refusal
from wsram.evaluate import open_trained
from wsram.models.stopping import look_until_sure, sureness
from wsram.predictor import Predictor
from wsram.stopping import NEVER, STOPS, chosen_of, stopping
from wsram.tasks.figures import stopping_curve
from wsram.terminal import Screen


@pytest.mark.parametrize("side", [30, 600])
def test_each_image_stops_where_it_would_first_have_been_sure(side: int) -> None:
    network, images = classifier(glimpses=4).eval(), torch.rand(7, 1, side, side)
    with torch.no_grad():
        looked = network.predict(images)
        sure = sureness(network.head, looked.outputs_after)
        # Some stop after each of the glimpses, some never.
        stop_at = float(sure.amax(-1).median())
        stopped = look_until_sure(network, images, stop_at)
        reached = sure >= stop_at - 1e-6
        expected = torch.where(reached.any(-1), reached.int().argmax(-1) + 1, 4)
        assert torch.equal(stopped.taken, expected) and len(set(expected.tolist())) > 1
        for n, taken in enumerate(expected.tolist()):
            last = looked.outputs_after[n, taken - 1]
            torch.testing.assert_close(stopped.outputs_after[n, :taken], looked.outputs_after[n, :taken])
            torch.testing.assert_close(stopped.outputs_after[n, -1], last)
            torch.testing.assert_close(stopped.action.location[n, :taken], looked.action.location[n, :taken])


def test_no_glimpse_is_taken_of_images_that_are_done() -> None:
    network, rows = classifier(glimpses=3).eval(), []
    glimpse = network.prediction.glimpse_network
    glimpse.register_forward_hook(lambda module, given, result: rows.append(len(result)))
    images = torch.rand(6, 1, 30, 30)
    sure = sureness(network.head, network.predict(images).outputs_after)[:, 0].detach()
    rows.clear()
    look_until_sure(network, images, float(sure.sort().values[3:5].mean()))
    assert rows[:2] == [6, 4]
    rows.clear()
    assert look_until_sure(network, images, 1e-9).taken.tolist() == [1] * 6 and rows == [6]


def test_labels_are_as_sure_as_the_least_sure_of_them_and_numbers_never() -> None:
    labels = classifier(answer="labels").head
    assert sureness(labels, torch.tensor([[0.0, 9.0, -9.0, 1.0, 5.0]])).item() == pytest.approx(0.5)
    number = classifier(answer="number", names=("value",)).head
    refusal(lambda: sureness(number, torch.zeros(1, 2)), "no probability")


def test_a_predictor_stops_and_says_how_many_glimpses_it_took() -> None:
    predictor = Predictor(classifier(glimpses=3))
    images = [np.random.default_rng(n).integers(0, 256, (24, 30), dtype=np.uint8) for n in range(5)]
    whole = predictor.predict(images)
    stop_at = sorted(float(each.beliefs[0].max()) for each in whole)[2]
    found = predictor.predict(images, stop_at=stop_at)
    assert {len(each.glimpses) for each in found} == {1, 3} or min(len(each.glimpses) for each in found) == 1
    for one, all_of_it in zip(found, whole, strict=True):
        torch.testing.assert_close(one.beliefs, all_of_it.beliefs[: len(one.glimpses)])
    refusal(lambda: predictor.predict(images, stop_at=1.5), "1.5")
    refusal(lambda: predictor.predict(images, samples=2, stop_at=0.5), "vote")


def test_where_to_stop_is_chosen_as_the_fewest_glimpses_that_cost_no_error() -> None:
    sure = torch.tensor([[0.6, 0.9, 0.95], [0.7, 0.8, 0.99], [0.99, 0.99, 0.99]])
    right = torch.tensor([[False, True, True], [True, True, True], [True, True, True]])
    curve = stopping_curve(sure, right, (0.5, 0.7, 0.9, NEVER))
    assert [row["glimpses"] for row in curve] == pytest.approx([1, 4 / 3, 2, 3])
    assert [row["error"] for row in curve] == pytest.approx([1 / 3, 0, 0, 0])
    assert chosen_of(curve)["stop_at"] == 0.7


def test_a_run_is_measured_on_validation_and_what_is_chosen_on_test(digit_run: Path, tmp_path: Path) -> None:
    found = stopping(open_trained(digit_run), Screen(quiet=True), test=True, to=tmp_path / "stopping.json")
    assert [row["stop_at"] for row in found["validation"]] == list(STOPS)
    for which in (found, found["learned"]):
        assert [row["stop_at"] for row in which["test"]] == sorted({which["stop_at"], NEVER})
        assert which["test"][-1]["error"] == found["test"][-1]["error"]  # all glimpses, whoever would have stopped
    assert [row["stop_at"] for row in found["learned"]["validation"]] == list(STOPS)
    assert (tmp_path / "stopping.json").exists() and (tmp_path / "stopping.png").exists()
