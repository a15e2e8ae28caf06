"""What counts as looking at a digit, and as a wrong answer to each of several questions."""

from __future__ import annotations

import torch

from experiments.megapixel import asked_of, errors, overlap, panels
from wsram.data.megapixel import QUESTIONS


def test_a_glimpse_holds_of_a_digit_what_lies_in_it() -> None:
    canvas, size = 101, 28
    corners = torch.tensor([[[10, 20], [60, 60]]])  # row and column; the first digit's middle is (23.5, 33.5)
    side = torch.full((1, 3), 32)

    def at(column: float, row: float) -> list[float]:
        return [column / 50 - 1, row / 50 - 1]

    location = torch.tensor([[at(33.5, 23.5), at(33.5 + 16, 23.5), at(90, 10)]])
    held = overlap(location, side, corners, canvas, size)
    torch.testing.assert_close(held[0, :, 0], torch.tensor([1.0, 0.5, 0.0]))
    assert not held[0, :, 1].any()


def test_each_question_is_wrong_by_itself() -> None:
    right = torch.full((4, 10), -1.0)
    right[:3, 7] = 1.0
    right[3, [2, 7]] = 1.0
    answers = (right > 0).float().flatten().unsqueeze(0)
    for n, question in enumerate(QUESTIONS):
        outputs = right.clone()
        outputs[n, 2] = -outputs[n, 2] + 0.5  # of multi a label that is missing, of the others another likeliest digit
        found = {
            asked: float(errors(outputs.flatten().unsqueeze(0), answers, "megapixel-all", asked))
            for asked in asked_of("megapixel-all")
        }
        assert found == {asked: float(asked == question) for asked in QUESTIONS}


def test_of_one_question_classes_or_labels_count() -> None:
    outputs = torch.tensor([[0.1, 2.0], [3.0, 1.0]])
    assert errors(outputs, torch.tensor([1, 1]), "megapixel-top", "top").tolist() == [0, 1]
    labels = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert errors(outputs, labels, "megapixel-multi", "multi").tolist() == [0, 1]
    after = outputs.expand(3, 2, 2)
    assert errors(after, labels, "megapixel-multi", "multi").shape == (3, 2)


def test_curves_stand_against_the_pixels_that_were_read() -> None:
    found = {
        "set": "test",
        "pixels_read": 0.01,
        "looked_at_after": [0.5, 0.75],
        "questions": {"top": {"error_after": [0.5, 0.25]}},
    }
    wrong, missed = panels(found)
    assert wrong.curves == [("top", [0.5, 1.0], [50.0, 25.0])]
    assert missed.curves == [("digits", [0.5, 1.0], [50.0, 25.0])]
