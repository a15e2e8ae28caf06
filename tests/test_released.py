"""The networks that are kept in this repository load, say of themselves what is so, and answer as they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.released_figures import FIGURES, FOLDERS, classifiers, figures
from wsram.cards import card
from wsram.models.captioner import AttentionCaptioner
from wsram.models.classifier import AttentionClassifier
from wsram.models.pretrained import RELEASED, from_pretrained, load_network, released
from wsram.runs import load_state


def named(folder: Path) -> str:
    return folder.name


def test_no_network_is_forgotten() -> None:
    kept = {
        "cluttered-100",
        "cluttered-60",
        "flickr8k",
        "half-hour",
        "hour",
        "megapixel",
        "megapixel-all",
        "robust",
        "translated",
        "translated-scaled",
    }
    assert {folder.name for folder in FOLDERS} == kept
    assert {folder.name for folder in classifiers()} == json.loads(FIGURES.read_text()).keys()


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_it_loads_with_every_weight_it_has_and_no_other(folder: Path) -> None:
    """`load_network` refuses a missing, further, misshapen or infinite one."""
    network = load_network(folder)
    assert isinstance(network, AttentionCaptioner if folder.name == "flickr8k" else AttentionClassifier)
    assert not network.training


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_its_card_is_made_from_its_files(folder: Path) -> None:
    assert (folder / "README.md").read_text(encoding="utf-8") == card(folder, folder.name)


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_its_figures_are_of_its_own_update(folder: Path) -> None:
    state = load_state(folder)
    found = [json.loads(path.read_text()) for path in folder.glob("evaluation-*.json")]
    assert all(record["step"] == state["step"] for record in found)
    assert len(found) == (1 if folder.name == "flickr8k" else 2)


@pytest.mark.parametrize("folder", classifiers(), ids=named)
def test_it_answers_real_digits_as_it_did(folder: Path, mnist_dir: Path) -> None:
    kept = json.loads(FIGURES.read_text())[folder.name]
    found = figures(folder, mnist_dir)
    assert found == {name: pytest.approx(value, abs=1e-4) for name, value in kept.items()}
    published = json.loads((folder / "evaluation-validation.json").read_text())
    # Within what 200 of the 5,000 digits can differ by, three standard errors and one more mistake.
    spread = 3 * (published["error_mode"] / 200) ** 0.5 + 1 / 200
    assert abs(found["error_mode"] - published["error_mode"]) < spread


def test_the_networks_that_come_with_the_package_have_names() -> None:
    assert released() == ("robust", "translated")
    network = from_pretrained("translated")
    assert isinstance(network, AttentionClassifier)
    assert network.arguments == load_network(RELEASED / "translated").arguments
