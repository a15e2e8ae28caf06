"""What is exported looks as the network does, whatever it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.networks import classifier
from wsram.export.checks import TOLERANCE, deviation, noise_for, own, stepped
from wsram.export.graph import Look, Looking, Start, Step
from wsram.models.classifier import AttentionClassifier

KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "convolutions, colour, LSTM": dict(
        network="conv", channels=3, recurrence="lstm", widths=(3, 4), aim="contrast", scale_toll=2.0
    ),
    "a number, GRU, far scales": dict(
        answer="number", names=("age",), unit=(40.0, 12.0), recurrence="gru", scales=(1, 3, 7)
    ),
    "labels, whole pixels": dict(answer="labels", sensor="nearest", patch=5, calibration=[0.1, -0.2, 0.0, 1.0, -1.0]),
    "at a temperature, in contrast": dict(calibration=[2.5], contrast=True),
}
POINTING: dict[str, dict[str, Any]] = {
    "a map, a product": dict(policy="map", network="conv", widths=(3, 4), binding="product", leak=0.2),
    "a map of evidence": dict(
        policy="map", network="conv", widths=(3, 4), map_evidence=True, recurrence="evidence", binding="none"
    ),
    "a map of cells that are apart": dict(
        policy="map", network="conv", widths=(3, 4), map_apart=True, map_query=False, read_dropout=0.3
    ),
    "a map of coarse cells, colour, one scale": dict(policy="map", map_stride=2, channels=3, scales=(2,)),
}


@pytest.fixture(params=(KINDS | POINTING).values(), ids=KINDS | POINTING)
def network(request: pytest.FixtureRequest) -> AttentionClassifier:
    return opinionated(**request.param)


def opinionated(**changes: Any) -> AttentionClassifier:
    """A network that looks somewhere else at every glimpse, at any scale."""
    network = classifier(inference=False, **changes).eval()
    with torch.no_grad():
        network.prediction.policy_head.weight[:4].mul_(30)
        for weights in network.prediction.glimpse_network.parameters():
            weights.mul_(3)
        for weights in network.prediction.head.parameters():
            weights.mul_(3)
        for weights in network.prediction.upper.parameters():
            weights.normal_(std=0.4)
    return network


def points(network: AttentionClassifier) -> bool:
    return bool(network.arguments["policy"] == "map")


def test_the_graph_is_the_network(network: AttentionClassifier) -> None:
    looking = Looking(network)
    for sampled in (False,) if points(network) else (False, True):  # a map's draws are refused, see test_files
        with torch.no_grad():
            assert deviation(network, Look(looking), sampled=sampled) < TOLERANCE / 10
            steps = stepped(network, Start(looking), Step(looking))
            assert deviation(network, steps, sampled=sampled) < TOLERANCE / 10


def test_the_networks_under_test_look_around(network: AttentionClassifier) -> None:
    """Else all graphs would agree."""
    images = torch.rand(9, network.channels, 40, 50)
    *answers, locations, _ = own(network, images, None)
    assert answers[0].std(0).min() > 1e-4 and locations.std((0, 1)).min() > 0.02
    if points(network):
        assert float((locations[:, 1:] - locations[:, :-1]).abs().amax(-1).min()) > 0.1  # what was seen pays its toll
        return
    *_, scales = own(network, images, noise_for(network, 9, 0))
    assert len(scales.unique()) == len(network.prediction.sensor.scales)
