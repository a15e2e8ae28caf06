"""A release holds what others need, says how good it is, and tells nothing of the machine it was made on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.refusals import refusal, refused
from tests.tiny import checkpoint, same_bits
from wsram.cards import card, release, release_network, without_machine, without_paths
from wsram.cli import main
from wsram.evaluate import conclude, evaluate, open_trained
from wsram.models.pretrained import from_pretrained
from wsram.runs import Run
from wsram.tasks import Options
from wsram.terminal import Screen

QUIET = Screen(quiet=True)
LISTED = {
    "README.md",
    "config.json",
    "data.json",
    "evaluation-test.json",
    "evaluation-validation.json",
    "glimpses.png",
    "model.safetensors",
    "provenance.json",
    "state.json",
    "training.json",
    "training.png",
}


@pytest.fixture(scope="module")
def measured(digit_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and evaluated run, with files of its owner's in it."""
    folder = shutil.copytree(digit_run, tmp_path_factory.mktemp("runs") / "measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsram.evaluate.EXAMPLES", 1)  # more take long to draw
        conclude(Run.open(folder), QUIET)
    made = json.loads((folder / "provenance.json").read_text())
    made["command"] = f"wsram train /home/somebody/digits --run {folder} --recipe demo"
    (folder / "provenance.json").write_text(json.dumps(made))
    for test in (False, True):
        evaluate(open_trained(folder), QUIET, test=test, options=Options(samples=2))
    (folder / ".secret.txt").write_text("a password")
    (folder / "notes.md").write_text("what nobody needs to know")
    (folder / "linked.json").symlink_to(folder / "notes.md")
    return folder


@pytest.fixture(scope="module")
def released(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases") / "digits-small"
    release(measured, folder, QUIET)
    return folder


@pytest.fixture
def run(measured: Path, tmp_path: Path) -> Path:
    return shutil.copytree(measured, tmp_path / "run", symlinks=True)


def test_listed_files_go_along_and_no_others(released: Path) -> None:
    assert {str(path.relative_to(released)) for path in released.rglob("*")} == LISTED
    assert [path for path in released.parent.iterdir() if path != released] == []  # nothing half-written beside it


@pytest.mark.parametrize("name", ["glimpses.png", "training.png", "data.json"])
def test_what_a_link_points_to_stays_here(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "private").write_text("a password")
    (run / name).unlink()
    (run / name).symlink_to(tmp_path / "private")
    release(run, tmp_path / "new", QUIET)
    assert {path.name for path in (tmp_path / "new").iterdir()} == LISTED - {name}


def test_no_file_says_where_anything_lay_on_this_machine(measured: Path, released: Path, digits: Path) -> None:
    places = {str(place) for path in (measured, released, digits) for place in (path, path.parent)}
    places |= {"/home/somebody", str(Path.home()), str(Path.cwd())} - {"/"}
    for path in released.iterdir():
        content = path.read_bytes()
        assert [place for place in places if place.encode() in content] == [], path.name
    made = json.loads((released / "provenance.json").read_text())
    assert made["command"] == "wsram train digits --run measured --recipe demo"
    assert json.loads((released / "training.json").read_text())["data"]["source"] == digits.name


def test_the_released_network_is_the_runs(measured: Path, released: Path, digits: Path) -> None:
    ours, theirs = from_pretrained(measured), from_pretrained(released)
    assert same_bits(ours.state_dict(), theirs.state_dict())
    assert ours.arguments == theirs.arguments and theirs.arguments["calibration"] is not None
    again = evaluate(open_trained(released, source=str(digits)), QUIET, options=Options(samples=2))
    assert again == json.loads((released / "evaluation-validation.json").read_text())


def test_the_inference_network_can_stay_here(measured: Path, tmp_path: Path) -> None:
    release(measured, tmp_path / "new", QUIET, inference=False)
    assert from_pretrained(tmp_path / "new").inference is None
    assert "without the inference network" in flowing((tmp_path / "new" / "README.md").read_text())


def flowing(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_the_card_has_the_hubs_head_and_the_figures(released: Path) -> None:
    text = (released / "README.md").read_text()
    assert text == card(released, "digits-small")
    _, head, body = text.split("---\n", 2)
    fields = yaml.safe_load(head)
    assert fields["library_name"] == "wsram" and fields["pipeline_tag"] == "image-classification"
    assert fields["license"] == "mit" and "hard-attention" in fields["tags"]
    (entry,) = fields["model-index"]
    assert {result["dataset"]["split"] for result in entry["results"]} == {"validation", "test"}
    assert "# digits-small\n" in body and "with the inference network" in flowing(body)
    assert 'wsram.from_pretrained("digits-small")' in body
    assert "`wsram train digits --run measured --recipe demo`" in body
    assert "scene translated of digits" in body and "Measured in float32." in body
    for name in ("validation", "test"):
        found = json.loads((released / f"evaluation-{name}.json").read_text())
        for way in ("mode", "one_sample", "vote_2"):
            row = next(line for line in body.splitlines() if re.match(rf"\| {name} \| .*{way[:3]}", line))
            assert f"{found[f'error_{way}']:.2%}" in row and f"{found[f'nll_{way}']:.4f}" in row
    for picture in ("glimpses.png", "training.png"):
        assert f"({picture})" in body


def test_a_run_that_was_not_evaluated_claims_no_figures(digit_run: Path, tmp_path: Path) -> None:
    release(digit_run, tmp_path / "new", QUIET)
    text = (tmp_path / "new" / "README.md").read_text()
    assert "%" not in text and "Measured in float32." not in text
    assert not list((tmp_path / "new").glob("evaluation-*"))


@pytest.mark.parametrize("name", ["validation", "test"])
def test_an_evaluation_of_another_update_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    path = run / f"evaluation-{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 4}))
    refusal(lambda: release(run, tmp_path / "new", QUIET), path, "update 4", "of 6", "evaluate the run again")
    assert not (tmp_path / "new").exists()


def test_a_damaged_evaluation_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "evaluation-test.json").write_text("{")
    refusal(lambda: release(run, tmp_path / "new", QUIET), "evaluation-test.json is not valid JSON")
    assert not (tmp_path / "new").exists()


def test_a_target_that_holds_something_is_refused_and_left_alone(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "there"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    assert f"{target} exists already" in refused(capsys, "release", str(measured), "--to", str(target))
    assert [path.name for path in target.iterdir()] == ["mine.txt"]
    refusal(lambda: release(measured, target / "mine.txt", QUIET), "exists already")
    refusal(lambda: release(measured, target / "mine.txt" / "below", QUIET), "cannot write")
    assert (target / "mine.txt").read_text() == "mine"


def test_an_empty_target_is_filled(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "empty"
    target.mkdir()
    main(["release", str(measured), "--to", str(target)])
    assert {path.name for path in target.iterdir()} == LISTED
    assert re.search(rf"Released: {target} \([\d.]+ MB\); try `wsram evaluate {target}`", capsys.readouterr().out)


def test_a_network_that_is_passed_on_takes_its_records_along(released: Path, tmp_path: Path) -> None:
    (tmp_path / "known").mkdir()
    for path in released.iterdir():
        shutil.copyfile(path, tmp_path / "known" / path.name)
    (tmp_path / "known" / "notes.md").write_text("what nobody needs to know")
    copy = release_network(from_pretrained(released), tmp_path / "known", tmp_path / "copy")
    assert {path.name for path in copy.iterdir()} == LISTED
    for name in LISTED - {"README.md"}:
        assert (copy / name).read_bytes() == (released / name).read_bytes(), name
    assert (copy / "README.md").read_text() == card(released, "copy")


def test_a_run_that_is_passed_on_names_no_place_of_the_machine(measured: Path, digits: Path, tmp_path: Path) -> None:
    copy = release_network(from_pretrained(measured), measured, tmp_path / "copy")
    assert json.loads((copy / "training.json").read_text())["data"]["source"] == digits.name
    made = json.loads((copy / "provenance.json").read_text())
    assert made["command"] == "wsram train digits --run measured --recipe demo"
    for path in copy.iterdir():
        assert not [place for place in (measured.parent, digits) if str(place).encode() in path.read_bytes()], path.name


def test_a_network_that_could_not_be_written_leaves_nothing_in_the_way(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("wsram.cards.write_whole", full)
        refusal(lambda: release_network(from_pretrained(measured), None, tmp_path / "new"), "no space left")
    assert not list(tmp_path.iterdir())
    release_network(from_pretrained(measured), None, tmp_path / "new")


def test_of_a_network_by_itself_a_card_says_what_it_is_alone(measured: Path, tmp_path: Path) -> None:
    folder = release_network(from_pretrained(measured), None, tmp_path / "bare")
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert "How it was trained was not written down." in (folder / "README.md").read_text()


def test_names_that_are_no_paths_stay_in_a_command() -> None:
    assert without_paths("wsram train mnist5k --run runs/wide --learning-rate 1e-3") == (
        "wsram train mnist5k --run runs/wide --learning-rate 1e-3"
    )
    assert without_paths("wsram train a/../../b/c --start-from /home/me/net") == "wsram train c --start-from net"
    assert without_paths(r"wsram train 'C:\Users\me\digits' '/a b/c d'") == "wsram train digits 'c d'"


def test_the_checkpoint_of_the_card_is_the_newest(measured: Path, released: Path) -> None:
    there = json.loads((checkpoint(measured) / "state.json").read_text())
    assert json.loads((released / "state.json").read_text()) == {"step": there["step"], "seconds": there["seconds"]}


def test_a_record_that_is_published_names_no_place_of_the_machine() -> None:
    made = {"command": "python -m experiments robust /work/runs/r /data/mnist --save /out/a.json", "commit": "1"}
    record = {"network": "/work/runs/r", "error": 0.5, "provenance": made}
    assert without_machine(record) == {
        "network": "r",
        "error": 0.5,
        "provenance": {"command": "python -m experiments robust r mnist --save a.json", "commit": "1"},
    }
    assert without_machine({"network": {"units": 3}}) == {"network": {"units": 3}}
    assert without_machine({"network": {"name": "/work/runs/r", "step": 3}})["network"] == {"name": "r", "step": 3}
