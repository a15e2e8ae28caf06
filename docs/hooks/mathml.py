"""Equations become MathML while the pages are built, so that the finished site needs no script to show them.

Arithmatex (generic mode) keeps TeX away from Markdown and marks it in the HTML, in pages and in docstrings alike;
what it marked is converted here. TeX that cannot be converted is a warning, and so fails a strict build.
The converter itself passes over braces that do not match, and leaves a command it does not know as it is.
"""

from __future__ import annotations

import html
import logging
import re
from typing import Any

from latex2mathml.converter import convert

LOG = logging.getLogger("mkdocs.plugins.mathml")
MARKED = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(page_html: str, *, page: Any, **_: Any) -> str:
    """Replace every equation of a page, docstrings included, by MathML."""

    def converted(match: re.Match[str]) -> str:
        element, tex = match[1], html.unescape(match[2]).strip()
        try:
            mathml = convert(tex, display="block" if element == "div" else "inline")
            if "\\" in mathml or tex.count("{") != tex.count("}"):
                raise ValueError("unknown command or unmatched brace")
            return mathml
        except Exception as error:
            LOG.warning("%s: cannot convert %r: %r", page.file.src_uri, tex, error)
            return match[0]

    return MARKED.sub(converted, page_html)
