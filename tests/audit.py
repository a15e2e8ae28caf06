"""A bill of materials of what the locks name, and what is known against it: `make audit`, which brings the two tools.

Nothing of the package is imported: it runs in an environment that has cyclonedx-bom and pip-audit alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("torch.lock", "requirements.lock")
UNHASHED = {"torch"}
"""Which build of it, for the CPU or some CUDA, is for each machine to say: see torch.lock."""


def locked() -> str:
    """Both locks as one, each requirement and its hashes on their own lines."""
    return "".join((ROOT / name).read_text(encoding="utf-8") for name in LOCKS)


def pinned(lock: str) -> list[str]:
    """`name==version` of every package, in order, without hashes, since one of them has none."""
    return re.findall(r"^[\w.-]+==[^\s\\]+", lock, re.MULTILINE)


def faults_of_bill(bill: dict[str, Any], wanted: list[str]) -> list[str]:
    """What a bill of materials (CycloneDX) lacks of the packages that are pinned, and of their files' hashes."""
    listed = {f"{each['name']}=={each['version']}": each for each in bill["components"]}
    missing = [f"{each} is not in it" for each in wanted if each not in listed]
    hashed = {each for each, part in listed.items() if any(r.get("hashes") for r in part["externalReferences"])}
    bare = [f"{each} has no hash" for each in listed if each not in hashed and each.split("==")[0] not in UNHASHED]
    return missing + bare


def verdict(report: dict[str, Any]) -> list[str]:
    """What pip-audit's report says against anything: vulnerabilities, and what it could not look up."""
    parts = report["dependencies"]
    known = [
        f"{part['name']} {part['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for part in parts
        for found in part.get("vulns", ())
    ]
    skipped = [part["name"] for part in parts if "skip_reason" in part]
    some = ", ".join(skipped[:3])
    return known + ([f"{len(skipped)} of {len(parts)} packages could not be looked up: {some}, ..."] if skipped else [])


def audit(tools: Path, build: Path) -> list[str]:
    """Write `sbom.json` into a folder, ask about everything in it, and say what is wrong; nothing if nothing is."""
    build.mkdir(parents=True, exist_ok=True)
    lock, bill = build / "all.lock", build / "sbom.json"
    lock.write_text(locked(), encoding="utf-8")
    wanted = pinned(locked())
    made = ["requirements", str(lock), "--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible"]
    quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
    subprocess.run([tools / "cyclonedx-py", *made, "--validate", "--output-file", str(bill)], check=True, env=quiet)
    faults = faults_of_bill(json.loads(bill.read_text(encoding="utf-8")), wanted)
    bare = ", ".join(sorted(UNHASHED))
    print(f"{bill.relative_to(ROOT)}: {len(wanted)} packages, each with its files' hashes but {bare}", flush=True)
    lock.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    asked = ["--vulnerability-service", "osv", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    command = [tools / "pip-audit", *asked, "--format", "json", "-r", str(lock)]
    answer = subprocess.run(command, capture_output=True, text=True)
    if not answer.stdout.startswith("{"):
        last = (answer.stderr.strip().splitlines() or ["nothing was said"])[-1]
        return [*faults, f"not passed: OSV, which knows vulnerabilities, gave no answer ({last.split(':')[0]})"]
    return faults + verdict(json.loads(answer.stdout))


if __name__ == "__main__":
    wrong = audit(Path(sys.executable).parent, ROOT / "build")
    print("\n".join(f"audit: {line}" for line in wrong) or "audit: nothing is known against any of them")
    sys.exit(bool(wrong))
