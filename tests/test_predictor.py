"""A network at work on images of one's own: whatever they come as, one answer, in pixels of the file."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.networks import classifier
from tests.refusals import refusal
from wsram.answers import Caption, Prediction
from wsram.data.ahead import THREADS, ahead
from wsram.data.given import given
from wsram.data.images import read_image
from wsram.errors import UserError
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.models.pretrained import load_network, save_network
from wsram.predictor import Predictor, from_pretrained
from wsram.runs import Run, load_state
from wsram.settings import from_json

ORIENTATION = 0x0112


def picture(height: int = 24, width: int = 30, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A made-up image as bytes, (height, width) or (height, width, 3)."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def written(folder: Path, name: str = "a.png", array: np.ndarray | None = None) -> Path:
    path = folder / name
    Image.fromarray(picture() if array is None else array).save(path)
    return path


def same(ours: Any, theirs: Any) -> bool:
    """Whether two predictions agree in every number, but for rounding in products of other shapes."""
    for one, other in zip(ours.to_dict()["glimpses"], theirs.to_dict()["glimpses"], strict=True):
        for name in ("left", "top", "side", "scale"):
            if abs(one[name] - other[name]) > 2e-3:
                return False
    return bool(torch.allclose(ours.beliefs, theirs.beliefs, atol=1e-5))


KINDS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "a path": lambda array, folder: written(folder, array=array),
    "a path in words": lambda array, folder: str(written(folder, array=array)),
    "an image of Pillow": lambda array, folder: Image.fromarray(array),
    "an image of Pillow, not read yet": lambda array, folder: Image.open(written(folder, array=array)),
    "an array of bytes": lambda array, folder: array,
    "an array that cannot be written to": lambda array, folder: np.broadcast_to(array, array.shape),
    "an array turned twice": lambda array, folder: array[::-1].copy()[::-1],
    "an array in [0, 1]": lambda array, folder: array / 255,
    "an array in half precision": lambda array, folder: (array / 255).astype(np.float16),
    "an array of the other byte order": lambda array, folder: (array / 255).astype(">f4"),
    "a tensor of bytes": lambda array, folder: planes(array),
    "a tensor in [0, 1]": lambda array, folder: planes(array).float() / 255,
    "a tensor that is learned": lambda array, folder: (planes(array).double() / 255).requires_grad_(),
}


def planes(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(array.copy())
    return tensor if tensor.ndim == 2 else tensor.permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_gives_the_same_prediction(tmp_path: Path, kind: str, channels: int) -> None:
    predictor, array = Predictor(classifier(channels=channels)), picture(channels=channels)
    image = KINDS[kind](array, tmp_path)
    expected = predictor.network.predict((planes(array).float() / 255).view(1, channels, 24, 30))

    prediction = predictor.predict(image)

    tolerance = 2e-3 if "half" in kind else 1e-5
    torch.testing.assert_close(prediction.beliefs, expected.outputs_after[0].exp(), rtol=0, atol=tolerance)
    assert prediction.given.name == (str(image) if isinstance(image, str | Path) else "")


def test_colours_are_the_networks() -> None:
    colour, grey = picture(channels=3), picture()
    as_grey = np.asarray(Image.fromarray(colour).convert("L"))
    sees_grey, sees_colour = Predictor(classifier()), Predictor(classifier(channels=3))
    for image in (colour, colour / 255, planes(colour), planes(colour) / 255):
        assert same(sees_grey.predict(image), sees_grey.predict(as_grey))
    as_colour = np.stack([grey] * 3, -1)
    for image in (grey, grey / 255, planes(grey).unsqueeze(0)):
        assert same(sees_colour.predict(image), sees_colour.predict(as_colour))


def test_what_is_given_is_left_as_it_was_and_may_change_afterwards() -> None:
    predictor, array = Predictor(classifier()), picture()
    tensor, image = planes(array) / 255, Image.fromarray(array)
    kept = tensor.clone()
    of_array, of_tensor, before = predictor.predict(array), predictor.predict(tensor), predictor.predict(image)
    assert torch.equal(tensor, kept) and np.asarray(image).tolist() == array.tolist()
    array[:], tensor[:] = 0, 0
    for prediction in (of_array, of_tensor):
        assert same(prediction.votes(3), before.votes(3))


WRONG = {
    "values up to 255": (np.full((9, 9), 255.0), ("values from 255 to 255", "divide")),
    "values below 0": (np.full((9, 9), -0.5), ("values from -0.5 to -0.5",)),
    "no number": (np.full((9, 9), np.nan), ("values from nan to nan",)),
    "no end": (torch.full((9, 9), math.inf), ("values from inf to inf",)),
    "whole numbers": (np.zeros((9, 9), dtype=np.int64), ("an array", "int64 (9, 9)")),
    "words": (np.full((9, 9), "a"), ("an array", "(height, width, 3)")),
    "truths": (torch.zeros(9, 9, dtype=torch.bool), ("a tensor", "torch.bool (9, 9)")),
    "channels first": (np.zeros((3, 9, 9), dtype=np.uint8), ("(height, width, 3)", "uint8 (3, 9, 9)")),
    "channels last": (torch.zeros(9, 9, 3), ("(1 or 3, height, width)", "(9, 9, 3)")),
    "two channels": (np.zeros((9, 9, 2)), ("(9, 9, 2)",)),
    "nothing": (np.zeros((0, 9)), ("(0, 9)",)),
    "a row": (torch.zeros(9), ("(9,)",)),
}


@pytest.mark.parametrize("image, words", WRONG.values(), ids=WRONG)
def test_what_is_no_image_is_refused_in_one_line(image: Any, words: tuple[str, ...]) -> None:
    refusal(lambda: Predictor(classifier()).predict(image), "expected an image", *words)


def test_rounding_beyond_the_range_is_none_of_the_users_business() -> None:
    image = picture() / 255
    image[0, :2] = -1e-6, 1 + 1e-6
    assert Predictor(classifier()).predict(image).given.pixels.max() == 1


def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path) -> None:
    predictor = Predictor(classifier())
    (tmp_path / "text.png").write_text("no image")
    refusal(lambda: predictor.predict(tmp_path / "absent.png"), tmp_path / "absent.png")
    refusal(lambda: predictor.predict(str(tmp_path / "text.png")), tmp_path / "text.png")
    refusal(lambda: predictor.predict(tmp_path), "the folder", tmp_path)


def test_options_that_do_not_fit_are_refused() -> None:
    predictor = Predictor(classifier())
    refusal(lambda: predictor.predict(picture(), samples=0), "samples must be at least 1, got 0")
    refusal(lambda: predictor.predict([picture()], glimpses=0), "glimpses must be at least 1, got 0")
    refusal(lambda: predictor.predict(picture(), beam=2), "beam is for captions")
    refusal(lambda: predictor.predict(picture()).votes(0), "samples must be at least 1, got 0")
    refusal(lambda: list(predictor.predict_many([], batch=0)), "batch must be at least 1")


# One and many


def test_one_in_one_out_and_several_in_a_list_out(tmp_path: Path) -> None:
    predictor = Predictor(classifier())
    arrays = [picture(seed=n) for n in range(3)]
    single = [predictor.predict(array) for array in arrays]
    assert all(isinstance(one, Prediction) for one in single)
    stack = np.stack(arrays)
    for many in (arrays, tuple(arrays), iter(arrays), stack[..., None], torch.from_numpy(stack).unsqueeze(1)):
        found = predictor.predict(many)
        assert isinstance(found, list) and len(found) == 3
        assert all(same(ours, theirs) for ours, theirs in zip(found, single, strict=True))
    assert predictor.predict([]) == []
    with pytest.raises(UserError, match="absent"):
        predictor.predict([written(tmp_path), tmp_path / "absent.png"])


def test_images_of_several_sizes_are_answered_together_as_alone() -> None:
    predictor = Predictor(classifier())
    images = [picture(h, w, seed=h) for h, w in ((20, 30), (9, 9), (40, 6), (20, 30), (64, 50))]
    for ours, image in zip(predictor.predict(images), images, strict=True):
        assert same(ours, predictor.predict(image))


def test_a_vote_does_not_depend_on_what_is_asked_together_with_it() -> None:
    predictor = Predictor(classifier())
    images = [picture(20 + n, 30, seed=n) for n in range(3)]
    together = predictor.predict(images, samples=4, seed=3)
    for ours, image in zip(together, images, strict=True):
        assert torch.equal(ours.outputs, predictor.predict(image, samples=4, seed=3).outputs)
        assert torch.equal(ours.outputs, predictor.predict(image).votes(4, seed=3).outputs)
        assert not torch.equal(ours.outputs, predictor.predict(image, samples=4, seed=4).outputs)


def test_any_number_of_files_streams_with_the_bad_ones_named(tmp_path: Path) -> None:
    predictor = Predictor(classifier())
    good = [written(tmp_path, f"{n}.png", picture(10 + n, 20, seed=n)) for n in range(5)]
    bad = tmp_path / "bad.png"
    bad.write_bytes(good[0].read_bytes()[:60])
    files = [good[0], bad, *good[1:4], tmp_path / "absent.png", good[4]]

    found = list(predictor.predict_many(files, batch=2))

    assert [path for path, _ in found] == files
    for path, answer in found:
        if path in good:
            assert same(answer, predictor.predict(path))
        else:
            assert isinstance(answer, UserError) and str(path) in str(answer)


def test_no_more_is_read_than_is_needed_soon() -> None:
    """What a stream holds at any time does not grow with its length."""
    taken = 0

    def images() -> Iterator[np.ndarray]:
        nonlocal taken
        for n in range(100_000):
            taken += 1
            yield picture(8, 8, seed=n % 7)

    stream = Predictor(classifier()).predict_many(images(), batch=4)
    for n in range(1, 41):
        next(stream)
        assert taken <= n + 4 + THREADS + 1
    stream.close()


def test_as_many_are_made_ahead_as_the_last_allows_and_never_fewer_than_there_are_threads() -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for n in range(100):
            taken += 1
            yield n

    stream = ahead(numbers(), lambda n: n, lambda n: 20 if n < 30 else 1)
    ahead_of = {n: taken - n - 1 for n, _ in stream}
    assert ahead_of[0] == THREADS and ahead_of[20] == 20
    assert all(ahead_of[n] <= 20 for n in ahead_of) and ahead_of[60] == THREADS


def test_large_images_make_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(classifier())
    monkeypatch.setattr("wsram.predictor.PIXELS", 1000)
    sizes = []
    inner = predictor.network.predict
    monkeypatch.setattr(predictor.network, "predict", lambda images, **how: sizes.append(len(images)) or inner(images))
    assert len(predictor.predict([picture(20, 30, seed=n) for n in range(5)])) == 5
    assert sizes == [2, 2, 1]


# What a prediction says


def test_probabilities_best_and_runner_up_agree() -> None:
    prediction = Predictor(classifier()).predict(picture())
    shares = dict(zip(prediction.names, prediction.probabilities.tolist(), strict=True))
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    assert sum(shares.values()) == pytest.approx(1)
    assert prediction.best == ranked[0] and prediction.runner_up == ranked[1]
    assert prediction.labels == (ranked[0][0],)
    assert prediction.glimpses[-1].belief == pytest.approx(tuple(shares.values()))
    assert str(prediction).startswith(f"{ranked[0][0]} (") and f"then {ranked[1][0]} (" in str(prediction)
    assert repr(prediction) == f"Prediction({prediction})"


def test_the_number_of_glimpses_can_be_chosen() -> None:
    predictor = Predictor(classifier())
    few, many = predictor.predict(picture(), glimpses=1), predictor.predict(picture(), glimpses=5)
    assert len(few.glimpses) == 1 and len(many.glimpses) == 5
    assert few.beliefs[0].tolist() == pytest.approx(many.beliefs[0].tolist(), abs=1e-6)
    assert len(few.votes(2).glimpses) == 1


def test_a_vote_is_the_mean_of_its_sequences() -> None:
    predictor = Predictor(classifier())
    array = picture()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        drawn = predictor.network.predict((planes(array) / 255).view(1, 1, 24, 30), samples=9, generator=generator)
    vote = predictor.predict(array).votes(9, seed=7)
    torch.testing.assert_close(vote.probabilities, drawn.outputs[:, 0].exp().mean(0))
    assert len(vote.sequences) == 9 and vote.glimpses == vote.sequences[0]
    after = torch.tensor([[glimpse.belief for glimpse in sequence] for sequence in vote.sequences])
    torch.testing.assert_close(vote.beliefs, after.mean(0))
    assert vote.to_dict()["sequences"] == 9


def test_a_vote_of_more_sequences_than_are_looked_at_together_counts_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsram.evidence.TOGETHER", 4)
    vote = Predictor(classifier()).predict(picture(), samples=10)
    assert len(vote.sequences) == 10
    assert len({sequence[0].left for sequence in vote.sequences}) == 10


def test_everything_is_said_as_json(tmp_path: Path) -> None:
    prediction = Predictor(classifier()).predict(written(tmp_path))
    said = json.loads(json.dumps(prediction.to_dict()))
    assert said["class"] == prediction.best[0]
    assert list(said["probabilities"]) == list("abcde")
    assert said["probability"] == max(said["probabilities"].values())
    assert len(said["glimpses"]) == 3
    for ours, glimpse in zip(said["glimpses"], prediction.glimpses, strict=True):
        assert (ours["left"], ours["top"], ours["side"]) == pytest.approx(glimpse[:3], abs=1e-3)
        assert ours["scale"] == glimpse.scale and ours["belief"] == pytest.approx(glimpse.belief, abs=1e-6)


def test_labels_are_all_that_lie_above_their_thresholds() -> None:
    network = classifier(answer="labels")
    with torch.no_grad():
        network.head.read.weight.zero_()
        network.head.read.bias.copy_(torch.tensor([2.0, -3.0, 0.5, -0.5, 1.0]))
    predictor = Predictor(network)
    prediction = predictor.predict(picture())
    assert prediction.labels == ("a", "c", "e") and prediction.best[0] == "a"
    assert prediction.probabilities.tolist() == pytest.approx(torch.sigmoid(network.head.read.bias).tolist())
    assert prediction.to_dict()["labels"] == ["a", "c", "e"] and str(prediction).startswith("a (88.1%), c (62.2%), e")
    network.calibrate([3.0, -4.0, 0.6, 0.0, 1.5])
    assert predictor.predict(picture()).labels == ("b",)
    network.calibrate([9.0] * 5)
    assert str(predictor.predict(picture())) == "none of its labels (at most a, 88.1%)"


def test_a_number_is_said_in_its_own_units() -> None:
    network = classifier(answer="number", names=("weight",), unit=(70.0, 10.0))
    with torch.no_grad():
        network.head.read.weight.zero_()
        network.head.read.bias.copy_(torch.tensor([1.5, 0.0]))
    prediction = Predictor(network).predict(picture())
    assert prediction.best == ("weight", 85.0) and prediction.runner_up is None and prediction.labels == ()
    assert str(prediction) == "weight 85" and prediction.to_dict()["weight"] == 85.0
    assert prediction.votes(3).best == ("weight", 85.0)
    refusal(lambda: prediction.draw("weight"), "this one gives a number; leave it out")
    prediction.draw()


# Where it looked, in pixels of the file


def looked_at(image: Any, location: tuple[float, float], scale: int, *, longest: int | None) -> tuple[float, ...]:
    """The box of a glimpse of 4 pixels at a given place."""
    seen = given(image, 1, longest)
    network = classifier(patch=4, scales=(1, 2))
    action = Action(torch.tensor([[location]]), torch.tensor([[scale]]))
    prediction = Prediction(seen, network.head, Sensor(4, (1, 2)), torch.zeros(1, 1, 5), action, lambda *_: None)
    return prediction.glimpses[0][:3]


def test_boxes_are_in_pixels_of_the_image_as_it_was_given() -> None:
    """A glimpse of columns 5 to 8 and rows 2 to 5 of 20 by 12 pixels, each of them the mean of 3 by 3."""
    array = picture(36, 60)
    location = (2 * 6.5 / 19 - 1, 2 * 3.5 / 11 - 1)
    assert looked_at(array, location, 0, longest=20) == pytest.approx((15, 6, 12), abs=1e-5)
    # Twice as coarse, around the same middle.
    assert looked_at(array, location, 1, longest=20) == pytest.approx((9, 0, 24), abs=1e-5)
    # Not shrunk: columns 5 to 8 of the image itself.
    location = (2 * 6.5 / 59 - 1, 2 * 3.5 / 35 - 1)
    assert looked_at(array, location, 0, longest=None) == pytest.approx((5, 2, 4), abs=1e-5)


def test_a_box_of_a_shrunken_image_holds_what_the_glimpse_saw() -> None:
    """The file's pixels within the box, averaged down, are the glimpse."""
    network = classifier(patch=4, scales=(1,), longest=20)
    array = picture(36, 60)
    prediction = Predictor(network).predict(array)
    pixels = read_image(Image.fromarray(array), 1, 20).float() / 255
    assert pixels.shape == (1, 12, 20)
    location = torch.tensor([[2 * 6.5 / 19 - 1, 2 * 3.5 / 11 - 1]])
    sensor = network.prediction.sensor
    seen = sensor(sensor.pyramid(pixels.unsqueeze(0)), location, torch.zeros(1, dtype=torch.long))[0, 0]
    left, top, side = (round(each) for each in looked_at(array, tuple(location[0].tolist()), 0, longest=20))
    inside = array[top : top + side, left : left + side].reshape(4, 3, 4, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(seen.numpy(), inside, atol=1 / 255)
    assert (prediction.given.height, prediction.given.width) == (36, 60)
    assert prediction.glimpses[0].side == pytest.approx(12) and prediction.glimpses[0].scale == 1


def test_a_camera_held_sideways_is_answered_upright(tmp_path: Path) -> None:
    predictor, array = Predictor(classifier(longest=16)), picture(40, 30)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned to the right
    Image.fromarray(np.rot90(array).copy()).save(tmp_path / "turned.png", exif=exif)
    turned, upright = predictor.predict(tmp_path / "turned.png"), predictor.predict(array)
    assert (turned.given.height, turned.given.width) == (40, 30)
    assert same(turned, upright)
    with Image.open(tmp_path / "turned.png") as image:
        assert same(predictor.predict(image), upright)


def test_a_photograph_that_is_unpacked_smaller_keeps_its_size(tmp_path: Path) -> None:
    """A JPEG may be unpacked at a fraction of its size; boxes are of the whole one."""
    Image.fromarray(picture(400, 640, 3)).save(tmp_path / "photo.jpg")
    predictor = Predictor(classifier(longest=50))
    prediction = predictor.predict(tmp_path / "photo.jpg")
    assert prediction.given.pixels.shape == (1, 31, 50)
    assert (prediction.given.height, prediction.given.width) == (400, 640)
    assert prediction.glimpses[0].side == pytest.approx(6 * prediction.glimpses[0].scale * 640 / 50)
    with Image.open(tmp_path / "photo.jpg") as image:
        predictor.predict(image)
        assert image.size == (640, 400)  # whose image it is, sees nothing of that


# Pictures


def test_a_prediction_is_drawn_and_moves(tmp_path: Path) -> None:
    prediction = Predictor(classifier()).predict(written(tmp_path, "[b]a[b] $x_é$.png"))
    best, other = prediction.best[0], prediction.runner_up[0]
    right, wrong = prediction.draw(best), prediction.draw(other)
    said = [text.get_text() for text in right.texts]
    assert any("[b]a[b] $x_é$.png" in text and f"right, it is {best}" in text for text in said)
    assert any(f"wrong, it is {other}" in text.get_text() for text in wrong.texts)
    refusal(lambda: prediction.draw("f"), "a, b, c, d, e", "'f'")

    path = prediction.animate(tmp_path / "moves.gif", best)

    with Image.open(path) as moving:
        assert moving.format == "GIF" and moving.n_frames == 5  # before, after each of three glimpses, and the answer
    before = path.read_bytes()
    refusal(lambda: prediction.animate(path), "exists already")
    assert path.read_bytes() == before


# Where it runs, and in what


def test_precision_is_the_networks_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in ("bf16", "no"):
        monkeypatch.setattr("wsram.predictor.best_precision", lambda device, machine=machine: machine)
        for wanted in ("bf16", "no"):
            predictor = Predictor(classifier(precision=wanted))
            assert predictor.precision == ("bf16" if machine == wanted == "bf16" else "no")
            assert predictor.predict(picture()).outputs.dtype == torch.float32
    half = Predictor(classifier(precision="no"))
    half.network.precision = "bf16"
    monkeypatch.setattr("wsram.predictor.best_precision", lambda device: "bf16")
    exact = half.predict(picture()).beliefs
    assert not torch.equal(half.to("cpu").predict(picture()).beliefs, exact)
    assert half.device == torch.device("cpu")


def test_a_compiled_network_answers_what_it_was_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is asked where it fits, and nowhere else; the compiler itself, which takes long, is left out."""
    asked: list[torch.Size] = []

    def noted(look: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        return lambda images: asked.append(images.shape) or look(images)

    predictor = Predictor(classifier(glimpses=1))
    images = [picture(24, 30), picture(20, 20)]
    before = [predictor.predict(image) for image in images]
    monkeypatch.setattr(torch, "compile", noted)
    assert predictor.compile(24, 30) is predictor
    asked.clear()
    for image, expected in zip(images, before, strict=True):
        assert same(predictor.predict(image), expected)
    assert same(predictor.predict(images[0], glimpses=2), predictor.predict(images[0], glimpses=2))
    assert asked == [(1, 1, 24, 30)]  # no other size, and no other number of glimpses
    predictor.to("cpu").predict(images[0])
    assert len(asked) == 1  # what was compiled was for the place it was in


def test_what_cannot_be_compiled_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(classifier())
    refusal(lambda: predictor.compile(0, 9), "height must be at least 1, got 0")

    def fails(look: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        def run(images: torch.Tensor) -> None:
            raise RuntimeError("no compiler\nhere")

        return run

    monkeypatch.setattr(torch, "compile", fails)
    refusal(lambda: predictor.compile(9, 9), "no compiler here")
    predictor.predict(picture(9, 9))


@pytest.mark.slow
def test_a_compiled_network_answers_the_same() -> None:
    predictor = Predictor(classifier(glimpses=1))
    before = predictor.predict(picture())
    assert same(predictor.compile(24, 30).predict(picture()), before)


def test_no_gradient_is_kept() -> None:
    assert not Predictor(classifier()).predict(picture()).outputs.requires_grad


# By name, and passed on


def test_a_network_is_opened_by_the_name_of_its_run_as_it_was_calibrated(digit_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digit_run, folder)
    step = load_state(Run.open(folder).best_checkpoint())["step"]
    (folder / "calibration.json").write_text(json.dumps({"step": step, "values": [2.5]}))
    predictor = from_pretrained(folder)
    assert predictor.network.arguments["calibration"] == [2.5]
    assert predictor.names == tuple("0123456789") and predictor.network.inference is not None
    assert from_pretrained(str(folder), inference=False).network.inference is None
    assert not predictor.network.training
    refusal(lambda: from_pretrained(folder / "absent"), "absent")


def test_a_saved_network_answers_the_same(tmp_path: Path) -> None:
    network = classifier(longest=20)
    network.calibrate([2.0])
    predictor = Predictor(network)
    folder = predictor.save_pretrained(tmp_path / "passed on")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = from_pretrained(folder)
    assert torch.equal(again.predict(picture()).outputs, predictor.predict(picture()).outputs)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card and 'wsram.from_pretrained("passed on")' in card
    refusal(lambda: predictor.save_pretrained(folder), "exists already")
    (tmp_path / "file").write_text("")
    refusal(lambda: predictor.save_pretrained(tmp_path / "file"), "exists already")


def test_what_is_known_of_a_released_network_goes_along(tmp_path: Path) -> None:
    released = from_pretrained("translated")
    (tmp_path / "own").mkdir()
    for path in released.folder.iterdir():
        (tmp_path / "own" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "own" / "private.txt").write_text("nobody's business")
    folder = from_pretrained(tmp_path / "own").save_pretrained(tmp_path / "passed on")
    settings = [from_json((place / "training.json").read_text(), place) for place in (folder, released.folder)]
    assert settings[0] == settings[1]
    assert "translated" in (folder / "README.md").read_text() and not (folder / "private.txt").exists()
    assert torch.equal(from_pretrained(folder).predict(picture()).outputs, released.predict(picture()).outputs)


class Hub:
    """What stands for the Hugging Face Hub, and keeps what it was sent."""

    sent: dict[str, Any]

    def __init__(self, token: str | None = None) -> None:
        Hub.sent = {"token": token}

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        Hub.sent |= {"repo": repo_id, "private": private, "exist_ok": exist_ok}
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
        assert repo_id == Hub.sent["repo"]
        Hub.sent["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}


def test_a_network_is_pushed_to_the_hub_with_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    predictor = Predictor(classifier())
    address = predictor.push_to_hub("someone/letters", private=True, token="secret")
    assert address == "https://huggingface.co/someone/letters"
    assert Hub.sent["private"] and Hub.sent["exist_ok"] and Hub.sent["token"] == "secret"
    files = Hub.sent["files"]
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    assert b'from_pretrained("letters")' not in files["README.md"]
    assert b'from_pretrained("someone/letters")' in files["README.md"] and b"secret" not in b"".join(files.values())
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert torch.equal(from_pretrained(tmp_path).predict(picture()).outputs, predictor.predict(picture()).outputs)


def test_a_hub_that_refuses_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Offline(Hub):
        def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
            raise OSError("no way there\n\nfrom here")

    monkeypatch.setattr("huggingface_hub.HfApi", Offline)
    refusal(lambda: Predictor(classifier()).push_to_hub("someone/letters"), "someone/letters", "no way there from here")


# Captions


@pytest.fixture
def captioner(caption_run: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    from tests.caption_world import backbone

    monkeypatch.setattr("wsram.predictor.build_backbone", backbone)
    return from_pretrained(caption_run)


def test_a_captioner_says_words_and_where_it_attended(captioner: Predictor, world: Path, tmp_path: Path) -> None:
    files = sorted((world / "Flicker8k_Dataset").glob("6*.png"))
    found = captioner.predict(files)
    assert len(found) == len(files) > 3
    for path, caption in zip(files, found, strict=True):
        assert isinstance(caption, Caption)
        assert caption.caption == " ".join(caption.words) == str(caption) == str(captioner.predict(path))
        assert len(caption.cells) == len(caption.words) + 1 and caption.log_probability < 0
    assert len({caption.caption for caption in found}) > 1

    one = found[0]
    said = json.loads(json.dumps(one.to_dict()))
    assert said["caption"] == one.caption and said["words"] == list(one.words)
    for ours, cell in zip(said["cells"], one.cells, strict=True):
        assert tuple(ours.values()) == pytest.approx(tuple(cell))
    assert one.draw().get_suptitle() == one.caption
    with Image.open(one.animate(tmp_path / "moves.gif")) as moving:
        assert moving.n_frames == len(one.words) + 2


def test_cells_are_in_pixels_of_the_file_though_the_network_sees_a_square(captioner: Predictor, tmp_path: Path) -> None:
    wide = captioner.predict(np.full((70, 1400, 3), 255, dtype=np.uint8))
    for number, cell in zip(wide.attended, wide.cells, strict=True):
        row, column = divmod(number, 7)
        assert tuple(cell) == pytest.approx((200 * column, 10 * row, 200, 10))
    assert wide.given.pixels.shape == (3, 32, 640)  # as it is drawn


def test_options_of_classifiers_are_refused_by_a_captioner(captioner: Predictor) -> None:
    refusal(lambda: captioner.predict(picture(), samples=3), "samples")
    refusal(lambda: captioner.predict(picture(), glimpses=3), "glimpses")
    refusal(lambda: captioner.predict(picture(), beam=0), "beam must be at least 1, got 0")
    refusal(lambda: captioner.explain(picture(), "red"), "captions")
    refusal(lambda: captioner.compile(9, 9), "captions")
    assert captioner.predict(picture(), beam=1).words


def test_the_network_beneath_is_saved_to_the_last_bit(tmp_path: Path) -> None:
    predictor = Predictor(classifier())
    (tmp_path / "raw").mkdir()
    save_network(predictor.network, tmp_path / "raw")
    folder = predictor.save_pretrained(tmp_path / "passed on")
    ours, theirs = load_network(folder).state_dict(), load_network(tmp_path / "raw").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
