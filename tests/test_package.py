"""The package from outside: what importing it costs and changes, and that every public name is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import wsram
from tests.package import LARGEST, build, contents
from wsram.estimators import ESTIMATORS

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "matplotlib", "accelerate", "safetensors", "PIL")


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, which knows nothing of this one's imports."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT / "src")]))
    found = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, *words], env=found, capture_output=True, text=True, timeout=120)


def test_the_package_is_imported_without_what_takes_long() -> None:
    done = python("-c", f"import sys, wsram; print([name for name in {HEAVY} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_the_command_line_starts_within_a_second() -> None:
    """Of the processor, so that other programs do not matter; the best of some tries."""
    resource = pytest.importorskip("resource", reason="the times of children are Unix's")
    start = "import sys; from wsram.cli import main\ntry: main(['--help'])"
    code = f"{start}\nfinally: print(set(sys.modules) & set({HEAVY}))"
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = python("-c", code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == "set()", done
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if took[-1] < 1:
            return
    raise AssertionError(took)


NOTHING_GLOBAL = """
import ctypes, importlib, os, pkgutil, random, signal, sys, warnings
import accelerate, matplotlib, numpy, rich.style, torch  # what these change is theirs

def state():
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    torches = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().sum())
    drawn = (random.getstate(), numpy.random.get_state()[1].sum())
    drawing = {name: dict.__getitem__(matplotlib.rcParams, name) for name in matplotlib.rcParams}  # chooses no backend
    return dict(os.environ), drawing, list(warnings.filters), signals, torches, drawn, sys.excepthook

before = state()
real, ctypes.CDLL = ctypes.CDLL, None  # by which the allocator would be told
import wsram
from tests.package import LARGEST, build, contents
for found in pkgutil.walk_packages(wsram.__path__, "wsram."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
ctypes.CDLL = real
after = state()
print([n for n, (ours, theirs) in enumerate(zip(before, after)) if ours != theirs], "matplotlib.pyplot" in sys.modules)
"""


def test_importing_every_module_changes_nothing_global() -> None:
    """Neither the environment, matplotlib, warnings, signals, torch, random numbers nor the allocator."""
    done = python("-W", "error", "-c", NOTHING_GLOBAL)
    assert done.stdout.strip() == "[] False", done


def test_every_estimator_is_public() -> None:
    assert {entry.function.__name__ for entry in ESTIMATORS.values()} <= set(wsram.__all__)


@pytest.mark.parametrize("name", wsram.__all__)
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(wsram, name)
    assert found is not None and name in dir(wsram)
    assert found.__doc__ if callable(found) else True


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = wsram.absent


def test_public_names_are_in_order() -> None:
    assert wsram.__all__ == sorted(wsram.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


def test_the_module_is_the_command() -> None:
    done = python("-m", "wsram", "--version")
    assert (done.returncode, done.stdout) == (0, f"wsram {wsram.__version__}\n")


def test_a_name_that_the_terminal_cannot_show_is_spelt_out() -> None:
    done = python("-m", "wsram", "train", "--recipe", "crème", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and r"unknown recipe 'cr\xe8me'" in done.stderr and "Traceback" not in done.stderr


def test_the_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    """Built from the source distribution, as others build it; `make package` installs and uses it too."""
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git checkout, so what belongs to the source is unknown")
    _, wheel = build(tmp_path)
    held = set(contents(wheel))
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "wsram").rglob("*.py")}
    assert modules <= held
    assert {name.split("/")[0] for name in held} == {"wsram", f"wsram-{wsram.__version__}.dist-info"}
    assert {"wsram/py.typed", "wsram/released/translated/model.safetensors"} <= held
    assert wheel.stat().st_size < LARGEST


def test_a_shell_can_complete_the_commands() -> None:
    done = python("-m", "wsram", "--tyro-print-completion", "bash")
    assert done.returncode == 0 and "explain" in done.stdout
