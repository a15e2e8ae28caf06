"""From coarse to fine: the whole first, then what the view leaves most open, each part once."""

from __future__ import annotations

import torch

from experiments.uncertain import by_entropy
from tests.models.networks import classifier
from wsram.glimpse.actions import Action


def test_the_whole_comes_first_and_then_every_part_once_the_least_certain_before_others() -> None:
    network = classifier(glimpses=10, patch=8, scales=(1, 3), view=12).eval()
    with torch.no_grad():
        network.prediction.head.read.weight.mul_(20)
    images = torch.rand(2, 1, 24, 24)
    pyramid = network.prediction.sensor.pyramid(images)
    with torch.no_grad():
        looked = network.prediction.look(pyramid, by_entropy(network, pyramid))
        assert looked.action.scale.tolist() == [[1] + [0] * 9] * 2
        assert not looked.action.location[:, 0].any()
        middles = {(round(3 * x, 3), round(3 * y, 3)) for x, y in looked.action.location[0, 1:].tolist()}
        assert middles == {(x, y) for x in (-2, 0, 2) for y in (-2, 0, 2)}
        # Told a part alone as the view shows it, the network is the less certain the earlier the part is looked at.
        side = 8
        enlarged = torch.nn.functional.interpolate(pyramid.view(12), (24, 24), mode="bilinear")
        open_there = []
        for x, y in looked.action.location[0, 1:].tolist():
            left, top = (round((3 * at + 2) / 2) * side for at in (x, y))
            part = enlarged[:1, :, top : top + side, left : left + side]
            action = Action(torch.tensor([[x, y]]), torch.tensor([0]))
            features = network.prediction.glimpse_network(part, action)
            state = network.prediction.lower(features, torch.zeros(1, network.prediction.lower.size))
            log_p = network.prediction.head(state)
            open_there.append(-float((log_p.exp() * log_p).sum()))
    assert open_there == sorted(open_there, reverse=True) and open_there[0] > open_there[-1]


def test_a_small_image_is_one_part() -> None:
    network = classifier(glimpses=3, patch=8, scales=(1, 2), view=8).eval()
    pyramid = network.prediction.sensor.pyramid(torch.rand(1, 1, 9, 9))
    looked = network.prediction.look(pyramid, by_entropy(network, pyramid))
    assert not looked.action.location.any() and looked.action.scale.tolist() == [[1, 0, 0]]
