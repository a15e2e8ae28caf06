"""What measuring a network leaves behind: figures that say of what they are, and nothing where nothing belongs."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.refusals import refusal, refused
from tests.tiny import TEST_DIGITS, VALIDATION, checkpoint, flags, rows, tiny_config, write_digits
from wsram.cli import main
from wsram.config import changed
from wsram.data import open_data
from wsram.evaluate import evaluate, open_trained
from wsram.models.pretrained import from_pretrained, save_network
from wsram.runs import load_state
from wsram.tasks import Options
from wsram.tasks.classification import Classification
from wsram.terminal import Screen

QUIET = Screen(quiet=True)
FEW = Options(samples=2)


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from the command line to its very end; its pictures are empty, and a test that writes takes a copy."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsram.evaluate.draw_panels", lambda panels: Figure())
        patch.setattr(Classification, "look", lambda *_: Figure())
        main(["train", *flags(tiny_config(digits)), "--run", str(folder)])
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def network(finished: Path, tmp_path: Path) -> Path:
    """A network by itself that knows how it was trained, as a release does."""
    folder = tmp_path / "network"
    folder.mkdir()
    save_network(from_pretrained(finished), folder)
    for name in ("training.json", "data.json"):
        shutil.copyfile(finished / name, folder / name)
    shutil.copyfile(checkpoint(finished) / "state.json", folder / "state.json")
    return folder


def content(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_keeps_the_figures_of_each_set(run: Path) -> None:
    before = content(run)
    trained = open_trained(run)
    records = {
        "validation": evaluate(trained, QUIET, options=FEW),
        "test": evaluate(trained, QUIET, options=FEW, test=True),
    }
    for name, record in records.items():
        assert json.loads((run / f"evaluation-{name}.json").read_text()) == record
        assert record["set"] == name
    assert (records["validation"]["examples"], records["test"]["examples"]) == (VALIDATION, TEST_DIGITS)
    made = content(run)
    assert made.keys() - before.keys() == {"evaluation-validation.json", "evaluation-test.json"}
    assert {name: made[name] for name in before} == before


def test_a_record_says_what_was_measured_on_what(run: Path, digits: Path) -> None:
    config = tiny_config(digits)
    splits = open_data(config.data, config.schedule.seed)
    state = load_state(checkpoint(run))
    for test, dataset in ((False, splits.validation), (True, splits.open_test())):
        record = evaluate(open_trained(run), QUIET, test=test, options=FEW)
        assert record["data"] == {"source": digits.name, "hash": dataset.fingerprint()}
        assert record["precision"] == "no"
        assert (record["step"], record["training_seconds"]) == (6, state["seconds"])
    assert splits.validation.fingerprint() != splits.open_test().fingerprint()
    assert splits.validation.fingerprint() == json.loads((run / "data.json").read_text())["validation"]


def test_training_measured_the_same(digit_run: Path, tmp_path: Path) -> None:
    """Before it is calibrated: a temperature changes the likelihood, and no answer."""
    record = evaluate(open_trained(digit_run), QUIET, options=FEW, to=tmp_path / "figures.json")
    last = rows(digit_run)[-1]
    assert record["error_mode"] == pytest.approx(last["error_mode"], abs=1e-6)
    assert record["nll_mode"] == pytest.approx(last["nll_mode"], rel=1e-5)


def test_figures_are_kept_where_it_is_said_and_nowhere_else(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run)
    to = tmp_path / "figures.json"
    main(["evaluate", str(run), "--samples", "2", "--save", str(to)])
    assert f"Saved: {to}" in capsys.readouterr().out
    assert json.loads(to.read_text())["set"] == "validation"
    assert content(run) == before


def test_a_network_by_itself_is_never_written_into(network: Path, digits: Path, tmp_path: Path) -> None:
    before = content(network)
    to = tmp_path / "figures.json"
    main(["evaluate", str(network), "--samples", "2"])
    main(["evaluate", str(network), str(digits), "--samples", "2", "--test", "--save", str(to)])
    assert json.loads(to.read_text())["examples"] == TEST_DIGITS
    assert content(network) == before


def test_a_network_by_itself_has_the_figures_of_its_run(run: Path, network: Path) -> None:
    assert open_trained(network).run is None
    assert evaluate(open_trained(network), QUIET, options=FEW) == evaluate(open_trained(run), QUIET, options=FEW)


def test_data_that_have_moved_are_named_anew_and_are_the_same_data(run: Path, digits: Path, tmp_path: Path) -> None:
    here = evaluate(open_trained(run), QUIET, options=FEW)
    moved = shutil.copytree(digits, tmp_path / "elsewhere")
    config = json.loads((run / "training.json").read_text())
    config["data"]["source"] = str(tmp_path / "gone")
    (run / "training.json").write_text(json.dumps(config))
    (run / "evaluation-validation.json").unlink()
    refusal(lambda: open_trained(run), tmp_path / "gone")
    trained = open_trained(run, source=str(moved))
    assert trained.own_data() is True
    there = evaluate(trained, QUIET, options=FEW)
    assert there == here | {"data": here["data"] | {"source": "elsewhere"}}
    assert json.loads((run / "evaluation-validation.json").read_text()) == there


def test_other_data_are_measured_but_not_kept_in_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run)
    other = write_digits(tmp_path / "other", count=90)
    to = tmp_path / "figures.json"
    for words in ([], ["--test"]):
        main(["evaluate", str(run), str(other), "--samples", "2", *words])
        said = " ".join(capsys.readouterr().out.split())
        assert "Not kept: these are not the data that the run was trained with" in said
    main(["evaluate", str(run), str(other), "--samples", "2", "--save", str(to)])
    assert "Not kept" not in capsys.readouterr().out
    record = json.loads(to.read_text())
    assert record["data"]["source"] == "other"
    assert record["data"]["hash"] != json.loads((run / "data.json").read_text())["validation"]
    assert content(run) == before


def test_nothing_is_fetched_for_somebody_elses_settings(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((run / "training.json").read_text())
    config["data"]["download"] = True
    (run / "training.json").write_text(json.dumps(config))
    assert open_trained(run).config.data.download is False


def test_mistakes_end_in_one_line(run: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at least 1 sample" in refused(capsys, "evaluate", str(run), "--samples", "0")
    assert "leave --beam out" in refused(capsys, "evaluate", str(run), "--beam", "2")
    assert "leave --features out" in refused(capsys, "evaluate", str(run), "--features", str(tmp_path))
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "figures.json")
    assert "cannot make the folder" in refused(capsys, "evaluate", str(run), "--samples", "2", "--save", nowhere)
    (network / "training.json").unlink()
    assert "does not say how it was trained" in refused(capsys, "evaluate", str(network))


# Calibration


def test_a_finished_run_is_calibrated_and_its_network_knows(finished: Path) -> None:
    found = json.loads((finished / "calibration.json").read_text())
    assert found["step"] == 6
    [temperature] = found["values"]
    network = from_pretrained(finished)
    assert network.head.temperature == temperature != 1.0
    assert network.arguments["calibration"] == [temperature]
    assert from_pretrained(checkpoint(finished)).head.temperature == 1.0  # the checkpoint is as training left it
    last = rows(finished)[-1]
    trained = open_trained(finished)
    assert trained.task.calibrate(trained.network, trained.examples(), _no_autocast) == [temperature]
    calibrated = from_pretrained(finished)
    measured = trained.task.validate(trained.config, calibrated, trained.examples(), 6, _no_autocast)
    assert measured["error_mode"] == pytest.approx(last["error_mode"], abs=1e-6)
    assert measured["nll_mode"] < last["nll_mode"]


def _no_autocast() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_calibration_of_another_update_is_not_applied(run: Path) -> None:
    found = json.loads((run / "calibration.json").read_text())
    (run / "calibration.json").write_text(json.dumps(found | {"step": 4}))
    assert from_pretrained(run).head.temperature == 1.0


def test_a_calibrated_network_keeps_its_calibration_where_it_is_saved(finished: Path, network: Path) -> None:
    [temperature] = json.loads((finished / "calibration.json").read_text())["values"]
    assert from_pretrained(network).head.temperature == temperature


def test_settings_of_a_run_say_what_the_run_is_measured_as(run: Path, digits: Path) -> None:
    assert open_trained(run).config == changed(tiny_config(digits), download=False)
