"""Every estimator is measured on one network and one batch; what cannot be measured is refused."""

from __future__ import annotations

import math
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.refusals import refusal
from wsram import diagnose as module
from wsram.config import changed
from wsram.diagnose import diagnose, posterior, reached
from wsram.estimators import ESTIMATORS
from wsram.evaluate import Trained, open_trained
from wsram.tasks import Update
from wsram.training import step_generator


@pytest.fixture(params=["digit_run", "caption_run"])
def opened(request: pytest.FixtureRequest) -> tuple[Trained, int]:
    """A trained network with its inference network, and how many validation images there are at least."""
    trained = open_trained(request.getfixturevalue(request.param), inference=True)
    return trained, len(trained.examples())


def test_every_estimator_appears_under_every_proposal_that_fits_it(opened: tuple[Trained, int]) -> None:
    trained, _ = opened
    rows = diagnose(trained, samples=2, batch=2, draws=2)["rows"]
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
        if (proposal == "policy" or entry.trains_proposal) and (variates or entry.refines is None)
        if name != "wake-sleep-exact" or proposal == "inference"
        if name != "wake-sleep-resampled" or trained.config.task == "image-classification"
    }
    assert ("wake-sleep-credit", "inference", True, False, 1.0) in ways
    assert any(way[3] for way in ways) == hasattr(trained.config, "sum_scale")
    for row in rows:
        assert (row["samples"], row["batch"], row["draws"]) == (2, 2, 2)
        assert 1 <= row["ess"] <= 2
        assert math.isfinite(row["bound"]) and math.isfinite(row["log_evidence"])
        # By Jensen; reweighted, few samples need not heed it.
        if row["proposal"] == "policy" and not row["sum_scale"] and row["estimator"] != "wake-sleep-resampled":
            assert row["bound"] <= row["log_evidence"] + 1e-4
        # The squared norm is freed of the variance's share in it, and so may come out below zero.
        measured = [group[name] for group in row["gradient"].values() for name in ("variance", "squared_norm")]
        assert all(math.isfinite(value) for value in measured)
        assert all(group["variance"] >= 0 for group in row["gradient"].values())
        assert ("inference" in row["gradient"]) == (row["proposal"] == "inference")


def test_without_an_inference_network_only_the_policy_proposes(digit_run: Path) -> None:
    rows = diagnose(open_trained(digit_run), samples=2, batch=1, draws=2)["rows"]
    assert {row["proposal"] for row in rows} == {"policy"}
    assert {row["estimator"] for row in rows} == set(ESTIMATORS) - {"wake-sleep-exact"}


def test_too_few_to_measure_anything_by_are_refused(digit_run: Path) -> None:
    trained = open_trained(digit_run, inference=True)
    refusal(lambda: diagnose(trained, samples=1), "samples", 2, 1)
    refusal(lambda: diagnose(trained, draws=1), "draws", 2, 1)
    refusal(lambda: diagnose(trained, batch=0), "batch", 1, 0)
    refusal(lambda: posterior(trained, batch=0), "batch", 1, 0)
    refusal(lambda: diagnose(trained, precision=1.0), "above 0 and below 1", 1.0)
    refusal(lambda: diagnose(trained, compare=["wake-sleep", "wake"]), "wake-sleep", "wake")


def test_a_batch_is_no_larger_than_the_data(opened: tuple[Trained, int], monkeypatch: pytest.MonkeyPatch) -> None:
    trained, count = opened
    monkeypatch.setattr(module, "REFERENCE", 4)
    assert posterior(trained, batch=10**6)["images"] == count
    monkeypatch.setattr(module, "_ways", lambda trained, samples, compare: [trained.config])
    (row,) = diagnose(trained, samples=2, batch=10**6, draws=2)["rows"]
    assert row["batch"] == count


@pytest.mark.parametrize("name", ["wake-sleep-credit", "vimco"])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(opened: tuple[Trained, int], name: str) -> None:
    """Credit compares all images of the batch, also those that are worked on at another time."""
    trained, count = opened
    dataset, parts = trained.examples(), torch.arange(min(count, 7)).split(3)
    way = module._Way(trained, changed(trained.config, name=name, proposal="inference", samples=2))
    module._draw(trained, [way], dataset, parts, 0)
    schedule = way.config.schedule
    rollouts = [
        trained.task.rollout(
            way.config,
            trained.network,
            dataset.batch(part),
            Update(schedule.updates, 0, step_generator(schedule.seed, 0, number, torch.device("cpu"))),
        )
        for number, part in enumerate(parts)
    ]
    steps = max(rollout.log_p_y.shape[-1] for rollout in rollouts)
    whole = [
        torch.cat([F.pad(t := getattr(each, name), (0, steps - t.shape[-1])) for each in rollouts], 1)
        for name in ("log_p_y", "log_p_a", "log_q_a")
    ]
    means = [each.mean_log_p_a for each in rollouts]
    if name == "vimco":
        known = {"mean_log_p_a": torch.cat([F.pad(t, (0, steps - t.shape[-1])) for t in means], 1)}
    else:
        assert means == [None] * len(parts)
        known = {}
    loss = ESTIMATORS[name].function(*whole, **known).loss
    expected = torch.autograd.grad(loss, way.spread.parameters, allow_unused=True, materialize_grads=True)
    for ours, theirs in zip(way.spread._mean, expected, strict=True):
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-4, atol=1e-6)


def test_estimators_are_compared_on_the_same_draws(digit_run: Path) -> None:
    """Whatever the draws were, an estimator has the variance of itself, and the ratio's interval says so."""
    trained = open_trained(digit_run, inference=True)
    record = diagnose(trained, samples=2, batch=8, draws=12, compare=["wake-sleep", "wake-sleep-credit"])
    assert [(row["estimator"], row["proposal"], row["against"]) for row in record["rows"]] == [
        ("wake-sleep", "policy", None),
        ("wake-sleep-credit", "policy", 0),
        ("wake-sleep", "inference", None),
        ("wake-sleep-credit", "inference", 2),
    ]
    for row in record["rows"]:
        for group, found in row["gradient"].items():
            assert found["low"] <= found["variance"] <= found["high"]
            if row["against"] is not None:
                change, plain = row["change"][group], record["rows"][row["against"]]["gradient"][group]
                assert change["low"] <= change["ratio"] <= change["high"]
                assert change["ratio"] == pytest.approx(found["variance"] / plain["variance"])
    prediction = record["rows"][1]["change"]["prediction"]
    assert prediction["high"] - prediction["low"] < 0.6  # far closer than the two variances are known


def test_draws_go_on_until_the_precision_is_reached(digit_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = open_trained(digit_run)
    monkeypatch.setattr(module, "FEWEST", 4)
    monkeypatch.setattr(module, "LOOK_EVERY", 2)
    rough = diagnose(trained, samples=2, batch=4, precision=0.9, draws=60, compare=["wake-sleep"])
    fine = diagnose(trained, samples=2, batch=4, precision=0.35, draws=60, compare=["wake-sleep"])
    short = diagnose(trained, samples=2, batch=4, precision=0.01, draws=6, compare=["wake-sleep"])
    drawn = [record["rows"][0]["draws"] for record in (rough, fine, short)]
    assert drawn[0] < drawn[1] < 60 and drawn[2] == 6
    assert rough["precision"]["reached"] <= 0.9 and fine["precision"]["reached"] <= 0.35
    assert short["precision"]["reached"] > 0.01
    assert "as asked" in reached(fine) and "not the ±1% asked for" in reached(short)


def test_a_diagnosis_names_its_network(digit_run: Path) -> None:
    trained = open_trained(digit_run)
    record = diagnose(trained, samples=2, batch=1, draws=2, compare=["variational"])
    assert record["network"]["step"] == 6
    assert record["network"]["hash"] == sha256((trained.folder / "model.safetensors").read_bytes()).hexdigest()
    assert record["data"]["hash"] == trained.examples().fingerprint()


def test_the_distance_from_the_posterior_is_measured_for_both_networks(opened: tuple[Trained, int]) -> None:
    trained, _ = opened
    found = posterior(trained, batch=2)
    assert set(found) == {"policy", "inference", "standard_errors", "samples", "images"}
    assert found["images"] == 2 and found["samples"] == module.REFERENCE
    for name in ("policy", "inference"):
        assert math.isfinite(found[name]) and found[name] > -0.5  # a divergence, but for the noise of its estimate
    assert posterior(trained, batch=2) == found


def test_without_an_inference_network_the_policy_is_measured_alone(digit_run: Path) -> None:
    assert set(posterior(open_trained(digit_run), batch=1)) == {"policy", "standard_errors", "samples", "images"}
