"""A short form of `make torture`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import flags, tiny_config, write_digits
from tests.torture import begin, end, torture


def test_killed_twice_at_random_it_ends_like_what_never_stopped(tmp_path: Path) -> None:
    assert torture(tmp_path, kills=2, updates=60) >= 1


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_so_do_two_processes_of_which_one_is_killed(tmp_path: Path) -> None:
    assert torture(tmp_path, kills=3, processes=2, updates=60) >= 1


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_who_has_lost_the_other_says_so_in_a_line(tmp_path: Path) -> None:
    words = flags(tiny_config(write_digits(tmp_path / "digits"), updates=10**6, evaluate_every=2))
    both = begin(["train", *words, "--run", str(tmp_path / "run")], 2, tmp_path / "said")
    try:
        while all(each.is_alive() for each in both) and not (tmp_path / "run" / "metrics.jsonl").exists():
            both[0].join(0.1)
        both[1].kill()
        assert end(both[:1], 60)
    finally:
        end(both, 0)
    said = (tmp_path / "said-0").read_text().splitlines()
    assert both[0].exitcode == 2 and said[-1].startswith("wsram: process 0 ends, since another one"), said[-3:]
    assert "Traceback" not in "".join(said)
