"""The paper's experiments from the command line, made small: stopped and continued, and their pages made from files."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from rich.console import Console

from refusals import refused
from tiny import TEST_DIGITS, rows, same_run, tiny_config, trained, weights, write_digits
from wsram.cli import main
from wsram.config import CaptionConfig, TrainConfig
from wsram.diagnostics import location_coverage
from wsram.experiments import flickr8k, mnist
from wsram.experiments.cells import finished, run_cells
from wsram.experiments.pages import RESULTS
from wsram.experiments.published import MNIST_ERROR
from wsram.experiments.statistics import T_975, interval, shown
from wsram.runs import Run

TINY = mnist.MnistBudget(
    "smoke", 4, 2, (1e-3, 3e-3), seeds=1, batch=8, warmup=1, evaluate_every=2, samples=2, draws=2, votes=2
)
CELLS = 6 + 8 + 2  # a seed's, without tuning


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mnist.BUDGETS, "smoke", TINY)
        patch.setitem(mnist.NETWORKS, "faithful", tiny_config(None))
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


def words(root: Path, digits: Path, *more: str) -> list[str]:
    places = ["--folder", str(root / "runs"), "--results", str(root / "results")]
    return ["reproduce", "mnist", "--data-dir", str(digits), *places, *more]


def stop_at(patch: pytest.MonkeyPatch, cell: str, step: int) -> None:
    """Let the first run whose folder ends so be interrupted, right after that checkpoint."""
    save = Run.save_checkpoint

    def stopping(self: Run[Any], model: Any, optimizer: Any, state: dict[str, Any]) -> Path:
        path = save(self, model, optimizer, state)
        if str(self.folder).endswith(cell) and state["step"] == step:
            raise KeyboardInterrupt
        return path

    patch.setattr(Run, "save_checkpoint", stopping)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """All of the experiments with one seed, stopped in the middle of a cell and continued."""
    root = tmp_path_factory.mktemp("mnist")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "table1/ws-ram-plain/seed-0", 2)
        with pytest.raises(SystemExit) as end:
            main(words(root, digits))
        assert end.value.code == 130
    assert not (root / "results").exists()
    main(words(root, digits))
    return root


def made(root: Path) -> dict[str, Any]:
    return json.loads((root / "results" / RESULTS).read_text())


def page(root: Path) -> str:
    return (root / "results" / "index.md").read_text()


# Digits


def test_every_cell_is_trained_once_and_the_stopped_one_is_as_if_never_stopped(whole: Path, tmp_path: Path) -> None:
    folders = {path.parent for path in (whole / "runs").glob("*/**/config.json")}
    assert len(folders) == CELLS + 12  # 6 methods at 2 rates
    stopped = whole / "runs" / "table1" / "ws-ram-plain" / "seed-0"
    trained(tmp_path / "run", Run.open(stopped, TrainConfig).config)
    assert same_run(stopped, tmp_path / "run")


def test_methods_share_everything_but_themselves(whole: Path) -> None:
    """Samples, network, updates, data: the estimator and its heuristics, and the tuned rate, are what differs."""
    cells = mnist.main_cells(tiny_config(None), TINY, mnist.read_rates(whole / "runs") or {})
    same = {
        replace(c.config, estimator=cells[0].config.estimator, exploration=mnist.HEURISTICS["none"], schedule=s)
        for c in cells
        for s in [replace(c.config.schedule, learning_rate=1.0)]
    }
    assert len(same) == 1 and {c.config.estimator.samples for c in cells} == {TINY.samples}
    seeds = mnist.main_cells(tiny_config(None), replace(TINY, seeds=3), mnist.read_rates(whole / "runs") or {})
    assert [c.seed for c in seeds] == sorted(c.seed for c in seeds) and len(seeds) == 3 * CELLS


def test_the_rate_is_the_best_on_held_out_digits(whole: Path) -> None:
    chosen = json.loads((whole / "runs" / "tuning.json").read_text())["chosen"]
    for name, rate in chosen.items():
        found = {
            path.parent.name: rows(path)[-1]["error_mean_action"]
            for path in (whole / "runs" / "tuning" / name).glob("*/seed-0")
        }
        assert found[f"{rate:g}"] == min(found.values())
        assert (
            json.loads((whole / "runs" / "table1" / name / "seed-0" / "config.json").read_text())["schedule"][
                "learning_rate"
            ]
            == rate
        )


def test_numbers_on_the_page_are_the_files(whole: Path) -> None:
    text = page(whole)
    for name, (label, control_variates) in {"var-cv": ("VAR", True), "ws-ram-q-cv": ("WS-RAM + q", True)}.items():
        folder = whole / "runs" / "table1" / name / "seed-0"
        test = json.loads((folder / "evaluation-test.json").read_text())
        held_out = json.loads((folder / "evaluation-held-out.json").read_text())
        assert test["digits"] == TEST_DIGITS
        error, published = 100 * test["error_mean_action"], MNIST_ERROR[label, control_variates].values[0]
        line = next(line for line in text.splitlines() if line.startswith(f"| {label} | yes |"))
        parts = [f"{error:.2f} (1)", f"{100 * held_out['error_mean_action']:.2f} (1)", f"{published:.2f}"]
        assert all(f"| {part} |" in line for part in parts) and f"{error - published:+.2f}" in line
        looking = json.loads((folder / "looking.json").read_text())
        assert sum(looking["scale_usage"]) == pytest.approx(1, abs=1e-6) and 0 < looking["coverage"] <= 1
    usage = json.loads((whole / "runs/exploration/var-none/seed-0/looking.json").read_text())["scale_usage"]
    assert "| VAR | none |" in text and " / ".join(f"{share:.0%}" for share in usage) in text
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["machine"] in text and provenance["commit"] in text and "seeds 0; updates 4;" in text
    posterior = json.loads((folder / "posterior.json").read_text())
    distances = [shown([posterior[kind]], 3) for kind in ("policy", "inference")]
    assert f"| WS-RAM + q, with control variates | {' | '.join(distances)} |" in text
    assert "±" not in text.split("## Error")[1]  # one seed has no interval
    for picture in ("curves.png", "noise.png"):
        assert f"]({picture})" in text and (whole / "results" / picture).exists()


def test_claims_are_told_from_the_cells(whole: Path) -> None:
    section = page(whole).split("## The paper's claims")[1].split("\n## ")[0]
    folder = whole / "runs" / "table1"

    def read(cell: str, name: str) -> Any:
        return json.loads((folder / cell / "seed-0" / f"{name}.json").read_text())

    errors = [100 * read(cell, "evaluation-test")["error_mean_action"] for cell in ("ws-ram-cv", "ws-ram-q-cv")]
    assert f"| by 0.23 points | {errors[0] - errors[1]:.2f} (1) points of test error |" in section
    posterior = read("ws-ram-q-cv", "posterior")
    assert f"{posterior['policy']:.3f} (1) nats to the policy, {posterior['inference']:.3f} (1) to" in section
    rows_of = [
        r for r in read("ws-ram-q-cv", "diagnosis") if (r["estimator"], r["proposal"]) == ("wake-sleep", "inference")
    ]
    plain, cut = (next(r for r in rows_of if r["control_variates"] is on)["gradient"] for on in (False, True))
    share = 100 * (1 - cut["policy"]["variance"] / plain["policy"]["variance"])
    assert f"| by 40 to 50% | by {share:.0f} (1)% for the policy" in section
    usage = max(read("ws-ram-cv", "looking")["scale_usage"])
    assert f"WS-RAM takes {100 * usage:.0f} (1)% of its glimpses" in section
    assert len(re.findall(r"(?m)^\| ", section)) == 2 + 5


def test_credit_stands_beside_the_cell_that_differs_in_it_alone(whole: Path) -> None:
    section = page(whole).split("## Credit for single glimpses")[1].split("\n## ")[0]
    pairs = {
        "| VAR | temperature |": ("exploration/var-temperature", "credit/var-credit"),
        "| WS-RAM + q | none |": ("table1/ws-ram-q-cv", "credit/ws-ram-q-credit"),
    }
    for line, pair in pairs.items():
        runs = [whole / "runs" / cell / "seed-0" for cell in pair]
        without, with_it = (Run.open(run, TrainConfig).config for run in runs)
        assert with_it.estimator.name == f"{without.estimator.name}-credit"
        assert replace(with_it, estimator=without.estimator) == without
        for run, credit in zip(runs, ("no", "yes"), strict=True):
            found = json.loads((run / "evaluation-held-out.json").read_text())
            errors = [100 * found[f"error_{way}"] for way in ("mean_action", "one_sample", f"vote_{TINY.votes}")]
            shown_errors = " | ".join(f"{error:.2f} (1)" for error in errors)
            assert f"{line} {credit} | {shown_errors} | {found['nll_one_sample']:.3f} (1) |" in section


def test_curves_hold_the_measured_variance(whole: Path) -> None:
    cell = next(c for c in made(whole)["cells"] if c["name"] == "ws-ram-q-cv")
    last = rows(whole / "runs" / "table1" / "ws-ram-q-cv" / "seed-0")[-1]
    assert cell["curve"]["step"] == [2, 4]
    for figure in ("variance_policy", "variance_inference", "ess", "error_mean_action"):
        assert cell["curve"][figure][-1] == pytest.approx(last[figure], rel=1e-5)
    assert (whole / "results" / RESULTS).stat().st_size < 100_000


def test_the_page_is_made_again_from_its_small_file_alone(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "results", tmp_path / "results")
    for path in (tmp_path / "results").iterdir():
        if path.name != RESULTS:
            path.unlink()
    main(["reproduce", "mnist", "--from-files", "--results", str(tmp_path / "results")])
    assert page(tmp_path) == page(whole) and made(tmp_path) == made(whole)
    assert (tmp_path / "results" / "noise.png").exists()


def test_more_seeds_add_to_what_is_there_and_give_intervals(
    whole: Path, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "more"
    shutil.copytree(whole, root)
    before = weights(root / "runs" / "table1" / "var-cv" / "seed-0")
    kept = root / "runs" / "table1" / "var-cv" / "seed-0" / "evaluation-test.json"
    found = json.loads(kept.read_text()) | {"error_mean_action": 0.125}  # a figure that measuring again would not give
    kept.write_text(json.dumps(found))
    main(words(root, digits, "--seeds", "2", "--only", "table1"))
    said = capsys.readouterr().out
    assert "Cell 7 of 12" in said and "left)" in said and "Cell 1 of" not in said
    assert weights(root / "runs" / "table1" / "var-cv" / "seed-0").keys() == before.keys()
    other = json.loads((root / "runs/table1/var-cv/seed-1/evaluation-test.json").read_text())["error_mean_action"]
    assert f"| VAR | yes | {shown([12.5, 100 * other])} |" in page(root) and "±" in shown([12.5, 100 * other])
    assert "seeds 0, 1;" in page(root)


def test_a_cell_that_fails_is_named_and_the_others_are_there(
    whole: Path, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "failing"
    shutil.copytree(whole, root)
    broken = root / "runs" / "exploration" / "var-none" / "seed-0"
    shutil.rmtree(broken.parent)
    broken.parent.write_text("a file where a folder has to be")
    said = refused(capsys, *words(root, digits))
    assert "exploration/var-none/seed-0" in said and "a cell failed" in said
    assert "| VAR | none | — | — | — |" in page(root) and "| WS-RAM | none |" in page(root)


def test_a_cell_in_another_process_hands_comes_last(tmp_path: Path, digits: Path) -> None:
    cells = mnist.tuning_cells(tiny_config(digits), TINY)[:3]
    order: list[str] = []
    lock = FileLock(cells[0].run(tmp_path).folder.with_suffix(".lock"))
    Path(lock.lock_file).parent.mkdir(parents=True)
    lock.acquire()

    def measure(cell: Any, run: Any) -> None:
        order.append(cell.name)
        if len(order) == 2:
            lock.release()  # as the other process does once it is done with it

    assert run_cells(cells, tmp_path, Console(quiet=True), measure) == []
    assert order == [cells[n].name for n in (1, 2, 0)]


def test_a_cell_that_was_stopped_before_it_was_measured_is_not_on_the_page_yet(
    whole: Path, tmp_path: Path, digits: Path
) -> None:
    root = tmp_path / "unmeasured"
    shutil.copytree(whole, root)
    for name in ("looking", "evaluation-held-out"):
        (root / "runs" / "exploration" / "ws-ram-all" / "seed-0" / f"{name}.json").unlink()
    main(words(root, digits, "--only", "table1"))
    assert "| WS-RAM | all | — |" in page(root)
    main(words(root, digits))
    assert page(root) == page(whole)


def test_mistakes_end_in_one_line(
    whole: Path, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no learning rates are chosen" in refused(capsys, *words(tmp_path, digits, "--only", "table1"))
    assert "at least 1 seed, got 0" in refused(capsys, *words(tmp_path, digits, "--seeds", "0"))
    assert "train-images" in refused(capsys, *words(tmp_path, tmp_path))
    assert "cannot read results" in refused(capsys, *words(tmp_path, digits, "--from-files"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mnist.BUDGETS, "smoke", replace(TINY, steps=6))
        assert "other settings" in refused(capsys, *words(whole, digits))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tuning.json").write_text('{"chosen": {"var-cv": 1}}')
    assert "holds no learning rates" in refused(capsys, *words(tmp_path, digits))
    assert not (tmp_path / "results").exists()


# Captions


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The experiment with captions, two seeds, stopped once and continued."""
    pytest.importorskip("PIL", reason="images need the captions extra")
    pytest.importorskip("sacrebleu", reason="scores need the captions extra")
    from caption_world import encoder, write_world
    from wsram.tasks import captions as task

    root = tmp_path_factory.mktemp("captions")
    (root / "world").mkdir()
    world = write_world(root / "world")
    small = flickr8k.CaptionBudget("smoke", 4, 2, 1, 2, patience=0, samples=2, beam=2, likelihood_samples=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "build_encoder", encoder)
        patch.setitem(flickr8k.BUDGETS, "smoke", small)
        data = ["--captions", str(world), "--features", str(root / "features"), "--min-count", "2"]
        main(["features", *data])
        given = ["reproduce", "flickr8k", *data, "--folder", str(root / "runs"), "--results", str(root / "results")]
        with pytest.MonkeyPatch.context() as stop:
            stop_at(stop, "table/var-plain/seed-0", 2)
            with pytest.raises(SystemExit):
                main(given)
        main(given)
        yield root


def test_captions_of_every_method_in_every_protocol(captions: Path) -> None:
    text = page(captions)
    for protocol in ("papers", "with-penalty", "coco"):
        assert f"### Protocol {protocol}" in text
    for name, label in (("ws-ram-q", "WS-RAM + q"), ("soft", "soft attention"), ("var-plain", "VAR without baseline")):
        found = [
            json.loads((captions / "runs" / "table" / name / f"seed-{k}" / "evaluation-test.json").read_text())
            for k in (0, 1)
        ]
        scores = [f["beam_2"]["papers"]["bleu"] for f in found]
        cells = " | ".join(shown([s[n] for s in scores], 1) for n in range(4))
        assert f"| {label} | beam 2 | {cells} |" in text
        assert shown([f["nll_word"] for f in found], 3) in text
    logged = [row["log_evidence"] for k in (0, 1) for row in rows(captions / "runs" / "table" / "var" / f"seed-{k}")]
    assert f"(nats: VAR {-sum(logged) / len(logged):.3f}; VAR without baseline" in text  # fewer than are averaged over
    assert "61.1 / 40.4 / 26.9 / 17.8" in text and "Xu et al. 2015" in text and "seeds 0, 1;" in text
    assert (captions / "results" / "curve.png").exists()


def test_the_page_of_captions_is_made_again_from_its_small_file(captions: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copyfile(captions / "results" / RESULTS, tmp_path / "results" / RESULTS)
    main(["reproduce", "flickr8k", "--from-files", "--results", str(tmp_path / "results")])
    assert page(tmp_path) == page(captions)


def test_a_run_that_stopped_early_is_finished(captions: Path, tmp_path: Path) -> None:
    root = captions / "runs" / "table" / "var" / "seed-0"
    shutil.copytree(root, tmp_path / "run")
    run = Run.open(tmp_path / "run", CaptionConfig)
    longer = Run(run.folder, replace(run.config, schedule=replace(run.config.schedule, steps=9, patience=2)))
    assert finished(run) and not finished(longer)
    state = longer.latest_checkpoint() / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"best": 1.0, "stale": 2}))
    assert finished(longer)


def test_captions_without_data_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--captions" in refused(capsys, "reproduce", "flickr8k", "--folder", str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


# Statistics


def test_quantiles_are_students() -> None:
    """By integrating the density from 0 to each: 0.475 of it."""
    for freedom, quantile in enumerate(T_975, 1):
        x = torch.linspace(0, quantile, 20_001, dtype=torch.float64)
        constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
        half = float(torch.trapezoid(constant * (1 + x.square() / freedom) ** (-(freedom + 1) / 2), x))
        assert half == pytest.approx(0.475, abs=3e-5)


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    draws = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = [abs(mean) <= (half or 0.0) for mean, half in map(interval, draws.tolist())]
    assert sum(held) / len(held) == pytest.approx(0.95, abs=0.012)


def test_coverage_of_everywhere_and_of_one_place() -> None:
    grid = torch.linspace(-0.99, 0.99, 80)
    everywhere = torch.cartesian_prod(grid, grid)
    assert location_coverage(everywhere) == pytest.approx(1, abs=0.01)
    assert location_coverage(torch.full((50, 2), 1.5)) == pytest.approx(1 / 64)
