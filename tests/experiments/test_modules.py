"""Modules are made of cells of one kind; the command measures a network that looks for defects beside other ways."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import modules, modules_explained, mosaic
from experiments.cli import main
from experiments.costs import most_memory
from tests.refusals import refused
from wsram.data.given import Given
from wsram.data.mosaic import Mosaic
from wsram.evidence import explain
from wsram.models.classifier import AttentionClassifier
from wsram.models.pretrained import save_network
from wsram.predictor import from_pretrained

KINDS = ("mono", "poly")


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of 80 cells, of two kinds: good ones are grey, defective ones have a black half."""
    folder = tmp_path / "packages" / "elpv_dataset"
    (folder / "data" / "images").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    lines = []
    for n in range(80):
        grey = np.full((300, 300), 120 + n, dtype=np.uint8)
        if n % 4 == 0:
            grey[:150] = 0
        name = f"images/cell{n:04}.png"
        Image.fromarray(grey).save(folder / "data" / name)
        lines.append(f"{name}  {1.0 if n % 4 == 0 else 0.3333333333333333 * (n % 2)}   {KINDS[n // 40]}")
    (folder / "data" / "labels.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_a_module_is_of_one_kind_and_defective_where_a_cell_is(cells: Path) -> None:
    sets = modules.open_modules()
    assert [len(sets[name]) for name in ("train", "val", "test")] == [1000, 200, 500]
    used = [{bytes(cell.numpy().tobytes()) for cell in of.photos.pixels} for of in sets.values()]
    assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]
    answers = []
    for n in range(40):
        drawn = sets["train"].draw(n)
        assert drawn.places.shape == drawn.decides.shape == (6, 10)
        assert len(sets["train"].kinds[drawn.places].unique()) == 1
        assert torch.equal(sets["train"].defective[drawn.places], drawn.decides)
        assert drawn.answer == int(drawn.decides.sum() > 0) and int(drawn.decides.sum()) <= 6
        again = sets["train"].draw(n, epoch=3)
        assert torch.equal(drawn.places, again.places) and torch.equal(drawn.decides, again.decides)
        answers.append(drawn.answer)
    assert 8 < sum(answers) < 32
    batch = sets["val"].batch(torch.tensor([3, 5]))
    assert batch.answers.tolist() == [sets["val"].draw(n).answer for n in (3, 5)]
    assert (batch.images[0].height, batch.images[0].width) == (1800, 3000)  # type: ignore[union-attr]


def test_the_command_measures_every_way(
    cells: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the captions extra is not installed")
    small = {"network": "efficientnet-lite0:3", "updates": 2, "batch": 4, "evaluate_every": 2, "glimpses": 2}
    monkeypatch.setattr(modules, "SETTINGS", modules.SETTINGS | small | {"precision": "no"})
    for name, value in (("VALIDATION", 4), ("TEST", 6), ("TIMED", 1), ("STEPS", 2), ("PIXELS", 2)):
        monkeypatch.setattr(modules, name, value)
    monkeypatch.setattr(mosaic, "STEPS", 60)
    main(["modules", "--modules", "8", "--to", str(tmp_path / "m"), "--test", "--save", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    (row,) = found["rows"]
    ways = row["ways"]
    assert list(ways) == ["2 glimpses", "2 random cells", "every cell", "the whole at a fifth"]
    assert found["modules"] == 6 and row["modules"] == 8
    assert ways["every cell"]["error"] == 0  # black halves
    assert ways["every cell"]["multiply_adds"] == pytest.approx(30 * ways["2 random cells"]["multiply_adds"])
    assert ways["2 glimpses"]["multiply_adds"] > ways["2 random cells"]["multiply_adds"]  # the view, too
    assert all(0 <= row[name] <= 1 for name in ("looked_at", "recognised", "pointed_at"))
    assert "6 test modules" in capsys.readouterr().out


def test_what_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(modules, "find_spec", lambda name: None)
    assert "elpv-dataset" in refused(capsys, "modules", command=main, name="experiments")
    told = refused(capsys, "modules", "--modules", "0", command=main, name="experiments")
    assert "from 1 to 1,000, got 0" in told


def test_memory_is_what_a_call_takes_beyond_what_was_held() -> None:
    assert 90 < most_memory(lambda: torch.zeros(25_000_000)) < 140


def network_that_says_defective(folder: Path) -> str:
    network = AttentionClassifier(names=("good", "defective"), patch=20, scales=(3,), view=24, glimpses=2)
    with torch.no_grad():
        network.head.read.bias.copy_(torch.tensor([-30.0, 30.0]))
    folder.mkdir()
    save_network(network, folder)
    return str(folder)


def test_it_is_counted_how_often_a_map_points_at_a_defective_cell(
    cells: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(modules, "TEST", 20)
    dataset = modules.open_modules()["test"]
    asked = []

    def explained(network: AttentionClassifier, given: Given, *labels: str, **how: Any) -> SimpleNamespace:
        """Every other time the peak is in the lower right corner of a defective cell, else in that of a good one."""
        assert labels == ("defective", "good") and how["samples"] == 3
        assert isinstance(given.source, Mosaic)
        bad = dataset.defective[given.source.places]
        row, column = (bad if len(asked) % 2 else ~bad).nonzero()[-1].tolist()
        asked.append(bad.sum().item())
        return SimpleNamespace(peak=lambda: (300 * column + 299.5, 300 * row + 299.5))

    monkeypatch.setattr(modules_explained, "explain", explained)
    name = network_that_says_defective(tmp_path / "network")
    kept = tmp_path / "found.json"
    main(["modules-explained", name, "--samples", "3", "--test", "--save", str(kept)])
    (row,) = json.loads(kept.read_text())["rows"]
    defective = sum(dataset.draw(n).answer for n in range(20))
    assert defective > 3 and len(asked) == row["defective"] == row["recognised"] == defective
    assert row["pointed_at"] == defective // 2
    assert row["by_chance"] == pytest.approx(sum(asked) / 60)
    assert f"{defective} of {defective}" in capsys.readouterr().out


def test_the_map_of_a_module_is_that_of_the_whole(cells: Path, tmp_path: Path) -> None:
    dataset = modules.open_modules()["test"]
    network = from_pretrained(network_that_says_defective(tmp_path / "network")).network
    (source,) = dataset.batch(torch.tensor([0])).images
    found = explain(network, Given(source, 1800, 3000, ""), "defective", "good", samples=3)
    assert found.label.heat.shape == (1800, 3000)


def test_only_networks_of_modules_are_asked(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "modules-explained", "translated", command=main, name="experiments")
    assert "translated does not say of modules" in told
    assert "name one" in refused(capsys, "modules-explained", command=main, name="experiments")
