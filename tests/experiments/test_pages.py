"""Committed pages say what the commands make of committed files, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from experiments import flickr8k_page, mnist_page
from experiments.cli import main
from experiments.pages import PAGE, RESULTS, load
from wsram.runs import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COMMANDS = {
    "mnist-standard": "mnist",
    "mnist-long": "mnist",
    "mnist-paper": "mnist",
    "mnist-short-best": "mnist",
    "flickr8k-standard": "flickr8k",
}


def test_every_committed_page_of_an_experiment_is_looked_at_here() -> None:
    assert {path.parent.name for path in (DOCS / "results").glob(f"*/{RESULTS}")} == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_an_experiment_is_what_its_small_file_makes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (mnist_page, flickr8k_page):
        monkeypatch.setattr(module, "save", lambda *args, **options: None)  # drawing takes longest
    shutil.copyfile(DOCS / "results" / name / RESULTS, tmp_path / RESULTS)
    main([COMMANDS[name], "--from-files", "--results", str(tmp_path)])
    committed = DOCS / "results" / name
    assert (tmp_path / PAGE).read_text() == (committed / PAGE).read_text()
    assert (tmp_path / RESULTS).read_text() == (committed / RESULTS).read_text()
    assert load(committed)["experiment"] == COMMANDS[name]


def test_the_results_page_and_the_summary_are_what_the_published_files_make(tmp_path: Path) -> None:
    shutil.copytree(DOCS / "results", tmp_path / "docs" / "results")
    for name in ("README.md", "docs/results.md"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    places = ["--folder", str(tmp_path / "docs" / "results"), "--page", str(tmp_path / "docs" / "results.md")]
    main(["results", *places, "--summary", str(tmp_path / "README.md")])
    for name in ("README.md", "docs/results.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()
    published = {path.parent.name for path in (DOCS / "results").glob(f"*/{SETTINGS}")}
    assert published and set(re.findall(r"(?m)^### (.*)$", (DOCS / "results.md").read_text())) == published


def test_every_picture_is_linked_and_every_link_is_there() -> None:
    pages = DOCS.rglob("*.md")
    linked = {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    }
    there = {path.resolve() for path in (DOCS / "results").rglob("*.png")}
    assert {link for link in linked if DOCS / "results" in link.parents} == there
