"""What is written is true: examples run, links lead somewhere, equations stand beside the code they quote."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsram import cli

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.glob("wsram/**/*.py")
)
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def source_file(module: str) -> Path:
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def definitions(module: str) -> Iterator[tuple[str, Documented]]:
    """The module itself and, depth first, its classes, functions and methods, by dotted name."""

    def visit(name: str, node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Documented]]:
        yield name, node
        for child in node.body:
            if isinstance(child, ast.ClassDef):
                yield from visit(f"{name}.{child.name}", child)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{child.name}", child

    yield from visit(module, ast.parse(source_file(module).read_text(encoding="utf-8")))


def examples() -> Iterator[object]:
    """Module, dotted name and docstring of every docstring that holds an example."""
    for module in MODULES:
        for name, node in definitions(module):
            docstring = ast.get_docstring(node)
            if docstring and ">>>" in docstring:
                yield pytest.param(module, name, docstring, id=name)


def without_code(page: Path) -> str:
    """The page's text without fenced blocks and `code`."""
    return re.sub(r"(?ms)^ *```.*?^ *```|`[^`\n]*`", "", page.read_text(encoding="utf-8"))


# Read from the source rather than found by doctest, which passes over functions that a decorator has wrapped.
@pytest.mark.parametrize(("module", "name", "docstring"), list(examples()))
def test_docstring_examples_run(module: str, name: str, docstring: str) -> None:
    namespace = dict(vars(importlib.import_module(module)))
    test = doctest.DocTestParser().get_doctest(docstring, namespace, name, str(source_file(module)), 0)
    report: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=report.append)
    assert not failed, "".join(report)


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module: str) -> None:
    missing = [
        name
        for name, node in definitions(module)
        if not any(part.startswith("_") for part in name.split(".")) and not ast.get_docstring(node)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = without_code(page)
    targets = re.findall(r"\]\(<?([^)>\s]+)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    local = [target for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert not [target for target in local if not (page.parent / target.split("#")[0]).exists()]


def python_blocks(page: Path) -> str:
    return "\n".join(re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", list(filter(python_blocks, PAGES)), ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_pages_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(python_blocks(page), str(page), "exec"), {"__name__": "page"})


def commands(page: Path) -> list[str]:
    """What follows `wsram` in the page's shell blocks, continued lines joined."""
    blocks = re.findall(r"(?ms)^```(?:bash|sh|console)\n(.*?)^```", page.read_text(encoding="utf-8"))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [found[1] for line in lines if (found := re.match(r"(?:\$ )?(?:\.venv/bin/)?wsram\s(.*)", line))]


@pytest.mark.parametrize("command", sorted({command for page in PAGES for command in commands(page)}))
def test_commands_on_pages_are_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        cli._parse(shlex.split(command, comments=True))
    except SystemExit as end:  # --help
        assert not end.code, capsys.readouterr().err


def test_equations_quote_the_code_beside_them() -> None:
    rows = re.findall(r"(?m)^\| .* \| `(.+)` \|$", (ROOT / "docs/estimators.md").read_text(encoding="utf-8"))
    code = source_file("wsram.estimators").read_text(encoding="utf-8")
    assert rows
    assert not [row for row in rows if row not in code]


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built with every warning an error (which --quiet would undo)."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.xdist_group("site")
def test_equations_are_mathml(site: Path) -> None:
    for page in site.glob("*.html"):
        text = re.sub(r"(?s)<(code|pre|script)\b.*?</\1>", "", page.read_text(encoding="utf-8"))
        assert not re.search(r"arithmatex|\$|\\[()\[\]]", text), page.name
    estimators = (site / "estimators.html").read_text(encoding="utf-8")
    assert estimators.count("<math") > estimators.count('display="block"') > 5


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
def test_reference_shows_every_module_and_example(site: Path) -> None:
    reference = (site / "api.html").read_text(encoding="utf-8")
    assert not [name for name in MODULES if f'id="{name}"' not in reference and "._" not in name]
    assert 'class="gp">&gt;&gt;&gt; </span>' in reference  # a highlighted session
    assert "<blockquote>" not in reference  # what Markdown makes of >>> outside of one
