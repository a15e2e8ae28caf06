"""The classifier with a policy that points: every way of training it, and what reaches what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.networks import CLASSES, check_lineages, classifier, following
from wsram.errors import UserError
from wsram.estimators import ESTIMATORS
from wsram.glimpse.actions import Action
from wsram.glimpse.policies import MapDistribution, cell_of, contrast_of
from wsram.models.classifier import AttentionClassifier
from wsram.models.layers import MapNetwork

SETTINGS: dict[str, Any] = {"policy": "map", "view": 12, "map_stride": 2, "network": "conv", "glimpses": 3}


def pointer(**changes: Any) -> AttentionClassifier:
    """A small network with a map of 6 by 6 cells, float64."""
    torch.manual_seed(0)
    return classifier(**(SETTINGS | changes)).double()


def images(batch: int = 4) -> Tensor:
    return torch.rand(batch, 1, 30, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


ANSWERS = torch.arange(4) % CLASSES


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("inference", [True, False])
def test_every_estimator_trains_a_network_that_points(name: str, inference: bool) -> None:
    entry = ESTIMATORS[name]
    if inference and not entry.trains_proposal:
        return
    model = pointer()
    generator = torch.Generator().manual_seed(0)
    kinds = {"with_inference": inference, "centred": inference and entry.centred, "resample": entry.resamples}
    rollout = model(images(), ANSWERS, samples=4, generator=generator, **kinds)
    extra = {"mean_log_p_a": rollout.mean_log_p_a} if entry.centred else {}
    extra |= {"ancestors": rollout.ancestors} if entry.resamples else {}
    entry.function(rollout.log_p_y, rollout.log_p_a, rollout.log_q_a, **extra).loss.backward()
    for part in (model.prediction.view_network, model.prediction.policy_head, model.prediction.glimpse_network):
        reached = [p.grad is not None and bool(p.grad.isfinite().all()) for p in part.parameters()]
        assert all(reached)
    if inference:
        assert model.inference is not None
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.inference.parameters())


def test_a_resampled_sequence_points_at_what_its_ancestor_has_not_looked_at() -> None:
    model = pointer()
    with torch.no_grad():
        model.head.read.weight.mul_(60)
    rollout = model(images(), ANSWERS, samples=4, generator=torch.Generator().manual_seed(0), resample=True)
    check_lineages(model, images(), ANSWERS, rollout)


@pytest.mark.parametrize("changes", [{"defensive": 0.5, "dreams": 2}, {"sum_scale": True}, {"temperature": 1.7}])
def test_it_takes_part_in_every_way_of_drawing(changes: dict[str, Any]) -> None:
    model = pointer()
    rollout = model(images(), ANSWERS, samples=3, generator=torch.Generator().manual_seed(0), **changes)
    for value in (rollout.log_p_y, rollout.log_p_a, rollout.log_q_a):
        assert value.shape == (3, 4, 3) and bool(value.isfinite().all())


def test_a_fresh_network_points_where_the_contrast_is() -> None:
    model = pointer(fresh=True, inference=False)
    scene = torch.zeros(1, 1, 36, 36, dtype=torch.float64)
    scene[0, 0, 25:29, 7:11] = 1.0
    looked = model.predict(scene)
    column, row = ((looked.action.location[0, 0] + 1) / 2 * 35).tolist()
    assert 23 < row < 31 and 5 < column < 13


def test_cells_that_give_evidence_are_taught_the_answer_and_the_map_begins_at_them() -> None:
    model = pointer(map_evidence=True, inference=False)
    rollout = model(images(), ANSWERS, samples=2, generator=torch.Generator().manual_seed(0))
    seeing = model.prediction.view_network
    assert isinstance(seeing, MapNetwork) and rollout.log_p_y_view is not None
    cells = seeing(torch.nn.functional.adaptive_avg_pool2d(images(), 12))
    assert cells.evidence is not None and cells.evidence.shape == (4, 36, CLASSES)
    pooled = cells.evidence.exp().mean(1).log()
    torch.testing.assert_close(rollout.log_p_y_view, pooled.log_softmax(-1)[torch.arange(4), ANSWERS])
    said = cells.evidence.logsumexp(-1)
    contrast = seeing.trust * contrast_of(torch.nn.functional.adaptive_avg_pool2d(images(), 12), 2)[0]
    torch.testing.assert_close(cells.prior, contrast + said - said.mean(-1, keepdim=True))
    rollout.log_p_y_view.sum().backward()
    assert seeing.evidence is not None
    reached = [p.grad is not None and bool((p.grad != 0).any()) for p in seeing.evidence.parameters()]
    assert all(reached)
    assert all(p.grad is None for p in model.prediction.head.parameters())  # no answer is read from the view


def test_labels_are_asked_of_cells_one_by_one() -> None:
    model = pointer(map_evidence=True, inference=False, answer="labels", calibration=None)
    answers = torch.randint(2, (4, CLASSES), generator=torch.Generator().manual_seed(2)).double()
    rollout = model(images(), answers, samples=2, generator=torch.Generator().manual_seed(0))
    cells = rollout.policy.cells
    assert isinstance(rollout.policy, MapDistribution) and cells is not None and cells.scores is not None
    odds = cells.scores.sigmoid()
    expected = torch.where(answers > 0, odds, 1 - odds).log().sum(-1)
    torch.testing.assert_close(rollout.log_p_y_view, expected)


def test_a_map_without_evidence_says_nothing_of_the_answer() -> None:
    rollout = pointer()(images(), ANSWERS, samples=2, generator=torch.Generator().manual_seed(0))
    assert rollout.log_p_y_view is None


@pytest.mark.parametrize("changes", [dict(policy="gaussian"), dict(answer="number", names=("age",), unit=(0.0, 1.0))])
def test_evidence_of_no_map_or_for_a_number_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="cells of a map give evidence"):
        pointer(map_evidence=True, **changes)


def test_a_fresh_inference_network_proposes_what_the_policy_does() -> None:
    model = pointer(fresh=True)
    rollout = model(images(), ANSWERS, samples=3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rollout.log_p_a, rollout.log_q_a)


def test_what_was_looked_at_is_not_looked_at_again() -> None:
    model = pointer(glimpses=4, map_toll=40.0, inference=False)
    action = model.predict(images(), samples=50, generator=torch.Generator().manual_seed(0)).action
    cell = cell_of(action.location, 6)
    row, column = cell // 6, cell % 6
    for n in range(4):
        for m in range(n):
            near = torch.maximum((row[..., n] - row[..., m]).abs(), (column[..., n] - column[..., m]).abs())
            assert int(near.min()) > 1


def test_the_label_reaches_the_policy_of_prediction_in_no_way_through_the_inference_network() -> None:
    model = pointer()
    rollout = model(images(), ANSWERS, samples=2, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad(rollout.log_q_a.sum(), list(model.prediction.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in found)


def test_scores_follow_from_the_actions_alone() -> None:
    model = pointer(inference=False)
    rollout = model(images(), ANSWERS, samples=2, generator=torch.Generator().manual_seed(0), with_inference=False)
    for m in range(2):
        taken = Action(rollout.action.location[m], rollout.action.scale[m])
        looked = model.prediction.look(images(), following(taken))
        assert isinstance(looked.policy, MapDistribution)
        torch.testing.assert_close(looked.policy.log_prob(taken), rollout.log_p_a[m])


def test_images_that_are_done_leave_the_others_as_they_were() -> None:
    model = pointer(inference=False)
    looked = model.predict(images())
    stopped = model.prediction.look_until(images(), lambda outputs: outputs.argmax(-1) == outputs.argmax(-1)[0])
    for n, taken in enumerate(stopped.taken.tolist()):
        torch.testing.assert_close(stopped.action.location[n, :taken], looked.action.location[n, :taken])


@pytest.mark.parametrize("kind", ["conv", "efficientnet-lite0:4"])
def test_cells_that_are_apart_see_nothing_of_each_other(kind: str) -> None:
    apart: dict[str, Any] = dict(network=kind, patch=16, map_apart=True, map_evidence=True, inference=False)
    model = pointer(view=48, map_stride=16, **apart)
    seeing = model.prediction.view_network
    assert isinstance(seeing, MapNetwork)
    view = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    other = view.clone()
    other[:, :, 16:32, 32:] = 0.3  # the cell on the right of the middle one
    before, after = seeing(view), seeing(other)
    assert before.evidence is not None and after.evidence is not None
    for name in ("keys", "evidence"):
        differs = (getattr(before, name) != getattr(after, name)).any(-1)
        assert differs.nonzero().tolist() == [[0, 5], [1, 5]]
    alone = seeing.features(view[..., 16:32, 32:])  # one cell, by itself
    torch.testing.assert_close(alone[..., 0, 0], seeing.features(view)[..., 1, 2])


def test_of_cells_that_are_apart_the_middle_is_looked_at_and_its_neighbours_stay_worth_a_look() -> None:
    model = pointer(map_apart=True, map_toll=40.0, inference=False, glimpses=9, map_stride=4)
    location = model.predict(images()).action.location  # (batch, glimpses, 2)
    assert all(len(set(cells)) == 9 for cells in cell_of(location, 3).tolist())
    middles = torch.tensor([-2 / 3, 0, 2 / 3], dtype=location.dtype)
    assert float((location.unsqueeze(-1) - middles).abs().amin(-1).max()) < 1e-6


def test_without_a_query_cells_are_looked_at_by_what_each_says_whatever_was_seen() -> None:
    model = pointer(map_query=False, map_apart=True, map_toll=40.0, inference=False, glimpses=9, map_stride=4)
    given = images()
    cells = model.prediction.begin(model.prediction.sensor.pyramid(given).view(12))[1]
    assert cells is not None and cells.keys is None
    at = cell_of(model.predict(given).action.location, 3)
    assert torch.equal(at, cells.prior.argsort(-1, descending=True))
    with torch.no_grad():  # what is seen says nothing of where to look next
        for parameter in (*model.prediction.glimpse_network.parameters(), *model.prediction.upper.parameters()):
            parameter.normal_()
    assert torch.equal(cell_of(model.predict(given).action.location, 3), at)
    with pytest.raises(UserError, match="--proposal policy with --no-map-query"):
        pointer(map_query=False)


def test_a_map_that_does_not_divide_the_view_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of the map's stride, got 12 and 5"):
        pointer(map_stride=5)
    with pytest.raises(UserError, match=r"map dropout is a share of the features, from 0 to below 1, got 1\.5"):
        pointer(map_dropout=1.5)
    with pytest.raises(UserError, match=r"read dropout is a share of the features, from 0 to below 1, got 1\.5"):
        pointer(read_dropout=1.5)
    with pytest.raises(UserError, match="unknown policy 'fan'"):
        pointer(policy="fan")


def test_a_pretrained_network_sees_cells_of_its_own_size() -> None:
    kind = {"network": "efficientnet-lite0:7", "patch": 32, "view": 48}
    model = classifier(**(SETTINGS | kind | {"map_stride": 8}))
    model(images().float(), ANSWERS, samples=2, generator=torch.Generator().manual_seed(0)).log_p_a.sum().backward()
    learned = [name for name, p in model.prediction.view_network.named_parameters() if p.grad is not None]
    assert "layers.2.weight" in learned and not any(name.startswith("layers.0") for name in learned)
    deeper = classifier(**(SETTINGS | kind | {"map_stride": 16}))
    seeing = classifier(**(SETTINGS | kind | {"map_stride": 16, "map_freeze": False})).prediction
    learning = [
        [name for name, p in part.named_parameters() if p.requires_grad and "blocks" in name]
        for part in (seeing.glimpse_network, seeing.view_network)
    ]
    assert learning[0] == [] and {name.split(".")[3] for name in learning[1]} == {str(n) for n in range(5, 11)}
    with pytest.raises(UserError, match="no others see cells of 8 pixels; use --map-stride 16"):
        classifier(**(SETTINGS | kind | {"map_stride": 8, "map_freeze": False}))
    apart = classifier(**(SETTINGS | kind | {"map_stride": 24, "map_apart": True, "map_freeze": False})).prediction
    assert {name for name, p in apart.view_network.named_parameters() if p.requires_grad and "blocks.15." in name}
    with pytest.raises(UserError, match="efficientnet-lite0:3 has no others; name a later stage"):
        shallow = {"network": "efficientnet-lite0:3", "map_stride": 24, "map_apart": True, "map_freeze": False}
        classifier(**(SETTINGS | kind | shallow))
    stages = [len(each.prediction.view_network.layers[0].blocks) for each in (model, deeper)]
    assert stages == [5, 11]  # up to the third stage, and the fifth
    with pytest.raises(UserError, match="cells of 2, 4, 8, 16, 32 pixels, got a map's stride of 12"):
        classifier(**(SETTINGS | kind | {"map_stride": 12}))
    with pytest.raises(UserError, match="cells of 8 pixels, got a map's stride of 16"):
        classifier(**(SETTINGS | kind | {"network": "efficientnet-lite0:3", "map_stride": 16}))


@pytest.mark.parametrize("kind", ["fc", "conv"])
def test_weights_are_named_alike_whether_what_is_read_is_dropped_or_not(kind: str) -> None:
    """By their names a page finds them."""
    plain, dropping = (classifier(network=kind, read_dropout=share) for share in (0.0, 0.3))
    assert plain.state_dict().keys() == dropping.state_dict().keys()
