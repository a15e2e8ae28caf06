"""`wsram predict`, `look` and `explain` as a stranger uses them."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.refusals import refused
from wsram.cli import main
from wsram.predictor import from_pretrained

ODD = ("[b]bold[b].png", "[red] \x1b[31m.png", "ünï 中.png", "-.png", "a b.png", "line\nbreak.png")
"""Names that could be taken for markup, commands of a terminal, options or two lines."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images, one of them broken, and other files."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for n, name in enumerate(("b.png", "a.PNG", "below/a.png", ".hidden/no.png", ".no.png")):
        write(folder / name, n)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (folder / "notes.txt").write_text("no image")
    return folder


def write(path: Path, seed: int = 0) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)).save(path)
    return path


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, and what was said on the standard output and error."""
    capsys.readouterr()
    code = 0
    try:
        main(list(words))
    except SystemExit as end:
        assert isinstance(end.code, int)
        code = end.code
    return (code, *capsys.readouterr())


def test_a_folder_is_answered_and_what_is_broken_named_and_counted(
    images: Path, letters: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ended(capsys, "predict", str(images), "--network", letters)
    assert code == 1
    said = dict(line.split(": ", 1) for line in out.splitlines())
    assert list(said) == [str(images / name) for name in ("a.PNG", "b.png", "below/a.png")]
    predictor = from_pretrained(letters)
    for path, text in said.items():
        assert text == str(predictor.predict(path))
    first, last = err.splitlines()
    assert first.startswith("wsram: ") and str(images / "broken.png") in first
    assert last == "wsram: 1 of 4 images could not be read"


def test_json_is_one_object_a_line_and_nothing_else(
    images: Path, letters: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(images), "--network", letters, "--json", "--pictures", str(tmp_path / "p")]
    code, out, err = ended(capsys, *words)
    assert code == 1 and "broken.png" in err
    found = [json.loads(line) for line in out.splitlines()]
    predictor = from_pretrained(letters)
    for one in found:
        assert one == {"path": one["path"]} | json.loads(json.dumps(predictor.predict(one["path"]).to_dict()))
        assert set(one) == {"path", "class", "probability", "probabilities", "sequences", "glimpses"}
    assert len(found) == 3


def test_a_vote_is_asked_for_by_its_samples(images: Path, letters: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ended(capsys, "predict", str(images / "b.png"), "--network", letters, "--samples", "5", "--json")
    assert code == 0 and json.loads(out)["sequences"] == 5
    assert "at least 1, got 0" in refused(
        capsys, "predict", str(images / "b.png"), "--network", letters, "--samples", "0"
    )


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_told_as_they_are(
    tmp_path: Path, letters: str, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / name)
    code, out, _ = ended(capsys, "predict", str(path), "--network", letters, "--json", "--pictures", "p", "--gif", "p")
    assert code == 0 and out.count("\n") == 1
    assert json.loads(out)["path"] == str(path)
    assert {file.name for file in (tmp_path / "p").iterdir()} == {
        f"{path.stem}.glimpses.png",
        f"{path.stem}.glimpses.gif",
    }
    code, out, _ = ended(capsys, "predict", str(path), "--network", letters)
    assert code == 0 and "\x1b" not in out
    shown = str(path).replace("\x1b", "\\x1b")
    assert out.startswith(f"{shown}: ")


def test_paths_come_from_the_standard_input_one_to_a_line(
    images: Path, letters: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = images / os.fsdecode(b"not \xff utf-8.png")
    write(odd)
    lines = [os.fsencode(images / "b.png"), b"", os.fsencode(odd), os.fsencode(images / "absent.png")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(lines) + b"\r\n")))
    code, out, err = ended(capsys, "predict", "-", "--network", letters, "--json")
    assert code == 1 and "1 of 3 images" in err and "absent.png" in err
    assert [json.loads(line)["path"] for line in out.splitlines()] == [str(images / "b.png"), str(odd)]


def test_pictures_never_replace_a_file(
    images: Path, letters: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two images of one stem, and a file of somebody else's."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "b.glimpses.png").write_text("somebody else's")
    names = [str(images / name) for name in ("a.PNG", "b.png", "below/a.png")]
    words = ["predict", *names, "--network", letters, "--pictures", str(folder)]
    code, out, _ = ended(capsys, *words)
    assert code == 0
    assert (folder / "b.glimpses.png").read_text() == "somebody else's"
    made = ["a.glimpses.png", "b.glimpses-2.png", "a.glimpses-2.png"]
    for name in made:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert [line.rpartition("/")[2] for line in out.splitlines()[1::2]] == made
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert ended(capsys, *words)[0] == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(after) == len(before) + 3 and all(after[name] == before[name] for name in before)


def test_pictures_beside_the_images_leave_these_as_they_are(
    images: Path, letters: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (images / "b.png").read_bytes()
    ended(capsys, "predict", str(images / "b.png"), "--network", letters, "--pictures", str(images))
    assert (images / "b.png").read_bytes() == before and (images / "b.glimpses.png").exists()


def test_pictures_of_the_longest_names_have_names_that_a_disk_takes(
    letters: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(write(tmp_path / f"{'ü' * 124}{end}.png")) for end in ("a", "b")]
    words = ["--network", letters, "--pictures", str(tmp_path / "pictures")]
    code, _, said = ended(capsys, "predict", *names, *words)
    assert (code, said) == (0, "")
    made = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert made == [f"{'ü' * 110}.glimpses-2.png", f"{'ü' * 110}.glimpses.png"]


def test_nothing_to_answer_is_a_mistake(
    tmp_path: Path, letters: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    for words in ([], [str(tmp_path / "empty")], ["-"]):
        assert "expected images, got none" in refused(capsys, "predict", *words, "--network", letters)
    assert "found none at" in refused(capsys, "predict", "a.png", "--network", str(tmp_path / "absent"))
    (tmp_path / "file").write_text("")
    path = write(tmp_path / "a.png")
    said = refused(capsys, "predict", str(path), "--network", letters, "--pictures", str(tmp_path / "file"))
    assert "cannot make the folder" in said


def test_the_network_that_comes_along_is_asked_where_none_is_named(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = ended(capsys, "predict", str(images / "b.png"))
    assert code == 0 and out == f"{images / 'b.png'}: {from_pretrained('robust').predict(images / 'b.png')}\n"


def test_captions_are_said_too(
    world: Path, caption_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.caption_world import backbone

    monkeypatch.setattr("wsram.predictor.build_backbone", backbone)
    monkeypatch.chdir(tmp_path)
    path = world / "Flicker8k_Dataset" / "60.png"
    asked = [str(path), "--network", str(caption_run)]
    code, out, _ = ended(capsys, "predict", *asked, "--json")
    caption = json.loads(out)
    assert code == 0 and caption["words"] and len(caption["cells"]) == len(caption["words"]) + 1
    code, out, _ = ended(capsys, "look", *asked)
    assert code == 0 and all(word in out for word in (*caption["words"], "(end)", "60.glimpses.png"))
    assert (tmp_path / "60.glimpses.png").exists()
    assert "captions" in refused(capsys, "look", *asked, "--label", "red")
    assert "captions" in refused(capsys, "explain", *asked, "--label", "red")


# Looking at one


def test_a_look_says_what_was_believed_after_each_glimpse(
    images: Path, letters: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = images / "b.png"
    prediction = from_pretrained(letters).predict(path)
    code, out, _ = ended(capsys, "look", str(path), "--network", letters, "--label", "c")
    assert code == 0 and str(prediction) in out
    rows = [line for line in out.splitlines() if "×" in line]
    assert len(rows) == 3
    for row, glimpse in zip(rows, prediction.glimpses, strict=True):
        assert row.startswith(prediction.believed(glimpse)) and f"{glimpse.left:.1f}" in row
    assert "b.glimpses.png" in out and (tmp_path / "b.glimpses.png").exists()
    code, out, _ = ended(capsys, "look", str(path), "--network", letters, "--to", "new/moves.gif")
    with Image.open(tmp_path / "new" / "moves.gif") as moving:
        assert moving.n_frames == 5
    assert "exists already" in refused(capsys, "look", str(path), "--network", letters, "--to", "new/moves.gif")
    code, out, err = ended(capsys, "look", str(path), "--network", letters, "--label", "f")
    assert (code, out) == (2, "") and "among a, b, c, d, e, got 'f'" in err  # before the table
    assert "absent.png" in refused(capsys, "look", "absent.png", "--network", letters)


def test_evidence_is_said_and_drawn(
    images: Path, letters: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = str(images / "b.png"), tmp_path / "e.png"
    words = ["explain", path, "--label", "a", "--against", "d", "--network", letters, "--samples", "40"]
    code, out, _ = ended(capsys, *words, "--picture", str(picture))
    evidence = from_pretrained(letters).explain(path, "a", "d", samples=40)
    x, y = evidence.peak()
    assert code == 0 and out.startswith(f"{evidence}\n") and f"({x:.0f}, {y:.0f})" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "exists already" in refused(capsys, *words, "--picture", str(picture))
    assert "'f'" in refused(capsys, "explain", path, "--label", "f", "--network", letters)
