"""The parts of the pages that say what the code and its files say: options, recipes, the tree, released networks.

`python docs/hooks/parts.py` makes them anew in place; a test fails where one has fallen behind. A part stands between
the lines `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a page, NAME being one of `PARTS`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
import textwrap
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the experiments lie beside the package

from docs.hooks import measured  # noqa: E402
from experiments import cli as experiments  # noqa: E402
from wsram import cli  # noqa: E402
from wsram.config import CONFIGS, CaptioningConfig, ClassificationConfig, Config  # noqa: E402
from wsram.recipes import RECIPES  # noqa: E402
from wsram.tables import Table  # noqa: E402

WIDEST = 90
"""Characters that the tree says of a module."""


@dataclass(frozen=True)
class Option:
    """One setting as the command line has it.

    name: what is typed, dashes and all, or the metavar of a word without a name.
    path: of the field, from the outermost dataclass.
    choices: what it may be, if that is a list.
    text: its docstring.
    """

    name: str
    path: tuple[str, ...]
    choices: tuple[Any, ...]
    text: str

    def value(self, holder: Any) -> Any:
        """Of the setting in an instance of the outermost dataclass."""
        for part in self.path:
            holder = getattr(holder, part)
        return holder


def options(kind: type[Any], above: tuple[str, ...] = ()) -> Iterator[Option]:
    """Every setting of a dataclass and of those inside it, in order, without those of a whole run."""
    kind = typing.get_origin(kind) or kind
    texts, hints = _docstrings(kind), typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        annotated = hints[field.name]
        marks = getattr(annotated, "__metadata__", ())
        inner = typing.get_args(annotated)[0] if marks else annotated
        if tyro.conf.Suppress in marks or isinstance(inner, typing.TypeVar) or inner in CONFIGS.values():
            continue
        path = (*above, field.name)
        if dataclasses.is_dataclass(inner):
            yield from options(typing.cast(type[Any], inner), path)
            continue
        given = next((mark for mark in marks if hasattr(mark, "metavar")), None)
        name = f"--{((given and given.name) or field.name).replace('_', '-')}"
        if tyro.conf.Positional in marks:
            name = (given and given.metavar) or field.name.upper()
        yield Option(name, path, _choices(inner), texts.get(field.name, ""))


def _choices(kind: Any) -> tuple[Any, ...]:
    """What a Literal, or one among other types, leaves to choose from."""
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    return tuple(choice for each in typing.get_args(kind) for choice in _choices(each))


def _docstrings(kind: type[Any]) -> dict[str, str]:
    """The strings below a dataclass's fields, by field."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    pairs = zip(body.body, body.body[1:], strict=False)
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def shown(value: Any) -> str:
    """A setting's value as a table says it."""
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    return " ".join(map(shown, value)) if isinstance(value, tuple) else str(value)


def option_table(kind: type[Any], default: Any = None) -> str:
    """Options of a dataclass with the values they have in `default`, or else their own defaults."""
    rows = []
    for option in options(kind):
        text = " ".join(option.text.split())
        if option.choices:
            text += f" One of {', '.join(f'`{choice}`' for choice in option.choices)}."
        value = _own_default(kind, option.path) if default is None else option.value(default)
        said = "required" if value is dataclasses.MISSING else f"`{shown(value)}`" if shown(value) else ""
        rows.append([f"`{option.name}`", said, text])
    return Table("", ["option", "default", "what it is"], rows).markdown() if rows else "It has no options."


def _own_default(kind: type[Any], path: tuple[str, ...]) -> Any:
    field = {field.name: field for field in dataclasses.fields(typing.get_origin(kind) or kind)}[path[0]]
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    for part in path[1:]:
        value = getattr(value, part)
    return value


def sections(recipe: str) -> str:
    """All settings of a recipe's kind of run, a table for each section, with the recipe's own values."""
    config: Any = RECIPES[recipe]
    parts = []
    for field in dataclasses.fields(config):
        section = getattr(config, field.name)
        if dataclasses.is_dataclass(section):
            title = {"data": "Data", "model": "Networks"}.get(field.name, field.name.capitalize())
            summary = inspect.getdoc(type(section)) or ""
            parts.append(f"#### {title}\n\n{summary}\n\n{option_table(type(section), section)}")
        rest = [o for o in options(type(config)) if len(o.path) == 1]
    if rest:
        rows = [[f"`{o.name}`", f"`{shown(o.value(config))}`", " ".join(o.text.split())] for o in rest]
        parts.append("#### Further\n\n" + Table("", ["option", "default", "what it is"], rows).markdown())
    return "\n\n".join(parts)


def recipe_table(kind: type[Config]) -> str:
    """What recipes of one kind set otherwise than the settings' own defaults; empty where they keep them."""
    plain = kind()
    recipes = {name: config for name, config in RECIPES.items() if isinstance(config, kind)}
    rows = []
    for option in options(kind):
        default = option.value(plain)
        values = [option.value(config) for config in recipes.values()]
        if any(value != default for value in values):
            cells = [f"`{shown(value) or '—'}`" if value != default else "" for value in values]
            rows.append([f"`{option.name}`", f"`{shown(default)}`" if shown(default) else "", *cells])
    return Table("", ["option", "default", *(f"`{name}`" for name in recipes)], rows).markdown()


def command_table(program: str, commands: Mapping[str, tuple[type[Any], Any]]) -> str:
    """Every command with what it does."""
    rows = [[f"`{program} {name}`", _does(kind)] for name, (kind, _) in commands.items()]
    return Table("", ["command", "what it does"], rows).markdown()


def _does(kind: type[Any]) -> str:
    text = inspect.getdoc(typing.get_origin(kind) or kind) or ""
    return " ".join(text.split("\n\n")[0].split())


def _of_command(commands: Mapping[str, tuple[type[Any], Any]], name: str) -> Callable[[], str]:
    kind = commands[name][0]
    return lambda: f"{_does(kind)}\n\n{option_table(kind)}"


def tree() -> str:
    """Every folder and module of the source with the first line of its docstring, the outermost layers first."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = next(each["layers"] for each in tools["importlinter"]["contracts"] if each["type"] == "layers")
    order = [name.strip().removeprefix("wsram.") for layer in layers for name in layer.split("|")]

    def lines(folder: Path, indent: str = "  ", first: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
        inside = (path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
        named = {path.stem: path for path in inside}
        for name in sorted(named, key=lambda each: (first.index(each) if each in first else len(first), each)):
            path = named[name]
            if path.is_dir():
                yield f"{indent}{name}/", _first_line(path / "__init__.py")
                yield from lines(path, f"{indent}  ")
            elif name != "__init__":
                yield f"{indent}{path.name}", _first_line(path)

    rows = []
    for home, first in (("experiments", ()), ("src/wsram", order)):
        rows += [(f"{home}/", _first_line(ROOT / home / "__init__.py")), *lines(ROOT / home, first=first)]
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(["```text", *(f"{name:<{width}}{text}" for name, text in rows), "```"])


def _first_line(module: Path) -> str:
    """The first line of a module's docstring, without the clauses that are too far to the right."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    text = docstring.split("\n")[0].rstrip(".")
    ends = [match.start() for match in re.finditer(r"[:;,.] ", text)] if len(text) > WIDEST else []
    return text[: max((end for end in ends if end <= WIDEST), default=len(text))]


HOMES = {"wsram": ROOT / "src" / "wsram", "experiments": ROOT / "experiments"}
INSIDE = ("estimators", "glimpse", "models", "data", "tasks", "app", "export")
PACKAGES = ("wsram", *(f"wsram.{name}" for name in INSIDE), "experiments")
"""Those with a page of the API reference each."""
WITH_SOURCE = ("wsram.estimators", "wsram.glimpse", "wsram.models")
"""Packages whose code stands beside its documentation: that of the mathematics."""


def modules(package: str) -> str:
    """A directive of mkdocstrings for a package and each of its own public modules, not for packages inside it."""
    top, _, inside = package.partition(".")
    folder = HOMES[top].joinpath(*inside.split(".")) if inside else HOMES[top]
    own = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    source = str(package in WITH_SOURCE).lower()
    options = f"{{heading_level: 2, skip_local_inventory: false, show_source: {source}}}"
    return "\n\n".join(f"::: {name}\n    options: {options}" for name in (package, *(f"{package}.{n}" for n in own)))


PARTS: dict[str, Callable[[], str]] = {
    **measured.PARTS,
    **{f"modules of {package}": functools.partial(modules, package) for package in PACKAGES},
    "tree": tree,
    "commands": lambda: command_table("wsram", cli.COMMANDS),
    "experiments": lambda: command_table("python -m experiments", experiments.COMMANDS),
    "recipes of classifiers": lambda: recipe_table(ClassificationConfig),
    "recipes of captioners": lambda: recipe_table(CaptioningConfig),
    "settings of a classifier": lambda: sections(cli.DEFAULT_RECIPE),
    "settings of a captioner": lambda: sections("captions"),
    **{f"wsram {name}": _of_command(cli.COMMANDS, name) for name in cli.COMMANDS},
    **{f"python -m experiments {name}": _of_command(experiments.COMMANDS, name) for name in experiments.COMMANDS},
}
"""What makes each part."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKED = re.compile(r"(?ms)^<!-- ([^\n]+?): begin -->\n.*?^<!-- \1: end -->$")


def filled(page: str) -> str:
    """The page with each of its parts made anew."""

    def made(match: re.Match[str]) -> str:
        name = match[1]
        if name not in PARTS:  # another command's
            return match[0]
        return f"<!-- {name}: begin -->\n\n{PARTS[name]()}\n\n<!-- {name}: end -->"

    return MARKED.sub(made, page)


def main() -> None:
    """Make the parts of every page anew, and name the pages that changed."""
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
