"""Tutorials are notebooks kept as Python (jupytext): `python docs/hooks/tutorials.py` runs them and writes their pages.

Each docs/tutorials/NAME.py is run by nbclient in an empty folder; docs/tutorials/NAME.md gets its text, its code and
what it printed, and the pictures that the text shows are kept beside it.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
OUTPUTS = 8
"""Of a cell, at most: a notebook is not flooded."""


def run(source: Path, place: Path) -> NotebookNode:
    """The notebook with its outputs, run in a folder."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(notebook, timeout=600, coalesce_streams=True, resources={"metadata": {"path": str(place)}}).execute()
    return notebook


def page(notebook: NotebookNode, source: Path) -> str:
    """A notebook as Markdown."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        said = [text for output in cell.outputs if (text := text_of(output))]
        if len(said) > OUTPUTS:
            raise SystemExit(f"{source.name}: a cell has {len(said)} outputs, more than {OUTPUTS}")
        if said:
            parts.append("```text\n" + "\n".join(said) + "\n```")
    first, *rest = parts
    note = f"*A notebook: [{source.name}]({source.name}), run by `make tutorials`.*"
    return "\n\n".join([*first.split("\n", 1)[:1], note, *first.split("\n", 1)[1:], *rest]) + "\n"


def text_of(output: NotebookNode) -> str:
    """What an output says as text; nothing of what libraries say to the standard error."""
    if output.get("name") == "stderr":
        return ""
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    lines = (line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", text).strip("\n").splitlines())
    return "\n".join(line for line in lines if "━" not in line)  # of the progress, which a notebook replaces


def main(names: list[str]) -> None:
    """Run the tutorials of these names, or all, and write their pages."""
    for source in sorted(FOLDER.glob("*.py")):
        if names and source.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as place:
            written = page(run(source, Path(place)), source)
            for picture in re.findall(r"\]\(([\w-]+\.(?:png|gif))\)", written):
                shutil.copyfile(Path(place) / picture, FOLDER / picture)
        source.with_suffix(".md").write_text(written, encoding="utf-8")
        print(source.with_suffix(".md"))


if __name__ == "__main__":
    main(sys.argv[1:])
