"""The paper's experiment on captions, made small: stopped and continued, and its page made from files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments import flickr8k, flickr8k_page
from experiments.cli import main
from experiments.pages import RESULTS
from experiments.statistics import shown
from tests.experiments.commands import made, page, read, refused, stop_at
from tests.tiny import rows
from wsram.config import Config, changed
from wsram.recipes import RECIPES
from wsram.runs import Run

pytestmark = pytest.mark.xdist_group("captions experiment")

SMALL = flickr8k.CaptionBudget("smoke", 4, 2, 1, 2, patience=0, samples=2, beam=2, likelihood_samples=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, world: Path, features: Path) -> Path:
    """The experiment with two seeds, stopped once and continued."""
    from tests.caption_world import tiny_captions

    root = tmp_path_factory.mktemp("captions")
    data = [str(world), "--features", str(features), "--min-count", "2", "--precision", "no"]
    words = ["flickr8k", *data, "--folder", str(root / "runs"), "--results", str(root / "results")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(flickr8k.BUDGETS, "smoke", SMALL)
        patch.setitem(RECIPES, "captions", tiny_captions(world, features))
        with pytest.MonkeyPatch.context() as stop:
            stop_at(stop, "table/var-plain/seed-0", 2)
            with pytest.raises(SystemExit) as end:
                main(words)
            assert end.value.code == 128 + 2
        main(words)
    return root


def trial(root: Path, name: str, seed: int) -> Path:
    return root / "runs" / "table" / name / f"seed-{seed}"


def test_captions_of_every_method_in_every_protocol(whole: Path) -> None:
    text = page(whole)
    for protocol in ("papers", "with-penalty", "coco"):
        assert f"### Protocol {protocol}" in text
    for name, label in flickr8k_page.LABELS.items():
        found = [read(trial(whole, name, seed), "evaluation-test") for seed in (0, 1)]
        scores = [f["beam_2"]["papers"]["bleu"] for f in found]
        assert f"| {label} | beam 2 | {' | '.join(shown([s[n] for s in scores], 1) for n in range(4))} |" in text
        validation = [read(trial(whole, name, seed), "evaluation-validation")["nll_word"] for seed in (0, 1)]
        assert f"| {label} | {shown(validation, 3)} | {shown([f['nll_word'] for f in found], 3)} |" in text
    assert "61.1 / 40.4 / 26.9 / 17.8" in text and "Xu et al. 2015" in text
    assert "precision no; seeds 0, 1;" in text and "the network of the last update" in text
    assert (whole / "results" / "curve.png").exists()


def test_the_end_of_a_baseline_is_the_mean_of_what_its_runs_logged(whole: Path) -> None:
    logged = [row["log_evidence"] for seed in (0, 1) for row in rows(trial(whole, "var", seed))]
    assert len(logged) == 4  # fewer than are averaged over
    assert f"(nats: VAR {-sum(logged) / len(logged):.3f}; VAR without baseline" in page(whole)


def test_methods_share_everything_but_attention_and_estimator(whole: Path) -> None:
    def plain(config: Config) -> Config:
        return changed(config, attention="hard", name="wake-sleep", proposal="policy", control_variates=True, samples=2)

    settings = [Run.open(trial(whole, name, seed)).config for name in flickr8k_page.LABELS for seed in (0, 1)]
    assert len({plain(config) for config in settings}) == 2  # one for each seed
    assert {c.estimator.samples for c in settings if c.model.attention == "hard"} == {SMALL.samples}


def test_the_page_is_made_again_from_its_small_file(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copyfile(whole / "results" / RESULTS, tmp_path / "results" / RESULTS)
    main(["flickr8k", "--from-files", "--results", str(tmp_path / "results")])
    assert page(tmp_path) == page(whole) and made(tmp_path) == made(whole)


def test_a_run_with_patience_is_said_to_be_measured_at_its_best(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flickr8k_page, "save", lambda *args, **options: None)  # which takes longest
    kept = made(whole)
    text = flickr8k_page.page(kept | {"budget": kept["budget"] | {"patience": 3}}, tmp_path)
    assert "the network of the best validation likelihood" in text


def test_captions_without_data_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected captions" in refused(capsys, "flickr8k", "--folder", str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
