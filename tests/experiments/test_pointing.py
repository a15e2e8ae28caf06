"""The pointing game: that it counts what it says, and that the evidence for real digits lies on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.cli import main
from experiments.pointing import occlusion_map, pointing_game, two_digits
from tests.models.networks import classifier
from tests.refusals import refused
from wsram.data.mnist import Digits, load_digits
from wsram.data.scenes import Scenes, evaluation_scenes, scene_spec
from wsram.predictor import Predictor, from_pretrained


def digits(count: int = 30) -> Digits:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(60, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
    return Digits(images, torch.arange(count) % 5)


def test_a_map_points_at_the_digit_if_its_maximum_lies_in_the_digits_square() -> None:
    """Told once of squares that hold every maximum there can be, and once of squares that hold none."""
    predictor, images = Predictor(classifier()), torch.rand(3, 1, 20, 20)
    zero = torch.zeros(3, dtype=torch.long)
    for side, expected in ((20, 1.0), (0, 0.0)):
        scenes = Scenes(images, torch.full((3,), side), zero, zero)
        assert pointing_game(predictor, scenes, torch.tensor([0, 1, 2]), samples=16) == dict.fromkeys(
            ("posterior", "policy", "occlusion"), expected
        )


def test_occlusion_is_the_mean_loss_under_the_squares_that_cover_a_pixel() -> None:
    network, image = classifier(), torch.rand(1, 9, 11)
    heat = occlusion_map(network, image, 2, samples=9)
    total, count = torch.zeros(9, 11), torch.zeros(9, 11)
    with torch.no_grad():
        whole = network.predict(image.unsqueeze(0)).outputs[0, 2]
        for top in (0, 2, 3):  # of 3 free rows and 5 free columns, halves rounded to even
            for left in (0, 2, 5):
                black = image.clone()
                black[:, top : top + 6, left : left + 6] = 0
                total[top : top + 6, left : left + 6] += whole - network.predict(black.unsqueeze(0)).outputs[0, 2]
                count[top : top + 6, left : left + 6] += 1
    torch.testing.assert_close(heat, total / count.clamp(min=1), rtol=1e-4, atol=1e-6)


def test_two_digits_lie_side_by_side_and_differ() -> None:
    made, spec, index = digits(), scene_spec("cluttered-60"), torch.arange(30)
    scenes = two_digits(made, index, spec)
    assert scenes.images.shape == (30, 1, 60, 60) and set(scenes.side.tolist()) == {28}
    for n in range(30):
        left, top = int(scenes.left[n]), int(scenes.top[n])
        own = scenes.images[n, 0, top : top + 28, left : left + 28]
        torch.testing.assert_close(own, made.images[n].float() / 255)
        rest = scenes.images[n, 0].clone()
        rest[top : top + 28, left : left + 28] = 0
        assert int((rest > 0).sum()) == 28 * 28  # the other one, whole
        others = [k for k in range(30) if torch.equal(rest[rest > 0], made.images[k].flatten().float() / 255)]
        assert len(others) == 1 and made.labels[others[0]] != made.labels[n]
    assert len(set((scenes.left < 30).tolist())) == 2


def test_the_game_is_for_digits_in_scenes(
    digit_run: Path, caption_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["pointing", str(digit_run), "--images", "2", "--samples", "9"])
    said = capsys.readouterr().out
    assert "posterior" in said and "occlusion" in said and said.count("%") == 6
    wrong = refused(capsys, "pointing", str(caption_run), "--images", "2", command=main, name="experiments")
    assert "does not see digits in scenes" in wrong


def test_the_evidence_for_real_digits_lies_on_them(mnist_dir: Path) -> None:
    _, held_out = load_digits(str(mnist_dir), validation=5000, download=False)
    index = torch.arange(20)
    scenes = evaluation_scenes(held_out.images, index, scene_spec("translated"))
    shares = pointing_game(from_pretrained("translated"), scenes, held_out.labels[index], samples=100)
    assert shares["posterior"] >= 0.95
