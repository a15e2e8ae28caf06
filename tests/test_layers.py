"""Imports run one way: the contracts of pyproject.toml hold."""

from __future__ import annotations

import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_every_contract_of_the_layers_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = pytest.importorskip("importlinter.cli", reason="import-linter comes with the dev extra")
    monkeypatch.chdir(ROOT)
    # A plain function: click's wrapper would end the process.
    code = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_every_module_at_the_top_has_a_layer() -> None:
    """Else it could import what it liked."""
    linted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(contract for contract in linted["contracts"] if contract["type"] == "layers")["layers"]
    placed = {name.strip() for layer in layers for name in layer.replace(":", "|").split("|")}
    top = {f"wsram.{path.stem}" for path in (ROOT / "src" / "wsram").glob("[!_]*") if holds_code(path)}
    assert top - placed == set() and {name for name in placed if name.startswith("wsram.")} - top == set()


def holds_code(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").exists()


@pytest.mark.parametrize("package", ["wsram", "experiments"])
def test_no_module_imports_itself_by_a_detour(package: str) -> None:
    grimp = pytest.importorskip("grimp", reason="imports need the dev extra")
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    needs = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(needs) > 3
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(" needs ".join(reversed(error.args[1])))
