"""A docstring's `Example:` is shown as a Python session, as `Examples:` is; Griffe alone takes it for running text."""

from __future__ import annotations

import re
from typing import Any

import griffe


class ShowExample(griffe.Extension):
    """Renames the section of every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
