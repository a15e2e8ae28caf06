"""The layers of the classifier, each by itself, as in a network of another kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.refusals import refusal
from wsram.glimpse.actions import Action
from wsram.models.layers import NETWORKS, RECURRENCES, GlimpseNetwork, Recurrence, ViewNetwork


def test_lstm_keeps_its_memory_beside_its_output() -> None:
    layer = Recurrence("lstm", 3, 4)
    state = layer.initial(torch.rand(2, 4))
    inputs = torch.rand(2, 3)
    assert isinstance(layer.unit, nn.LSTMCell)
    output, memory = layer.unit(inputs, (state[:, :4], torch.zeros(2, 4)))
    after = layer(inputs, state)
    torch.testing.assert_close(layer.output(after), output)
    torch.testing.assert_close(after[:, 4:], memory)


@pytest.mark.parametrize("kind", RECURRENCES)
def test_a_recurrence_takes_any_leading_axes(kind: str) -> None:
    layer = Recurrence(kind, 3, 4)
    inputs, state = torch.rand(2, 5, 3), layer.initial(torch.rand(2, 5, 4))
    whole = layer(inputs, state)
    assert layer.output(whole).shape == (2, 5, 4)
    torch.testing.assert_close(whole[1, 3:4], layer(inputs[1, 3:4], state[1, 3:4]))


def test_a_relu_recurrence_begins_by_adding_up_what_it_is_given() -> None:
    layer = Recurrence("relu", 3, 4)
    inputs, state = torch.rand(2, 3), torch.rand(2, 4)
    alone = layer.unit.weight_ih @ inputs.mT + (layer.unit.bias_ih + layer.unit.bias_hh).unsqueeze(-1)
    torch.testing.assert_close(layer(inputs, state), (state + alone.mT).relu())


def test_evidence_is_gathered_in_any_order_and_one_input_is_enough() -> None:
    layer = Recurrence("evidence", 3, 4).double()
    inputs = torch.randn(5, 2, 3, dtype=torch.float64)
    after = torch.zeros(2, 4, dtype=torch.float64)
    backwards = torch.zeros_like(after)
    for n in range(5):
        after, backwards = layer(inputs[n], after), layer(inputs[4 - n], backwards)
    said = inputs @ layer.unit.weight.mT + layer.unit.bias
    torch.testing.assert_close(after, (1 + said.exp().sum(0)).log())
    torch.testing.assert_close(after, backwards)
    assert layer.told(after, 5) is after  # however many there were
    with torch.no_grad():
        layer.unit.weight.mul_(100)
    loud = layer(inputs[0], after)
    torch.testing.assert_close(loud, torch.maximum(after, layer.unit(inputs[0])), atol=0.7, rtol=0)


def test_what_is_shown_can_be_told_without_where_it_was() -> None:
    network = GlimpseNetwork("fc", channels=2, side=9, scales=3, features=7, widths=(3, 5), binding="none")
    patch, scale = torch.rand(4, 2, 9, 9), torch.zeros(4, dtype=torch.long)
    features = network(patch, Action(torch.zeros(4, 2), scale))
    assert torch.equal(features, network(patch, Action(torch.ones(4, 2), scale + 1)))
    assert torch.equal(features, network.what(patch).relu())


def test_convolutions_have_the_widths_asked_for() -> None:
    glimpse = GlimpseNetwork("conv", channels=2, side=9, scales=3, features=7, widths=(3, 5))
    view = ViewNetwork("conv", channels=2, side=11, features=7, widths=(3, 5))
    for network in (glimpse, view):
        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert [module.out_channels for module in convolutions] == [3, 5]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_glimpse_network_reads_what_is_shown_and_where_it_was_taken(kind: str) -> None:
    network = GlimpseNetwork(kind, channels=2, side=9, scales=3, features=7, widths=(3, 5))
    patch, location, scale = torch.rand(4, 5, 2, 9, 9), torch.zeros(4, 5, 2), torch.zeros(4, 5, dtype=torch.long)
    features = network(patch, Action(location, scale))
    assert features.shape == (4, 5, 7) and bool((features >= 0).all())
    for other in (
        network(patch.flip(-1), Action(location, scale)),
        network(patch, Action(location + 0.5, scale)),
        network(patch, Action(location, scale + 2)),
    ):
        assert not torch.allclose(other, features)


def test_bound_by_a_product_it_begins_as_bound_by_a_sum_and_then_weighs_by_where() -> None:
    sizes = dict(channels=2, side=9, scales=3, features=7, widths=(3, 5))
    plain, network = GlimpseNetwork("fc", **sizes), GlimpseNetwork("fc", binding="product", **sizes)  # type: ignore[arg-type]
    assert network.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    patch, scale = torch.rand(4, 2, 9, 9), torch.zeros(4, dtype=torch.long)
    location = 2 * torch.rand(4, 2) - 1
    features = plain(patch, Action(location, scale))
    torch.testing.assert_close(network(patch, Action(location, scale)), features)
    assert network.share is not None
    with torch.no_grad():
        network.share[-1].weight.normal_()
        weighed = network(patch, Action(location, scale))
        by = 1 + network.share(torch.cat([location, torch.eye(3)[scale]], -1))
    torch.testing.assert_close(weighed, features * by)


def test_what_leaks_is_weakened_below_zero_and_still_learns() -> None:
    sizes = dict(channels=2, side=9, scales=3, features=64, widths=(3, 5))
    plain, network = GlimpseNetwork("fc", **sizes), GlimpseNetwork("fc", leak=0.25, **sizes)  # type: ignore[arg-type]
    network.load_state_dict(plain.state_dict())
    patch, action = torch.rand(4, 2, 9, 9), Action(2 * torch.rand(4, 2) - 1, torch.zeros(4, dtype=torch.long))
    whole, strong = network(patch, action), plain(patch, action)
    dead = (strong == 0).all(0)
    assert dead.any()
    torch.testing.assert_close(whole.relu(), strong)
    assert (whole[:, dead] < 0).all()
    last = network.what[-1].weight
    whole[:, dead].sum().backward()
    assert last.grad is not None and (last.grad[dead] != 0).any(1).all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_view_network_reads_where_something_is(kind: str) -> None:
    network = ViewNetwork(kind, channels=2, side=12, features=16, widths=(3, 5))
    view = torch.zeros(2, 2, 12, 12)
    view[0, :, 1:4, 1:4] = view[1, :, 8:11, 8:11] = 1
    features = network(view)
    assert features.shape == (2, 16)
    assert not torch.allclose(features[0], features[1])


def test_layers_of_an_unknown_kind_are_refused() -> None:
    refusal(lambda: Recurrence("elman", 3, 4), "'elman'", "relu, gru, lstm")
    refusal(
        lambda: GlimpseNetwork("fc", channels=1, side=8, scales=1, features=4, widths=(1,), binding="glue"),
        "'glue'",
        "sum, product",
    )
    refusal(
        lambda: GlimpseNetwork("fc", channels=1, side=8, scales=1, features=4, widths=(1,), leak=-0.1), "leak", "-0.1"
    )
    refusal(lambda: ViewNetwork("vit", channels=1, side=8, features=4, widths=(1, 1)), "'vit'", "fc, conv")
