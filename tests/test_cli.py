"""The command line as a stranger uses it: what each command leaves behind, and one line for every mistake."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_origin

import pytest
from matplotlib.figure import Figure

import wsram
from tests.refusals import refused
from tests.tiny import DIGITS, TEST_DIGITS, VALIDATION, flags, rows, same_run, tiny_config, trained, write_digits
from wsram import cli
from wsram.cards import posterior_table
from wsram.cli import COMMANDS, main, parse
from wsram.config import changed
from wsram.data import digits as digits_module
from wsram.data.listing import is_folder
from wsram.data.mnist import EMBEDDED, Digits
from wsram.data.mnist import VALIDATION as MNIST_VALIDATION
from wsram.errors import UserError, printable
from wsram.runs import Run
from wsram.runtime import best_device, best_precision
from wsram.tables import figure as measured
from wsram.tasks.classification import Classification

PNG = b"\x89PNG\r\n\x1a\n"


def flowing(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures with nothing on them, which are drawn at once."""
    monkeypatch.setattr("wsram.evaluate.draw_panels", lambda panels: Figure())
    monkeypatch.setattr(Classification, "look", lambda *_: Figure())


# What each command leaves behind


def test_training_names_what_it_made(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wsram.evaluate.EXAMPLES", 1)  # more take long to draw
    config = tiny_config(digits, updates=2)
    main(["train", *flags(config)])
    said = capsys.readouterr().out
    run = Path("runs") / "quarter-hour-1"
    assert said.startswith(f"Run: {run} (if it stops, go on with `wsram train --resume {run}`)\n")
    assert f"Curves: {run / 'training.png'}\n" in said and f"Where it looks: {run / 'glimpses.png'}\n" in said
    assert re.search(rf"Validation error mode [\d.]+ on {VALIDATION} examples, after update 2 of 2", said)
    assert Run.open(run).config == config
    for name in ("training.png", "glimpses.png"):
        assert (run / name).read_bytes().startswith(PNG)
    made = json.loads((run / "provenance.json").read_text())
    assert {"command", "commit", "machine", "python", "torch"} == made.keys()
    assert made["command"] == f"wsram train {' '.join(flags(config))}"
    main(["train", *flags(config)])  # the next one has a folder of its own
    assert Run.open(run.with_name("quarter-hour-2")).config == config


def test_a_run_that_was_stopped_goes_on(
    tmp_path: Path, digits: Path, blank: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a signal in the middle; the exit code is the shell's for it, and the line says what to type."""
    folder, config = tmp_path / "run", tiny_config(digits)
    original = Classification.rollout

    def rollout(self: Classification, config: Any, model: Any, batch: Any, update: Any) -> Any:
        if update.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(self, config, model, batch, update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "rollout", rollout)
        with pytest.raises(SystemExit) as end:
            main(["train", *flags(config), "--run", str(folder)])
    assert end.value.code == 143 and capsys.readouterr().err == (
        f"wsram: stopped by SIGTERM; everything is kept: go on with `wsram train --resume {folder}`\n"
    )
    assert [row["step"] for row in rows(folder)] == [2]
    main(["train", "--resume", str(folder)])
    trained(tmp_path / "whole", config)
    assert same_run(folder, tmp_path / "whole") and (folder / "training.png").exists()


def test_a_resumed_run_may_be_longer_and_have_its_data_elsewhere(tmp_path: Path, digits: Path, blank: None) -> None:
    folder, moved = tmp_path / "run", shutil.copytree(digits, tmp_path / "moved")
    trained(folder, tiny_config(digits, updates=2))
    main(["train", "--resume", str(folder), str(moved), "--updates", "4"])
    assert [row["step"] for row in rows(folder)] == [2, 4]
    assert Run.open(folder).config == tiny_config(moved, updates=4)


@pytest.mark.parametrize("test, count", [(False, VALIDATION), (True, TEST_DIGITS)])
def test_evaluation_names_the_way_of_looking(
    tmp_path: Path, digit_run: Path, capsys: pytest.CaptureFixture[str], test: bool, count: int
) -> None:
    name = "test" if test else "validation"
    main(["evaluate", str(digit_run), "--samples", "3", "--save", str(tmp_path / "e.json"), *(["--test"] * test)])
    said = flowing(capsys.readouterr().out)
    for way in ("mode", "one sample", "vote of 3", f"{count} {name} digits", f"Saved: {tmp_path / 'e.json'}"):
        assert way in said
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["examples"] == count and found["set"] == name
    for figure in ("error_mode", "error_one_sample", "error_vote_3"):
        assert 0 <= found[figure] <= 1 and f"{found[figure]:.2%}" in said


def test_diagnosis_shows_what_it_keeps(tmp_path: Path, digit_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "not" / "there"
    main(["diagnose", str(digit_run), "--draws", "4", "--batch", "4", "--save", str(folder)])
    said = flowing(capsys.readouterr().out)
    record = json.loads((folder / "diagnosis.json").read_text())
    for row in record["rows"]:
        found = row["gradient"]["policy"]
        assert measured(found["variance"], found["low"], found["high"]) in said
    distances = json.loads((folder / "posterior.json").read_text())
    assert posterior_table(distances).rows[0][1] in said
    assert all(distances[name] == record[name] for name in ("network", "data", "provenance"))
    assert record["network"]["name"] == digit_run.name  # and no place of this machine
    assert "After 4 draws the widest 95% interval" in said


def test_chosen_estimators_are_compared_alone(
    tmp_path: Path, digit_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--compare", "wake-sleep, vimco", "--precision", "0.5", "--draws", "30", "--batch", "2"]
    main(["diagnose", str(digit_run), *words, "--save", str(tmp_path)])
    said = flowing(capsys.readouterr().out)
    assert "vimco policy control variates wake-sleep, with control variates" in said
    assert "variational" not in said


def test_a_release_can_be_evaluated_by_its_folder(
    tmp_path: Path, digit_run: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["release", str(digit_run), "--to", str(tmp_path / "released"), "--no-inference"])
    assert f"Released: {tmp_path / 'released'}" in capsys.readouterr().out
    for network in (digit_run, tmp_path / "released"):
        main(["evaluate", str(network), str(digits), "--save", str(tmp_path / f"{network.name}.json")])
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("digits", "released"))
    assert ours == theirs and "error_mode" in ours


def test_the_demo_says_what_it_does_and_where_its_picture_is(
    tmp_path: Path, digits: Path, blank: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = digits_module.load_digits

    def others(source: str, **options: Any) -> tuple[Digits, Digits]:
        """Made-up digits, for the embedded ones take long to read."""
        assert source == EMBEDDED and MNIST_VALIDATION[source] == 1000 and options["validation"] is None
        return load(str(digits), validation=VALIDATION)

    monkeypatch.setattr(digits_module, "load_digits", others)
    main(["demo", "--updates", "1", "--run", str(tmp_path / "demo")])
    said = flowing(capsys.readouterr().out)
    assert "4,000 real digits" in said and f"on {VALIDATION} examples, after update 1 of 1" in said
    assert f"{tmp_path}/demo/glimpses.png" in said and (tmp_path / "demo" / "glimpses.png").exists()
    made = Run.open(tmp_path / "demo").config
    # What was left open is written down as it was chosen.
    chosen = dict(precision=best_precision(best_device()), scene="translated-scaled")
    assert made == changed(wsram.RECIPES["demo"], updates=1, **chosen)


def test_models_are_the_networks_and_recipes_one_can_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models"])
    said = capsys.readouterr().out
    assert "Networks: robust, translated\n" in said
    assert [name for name in wsram.RECIPES if name not in said] == []


@pytest.mark.parametrize("name", ["[", "b"])
def test_names_are_shown_harmlessly_and_as_they_are(
    tmp_path: Path, digits: Path, blank: None, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Square brackets are markup to others, colons are signs to others, and an escape sequence is a command."""
    folder = tmp_path / {"[": "[/x]", "b": "[b]run :smile: \x1b[31m"}[name]
    main(["train", *flags(tiny_config(digits, updates=1)), "--run", str(folder)])
    said = capsys.readouterr().out
    shown = printable(str(folder))
    assert f"Run: {shown} (if" in said and f"Curves: {shown}/training.png\n" in said and "\x1b" not in said
    assert (folder / "training.png").exists()
    main(["evaluate", str(folder), "--samples", "1"])
    said = capsys.readouterr().out
    assert shown in flowing(said) and f"Saved: {shown}/evaluation-validation.json\n" in said and "\x1b" not in said
    again = refused(capsys, "train", *flags(tiny_config(digits)), "--run", str(folder))
    assert f"{shown} already holds a run" in again and "\x1b" not in again


# One line for every mistake


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / f"{name}-ubyte").unlink()


def cut(name: str) -> Callable[[Path], None]:
    def shorten(folder: Path) -> None:
        path = folder / f"{name}-ubyte"
        path.write_bytes(path.read_bytes()[:-5])

    return shorten


DAMAGE = {
    "missing": (without("train-labels-idx1"), "train-labels"),
    "cut short": (cut("train-images-idx3"), "train-images-idx3-ubyte"),
    "labels of another set": (cut("train-labels-idx1"), "train-labels-idx1-ubyte"),
}


@pytest.mark.parametrize("damage, named", DAMAGE.values(), ids=DAMAGE)
def test_damaged_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], named: str
) -> None:
    folder = write_digits(tmp_path / "digits")
    damage(folder)
    assert named in refused(capsys, "train", *flags(tiny_config(folder)), "--run", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


WRONG = {
    "no samples": (["--samples", "0"], "samples must be at least 1, got 0"),
    "one sample with control variates": (["--samples", "1"], "at least 2"),
    "no glimpses": (["--glimpses", "0"], "glimpses must be at least 1, got 0"),
    "a patch larger than the image": (["--patch", "61"], "a patch of 61 pixels"),
    "no patch": (["--patch", "0"], "patch size must be at least 1"),
    "no scale": (["--scales", "0"], "scales must be"),
    "an unknown estimator": (["--estimator", "magic"], "unknown estimator 'magic'; choose one of variational"),
    "an unknown scene": (["--scene", "night"], "'night'"),
    "an unknown recipe": (["--recipe", "cake"], "unknown recipe 'cake'; choose one of demo"),
    "no update": (["--updates", "0"], "updates must be at least 1, got 0"),
    "no finite number": (["--location-entropy", "nan"], "location entropy must be a finite number, got nan"),
    "a seed beyond 64 bits": (["--seed", str(2**63)], "seed must be from 0"),
    "an inference network for REINFORCE": (["--estimator", "variational"], "--proposal policy"),
    "all digits held out": (["--validation", str(DIGITS)], "must be from 1"),
    "words for a number": (["--updates", "many"], "Error parsing --updates: expected INT or None, got 'many'"),
    "no such option": (["--bogus", "3"], "Unrecognized options: --bogus"),
    "nearly an option": (["--glimpse", "3"], "Perhaps you meant: --every-glimpse, --glimpse-growth, --glimpses;"),
    "a map's cells without a map": (["--map-stride", "2"], "--map-stride is for --policy map, and the policy is"),
    "a map without a query, without a map": (["--no-map-query"], "--no-map-query is for --policy map"),
    "what ImageNet taught, untaught": (["--no-freeze"], "--no-freeze is for a pretrained --network, and"),
    "no such choice": (["--network", "fcc"], "unknown network 'fcc'; choose one of fc, conv"),
}


def test_a_recipes_own_map_is_no_mistake_where_another_policy_is_asked_for() -> None:
    _, args = parse(["train", "mnist5k", "--recipe", "megapixel", "--policy", "gaussian"])
    assert args.config.model.map_stride == 2 and args.config.model.policy == "gaussian"
    with pytest.raises(UserError, match="--map-stride is for --policy map"):
        parse(["train", "mnist5k", "--recipe", "megapixel", "--policy", "gaussian", "--map-stride", "4"])


@pytest.mark.parametrize("words, named", WRONG.values(), ids=WRONG)
def test_settings_that_cannot_be(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    given = [*flags(tiny_config(digits)), "--run", str(tmp_path / "run"), *words]
    assert named in refused(capsys, "train", *given)
    assert not (tmp_path / "run").exists()


TINY = flags(tiny_config("DIGITS"))
# RUN, DIGITS and EMPTY stand for folders; what the line must name.
MISTAKES: dict[str, tuple[list[str], str]] = {
    "no command": ([], "Expected one of {demo, train,"),
    "no such command": (["trian"], "Available subcommands: demo, train,"),
    "nothing to evaluate": (["evaluate"], "Missing from wsram evaluate"),
    "no such network": (["evaluate", "EMPTY/absent"], "found none at EMPTY/absent"),
    "a folder without a network": (["evaluate", "EMPTY"], "EMPTY does not say how it was trained"),
    "a folder that is no run": (["release", "EMPTY", "--to", "EMPTY/new"], "EMPTY holds no run"),
    "nothing to resume": (["train", "--resume", "EMPTY"], "EMPTY holds no run"),
    "no data": (["train", "EMPTY/absent", "--run", "EMPTY/new"], "EMPTY/absent"),
    "resuming with other settings": (["train", "--resume", "RUN", "--batch", "7"], "got another batch"),
    "resuming with another recipe": (["train", "--resume", "RUN", "--recipe", "demo"], "leave --recipe out"),
    "resuming for fewer updates": (["train", "--resume", "RUN", "--updates", "3"], "got another updates"),
    "resuming in another folder": (["train", "--resume", "RUN", "--run", "EMPTY/new"], "leave --run out"),
    "a folder that holds a run": (["train", *TINY, "--run", "RUN"], "RUN already holds a run"),
    "a folder under a file": (["train", *TINY, "--run", "RUN/data.json/new"], "cannot write the run folder"),
    "no votes": (["evaluate", "RUN", "--samples", "0"], "at least 1 sample, got 0"),
    "a beam for digits": (["evaluate", "RUN", "--beam", "3"], "leave --beam out"),
    "votes on when to stop": (["evaluate", "RUN", "--stop", "--samples", "-3"], "leave --samples and --beam out"),
    "a beam that stops": (["evaluate", "RUN", "--stop", "--beam", "2"], "leave --samples and --beam out"),
    "photos for digits": (["evaluate", "RUN", "EMPTY"], "RUN is for digits in scenes, made of MNIST's four IDX files"),
    "features for digits": (["evaluate", "RUN", "--features", "EMPTY"], "leave --features out"),
    "a file that cannot be written": (["evaluate", "RUN", "--save", "RUN/data.json/e.json"], "with --save"),
    "a variance of one draw": (["diagnose", "RUN", "--draws", "1"], "draws must be at least 2"),
    "a diagnosis of one sample": (["diagnose", "RUN", "--samples", "1"], "samples must be at least 2"),
    "an unknown estimator": (["diagnose", "RUN", "--compare", "wake-sleep,nap"], "unknown estimator 'nap'"),
    "an unknown group": (["diagnose", "RUN", "--groups", "policies"], "unknown group of parameters 'policies'"),
    "an impossible precision": (["diagnose", "RUN", "--precision", "0"], "above 0 and below 1"),
    "a diagnosis of nothing": (["diagnose", "RUN", "--batch", "0"], "batch must be at least 1"),
    "a release onto something": (["release", "RUN", "--to", "RUN"], "RUN exists already"),
    "no captions": (["features"], "expected captions to work with, got none"),
    "captions that are not there": (["features", "EMPTY"], "EMPTY"),
    "no updates of the demo": (["demo", "--updates", "0", "--run", "EMPTY/new"], "updates must be at least 1"),
    "no image": (["predict", "EMPTY", "--network", "RUN"], "expected images, got none"),
}


@pytest.mark.parametrize("words, named", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_in_one_line_that_names_it_and_changes_nothing(
    tmp_path: Path, digit_run: Path, digits: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    def placed(text: str) -> str:
        return text.replace("RUN", str(digit_run)).replace("DIGITS", str(digits)).replace("EMPTY", str(empty))

    before = {path: path.read_bytes() for path in digit_run.rglob("*") if path.is_file()}
    said = refused(capsys, *map(placed, words))
    assert placed(named) in said and not set("╭│╰─") & set(said)
    assert not list(empty.iterdir())
    assert {path: path.read_bytes() for path in digit_run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert not end.value.code
    said = capsys.readouterr().out
    kind = COMMANDS[command][0]
    purpose = flowing((get_origin(kind) or kind).__doc__).split(". ")[0].strip()
    assert purpose and purpose in flowing(said) and f"usage: wsram {command}" in said


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.Tsv", "t.jsonl", "t.JSONL", "t.ndjson"])
def test_a_table_has_the_recipe_of_images_however_its_name_is_spelt(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert cli._parse_train([str(tmp_path / name)]).recipe == "folder"
    assert is_folder(str(tmp_path / name))


@pytest.mark.parametrize("recipe", wsram.RECIPES)
def test_a_recipes_own_settings_are_the_defaults(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--recipe", recipe, "--help"])
    said = flowing(capsys.readouterr().out.replace("│", ""))
    config = wsram.RECIPES[recipe]
    for name in ("updates", "batch", "learning_rate", "clip"):
        option = said[said.index(f"--{name.replace('_', '-')} ") :]
        assert f"(default: {getattr(config.schedule, name)})" in option[: option.index("--", 5)]


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"wsram {wsram.__version__}\n"


# What is no mistake of the user's


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `wsram models` fail."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "models", (cli.Models, fail))


DEFECTS = [
    RuntimeError("a defect"),
    AssertionError(),
    KeyError("x"),
    ValueError("no UserError"),
    OSError(errno.EIO, ""),
]


@pytest.mark.parametrize("error", [*DEFECTS, FileNotFoundError(errno.ENOENT, "of ours")], ids=repr)
def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error)) as caught:
        main(["models"])
    assert caught.value is error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_an_error_of_the_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    failing(monkeypatch, OSError(number, os.strerror(number), "some/file"))
    assert f"some/file: {os.strerror(number)}; make room" in refused(capsys, "models")


def test_lines_of_a_mistake_are_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, wsram.UserError("first\nsecond \x1b[31m[b]"))
    assert refused(capsys, "models") == "wsram: first second \\x1b[31m[b]\n"


def test_an_interrupted_command_says_nothing_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    with pytest.raises(SystemExit) as end:
        main(["models"])
    assert end.value.code == 130 and capsys.readouterr() == ("", "")


def test_a_reader_that_has_seen_enough_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, BrokenPipeError(errno.EPIPE, "broken pipe"))
    closed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "dup2", lambda ours, theirs: closed.append((ours, theirs)))
    with pytest.raises(SystemExit) as end:
        main(["models"])
    assert end.value.code == 141 and len(closed) == 1  # nothing is left to complain when the stream is flushed
    os.close(closed[0][0])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("word", ["--version", "models", "--help"])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_output_that_goes_nowhere_ends_without_a_traceback(word: str, buffered: str) -> None:
    command = [sys.executable, "-m", "wsram", word]
    environment = os.environ | {"PYTHONUNBUFFERED": buffered}
    reader, writer = os.pipe()
    os.close(reader)
    unread = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert (unread.returncode, unread.stderr) == (141, "")
    with open("/dev/full", "w") as full:
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    line = "wsram: standard output: No space left on device; make room or name another place\n"
    assert (told.returncode, told.stderr) == (2, line)


def test_what_is_made_knows_its_command_and_what_comes_after_does_not(
    tmp_path: Path, digits: Path, blank: None
) -> None:
    main(["train", *flags(tiny_config(digits, updates=1)), "--run", str(tmp_path / "a run")])
    made = json.loads((tmp_path / "a run" / "provenance.json").read_text())
    assert made["command"].endswith(f"--run '{tmp_path / 'a run'}'")
    trained(tmp_path / "other", tiny_config(digits, updates=1))
    assert json.loads((tmp_path / "other" / "provenance.json").read_text())["command"] == "called from a program"
