"""Speed as a record: everything is timed in turn, ratios are of the same moments, and noise is not taken for change."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import benchmark as module
from experiments import benchmark_works
from experiments.benchmark import benchmark
from experiments.benchmark_page import compare, draw, newest, table
from experiments.benchmark_works import Group, Ratio
from experiments.cli import main
from experiments.interleaved import Interval, interval, passes
from tests.experiments.commands import refused
from wsram.terminal import Screen

CPU = torch.device("cpu")


def spend(seen: list[str], name: str, milliseconds: int) -> Callable[[], None]:
    def work() -> None:
        seen.append(name)
        torch.rand(milliseconds * 20_000)

    return work


def test_works_are_timed_in_turn() -> None:
    seen: list[str] = []
    taken = passes({name: spend(seen, name, n) for name, n in (("a", 1), ("b", 9))}, 3, CPU)
    assert seen == ["a", "b"] * 3 and [len(times) for times in taken.values()] == [3, 3]
    assert sum(taken["b"]) > sum(taken["a"]) > 0


def test_the_interval_holds_what_drifts_from_round_to_round() -> None:
    generator = np.random.default_rng(0)
    still = 10 + 0.1 * generator.standard_normal((6, 20))
    drifting = still + np.arange(6)[:, None]
    (_, low, high), (_, early, late) = interval(still), interval(drifting)
    assert low < 10 < high and high - low < 0.1 and late - early > 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two groups that take next to no time; in the second, one work is a known part of another."""
    seen: list[str] = []
    quick = {
        "pyramid": spend(seen, "pyramid", 1),
        "glimpses": spend(seen, "glimpses", 1),
        "loop": spend(seen, "loop", 4),
    }

    def sensor(precision: str, device: torch.device) -> Group:
        ratios = {"times as fast as loop": Ratio("loop", "sensor")}
        return Group("sensor, 2×1×10²", quick, {"sensor": ("pyramid", "glimpses")}, ratios, ("glimpses",))

    def training(precision: str, device: torch.device) -> Group:
        works = {"by hand": spend(seen, "by hand", 4), "wsram": spend(seen, "wsram", 1)}
        return Group("training, 2×10²", works, {}, {"images/s at M = 1": Ratio("by hand", "wsram")})

    monkeypatch.setattr(module, "KINDS", {"sensor": [sensor], "training": [training]})
    monkeypatch.setattr(module, "yardstick", lambda device: spend(seen, "yardstick", 1))
    return seen


def test_the_record_holds_sums_ratios_and_what_was_left_out(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "best_precision", lambda device: "no")
    random, threads = torch.random.get_rng_state(), torch.get_num_threads()
    kinds = ("sensor", "training")
    record = benchmark(Screen(), tmp_path, only=kinds, threads=(1, 1_000_000), rounds=3, seconds=0.01)
    said = capsys.readouterr().out
    assert torch.equal(random, torch.random.get_rng_state()) and torch.get_num_threads() == threads
    assert json.loads((tmp_path / f"{record['provenance']['commit']}.json").read_text()) == record
    assert newest(tmp_path) == record and (tmp_path / "benchmark.png").exists()
    assert set(record["skipped"]) == {"1000000 threads", "bf16"} and "this processor emulates it" in said
    works = {point["work"] for point in record["points"]}
    assert works == {"pyramid", "sensor", "loop", "by hand", "wsram"}  # a hidden work and the yardstick have no row
    for point in record["points"]:
        assert point["ms"][1] <= point["ms"][0] <= point["ms"][2] and point["times"] % 3 == 0
    assert all(ratio["value"][0] > 0 for ratio in record["ratios"]) and len(record["ratios"]) == 2
    assert small[:4] == ["yardstick", "pyramid", "glimpses", "loop"]
    assert "| sensor, 2×1×10² | sensor, ms |" in table(record).markdown()
    assert len([axes for axes in draw(record).axes if axes.lines]) == 2


def test_all_that_is_timed_runs_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.benchmark_update.DIGITS", 20)
    monkeypatch.setattr("experiments.benchmark_update.MATMUL", 8)
    monkeypatch.setattr(benchmark_works, "MATMUL", 8)
    monkeypatch.setattr(benchmark_works, "BATCHES", (1, 2))
    kinds: list[Callable[[str, torch.device], Group]] = [
        partial(benchmark_works.update, "paper"),
        partial(benchmark_works.prediction, "quarter-hour"),
        partial(benchmark_works.sensor, 2, 3, 60),
        partial(benchmark_works.training, 3, 60),
    ]
    for make in kinds:
        group = make("no", CPU)
        taken = passes(group.works, 1, CPU)
        known = {*taken, *group.sums}
        assert {part for parts in group.sums.values() for part in parts} <= taken.keys(), group.name
        assert group.ratios and {ratio.over for ratio in group.ratios.values()} <= known, group.name
        assert {ratio.under for ratio in group.ratios.values()} <= known, group.name


def point(work: str, ms: float, yardsticks: float, spread: float = 0.01) -> dict[str, Any]:
    spans = {name: [v, v * (1 - spread), v * (1 + spread)] for name, v in (("ms", ms), ("yardsticks", yardsticks))}
    return {"group": "sensor, 2×1×10²", "work": work, "threads": 1, "precision": "no", "times": 9, **spans}


def kept(path: Path, *points: dict[str, Any], machine: str = "fast, 2 threads") -> Path:
    path.write_text(json.dumps({"provenance": {"machine": machine}, "points": points, "ratios": [], "date": "2026"}))
    return path


def test_slower_is_what_no_noise_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept(tmp_path / "a.json", *(point(work, 10, 2) for work in ("same", "slow", "fast", "drift", "unsure")))
    after = kept(
        tmp_path / "b.json",
        point("same", 10.3, 2.06),  # apart, but by less than two processes of one commit
        point("slow", 12, 2.4),
        point("fast", 5, 1),
        point("drift", 15, 2),  # the machine was slower, not the work
        point("unsure", 12, 2.4, spread=0.3),
        point("new", 99, 99),
        machine="fast, 1 threads",
    )
    with pytest.raises(SystemExit) as end:
        main(["benchmark-compare", str(before), str(after)])
    said = capsys.readouterr().out
    assert end.value.code == 1 and "5 works compared" in said and "1 became slower beyond noise, 1 faster" in said
    assert "slow, 1 thread, float32" in said and "drift" not in said and "same" not in said
    main(["benchmark-compare", str(after), str(after)])
    assert "0 became slower" in capsys.readouterr().out


def test_of_two_machines_only_yardsticks_are_compared() -> None:
    records = [
        {"provenance": {"machine": name}, "points": [point("a", ms, 2), point("b", 10, y)]}
        for name, ms, y in (("one", 10, 2), ("other", 30, 4))
    ]
    changes, slower = compare(*records)
    assert "two machines" in changes.title and slower == ["sensor, 2×1×10², b, 1 thread, float32"]


def test_intervals_are_apart_or_meet() -> None:
    assert Interval(1, 0, 2).apart(Interval(4, 3, 5)) and not Interval(1, 0, 3).apart(Interval(4, 3, 5))


def test_mistakes_in_what_is_asked_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "rounds must be at least 2" in refused(capsys, "benchmark", "--rounds", "1", "--folder", str(tmp_path))
    assert "threads must be at least 1" in refused(capsys, "benchmark", "--threads", "0")
    assert "invalid choice" in refused(capsys, "benchmark", "--only", "nothing")
    absent = str(tmp_path / "absent.json")
    assert "name a file that the benchmark kept" in refused(capsys, "benchmark-compare", absent, absent)
    other = tmp_path / "other.json"
    other.write_text("[]")
    assert "expected points, ratios" in refused(capsys, "benchmark-compare", str(other), str(other))
