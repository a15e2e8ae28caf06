"""The API reference lists every module of the package, so that a new module cannot be forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "src"
PLACE = "<!-- every module -->"
DIRECTIVE = "::: {}\n    options: {{heading_level: 2, skip_local_inventory: false}}"


def modules() -> list[str]:
    """Dotted names of the package's public modules and subpackages, in order."""
    paths = (path.relative_to(SOURCE).with_suffix("") for path in SOURCE.glob("wsram/**/*.py"))
    names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    return sorted(name for name in names if "._" not in name)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put one mkdocstrings directive for each module where a page asks for them."""
    if PLACE not in markdown:
        return markdown
    return markdown.replace(PLACE, "\n\n".join(DIRECTIVE.format(name) for name in modules()))
