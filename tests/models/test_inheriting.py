import dataclasses
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.models.test_trunk import trunks
from wsram.errors import UserError
from wsram.models.classifier import AttentionClassifier
from wsram.models.inheriting import begin_from
from wsram.models.pretrained import save_network
from wsram.models.trunk import fill_pretrained

SMALL = dict(glimpses=2, patch=4, scales=(1, 2), lower_units=6, upper_units=5, view=4)


def a_network(seed: int, **changes) -> AttentionClassifier:
    torch.manual_seed(seed)
    return AttentionClassifier(**(SMALL | dict(names=("ant", "bee", "cat")) | changes))


@pytest.fixture
def trained(tmp_path: Path) -> AttentionClassifier:
    network = a_network(0)
    save_network(network, tmp_path)
    return network


def test_a_network_of_the_same_kind_becomes_the_other(tmp_path: Path, trained: AttentionClassifier) -> None:
    network = a_network(1)
    (said,) = begin_from(network, str(tmp_path))
    assert said == f"starts with the weights and 3 of 3 answers of {tmp_path}"
    for key, tensor in trained.state_dict().items():
        assert torch.equal(network.state_dict()[key], tensor)


def test_answers_go_by_their_names_and_new_ones_stay_as_they_were(tmp_path: Path, trained: AttentionClassifier) -> None:
    network = a_network(1, names=("dog", "cat", "ant", "elk"))
    before = network.prediction.head.read.weight.detach().clone()
    embedded = network.inference.answer.weight.detach().clone()
    (said,) = begin_from(network, str(tmp_path))
    assert "2 of 4 answers" in said
    after = network.prediction.head.read.weight
    assert torch.equal(after[[1, 2]], trained.prediction.head.read.weight[[2, 0]])
    assert torch.equal(after[[0, 3]], before[[0, 3]])
    assert torch.equal(network.inference.answer.weight[[1, 2]], trained.inference.answer.weight[[2, 0]])
    assert torch.equal(network.inference.answer.weight[[0, 3]], embedded[[0, 3]])
    assert torch.equal(network.prediction.lower.unit.weight_ih, trained.prediction.lower.unit.weight_ih)


def test_a_map_gives_evidence_for_answers_by_their_names(tmp_path: Path) -> None:
    pointing = dict(policy="map", map_evidence=True, network="conv", widths=(4, 4))
    trained = a_network(0, **pointing)
    save_network(trained, tmp_path)
    network = a_network(1, names=("cat", "ant", "dog"), **pointing)
    before = network.prediction.view_network.evidence.weight.detach().clone()
    begin_from(network, str(tmp_path))
    after, theirs = (each.prediction.view_network.evidence.weight for each in (network, trained))
    assert torch.equal(after[:2], theirs[[2, 0]]) and torch.equal(after[2], before[2])


@pytest.mark.parametrize(("changes", "shared"), [(dict(map_stride=16), 5), (dict(map_stride=8, map_apart=True), 0)])
def test_pretrained_stages_that_the_other_has_not_are_as_imagenet_taught_them(
    tmp_path: Path, changes: dict[str, object], shared: int
) -> None:
    """Three stages of the view go on, five blocks; of cells that are apart none does, under another name."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the captions extra is not installed")
    pointing = dict(network="efficientnet-lite0", policy="map", patch=16, view=32)
    trained, network, plain = (
        a_network(0, **pointing, map_stride=8),
        *(a_network(n, **pointing | changes) for n in (1, 2)),
    )
    for each in (trained, plain):
        fill_pretrained(each)
    (_, seen), (_, ours), (_, theirs) = (trunks(each) for each in (trained, network, plain))
    with torch.no_grad():
        for parameter in seen.parameters():
            parameter.mul_(0.5)  # as if it had learned something
    save_network(trained, tmp_path)
    assert begin_from(network, str(tmp_path))[0].startswith("efficientnet-lite0 as ImageNet taught it")
    for n, block in enumerate(ours.blocks):
        expected = seen.blocks[n] if n < shared else theirs.blocks[n]
        for parameter, like in zip(block.parameters(), expected.parameters(), strict=True):
            assert torch.equal(parameter, like)


def test_another_kind_of_answer_begins_anew(tmp_path: Path, trained: AttentionClassifier) -> None:
    network = a_network(1, answer="labels")
    before = network.prediction.head.read.weight.detach().clone()
    assert "0 of 3 answers" in begin_from(network, str(tmp_path))[0]
    assert torch.equal(network.prediction.head.read.weight, before)
    assert torch.equal(network.prediction.lower.unit.weight_ih, trained.prediction.lower.unit.weight_ih)


def test_what_does_not_fit_is_told_and_left(tmp_path: Path, trained: AttentionClassifier) -> None:
    network = a_network(1, view=6)
    assert begin_from(network, str(tmp_path))[0].endswith("anew begin prediction.view_network")


def test_how_much_where_counts_can_begin_anew(tmp_path: Path, trained: AttentionClassifier) -> None:
    network = a_network(1, binding="product")
    assert begin_from(network, str(tmp_path))[0].endswith("anew begin prediction.glimpse_network")
    images = torch.rand(3, 1, 12, 12)
    torch.testing.assert_close(network.predict(images).outputs, trained.predict(images).outputs)  # by 1 at first


def test_other_glimpses_are_refused_by_the_settings_that_differ(tmp_path: Path, trained: AttentionClassifier) -> None:
    with pytest.raises(UserError, match=r"read with patch 4 \(here 6\), lower units 6 \(here 8\); ask for the same"):
        begin_from(a_network(1, patch=6, lower_units=8), str(tmp_path))


def test_a_run_starts_from_a_network_and_goes_on_without_it(tmp_path: Path) -> None:
    digits = tiny.write_digits(tmp_path / "digits")
    first = tiny.trained(tmp_path / "first", tiny.tiny_config(digits))
    config = dataclasses.replace(tiny.tiny_config(digits, learning_rate=1e-30), start_from=str(tmp_path / "first"))
    second = tiny.trained(tmp_path / "second", config)
    for key, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], tensor, rtol=0, atol=1e-20)
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    tiny.trained(tmp_path / "second", config, resume=True)
