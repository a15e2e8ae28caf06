"""Whatever is handed to the program: one line of what was expected and what came, exit code 2, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.bad_inputs import BAD, ESCAPE, LINES, MARKUP, encoded
from tests.processes import start
from tests.refusals import refused
from wsram.cli import main
from wsram.errors import printable


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "digit.png"
    Image.new("L", (60, 60)).save(path)
    return path


def command(name: str, folder: Path, run: Path, digits: Path, good: Path) -> list[str]:
    """Write what is bad, and say what is to be done with it."""
    folder.mkdir()
    places = {"RUN": str(run), "DIGITS": str(digits), "GOOD": str(good)}
    return [places.get(word, word) for word in BAD[name][0](folder, run)]


def contents(folder: Path) -> dict[Path, bytes]:
    """All that is in a folder; a lock is no content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_in_one_line(
    tmp_path: Path, digit_run: Path, digits: Path, good: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = command(name, tmp_path / "given", digit_run, digits, good)
    before = contents(tmp_path)
    said = refused(capsys, *words)
    assert BAD[name][1] in said and said[:-1].isprintable() and len(said) < 10**4
    assert contents(tmp_path) == before  # nothing was run, made or changed


@pytest.mark.parametrize("name", ["digits that are a bomb", "a network of endless glimpses", "an image that is a bomb"])
def test_it_is_refused_in_a_process_of_its_own(
    tmp_path: Path, digit_run: Path, digits: Path, good: Path, name: str
) -> None:
    words = command(name, tmp_path / "given", digit_run, digits, good)
    process = start(main, words, said=tmp_path / "said")
    process.join(60)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 2 and said.count("\n") == 1 and BAD[name][1] in said


def test_there_are_as_many_as_was_promised() -> None:
    assert len(BAD) >= 60


def test_names_that_are_commands_are_shown_harmlessly_wherever_they_appear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes named by escapes, markup, line breaks and mathematics: trained on, measured, asked about, released."""
    names = [ESCAPE, MARKUP.replace("/", "|"), LINES, "$\\frac{"]
    rows = []
    for n in range(40):
        (tmp_path / f"{n}.png").write_bytes(encoded("PNG", 20 + n))
        part = ("train", "train", "val", "test")[n // 4 % 4]
        rows.append({"path": f"{n}.png", "label": names[n % 4], "split": part})
    table, run = tmp_path / "t.jsonl", str(tmp_path / "run")
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = dict(glimpses=2, patch=4, view=4, lower_units=8, upper_units=8, updates=2, batch=4)
    small = [word for name, size in sizes.items() for word in (f"--{name.replace('_', '-')}", str(size))]
    photo = str(tmp_path / "1.png")
    for words in (
        ["train", str(table), "--run", run, *small],
        ["evaluate", run, "--samples", "2"],
        ["look", photo, "--network", run, "--to", str(tmp_path / "look.png")],
        ["explain", photo, "--network", run, "--label", ESCAPE, "--picture", str(tmp_path / "explained.png")],
        ["predict", photo, "--network", run, "--pictures", str(tmp_path / "pictures")],
        ["predict", photo, "--network", run, "--json"],
        ["release", run, "--to", str(tmp_path / "released")],
    ):
        main(words)
        said = capsys.readouterr()
        assert not said.err and all(line.isprintable() for line in said.out.split("\n")), words
    assert ESCAPE not in (tmp_path / "released" / "README.md").read_text()
    with pytest.raises(SystemExit):
        main(["explain", photo, "--network", run, "--label", MARKUP])
    assert printable(ESCAPE) in (said.err if (said := capsys.readouterr()) else "")
