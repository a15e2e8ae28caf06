"""What tiny runs leave behind is what they left before; a change that is meant makes golden.json anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NAMES = ("digits", "digits-odd", "captions", "captions-soft")
# Far above what processors differ by in so few updates, far below what another computation changes.
RELATIVE, ABSOLUTE = 1e-3, 1e-6


def differences(ours: Any, theirs: Any, where: str) -> list[str]:
    """Where two values of JSON differ by more than rounding."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [line for name in ours for line in differences(ours[name], theirs[name], f"{where} {name}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            line for n, pair in enumerate(zip(ours, theirs, strict=True)) for line in differences(*pair, f"{where} {n}")
        ]
    if isinstance(ours, float) and isinstance(theirs, float):
        same = ours == pytest.approx(theirs, rel=RELATIVE, abs=ABSOLUTE)
    else:
        same = ours == theirs
    return [] if same else [f"{where}: {ours}, before {theirs}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_leaves_what_it_left_before(name: str, tmp_path: Path, digits: Path, world: Path, features: Path) -> None:
    from tests.golden import FILE, configs, left_by

    before = json.loads(FILE.read_text())
    runs = configs(digits, world, features)
    assert tuple(before) == tuple(runs) == NAMES
    found = json.loads(json.dumps(left_by(tmp_path / name, runs[name])))
    assert len(found["rows"]) >= 3 and len(found["norms"]) > 5
    assert not differences(found, before[name], name)


def test_a_change_is_seen_and_rounding_is_not() -> None:
    row = {"rows": [{"bound": 1.0, "step": 2}], "norms": {"a": 3.0}}
    assert not differences(row, {"rows": [{"bound": 1.0005, "step": 2}], "norms": {"a": 3.0}}, "run")
    for other in ({"bound": 1.002, "step": 2}, {"bound": 1.0, "step": 3}, {"bound": 1.0}):
        assert differences(row, {"rows": [other], "norms": {"a": 3.0}}, "run")
    assert differences(row, {"rows": [], "norms": {"a": 3.0}}, "run")
    assert differences(row, {"rows": row["rows"], "norms": {"a": 3.01}}, "run") == ["run norms a: 3.0, before 3.01"]
