"""What `make audit` says of what its two tools gave."""

from __future__ import annotations

from tests.audit import faults_of_bill, locked, pinned, verdict


def test_every_package_of_both_locks_is_asked_about() -> None:
    packages = pinned(locked())
    assert packages[0].startswith("torch==") and len(packages) == locked().count("==")


def test_a_bill_that_lacks_a_package_or_its_hashes_is_at_fault() -> None:
    with_hash, without = {"externalReferences": [{"hashes": [{}]}]}, {"externalReferences": [{}]}
    parts = [dict(name="torch", version="2", **without), dict(name="a", version="1", **with_hash)]
    assert faults_of_bill({"components": parts}, ["torch==2", "a==1"]) == []
    parts[1] |= without
    assert faults_of_bill({"components": parts}, ["torch==2", "b==1"]) == ["b==1 is not in it", "a==1 has no hash"]


def test_what_could_not_be_looked_up_is_no_pass() -> None:
    fine = dict(name="a", version="1", vulns=[])
    bad = dict(name="b", version="2", vulns=[dict(id="PYSEC-1", fix_versions=["3"])])
    assert verdict({"dependencies": [fine]}) == []
    assert verdict({"dependencies": [fine, bad]}) == ["b 2: PYSEC-1, mended in 3"]
    assert (
        "1 of 2 packages could not be looked up" in verdict({"dependencies": [fine, dict(name="c", skip_reason="")]})[0]
    )
