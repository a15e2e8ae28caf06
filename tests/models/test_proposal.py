"""Who proposes, how warm, and what density the actions were drawn from; of glimpses as of cells."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.refusals import refusal
from wsram.estimators import defensive_mixture
from wsram.glimpse.actions import CellDistribution, GlimpseDistribution
from wsram.models.proposal import Proposer, require_inference


def proposer(samples: int = 1000, batch: int = 2, seed: int = 0, **changes: float) -> Proposer:
    return Proposer((samples, batch), torch.Generator().manual_seed(seed), **changes)


def cells(*rows: list[float]) -> CellDistribution:
    """Distributions over cells from their probabilities, one row for each example."""
    return CellDistribution(torch.tensor(rows).log())


EVEN, SURE = cells([0.5, 0.5], [0.5, 0.5]), cells([0.0, 1.0], [0.0, 1.0])


def test_the_policy_proposes_what_no_inference_network_does_and_learns_nothing_by_it() -> None:
    policy = CellDistribution(torch.zeros(2, 4, requires_grad=True))
    cell, proposal = proposer().draw(policy, sample_shape=(1000,))
    assert cell.shape == (1000, 2) and torch.equal(proposal.logits, policy.logits)
    assert not proposal.logits.requires_grad
    assert set(cell.unique().tolist()) == {0, 1, 2, 3}


def test_an_inference_network_proposes_where_there_is_one_and_is_scored() -> None:
    informed = CellDistribution(SURE.logits.clone().requires_grad_())
    cell, proposal = proposer().draw(EVEN, informed, (1000,))
    assert bool((cell == 1).all()) and proposal.logits.requires_grad


def test_a_warm_proposal_is_drawn_from_and_scored_as_warm() -> None:
    cell, proposal = proposer(20_000, temperature=2.0).draw(EVEN, cells([0.8, 0.2], [0.8, 0.2]), (20_000,))
    # Probabilities to the power 1/2, normalised: 2 to 1.
    torch.testing.assert_close(proposal.probabilities(), torch.tensor([[2 / 3, 1 / 3]]).expand(2, -1))
    share = float((cell == 0).float().mean())
    assert abs(share - 2 / 3) < 5 * math.sqrt(2 / 9 / 40_000)


def test_distributions_that_have_samples_already_are_drawn_from_once() -> None:
    policy = CellDistribution(torch.zeros(3, 2, 4))
    cell, _ = proposer(3).draw(policy)
    assert cell.shape == (3, 2)


def test_the_same_generator_draws_the_same_whatever_is_not_asked_for() -> None:
    """A share of 0 draws nothing of its own, so other runs are as they were before there was one."""
    plain = EVEN.sample(torch.Generator().manual_seed(0), (50,))
    assert torch.equal(proposer(50).draw(EVEN, sample_shape=(50,))[0], plain)
    assert not torch.equal(proposer(50, defensive=0.5).draw(EVEN, sample_shape=(50,))[0], plain)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_share_of_whole_sequences_is_drawn_from_the_policy(share: float) -> None:
    ours, never = proposer(20_000, defensive=share), cells([1.0, 0.0], [1.0, 0.0])
    first, proposal = ours.draw(never, SURE, (20_000,))
    second, _ = ours.draw(never, SURE, (20_000,))
    from_policy = first == 0
    assert torch.equal(from_policy, second == 0)  # the same sequences at every step
    assert abs(float(from_policy.float().mean()) - share) < 5 * math.sqrt(share * (1 - share) / 40_000)
    assert not torch.equal(from_policy[:, 0], from_policy[:, 1])
    assert torch.equal(proposal.logits, SURE.logits)  # scored as the proposal's all the same


def test_actions_of_several_parts_come_whole_from_either() -> None:
    left, right = (
        GlimpseDistribution(torch.full((2, 2), at), torch.full((2, 2), -9.0), torch.tensor(scale).expand(2, 2))
        for at, scale in ((-1.0, [50.0, 0.0]), (1.0, [0.0, 50.0]))
    )
    action, _ = proposer(200, defensive=0.5).draw(left, right, (200,))
    assert action.location.shape == (200, 2, 2) and action.scale.shape == (200, 2)
    assert torch.equal(action.location[..., 0] > 0, action.scale == 1)
    assert 0 < int(action.scale.sum()) < 400


def test_where_fewer_examples_go_on_the_first_of_them_do() -> None:
    """A captioner drops captions that have ended, from the end of the batch."""
    ours = proposer(500, 3, defensive=0.5)
    never, sure = (cells(*[row] * 3) for row in ([1.0, 0.0], [0.0, 1.0]))
    first, _ = ours.draw(never, sure, (500,))
    later, _ = ours.draw(CellDistribution(never.logits[:2]), CellDistribution(sure.logits[:2]), (500,))
    assert later.shape == (500, 2) and torch.equal(later, first[:, :2])


def test_the_density_is_the_mixtures_only_where_there_is_a_mixture() -> None:
    log_p, log_q = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    assert proposer(4).density(log_p, log_q) is None
    found = proposer(4, defensive=0.2).density(log_p, log_q)
    assert found is not None and torch.equal(found, defensive_mixture(log_p, log_q, 0.2))


def test_what_cannot_be_drawn_is_refused() -> None:
    refusal(lambda: proposer(0), "samples must be at least 1, got 0")
    log_p: Tensor = torch.zeros(4, 2, 3)
    for share in (-0.1, 1.0, 1.5):
        refusal(lambda share=share: proposer(4, defensive=share).density(log_p, log_p), "above 0 and below 1", share)


def test_dreams_have_somebody_to_teach() -> None:
    network = nn.Linear(1, 1)
    assert require_inference(network) is network
    refusal(lambda: require_inference(None), "--proposal inference")
