"""The same seed gives the same run to the last bit; what is measured depends on the examples alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tiny import rows, same_bits, same_run, tiny_config, trained, weights
from wsram.config import changed
from wsram.data import folder
from wsram.evaluate import evaluate, open_trained
from wsram.tasks import measuring
from wsram.tasks.classification import Classification
from wsram.terminal import Screen
from wsram.training import step_seed

ODD = dict(
    name="wake-sleep-credit", defensive=0.2, sleep=0.3, dropout=0.3, warp=0.1, coverage=0.1, shift=0.1, noise=0.1
)


def test_a_seed_gives_one_run_to_the_last_bit_and_another_seed_another(tmp_path: Path, digits: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(name) + seed)  # the caller's random numbers are nothing to it
        torch.rand(seed + 1)
        trained(tmp_path / name, tiny_config(digits, seed=seed, **ODD))
    assert same_run(tmp_path / "a", tmp_path / "b")
    assert not same_bits(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_dropout_and_actions_draw_from_streams_of_their_own(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[tuple[int, int]] = []
    rollout = Classification.rollout

    def watched(self: Any, config: Any, model: Any, batch: Any, update: Any) -> Any:
        seeds.append((torch.initial_seed(), update.generator.initial_seed()))
        return rollout(self, config, model, batch, update)

    monkeypatch.setattr(Classification, "rollout", watched)
    trained(tmp_path / "run", tiny_config(digits))
    # Generators of the CPU heed the last 32 bits alone.
    ours, theirs = ({seed % 2**32 for seed in each} for each in zip(*seeds[-6:], strict=True))
    assert len(ours) == len(theirs) == 6 and not ours & {step_seed(0, step) % 2**32 for step in range(200_000)}


def measured(folder: Path, to: Path) -> dict[str, Any]:
    """What is kept elsewhere: others look into the folder too."""
    return evaluate(open_trained(folder), Screen(quiet=True), to=to / "figures.json")


def test_figures_of_the_mode_do_not_depend_on_how_many_images_are_looked_at_together(
    digit_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for together in (2000, 5, 1):
        monkeypatch.setattr(measuring, "ROWS", together)
        found.append(measured(digit_run, tmp_path))
    assert len(found[0]["risk_coverage"]) > 0
    for other in found[1:]:
        for name in ("error_mode", "nll_mode", "ece_mode"):
            assert other[name] == pytest.approx(found[0][name], rel=1e-5), name


def test_figures_of_samples_are_the_same_whenever_they_are_taken(digit_run: Path, tmp_path: Path) -> None:
    first = measured(digit_run, tmp_path)
    torch.manual_seed(12)
    torch.rand(3)
    again = measured(digit_run, tmp_path)
    assert again == first and "error_vote_16" in first


@pytest.mark.parametrize("threads", [1, 2])
def test_figures_do_not_depend_on_how_many_read_or_compute(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of several sizes, so that a batch is put together of what several threads have read."""
    for name in ("dark", "light"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(9):
            shade = Image.new("L", (20 + n, 26 - n), 60 + 10 * n + 70 * (name == "light"))
            shade.save(tmp_path / "data" / name / f"{n}.png")
    trained(tmp_path / "run", changed(tiny_config(tmp_path / "data", batch=4), scene=None, validation=None))
    one = measured(tmp_path / "run", tmp_path)
    monkeypatch.setattr(folder, "CACHE", 0)  # every image is read each time
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for readers in (1, 9):
            monkeypatch.setattr(folder, "THREADS", readers)
            found = measured(tmp_path / "run", tmp_path)
            assert {name: found[name] for name in one if name.startswith("error")} == {
                name: one[name] for name in one if name.startswith("error")
            }
            assert found["nll_vote_16"] == pytest.approx(one["nll_vote_16"], rel=0 if threads == before else 1e-6)
    finally:
        torch.set_num_threads(before)
