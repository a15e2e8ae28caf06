"""Every estimator is measured on one network and one batch; what cannot be measured is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.refusals import refusal
from wsram import diagnose as module
from wsram.diagnose import diagnose, first_examples, posterior
from wsram.estimators import ESTIMATORS
from wsram.evaluate import Trained, open_trained


@pytest.fixture(params=["digit_run", "caption_run"])
def opened(request: pytest.FixtureRequest) -> tuple[Trained, int]:
    """A trained network with its inference network, and how many validation images there are at least."""
    trained = open_trained(request.getfixturevalue(request.param), inference=True)
    return trained, len(trained.examples())


def test_every_estimator_appears_under_every_proposal_that_fits_it(opened: tuple[Trained, int]) -> None:
    trained, _ = opened
    rows = diagnose(trained, samples=2, batch=2, draws=2)
    ways = [
        (row["estimator"], row["proposal"], row["control_variates"], row["sum_scale"], row["sleep"]) for row in rows
    ]
    assert len(set(ways)) == len(ways)
    plain = {way[:3] for way in ways if not way[3] and not way[4]}
    assert plain == {
        (name, proposal, variates)
        for name, entry in ESTIMATORS.items()
        for proposal in ("policy", "inference")
        for variates in (False, True)
        if proposal == "policy" or entry.trains_proposal
    }
    assert ("wake-sleep-credit", "inference", True, False, 1.0) in ways
    assert any(way[3] for way in ways) == hasattr(trained.config, "sum_scale")
    for row in rows:
        assert (row["samples"], row["batch"], row["draws"]) == (2, 2, 2)
        assert 1 <= row["ess"] <= 2
        assert math.isfinite(row["bound"]) and math.isfinite(row["log_evidence"])
        if row["proposal"] == "policy" and not row["sum_scale"]:  # by Jensen; reweighted, few samples need not heed it
            assert row["bound"] <= row["log_evidence"] + 1e-4
        # The squared norm is freed of the variance's share in it, and so may come out below zero.
        assert all(math.isfinite(value) for group in row["gradient"].values() for value in group.values())
        assert all(group["variance"] >= 0 for group in row["gradient"].values())
        assert ("inference" in row["gradient"]) == (row["proposal"] == "inference")


def test_without_an_inference_network_only_the_policy_proposes(digit_run: Path) -> None:
    rows = diagnose(open_trained(digit_run), samples=2, batch=1, draws=2)
    assert {row["proposal"] for row in rows} == {"policy"}
    assert {row["estimator"] for row in rows} == set(ESTIMATORS)


def test_too_few_to_measure_anything_by_are_refused(digit_run: Path) -> None:
    trained = open_trained(digit_run, inference=True)
    refusal(lambda: diagnose(trained, samples=1), "samples", 2, 1)
    refusal(lambda: diagnose(trained, draws=1), "draws", 2, 1)
    refusal(lambda: diagnose(trained, batch=0), "batch", 1, 0)
    refusal(lambda: posterior(trained, batch=0), "batch", 1, 0)


def test_a_batch_is_no_larger_than_the_data(opened: tuple[Trained, int], monkeypatch: pytest.MonkeyPatch) -> None:
    trained, count = opened
    assert len(first_examples(trained, 10**6).answers) == count
    assert len(first_examples(trained, 3).answers) == 3
    monkeypatch.setattr(module, "REFERENCE", 4)
    assert posterior(trained, batch=10**6)["images"] == count
    monkeypatch.setattr(module, "_ways", lambda trained, samples: [trained.config])
    (row,) = diagnose(trained, samples=2, batch=10**6, draws=2)
    assert row["batch"] == count


def test_the_distance_from_the_posterior_is_measured_for_both_networks(opened: tuple[Trained, int]) -> None:
    trained, _ = opened
    found = posterior(trained, batch=2)
    assert set(found) == {"policy", "inference", "samples", "images"}
    assert found["images"] == 2 and found["samples"] == module.REFERENCE
    for name in ("policy", "inference"):
        assert math.isfinite(found[name]) and found[name] > -0.5  # a divergence, but for the noise of its estimate
    assert posterior(trained, batch=2) == found


def test_without_an_inference_network_the_policy_is_measured_alone(digit_run: Path) -> None:
    assert set(posterior(open_trained(digit_run), batch=1)) == {"policy", "samples", "images"}
