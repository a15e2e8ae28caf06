"""Where a number comes from: the right commit or none, and a command line that can be typed again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import wsram
from wsram import __version__
from wsram import provenance as module
from wsram.provenance import commanded, machine, provenance

PACKAGE = Path(wsram.__file__).parent


def git(folder: Path, *words: str) -> str:
    own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Somebody's repository with a copy of the package in it, as an environment for Python would have one."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    root = tmp_path / "theirs"
    (root / "env").mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "released", "models", "data", "tasks")
    shutil.copytree(PACKAGE, root / "env" / "wsram", ignore=ignored)
    git(root, "init", "-q")
    (root / "file").write_text("theirs")
    git(root, "add", "file")
    git(root, "commit", "-q", "-m", "theirs")
    return root


def commit_of(copy: Path) -> str:
    """What a copy of the package says it is of."""
    code = "import wsram.provenance as p; print(p.__file__); print(p._commit())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy.parent, env=environment | {"PYTHONPATH": str(copy.parent)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    path, said = done.stdout.splitlines()
    assert Path(path).parent == copy
    return said


@pytest.mark.parametrize("ignored", [False, True])
def test_a_copy_inside_another_repository_never_takes_its_commit(repository: Path, ignored: bool) -> None:
    if ignored:
        (repository / ".gitignore").write_text("env/\n")
    said = commit_of(repository / "env" / "wsram")
    assert said == f"unknown (version {__version__})"


def test_a_copy_in_its_own_repository_says_the_commit_and_whether_it_was_changed(repository: Path) -> None:
    copy = repository / "env" / "wsram"
    git(repository, "add", "env")
    git(repository, "commit", "-q", "-m", "the package")
    commit = git(repository, "rev-parse", "--short=12", "HEAD")
    (repository / "file").write_text("changed, but not of the package")
    (copy / "__pycache__").mkdir(exist_ok=True)
    (repository / ".gitignore").write_text("__pycache__/\n")
    assert commit_of(copy) == commit
    (copy / "errors.py").write_text((copy / "errors.py").read_text() + "\n")
    assert commit_of(copy) == f"{commit}+changes"
    git(repository, "checkout", "-q", ".")
    (copy / "new.py").write_text("")
    assert commit_of(copy) == f"{commit}+changes"


COMMIT = "0123456789abcdef0123456789abcdef01234567"
ORIGINS = {
    "from a repository": (json.dumps({"url": "https://x", "vcs_info": {"commit_id": COMMIT}}), COMMIT[:12]),
    "from a folder": ('{"url": "file:///somewhere", "dir_info": {}}', f"unknown (version {__version__})"),
    "from an index": (None, f"unknown (version {__version__})"),
    "damaged": ("{", f"unknown (version {__version__})"),
}


@pytest.mark.parametrize("origin, commit", ORIGINS.values(), ids=ORIGINS)
def test_without_a_tree_what_pip_wrote_down_says_the_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: str | None, commit: str
) -> None:
    known = SimpleNamespace(read_text=lambda name: origin if name == "direct_url.json" else None)
    monkeypatch.setattr(module.metadata, "distribution", lambda name: known)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "provenance.py"))
    assert provenance()["commit"] == commit
    monkeypatch.setenv("PATH", str(tmp_path))  # nor is git needed
    assert provenance()["commit"] == commit


@pytest.mark.parametrize("words", [["train", "a folder", "--run", "it's"], ["x;rm", "$HOME", "*", '"'], []])
def test_a_command_line_can_be_typed_again(words: list[str]) -> None:
    with commanded("python -m experiments", words):
        command = provenance()["command"]
    assert shlex.split(command) == ["python", "-m", "experiments", *words]


def test_a_command_holds_only_within_it_even_if_it_fails() -> None:
    assert provenance()["command"] == "called from a program"
    with pytest.raises(ZeroDivisionError), commanded("wsram", ["outer"]):
        with commanded("wsram", ["inner"]):
            assert provenance()["command"] == "wsram inner"
        assert provenance()["command"] == "wsram outer"
        _ = 1 / 0
    assert provenance()["command"] == "called from a program"


def test_the_machine_is_named_by_its_processor_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self, **_: "processor\t: 0\nmodel name\t: A: Processor\nflags\t: x\n")
    assert machine() == f"A: Processor, {torch.get_num_threads()} threads"


def test_all_that_belongs_beside_a_number_is_there() -> None:
    found = provenance()
    assert list(found) == ["command", "commit", "machine", "python", "torch"]
    assert all(isinstance(value, str) and value for value in found.values())
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
