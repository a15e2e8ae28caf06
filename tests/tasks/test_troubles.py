"""Networks made to go wrong in a known way are told of it, once; one that does not is left in peace."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.networks import classifier
from tests.tiny import tiny_config
from wsram.config import changed
from wsram.data import Batch, Dataset, Spec
from wsram.glimpse.actions import Action
from wsram.glimpse.sensor import Sensor
from wsram.models.classifier import AttentionClassifier
from wsram.runs import Run
from wsram.tasks.troubles import Looking, Merit, look_again, share_inside, troubles
from wsram.terminal import Screen
from wsram.training import train


class Dots:
    """Two classes: a light spot in the middle of the image, and none."""

    spec = Spec(1, "class", ("spot", "none"), (30, 30))
    title = "dots"

    def __len__(self) -> int:
        return 40

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        images = torch.zeros(len(index), 1, 30, 30)
        images[index % 2 == 0, :, 12:18, 12:18] = 1.0
        return Batch(images, index % 2)

    def to(self, device: torch.device) -> Dots:
        return self

    def fingerprint(self) -> str:
        return "dots"


def naming(place: tuple[float, float], glimpses: int = 2) -> AttentionClassifier:
    """A network that looks at that place (x, y) alone and says spot if the light it saw so far is enough."""
    network = classifier(names=("spot", "none"), glimpses=glimpses, patch=6, scales=(1,), inference=False)
    p = network.prediction
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        p.policy_head.bias[:2] = torch.tensor(place).atanh()
        first, second = p.glimpse_network.what[1], p.glimpse_network.what[3]
        first.weight[0], second.weight[0, 0] = 1 / 36, 1.0  # the mean of the glimpse
        p.lower.unit.weight_ih[0, 0] = p.lower.unit.weight_hh[0, 0] = 1.0
        p.head.read.weight[0, 0], p.head.read.bias[1] = 4.0, 2.0
    return network


def looked(network: AttentionClassifier) -> Looking:
    dots: Dataset = Dots()
    return look_again(network, dots, network.prediction.glimpses, nullcontext)


def names(looking: Looking, glimpses: int = 2, *, late: bool = True) -> list[str]:
    return list(troubles(looking, (1.0,), (1,), glimpses, late=late))


def test_a_network_that_needs_its_policy_and_all_its_glimpses_is_left_in_peace() -> None:
    found = looked(naming((0.0, 0.0), glimpses=1))
    assert found.all.error == 0 and found.commonest == 0.5 and found.leaving == 0
    assert found.random.error > 0.2  # most places show nothing of the spot
    assert names(found, glimpses=1) == []


def test_one_glimpse_that_is_as_good_as_all_is_told() -> None:
    found = looked(naming((0.0, 0.0)))
    assert found.first.error == found.all.error == 0
    assert abs(found.first.nats - found.all.nats) < 1e-3
    assert names(found) == ["one glimpse"]
    assert names(found, late=False) == []  # when the others have not had their time
    assert "as good as all 2" in troubles(found, (1.0,), (1,), 2, late=True)["one glimpse"]


def test_few_errors_say_nothing_where_nats_do() -> None:
    one_wrong = 1 / 256
    found = Looking(Merit(one_wrong, 0.01), Merit(one_wrong, 0.03), Merit(one_wrong, 0.02), 0.9, 0.0)
    assert names(found, glimpses=4) == []
    assert Merit(0.2, -1.0).no_better_than(Merit(0.2, -1.01))  # densities, whose nats may lie below 0
    assert not Merit(0.2, -1.0).no_better_than(Merit(0.2, -0.9))


def test_glimpses_that_leave_the_image_are_told_from_the_start() -> None:
    found = looked(naming((-0.999, 0.999)))
    assert found.leaving == 1
    assert names(found, late=False) == ["outside"]
    assert names(found) == ["outside", "nothing learned"]  # in a corner there is nothing to see


def test_a_policy_that_is_no_better_than_chance_is_told() -> None:
    network = naming((0.6, 0.0), glimpses=1)
    with torch.no_grad():
        network.prediction.head.read.bias[1] = 0.1  # a corner of the spot would do, and is not seen from here
    found = looked(network)
    assert found.random.error < found.all.error
    told = troubles(Looking(Merit(0.3, 1.0), Merit(0.5, 2.0), Merit(0.3, 1.0), 0.5, 0.0), (1.0,), (1,), 1, late=True)
    assert list(told) == ["random"] and "0.3 and 0.3" in told["random"]


def test_one_scale_that_takes_all_is_named() -> None:
    fine = Looking(Merit(0.0, 0.1), Merit(0.5, 1.0), Merit(0.5, 1.0), 0.5, 0.0)
    assert "scale ×3" in troubles(fine, (0.0, 0.999), (1, 3), 2, late=False)["one scale"]
    assert troubles(fine, (0.05, 0.95), (1, 3), 2, late=True) == {}


def test_the_share_inside_is_worked_out_by_hand() -> None:
    sensor = Sensor(4, (1, 3))
    sizes = torch.tensor([[10, 8]])
    location = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]])
    found = share_inside(sensor, sizes, Action(location, torch.tensor([[0, 0, 0, 1]])))
    # At the right edge the middle is 0.5 pixels from it: 2.5 of 4 are inside. What covers the image is inside.
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.625, 0.625**2, 1.0]]))


def test_training_says_each_trouble_once(tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = changed(tiny_config(digits), updates=8, learning_rate=1e-30)  # so that it learns nothing
    train(Run(tmp_path / "run", config), Screen())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Look out")]
    assert sum("commonest class" in line for line in lines) == 1
    assert lines[-1].startswith("Look out, after update 6")  # once half of the updates are over
