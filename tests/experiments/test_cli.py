"""The experiments' command line: it explains itself, and a mistake ends in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import COMMANDS, main
from tests.experiments.commands import refused

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert not end.value.code
    said = capsys.readouterr().out
    assert f"usage: python -m experiments {command}" in said and "--help" in said


@pytest.mark.parametrize(
    "words, expected",
    {
        ("mnist", "--budget", "huge"): "invalid choice 'huge'",
        ("mnist", "--seeds", "many"): "Error parsing --seeds",
        ("benchmark-update", "--bogus", "3"): "Unrecognized options: --bogus, 3",
        ("benchmark-update", "--recipe", "fancy"): "expected a recipe that takes glimpses, got 'fancy'",
        ("mnst",): "Available subcommands: mnist, flickr8k,",
        (): "Expected one of {mnist, flickr8k,",
    }.items(),
)
def test_words_that_are_no_command_end_in_one_line(
    words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *words)
    assert expected in said and not set("╭│╰─") & set(said)


@pytest.mark.parametrize(
    "command",
    [name for name, (settings, _) in COMMANDS.items() if {"save", "measured"} & settings.__annotations__.keys()],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = [] if command in ("benchmark-update", "exported", "modules", "served") else ["absent"]
    said = refused(capsys, command, *network, "--save", str(tmp_path))
    assert f"cannot write {tmp_path} (Is a directory); name another file with --save" in said


def test_it_runs_as_a_module_from_the_root_of_the_repository() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "results", "--page", "absent.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("experiments: absent.md must exist") and not done.stdout
