"""How the sources are shown: examples as Python sessions, and a setting's type without what is for the command line."""

from __future__ import annotations

import re
from typing import Any

import griffe


class ShowExample(griffe.Extension):
    """Changes every docstring that is loaded: Griffe alone takes `Example:` for running text."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)


class ShowType(griffe.Extension):
    """Changes the type of every attribute from `Annotated[X, ...]` to X."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called once for each attribute, before a dataclass's signature is made of them."""
        annotation = attr.annotation
        if isinstance(annotation, griffe.ExprSubscript) and str(annotation.left) == "Annotated":
            inside = annotation.slice
            attr.annotation = inside.elements[0] if isinstance(inside, griffe.ExprTuple) else inside
