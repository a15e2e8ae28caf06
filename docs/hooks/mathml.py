"""Equations become MathML while the pages are built, so that the finished site needs no script to show them.

Arithmatex (generic mode) keeps TeX away from Markdown and marks it in the HTML, in pages and in docstrings alike;
what it marked is converted here, by an extension of Python-Markdown, whichever program builds the site. TeX that
cannot be converted ends the build.
The converter itself passes over braces that do not match, leaves a command it does not know as it is, and sets a
function's name without the space that TeX has beside it: "log p" would be read as one word.
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.postprocessors import Postprocessor

MARKED = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
NAMESPACE = "http://www.w3.org/1998/Math/MathML"
THIN = "0.1667em"
"""TeX's space between a function's name and what it is of."""
SCRIPTS = ("msub", "msup", "msubsup", "munder", "mover", "munderover")
OPENING, ENDING = frozenset("([{|∥‖"), frozenset(")]}|∥‖∇")
"""Signs before which a name needs no space, and signs after which it does although they are set as operators."""

ET.register_namespace("", NAMESPACE)


class MathML(Extension):
    """The extension of Python-Markdown, to be named after Arithmatex: `docs.hooks.mathml:MathML`."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Convert once everything else is HTML."""
        md.postprocessors.register(_Converted(md), "mathml", 0)


class _Converted(Postprocessor):
    def run(self, text: str) -> str:
        return MARKED.sub(_converted, text)


def _converted(match: re.Match[str]) -> str:
    element, tex = match[1], html.unescape(match[2]).strip()
    try:
        return mathml(tex, "block" if element == "div" else "inline")
    except Exception as error:
        raise ValueError(f"cannot convert {tex!r}: {error!r}") from error


def mathml(tex: str, display: str = "inline") -> str:
    r"""An equation in TeX as MathML; `ValueError` if it holds what the converter does not know.

    Example:
        >>> "<mi>log</mi><mspace" in mathml(r"\log p"), "<mi>log</mi><mo" in mathml(r"\log (p)")
        (True, True)
    """
    found = convert(tex, display=display)
    if "\\" in found or tex.count("{") != tex.count("}"):
        raise ValueError("unknown command or unmatched brace")
    root = ET.fromstring(found)
    for parent in list(root.iter()):
        if _tag(parent) == "mi" and parent.text == "~":  # the converter's \sim
            parent.tag, parent.text = f"{{{NAMESPACE}}}mo", "\u223c"
        if _tag(parent) in ("math", "mrow", "mstyle", "mtd", "msqrt"):
            parent[:] = _spaced(list(parent))
    return ET.tostring(root, encoding="unicode")


def _spaced(row: list[ET.Element]) -> list[ET.Element]:
    """A row with a thin space on each side of a function's name, but none at a bracket, an operator or the end."""
    spaced: list[ET.Element] = []
    for before, element in zip([None, *row], row, strict=False):
        if before is not None and (
            (_is_name(before) and not _begins_with(element, OPENING))
            or (_is_name(element) and not _is_operator(before))
        ):
            spaced.append(ET.Element(f"{{{NAMESPACE}}}mspace", width=THIN))
        spaced.append(element)
    return spaced


def _is_name(element: ET.Element) -> bool:
    """Whether it is a function's name, with an index perhaps."""
    core = element[0] if _tag(element) in SCRIPTS else element
    name = (core.text or "").strip()
    if _tag(core) not in ("mi", "mo") or len(name) < 2 or not name.isalpha():
        return False
    core.tag = f"{{{NAMESPACE}}}mi"  # what \operatorname makes is set as an operator otherwise, with wide spaces
    return True


def _is_operator(element: ET.Element) -> bool:
    """Whether it brings its own space, or wants none after it."""
    core = element[0] if _tag(element) in SCRIPTS else element
    return _tag(core) in ("mspace", "mtext") or (
        _tag(core) == "mo" and not _is_name(element) and (core.text or "").strip() not in ENDING
    )


def _begins_with(element: ET.Element, signs: frozenset[str]) -> bool:
    """Whether the first thing to be seen of it is one of the signs."""
    while len(element) and _tag(element) != "mfrac":
        element = element[0]
    return _tag(element) in ("mspace", "mo") and (_tag(element) == "mspace" or (element.text or "").strip() in signs)


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
