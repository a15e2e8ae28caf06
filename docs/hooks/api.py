"""The API reference shows every module of a package, so that a new module cannot be forgotten."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOMES = {"wsram": ROOT / "src" / "wsram", "experiments": ROOT / "experiments"}
PLACE = re.compile(r"<!-- every module of ([\w.]+) -->")
DIRECTIVE = "::: {}\n    options: {{heading_level: 2, skip_local_inventory: false, show_source: {}}}"
WITH_SOURCE = ("wsram.estimators", "wsram.glimpse", "wsram.models")
"""Packages whose code stands beside its documentation: that of the mathematics."""


def modules(package: str) -> list[str]:
    """Dotted names of a package and its own public modules, not of packages inside it; in order."""
    top, _, inside = package.partition(".")
    folder = HOMES[top].joinpath(*inside.split(".")) if inside else HOMES[top]
    own = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return [package, *(f"{package}.{name}" for name in own)]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put one mkdocstrings directive for each module where a page asks for them."""

    def directives(match: re.Match[str]) -> str:
        source = str(match[1] in WITH_SOURCE).lower()
        return "\n\n".join(DIRECTIVE.format(name, source) for name in modules(match[1]))

    return PLACE.sub(directives, markdown)
