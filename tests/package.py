"""The package as others get it: built, installed where nothing else of this checkout is, and used.

`python -m tests.package` builds the source distribution, the wheel from it, installs the wheel into a fresh virtual
environment that sees this interpreter's dependencies, and runs it there. `python -m tests.package python3.12 ...` does
the same with other interpreters, each of which gets the dependencies anew, as `pip install wsram` brings them (1 GB).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw

from wsram import __version__

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 12e6
"""Bytes of a wheel, most of them the bundled networks."""


def run(*words: str | Path, cwd: Path) -> str:
    """Run a command without this checkout on its path, and give back what it said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=clean, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(target: Path) -> tuple[Path, Path]:
    """The source distribution of what git knows or would know, and the wheel that is built from it alone."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    source = target / "source"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    # The locked setuptools, in this interpreter: nothing is fetched to build.
    call = f"from setuptools.build_meta import build_sdist; build_sdist({str(target)!r})"
    run(sys.executable, "-W", "error::DeprecationWarning", "-c", call, cwd=source)
    (archive,) = target.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", target, archive, cwd=target)
    (wheel,) = target.glob("*.whl")
    return archive, wheel


def contents(wheel: Path) -> list[str]:
    """Names of the files in a wheel."""
    with zipfile.ZipFile(wheel) as files:
        return files.namelist()


def use(wheel: Path, interpreter: str, place: Path) -> None:
    """Install a wheel for an interpreter and let it answer about an image."""
    venv, here = place / "venv", place / "elsewhere"
    run(interpreter, "-m", "venv", venv, cwd=place)
    binaries = venv / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / "python"
    shared = interpreter == sys.executable
    if shared:  # the dependencies that are here; an editable wsram among them is none, since it is a .pth of its own
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        (Path(run(python, "-c", code, cwd=place).strip()) / "here.pth").write_text(sysconfig.get_path("purelib"))
    install = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*install, *(["--no-deps"] if shared else []), wheel, cwd=place)
    here.mkdir()
    image = Image.new("L", (60, 60))
    ImageDraw.Draw(image).line([(30, 18), (30, 42)], fill=255, width=3)
    image.save(here / "one.png")
    for program in ((binaries / "wsram",), (python, "-m", "wsram")):
        assert run(*program, "--version", cwd=here) == f"wsram {__version__}\n"
    where = run(python, "-c", "import wsram; print(wsram.__file__)", cwd=here).strip()
    assert Path(where).is_relative_to(venv), where
    assert "translated" in run(binaries / "wsram", "models", cwd=here)
    said = run(binaries / "wsram", "predict", "one.png", cwd=here)
    assert "one.png: 1 " in said, said
    version = run(python, "--version", cwd=here).strip()
    print(f"{version}: {said.strip()}")


def main(interpreters: list[str]) -> None:
    """Build, check and use the package, and say so."""
    with tempfile.TemporaryDirectory() as place:
        archive, wheel = build(Path(place))
        odd = [name for name in contents(wheel) if not name.startswith(("wsram/", f"wsram-{__version__}.dist-info/"))]
        assert not odd, odd
        assert wheel.stat().st_size < LARGEST, wheel.stat().st_size
        print(*(f"{each.name}: {each.stat().st_size / 1e6:.1f} MB" for each in (archive, wheel)), sep="\n")
        for n, interpreter in enumerate(interpreters or [sys.executable]):
            (Path(place) / str(n)).mkdir()
            use(wheel, interpreter, Path(place) / str(n))
        dist = ROOT / "dist"
        shutil.rmtree(dist, ignore_errors=True)
        dist.mkdir()
        for each in (archive, wheel):
            shutil.copyfile(each, dist / each.name)
    print(f"{dist}: ready")


if __name__ == "__main__":
    main(sys.argv[1:])
