"""What is written is true: examples run, commands are understood, what the code makes is as the code makes it."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

import experiments.cli
import wsram
from tests.tiny import settings
from wsram import cli
from wsram.estimators import ESTIMATORS
from wsram.models.heads import HEADS
from wsram.recipes import RECIPES
from wsram.runs import SETTINGS
from wsram.settings import to_json

ROOT = Path(__file__).resolve().parents[1]
HOMES = {"wsram": ROOT / "src" / "wsram", "experiments": ROOT / "experiments"}
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FILES = [path for home in HOMES.values() for path in sorted(home.rglob("*.py"))]
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
each_page = functools.partial(pytest.mark.parametrize, "page", ids=lambda page: str(page.relative_to(ROOT)))


def module_name(path: Path) -> str:
    """The dotted name of a module of the package or of the experiments."""
    home = next(home for home in HOMES.values() if path.is_relative_to(home))
    return ".".join(path.relative_to(home.parent).with_suffix("").parts).removesuffix(".__init__")


def definitions(path: Path) -> Iterator[tuple[str, Documented]]:
    """The module itself and, depth first, its classes, functions and methods, by dotted name."""

    def visit(name: str, node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Documented]]:
        yield name, node
        for child in node.body:
            if isinstance(child, ast.ClassDef):
                yield from visit(f"{name}.{child.name}", child)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{child.name}", child

    yield from visit(module_name(path), ast.parse(path.read_text(encoding="utf-8")))


def examples() -> Iterator[object]:
    """File, dotted name and docstring of every docstring that holds an example."""
    for path in FILES:
        for name, node in definitions(path):
            docstring = ast.get_docstring(node)
            if docstring and ">>>" in docstring:
                yield pytest.param(path, name, docstring, id=name)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_code(page: Path) -> str:
    """The page's text without fenced blocks and `code`."""
    return re.sub(r"(?ms)^ *```.*?^ *```|`[^`\n]*`", "", text_of(page))


def blocks(page: Path, *languages: str) -> str:
    """What stands in a page's fenced blocks of these languages, one after the other."""
    return "\n".join(re.findall(rf"(?ms)^```(?:{'|'.join(languages)})\n(.*?)^```", text_of(page)))


@functools.cache
def hook(name: str) -> ModuleType:
    """A module of docs/hooks, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the module they are defined in
    spec.loader.exec_module(module)
    return module


# Read from the source rather than found by doctest, which passes over functions that a decorator has wrapped.
@pytest.mark.parametrize(("path", "name", "docstring"), list(examples()))
def test_docstring_examples_run(path: Path, name: str, docstring: str) -> None:
    namespace = dict(vars(importlib.import_module(module_name(path))))
    test = doctest.DocTestParser().get_doctest(docstring, namespace, name, str(path), 0)
    report: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=report.append)
    assert not failed, "".join(report)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_everything_public_is_documented(path: Path) -> None:
    missing = [
        name
        for name, node in definitions(path)
        if not any(part.startswith("_") for part in name.split(".")) and not ast.get_docstring(node)
    ]
    assert not missing


@each_page(PAGES)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = without_code(page)
    targets = re.findall(r"\]\(<?([^)>\s]+)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    local = [target for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert not [target for target in local if not (page.parent / target.split("#")[0]).exists()]


SLOW = "docs/tutorials/folder.md"


@each_page(
    [
        pytest.param(page, marks=pytest.mark.slow) if page == ROOT / SLOW else page
        for page in PAGES
        if blocks(page, "python")
    ]
)
def test_python_on_pages_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile(blocks(page, "python"), str(page), "exec", dont_inherit=True)
    # A page may add to the registries, which other tests look at.
    with patch.dict(HEADS), patch.dict(ESTIMATORS):
        exec(code, {"__name__": "page"})


TUTORIALS = sorted(ROOT.glob("docs/tutorials/*.py"))


@pytest.mark.parametrize("source", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorials_page_holds_the_notebooks_code(source: Path) -> None:
    """Which the test above runs, in one process; as notebooks, by `make tutorials` and slow tests."""
    jupytext = pytest.importorskip("jupytext", reason="the notebooks extra is not installed")
    cells = [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    shown = [line for line in blocks(source.with_suffix(".md"), "python").splitlines() if line]
    assert shown == [line for cell in cells for line in cell.splitlines() if line], "run `make tutorials`"


@pytest.mark.slow
@pytest.mark.parametrize("source", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_as_a_notebook_that_is_not_flooded(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="the notebooks extra is not installed")
    notebook = hook("tutorials").run(source, tmp_path)
    assert all(len(cell.get("outputs", [])) <= hook("tutorials").OUTPUTS for cell in notebook.cells)


@each_page([page for page in PAGES if blocks(page, "py")])
def test_fragments_of_python_on_pages_are_python(page: Path) -> None:
    ast.parse(blocks(page, "py"))


def test_every_public_name_has_an_example() -> None:
    code = ast.parse(blocks(ROOT / "docs/api/index.md", "python"))
    imported = {name.name for node in ast.walk(code) if isinstance(node, ast.ImportFrom) for name in node.names}
    imported |= {node.attr for node in ast.walk(code) if isinstance(node, ast.Attribute)}
    assert not set(wsram.__all__) - imported


@each_page([page for page in PAGES if "LOG" not in page.name])
def test_dotted_names_on_pages_exist(page: Path) -> None:
    text = re.sub(r"(?ms)^```py\n.*?^```", "", text_of(page))  # fragments name what is not there yet
    names = set(re.findall(r"(?<![\w./-])wsram(?:\.\w+)+", text))
    assert not [name for name in names if not exists(name)]


def exists(name: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def commands(page: Path) -> list[str]:
    """The command lines in the page's shell blocks, continued lines joined, from the program's name on."""
    lines = blocks(page, "bash", "sh", "console").replace("\\\n", " ").splitlines()
    program = re.compile(r"(?:^(?:\$ )?(?:\.venv/bin/)?|\s-m\s--\s|\|\s)((?:wsram|python -m experiments|make)\b.*)")
    return [found[1] for line in lines if (found := program.search(line))]


@pytest.mark.parametrize("command", sorted({command for page in PAGES for command in commands(page)}))
def test_commands_on_pages_are_understood(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run in re.findall(r"--resume (\S+)", command):  # whose settings decide what may be said
        Path(run).mkdir(parents=True)
        Path(run, SETTINGS).write_text(to_json(RECIPES["captions" if "captions" in run else cli.DEFAULT_RECIPE]))
    program, *words = shlex.split(command, comments=True)
    if program == "make":
        targets = re.findall(r"(?m)^([a-z-]+):", text_of(ROOT / "Makefile"))
        assert set(words) <= set(targets)
    elif words == ["--version"]:
        cli.main(words)
        assert capsys.readouterr().out == f"wsram {wsram.__version__}\n"
    else:
        try:
            experiments.cli.parse(words[2:]) if program == "python" else cli.parse(words)
        except SystemExit as end:  # --help
            assert not end.code, capsys.readouterr().err


@each_page([page for page in PAGES if ": begin -->" in text_of(page)])
def test_parts_of_pages_are_what_the_code_makes(page: Path) -> None:
    assert hook("parts").filled(text_of(page)) == text_of(page), "run `python docs/hooks/parts.py`"


@pytest.mark.parametrize(("recipe", "kind"), [(cli.DEFAULT_RECIPE, "a classifier"), ("captions", "a captioner")])
def test_the_page_of_commands_has_every_setting_with_its_default(recipe: str, kind: str) -> None:
    page = text_of(ROOT / "docs/cli.md")
    part = page[page.index(f"<!-- settings of {kind}: begin") : page.index(f"<!-- settings of {kind}: end")]
    rows = {row[1]: row[2].strip(" `") for row in re.finditer(r"(?m)^\| `--([\w-]+)` \|([^|]*)\|", part)}
    written = {name: words(value) for name, value in settings(RECIPES[recipe])}
    assert {name: value.replace(",", "") for name, value in rows.items()} == written


def words(value: object) -> str:
    """A default as it is said to a person."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_every_recipe_and_command_is_described() -> None:
    page = text_of(ROOT / "docs/cli.md")
    assert not [name for name in RECIPES if not re.search(rf"(?m)^\| `{name}` \| \w", page)]
    assert not [name for name in cli.COMMANDS if f"\n## {name.capitalize()}\n" not in page]


def test_the_readmes_tree_names_every_module() -> None:
    page = text_of(ROOT / "README.md")
    shown = page[page.index("<!-- tree: begin") : page.index("<!-- tree: end")].splitlines()
    named = Counter(line.split()[0] for line in shown if re.match(r" *\S+(/|\.py) ", line))
    modules = Counter(path.name for path in FILES if path.name != "__init__.py")
    packages = Counter(f"{path.parent.name}/" for path in FILES if path.name == "__init__.py")
    packages["src/wsram/"] = packages.pop("wsram/")
    assert named == modules + packages
    assert all(len(line.split(maxsplit=1)) == 2 for line in shown if re.match(r" *\S+(/|\.py)", line))


def record(folder: Path, part: str) -> dict[str, Any]:
    """What an evaluation found."""
    found: dict[str, Any] = json.loads(text_of(folder / f"evaluation-{part}.json"))
    return found


def test_figures_of_released_networks_are_those_of_their_files() -> None:
    page, released = text_of(ROOT / "README.md"), [*ROOT.glob("checkpoints/*"), *ROOT.glob("src/wsram/released/*")]
    assert released
    for folder in released:
        (row,) = re.findall(rf"(?m)^\| `(?:checkpoints/)?{folder.name}` \|.*$", page)
        if not (folder / "evaluation-test.json").exists():
            assert "%" not in row and "BLEU" not in row
            continue
        found = record(folder, "test")
        captions = "beam_5" in found
        figure = f"{found['beam_5']['papers']['bleu'][0]:.1f}" if captions else f"{100 * found['error_mode']:.2f}%"
        assert figure in row and {"no": "float32", "bf16": "bfloat16"}[found["precision"]] in row


def test_figures_beside_the_estimators_are_those_of_their_files() -> None:
    rows = re.findall(r"(?m)^\| `([\w-]+-1)`[^|]*\|(.*)\|$", text_of(ROOT / "docs/estimators.md"))
    assert len(rows) > 3
    for run, cells in rows:
        shown = [cell.strip(" *") for cell in cells.split("|")][3:]
        test, validation = (record(ROOT / "docs/results" / run, part) for part in ("test", "validation"))
        errors = [test["error_mode"], test["error_one_sample"], test["error_vote_16"], validation["error_mode"]]
        mode, *others = (f"{error:.2%}" for error in errors)
        assert shown == [mode, f"{test['nll_mode']:.3f}", *others], run
        assert test["precision"] == validation["precision"] == "bf16"


def test_equations_quote_the_code_beside_them() -> None:
    rows = re.findall(r"(?m)^\| .* \| `(.+)` \|$", text_of(ROOT / "docs/estimators.md"))
    code = "".join(text_of(path) for path in (HOMES["wsram"] / "estimators").glob("*.py"))
    assert rows
    assert not [row for row in rows if row not in code]


def test_one_version_everywhere() -> None:
    version = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["version"]
    assert wsram.__version__ == version
    assert f"\nversion: {version}\n" in text_of(ROOT / "CITATION.cff")
    assert f"\n## {version} " in text_of(ROOT / "CHANGELOG.md")


def test_no_registry_is_named() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listing.returncode:
        pytest.skip("not a git checkout, so what is tracked is unknown")
    names = ("py" + "pi.", "python" + "hosted.", "ana" + "conda.org", "npm" + "js.", "un" + "pkg.", "js" + "delivr.")
    found = []
    for path in (ROOT / name for name in listing.stdout.decode().split("\0") if name):
        if path.is_file():
            text = path.read_bytes().decode("utf-8", "ignore").lower()
            found += [f"{path.relative_to(ROOT)}: {name}" for name in names if name in text]
    assert not found


@pytest.mark.parametrize(
    ("tex", "spaces"),
    [
        (r"\log p", ["log p"]),
        (r"\log (p)", []),
        (r"\log \left( p \right)", []),
        (r"\psi \log w", ["ψ log", "log w"]),
        (r"- \log w", ["log w"]),
        (r"\nabla \log w", ["∇ log", "log w"]),
        (r"\sum_m \log w", ["log w"]),
        (r"\log_2 \frac{1}{M}", ["log2 1M"]),
        (r"\operatorname{softmax} z", ["softmax z"]),
    ],
)
def test_a_functions_name_is_set_apart_as_in_tex(tex: str, spaces: list[str]) -> None:
    """Where a thin space must be, what stands on each side of it."""
    pytest.importorskip("latex2mathml", reason="the docs extra is not installed")
    root = hook("mathml").ET.fromstring(hook("mathml").mathml(tex))
    rows = [list(element) for element in root.iter() if any(child.tag.endswith("mspace") for child in element)]
    said = ["".join(element.itertext()) for row in rows for element in row]
    assert [f"{said[n - 1]} {said[n + 1]}" for n, text in enumerate(said) if not text] == spaces


@pytest.mark.parametrize("tex", [r"\notatall x", r"\frac{1}{2"])
def test_what_is_no_tex_is_refused(tex: str) -> None:
    pytest.importorskip("latex2mathml", reason="the docs extra is not installed")
    with pytest.raises(ValueError, match="unknown command or unmatched brace"):
        hook("mathml").mathml(tex)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built with every warning an error (which --quiet would undo)."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


def html(path: Path) -> str:
    """A built page without code and scripts."""
    return re.sub(r"(?s)<(code|pre|script)\b.*?</\1>", "", path.read_text(encoding="utf-8"))


@pytest.mark.xdist_group("site")
def test_equations_are_mathml(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = html(page)
        assert not re.search(r"arithmatex|\$|\\[()\[\]]", text), page.name
        assert not re.search(r"<mi>log</mi><m(i|sup|sub|frac)\b", text), page.name  # "log p" would read "logp"
    estimators = (site / "estimators.html").read_text(encoding="utf-8")
    assert estimators.count("<math") > estimators.count('display="block"') > 5
    assert "math {" in (site / "assets" / "extra.css").read_text(encoding="utf-8")


@pytest.mark.xdist_group("site")
def test_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetched = re.compile(
        r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^>]*>|@import|url\(\"?https?:"
    )
    found = [
        f"{path.name}: {match[0][:80]}"
        for path in site.rglob("*")
        if path.suffix in {".html", ".css"}
        for match in fetched.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.xdist_group("site")
def test_reference_shows_every_module_public_name_and_example(site: Path) -> None:
    reference = {page.name: page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html")}
    whole = "".join(reference.values())
    public = [name for path in FILES if not (name := module_name(path)).rpartition(".")[2].startswith("_")]
    public += [f"{home}.{name}" for name in wsram.__all__ if (home := wsram._HOME[name])]
    missing = [name for name in public if f'id="{name}"' not in whole]
    assert not [name for name in missing if not shown_at_home(name, whole)]
    assert 'class="gp">&gt;&gt;&gt; </span>' in whole  # a highlighted session
    assert "<blockquote>" not in whole  # what Markdown makes of >>> outside of one
    assert "Annotated" not in (site / "api" / "wsram.html").read_text(encoding="utf-8")
    assert max(map(len, reference.values())) < 1.5e6  # a page is read, not searched


def shown_at_home(name: str, reference: str) -> bool:
    """Whether what a package passes on is shown in the module that it comes from."""
    package, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(package), attribute, None)
    home = getattr(found, "__module__", None)
    inside = re.findall(rf'id="{re.escape(package)}\.\w+\.{attribute}"', reference)
    return f'id="{home}.{attribute}"' in reference or bool(inside)
