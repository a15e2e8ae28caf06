"""Published results: whole, of one run each, and without a path of the machine they were made on."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main
from experiments.results import BEGIN, END, add_runs, write_page
from tests.experiments.commands import read, refused
from tests.refusals import refusal
from tests.tiny import tiny_config, trained
from wsram.config import changed
from wsram.evaluate import evaluate, open_trained
from wsram.settings import to_json
from wsram.tasks import TASKS, Options
from wsram.terminal import Screen

QUIET = Screen(quiet=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, digit_run: Path) -> Path:
    """A finished run on digits that was measured on both sets, and no test writes into."""
    folder = Path(shutil.copytree(digit_run, tmp_path_factory.mktemp("measured") / "digits-1"))
    return _measured(folder, Options(samples=2))


@pytest.fixture(scope="module")
def measured_captions(tmp_path_factory: pytest.TempPathFactory, world: Path, features: Path) -> Path:
    """The same on captions."""
    from tests.caption_world import tiny_captions

    folder = tmp_path_factory.mktemp("measured") / "captions-1"
    trained(folder, tiny_captions(world, features, updates=2))
    return _measured(folder, Options(samples=2, beam=2))


def _measured(run: Path, options: Options) -> Path:
    opened = open_trained(run)
    for test in (False, True):
        evaluate(opened, QUIET, test=test, options=options)
    (run / "training.png").write_bytes(b"a picture")
    return run


def copied(run: Path, root: Path) -> Path:
    """A copy of a run under its own name, to be written into."""
    return Path(shutil.copytree(run, root / "runs" / run.name))


def pages(root: Path) -> list[str]:
    """Words for two pages with marks and something around them."""
    for name in ("results.md", "README.md"):
        (root / name).write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    places = ["--folder", str(root / "results"), "--page", str(root / "results.md")]
    return [*places, "--summary", str(root / "README.md")]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pages_are_made_from_the_files_of_runs_of_every_task(
    measured: Path, measured_captions: Path, tmp_path: Path
) -> None:
    main(["results", "--add", str(measured), str(measured_captions), *pages(tmp_path)])
    text, summary = (tmp_path / "results.md").read_text(), (tmp_path / "README.md").read_text()
    for made in (text, summary):
        assert made.startswith("before\n") and made.endswith("\nafter\n") and "old" not in made
    for run, task in ((measured, TASKS["image-classification"]), (measured_captions, TASKS["image-to-text"])):
        section = text.split(f"### {run.name}\n")[1].split("\n### ")[0]
        records = {name: read(run, f"evaluation-{name}") for name in ("validation", "test")}
        assert task.table(records).markdown() in section
        assert f"![training of {run.name}](results/{run.name}/training.png)" in section
        seconds = f"{records['test']['training_seconds']:.0f} s, {read(run, 'provenance')['machine']}"
        assert f"| {task.headline(records['test'])} | {seconds} |" in summary
    assert text.index("### captions-1") < text.index("### digits-1")


def test_a_run_that_was_not_measured_on_a_test_set_has_no_row_in_the_summary(measured: Path, tmp_path: Path) -> None:
    run = copied(measured, tmp_path)
    (run / "evaluation-test.json").unlink()
    main(["results", "--add", str(run), *pages(tmp_path)])
    assert "### digits-1" in (tmp_path / "results.md").read_text()
    assert "error of the mode" not in (tmp_path / "README.md").read_text()


def test_a_run_is_published_again_whole_and_nothing_of_before_stays(measured: Path, tmp_path: Path) -> None:
    run, words = copied(measured, tmp_path), pages(tmp_path)
    main(["results", "--add", str(run), *words])
    assert "| test | mode |" in (tmp_path / "results.md").read_text()
    (run / "evaluation-test.json").unlink()
    (run / "posterior.json").write_text('{"policy": 0.25, "samples": 7, "images": 3}')
    main(["results", "--add", str(run), *words])
    text = (tmp_path / "results.md").read_text()
    assert "| test | mode |" not in text and "| to the policy | 0.2 |" in text
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["digits-1"]


def test_a_run_that_went_on_for_longer_is_still_the_same(measured: Path, tmp_path: Path) -> None:
    run = copied(measured, tmp_path)
    add_runs([run], tmp_path / "results")
    config = tiny_config(str(tmp_path / "elsewhere"), updates=8)
    (run / "training.json").write_text(to_json(config))
    add_runs([run], tmp_path / "results")
    assert read(tmp_path / "results" / "digits-1", "training")["schedule"]["updates"] == 8


@pytest.mark.parametrize("other", ["settings", "provenance"])
def test_another_run_of_a_published_name_is_refused_unless_it_shall_replace_it(
    measured: Path, tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = copied(measured, tmp_path / "a"), copied(measured, tmp_path / "b")
    if other == "settings":
        config = changed(tiny_config("digits"), seed=5)
        (second / "training.json").write_text(to_json(config))
    else:
        made = read(second, "provenance") | {"commit": "another"}
        (second / "provenance.json").write_text(json.dumps(made))
    words = pages(tmp_path)
    main(["results", "--add", str(first), *words])
    before = contents(tmp_path / "results")
    assert "holds another run" in refused(capsys, "results", "--add", str(second), *words)
    assert contents(tmp_path / "results") == before
    main(["results", "--add", str(second), "--replace", *words])
    assert contents(tmp_path / "results") != before


def test_two_runs_of_one_name_are_not_published_over_each_other(measured: Path, tmp_path: Path) -> None:
    first, second = copied(measured, tmp_path / "a"), copied(measured, tmp_path / "b")
    (second / "training.json").write_text(to_json(changed(tiny_config("digits"), seed=5)))
    refusal(lambda: add_runs([first, second], tmp_path / "results"), "holds another run", second)
    assert not (tmp_path / "results").exists()


def test_an_evaluation_of_another_update_is_refused_and_so_is_all_that_was_asked_for_with_it(
    measured: Path, tmp_path: Path
) -> None:
    whole, stale = copied(measured, tmp_path / "a"), copied(measured, tmp_path / "b").rename(tmp_path / "stale")
    found = read(stale, "evaluation-test") | {"step": 2}
    (stale / "evaluation-test.json").write_text(json.dumps(found))
    refusal(lambda: add_runs([whole, stale], tmp_path / "results"), stale, "of update 2, the network of 6")
    assert not (tmp_path / "results").exists()


def test_a_benchmark_of_other_settings_is_refused(measured: Path, tmp_path: Path) -> None:
    run = copied(measured, tmp_path)
    config = read(run, "training")
    made: dict[str, Any] = {"ratios": {"a": 1.0}, "measured": {"shares": {}}, "provenance": {}}
    for batch, fits in ((config["schedule"]["batch"], True), (99, False)):
        other = config | {"schedule": config["schedule"] | {"batch": batch, "updates": 12}}
        (run / "benchmark.json").write_text(json.dumps(made | {"config": other}))
        if fits:
            add_runs([run], tmp_path / "results")
        else:
            refusal(lambda: add_runs([run], tmp_path / "results"), "benchmark.json is of other settings")


def test_nothing_but_what_is_listed_is_published_and_no_path_of_the_machine(measured: Path, tmp_path: Path) -> None:
    run = copied(measured, tmp_path)
    made = read(run, "provenance") | {"command": f"wsram train {tmp_path}/data --run {run}"}
    (run / "provenance.json").write_text(json.dumps(made))
    (run / "notes.json").write_text("{}")
    secret = tmp_path / "secret.json"
    secret.write_text('{"policy": 0.0, "samples": 1, "images": 1}')
    (run / "posterior.json").symlink_to(secret)
    (run / "glimpses.png").symlink_to(secret)
    (target,) = add_runs([run], tmp_path / "results")
    named = {"training.json", "provenance.json", "evaluation-validation.json", "evaluation-test.json", "training.png"}
    assert contents(target).keys() == named
    assert str(tmp_path).encode() not in b"".join(contents(target).values())
    assert read(target, "provenance")["command"] == "wsram train data --run digits-1"


def test_what_was_published_stays_when_the_disk_is_full(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(measured, tmp_path)
    add_runs([run], tmp_path / "results")
    before = contents(tmp_path / "results")
    (run / "evaluation-test.json").unlink()
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "training.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    refusal(lambda: add_runs([run], tmp_path / "results"), "No space left on device", "digits-1")
    assert contents(tmp_path / "results") == before and len(list((tmp_path / "results").iterdir())) == 1


def test_a_page_that_cannot_be_written_is_left_as_it_was(measured: Path, tmp_path: Path) -> None:
    add_runs([measured], tmp_path / "results")
    pages(tmp_path)
    page = tmp_path / "results.md"
    before = page.read_text()
    page.with_name("results.md.partial").mkdir()  # where the new text would be written first
    refusal(lambda: write_page(page, tmp_path / "results"), "cannot write", page, "left as it was")
    assert page.read_text() == before


def test_what_is_no_published_run_is_never_replaced(measured: Path, tmp_path: Path) -> None:
    there = tmp_path / "results" / measured.name
    there.mkdir(parents=True)
    (there / "index.md").write_text("the page of an experiment")
    refusal(lambda: add_runs([measured], tmp_path / "results", replace=True), "something else than a published run")
    assert (there / "index.md").exists()


def test_a_page_without_marks_is_refused_before_anything_is_published(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["results", "--add", str(measured), "--folder", str(tmp_path / "results"), "--page"]
    (tmp_path / "page.md").write_text("nothing here\n")
    (tmp_path / "turned.md").write_text(f"{END}\n{BEGIN}\n")
    for name in ("page.md", "turned.md", "absent.md"):
        assert "must exist and hold the two lines" in refused(capsys, *words, str(tmp_path / name))
    assert not (tmp_path / "results").exists()


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path, digit_run: Path) -> None:
    (tmp_path / "empty").mkdir()
    refusal(lambda: add_runs([tmp_path / "empty"], tmp_path / "results"), "holds no run")
    untrained = Path(shutil.copytree(digit_run, tmp_path / "untrained"))
    shutil.rmtree(untrained / "checkpoints")
    refusal(lambda: add_runs([untrained], tmp_path / "results"), "no checkpoint")
    assert not (tmp_path / "results").exists()
