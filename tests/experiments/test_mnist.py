"""The paper's experiments on digits, made small: stopped and continued, and their page made from files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import mnist, mnist_page
from experiments.cli import main
from experiments.pages import RESULTS, load, save
from experiments.published import MNIST_ERROR
from experiments.statistics import shown
from experiments.trials import Trial
from tests.experiments.commands import made, page, read, refused, stop_at
from tests.tiny import (
    DIGITS,
    TEST_DIGITS,
    rows,
    same_bits,
    same_run,
    tiny_config,
    trained,
    weights,
    write_digits,
)
from wsram import diagnose
from wsram.config import ClassificationConfig, changed
from wsram.errors import UserError
from wsram.runs import SETTINGS, Run

pytestmark = pytest.mark.xdist_group("mnist experiment")

TINY = mnist.MnistBudget(
    "smoke", 4, 2, (1e-3, 3e-3), seeds=1, batch=8, warmup=1, evaluate_every=2, samples=2, draws=2, votes=2
)
TUNED, TRIALS = 12, 6 + 8 + 2
"""Runs of the tuning, 6 methods at 2 rates; and of a seed: Table 1, exploration and credit."""


@pytest.fixture(scope="module", autouse=True)
def _small(digits: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mnist.BUDGETS, "smoke", TINY)
        patch.setitem(mnist.NETWORKS, "faithful", tiny_config(digits))
        patch.setattr(diagnose, "REFERENCE", 20)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their figures, which take longer than all the rest."""
    monkeypatch.setattr(mnist_page, "save", lambda *args, **options: None)


def words(root: Path, digits: Path, *more: str) -> list[str]:
    places = ["--folder", str(root / "runs"), "--results", str(root / "results")]
    return ["mnist", str(digits), "--precision", "no", *places, *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """All of the experiments with one seed, stopped in the middle of a trial and continued."""
    root = tmp_path_factory.mktemp("mnist")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "table1/ws-ram-plain/seed-0", 2)
        with pytest.raises(SystemExit) as end:
            main(words(root, digits))
        assert end.value.code == 128 + 2
    assert not (root / "results").exists()
    main(words(root, digits))
    return root


def trial(root: Path, name: str) -> Path:
    """The folder of a trial's first seed."""
    return root / "runs" / name / "seed-0"


def test_every_trial_is_trained_once_and_the_stopped_one_is_as_if_never_stopped(whole: Path, tmp_path: Path) -> None:
    assert len({path.parent for path in (whole / "runs").glob(f"*/**/{SETTINGS}")}) == TRIALS + TUNED
    stopped = trial(whole, "table1/ws-ram-plain")
    trained(tmp_path / "run", Run.open(stopped).config)
    assert same_run(stopped, tmp_path / "run")


def test_methods_share_everything_but_themselves(whole: Path, digits: Path) -> None:
    """Samples, network, updates, data: the estimator and its heuristics, and the tuned rate, are what differs."""
    rates = mnist.read_rates(whole / "runs")
    assert rates is not None
    trials = mnist.main_trials(tiny_config(digits), TINY, rates)
    alike = {"estimator": trials[0].config.estimator, "exploration": mnist.HEURISTICS["none"], "learning_rate": 1.0}
    assert len(trials) == TRIALS and len({changed(t.config, **alike) for t in trials}) == 1
    assert {t.config.estimator.samples for t in trials} == {TINY.samples}
    seeds = mnist.main_trials(tiny_config(digits), replace(TINY, seeds=3), rates)
    assert [t.seed for t in seeds] == [seed for seed in range(3) for _ in range(TRIALS)]


def test_the_rate_is_the_best_on_validation_digits(whole: Path) -> None:
    chosen = read(whole / "runs", "tuning")["chosen"]
    assert len(chosen) == 6
    for name, rate in chosen.items():
        found = {
            path.parent.name: rows(path)[-1]["error_mode"]
            for path in (whole / "runs" / "tuning" / name).glob("*/seed-0")
        }
        assert len(found) == 2 and found[f"{rate:g}"] == min(found.values())
        assert Run.open(trial(whole, f"table1/{name}")).config.schedule.learning_rate == rate


def test_equal_errors_are_told_apart_by_the_likelihood(whole: Path, tmp_path: Path, digits: Path) -> None:
    shutil.copytree(whole / "runs", tmp_path / "runs")
    tuning = mnist.tuning_trials(tiny_config(digits), TINY)
    nats = {1e-3: 2.0, 3e-3: 1.0}
    for each in tuning:
        path = each.run(tmp_path / "runs").metrics_path
        row = {"step": 2, "error_mode": 0.5, "nll_mode": nats[each.config.schedule.learning_rate]}
        path.write_text(json.dumps(row) + "\n")
    assert set(mnist.choose_rates(tuning, tmp_path / "runs").values()) == {3e-3}


def test_numbers_on_the_page_are_the_files(whole: Path) -> None:
    text = page(whole)
    for name, (label, control_variates) in {"var-cv": ("VAR", True), "ws-ram-q-cv": ("WS-RAM + q", True)}.items():
        folder = trial(whole, f"table1/{name}")
        test, validation = read(folder, "evaluation-test"), read(folder, "evaluation-validation")
        assert test["examples"] == TEST_DIGITS
        error, published = 100 * test["error_mode"], MNIST_ERROR[label, control_variates].values[0]
        line = next(line for line in text.splitlines() if line.startswith(f"| {label} | yes |"))
        parts = [f"{error:.2f} (1)", f"{100 * validation['error_mode']:.2f} (1)", f"{published:.2f}"]
        assert all(f"| {part} |" in line for part in parts) and f"{error - published:+.2f}" in line
        looking = read(folder, "looking")
        assert sum(looking["scale_usage"]) == pytest.approx(1, abs=1e-6) and 0 < looking["coverage"] <= 1
    usage = read(trial(whole, "exploration/var-none"), "looking")["scale_usage"]
    assert re.search(rf"(?m)^\| VAR \| none \| .* \| {' / '.join(f'{share:.0%}' for share in usage)} \|", text)
    provenance = read(folder, "provenance")
    assert provenance["machine"] in text and provenance["commit"] in text
    assert f"`{provenance['command']}`" in text and provenance["command"].startswith("python -m experiments mnist ")
    assert "precision no; seeds 0; updates 4;" in text
    posterior = read(folder, "posterior")
    distances = [shown([posterior[kind]], 3) for kind in ("policy", "inference")]
    assert f"| WS-RAM + q, with control variates | {' | '.join(distances)} |" in text
    assert "±" not in text.split("## Error")[1]  # one seed has no interval
    for picture in ("curves.png", "noise.png"):
        assert f"]({picture})" in text and (whole / "results" / picture).exists()


def test_claims_are_told_from_the_trials(whole: Path) -> None:
    section = page(whole).split("## The paper's claims")[1].split("\n## ")[0]
    names = ("ws-ram-cv", "ws-ram-q-cv")
    without, told = (trial(whole, f"table1/{name}") for name in names)
    errors = [100 * read(folder, "evaluation-test")["error_mode"] for folder in (without, told)]
    assert f"| by 0.23 points | {errors[0] - errors[1]:.2f} (1) points of test error |" in section
    posterior = read(told, "posterior")
    assert f"{posterior['policy']:.3f} (1) nats to the policy, {posterior['inference']:.3f} (1) to" in section
    ways = [
        row for row in read(told, "diagnosis") if (row["estimator"], row["proposal"]) == ("wake-sleep", "inference")
    ]
    plain, cut = (next(row for row in ways if row["control_variates"] is on)["gradient"] for on in (False, True))
    share = 100 * (1 - cut["policy"]["variance"] / plain["policy"]["variance"])
    assert f"| by 40 to 50% | by {share:.0f} (1)% for the policy" in section
    usage = max(read(without, "looking")["scale_usage"])
    assert f"WS-RAM takes {100 * usage:.0f} (1)% of its glimpses" in section
    assert len(re.findall(r"(?m)^\| ", section)) == 2 + 5


def test_credit_stands_beside_the_trial_that_differs_in_it_alone(whole: Path) -> None:
    section = page(whole).split("## Credit for single glimpses")[1].split("\n## ")[0]
    pairs = {
        "| VAR | temperature |": ("exploration/var-temperature", "credit/var-credit"),
        "| WS-RAM + q | none |": ("table1/ws-ram-q-cv", "credit/ws-ram-q-credit"),
    }
    for line, pair in pairs.items():
        folders = [trial(whole, name) for name in pair]
        without, with_it = (Run.open(folder).config for folder in folders)
        assert with_it.estimator.name == f"{without.estimator.name}-credit"
        assert replace(with_it, estimator=without.estimator) == without
        for folder, credit in zip(folders, ("no", "yes"), strict=True):
            found = read(folder, "evaluation-validation")
            errors = [100 * found[f"error_{way}"] for way in ("mode", "one_sample", f"vote_{TINY.votes}")]
            shown_errors = " | ".join(f"{error:.2f} (1)" for error in errors)
            assert f"{line} {credit} | {shown_errors} | {found['nll_one_sample']:.3f} (1) |" in section


def test_curves_hold_the_measured_variance(whole: Path) -> None:
    kept = next(each for each in made(whole)["trials"] if each["name"] == "ws-ram-q-cv")
    logged = rows(trial(whole, "table1/ws-ram-q-cv"))
    assert kept["curve"]["step"] == [2, 4] == [row["step"] for row in logged]
    for figure in ("variance_policy", "variance_inference", "ess", "error_mode"):
        assert kept["curve"][figure] == pytest.approx([row[figure] for row in logged], rel=1e-5)
    assert (whole / "results" / RESULTS).stat().st_size < 100_000


def test_the_page_is_made_again_from_its_small_file_alone(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copyfile(whole / "results" / RESULTS, tmp_path / "results" / RESULTS)
    main(["mnist", "--from-files", "--results", str(tmp_path / "results")])
    assert page(tmp_path) == page(whole) and made(tmp_path) == made(whole)
    assert (tmp_path / "results" / "curves.png").exists() and (tmp_path / "results" / "noise.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_more_seeds_add_to_what_is_there_and_give_intervals(
    whole: Path, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "more"
    shutil.copytree(whole, root)
    first = trial(root, "table1/var-cv")
    before = weights(first)
    found = read(first, "evaluation-test") | {"error_mode": 0.125}  # a figure that measuring again would not give
    (first / "evaluation-test.json").write_text(json.dumps(found))
    main(words(root, digits, "--seeds", "2", "--only", "table1"))
    said = capsys.readouterr().out
    assert "Trial 7 of 12" in said and "left)" in said and "Trial 1 of" not in said
    assert same_bits(weights(first), before) and read(first, "evaluation-test") == found
    other = read(first.with_name("seed-1"), "evaluation-test")["error_mode"]
    assert f"| VAR | yes | {shown([12.5, 100 * other])} |" in page(root) and "±" in shown([12.5, 100 * other])
    assert "seeds 0, 1;" in page(root)


@pytest.mark.usefixtures("undrawn")
def test_results_are_extended_by_what_they_lack_wherever_the_rest_was_run(
    whole: Path, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lacking = tmp_path / "elsewhere", "ws-ram-cv"
    made = load(whole / "results")
    left_out = [t for t in made["trials"] if (t["group"], t["name"]) != ("table1", lacking)]
    (root / "results").mkdir(parents=True)
    (root / "results" / RESULTS).write_text(json.dumps(made | {"trials": left_out}))
    more = ["--only", "table1", "--extend"]
    main(words(root, digits, *more))
    assert [path.parent.name for path in (root / "runs").glob("*/*/seed-0")] == [lacking]
    extended = load(root / "results")["trials"]
    found, expected = ({(t["group"], t["name"], t["seed"]) for t in trials} for trials in (extended, made["trials"]))
    assert found == expected and len(extended) == len(made["trials"])
    capsys.readouterr()
    main(words(root, digits, *more))  # once more: nothing is left to do, and nothing doubled
    assert "Trial" not in capsys.readouterr().out and len(load(root / "results")["trials"]) == len(extended)
    main(words(root, digits, *more, "--seeds", "2"))  # seeds are added as well
    second = load(root / "results")
    names = {t["name"] for t in second["trials"] if t["group"] == "table1"}
    assert {t["name"] for t in second["trials"] if t["group"] == "table1" and t["seed"] == 1} == names
    assert second["budget"]["seeds"] == 2
    assert "results of 2 seeds, which fewer cannot extend" in refused(capsys, *words(root, digits, *more))
    other = second | {"network": second["network"] | {"recurrence": "gru"}}
    (root / "results" / RESULTS).write_text(json.dumps(other))
    assert "of another network" in refused(capsys, *words(root, digits, *more, "--seeds", "2"))
    (root / "results" / RESULTS).write_text(json.dumps(second | {"budget": second["budget"] | {"updates": 61}}))
    assert "of another budget" in refused(capsys, *words(root, digits, *more, "--seeds", "2"))


@pytest.mark.usefixtures("undrawn")
def test_a_page_is_made_of_what_is_finished_while_others_have_the_rest_in_hand(
    whole: Path, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "half-way"
    shutil.copytree(whole, root)
    shutil.rmtree(root / "results")
    going = trial(root, "table1/ws-ram-cv")
    (going / "looking.json").unlink()
    capsys.readouterr()
    main(words(root, digits, "--so-far"))
    assert "Trial" not in capsys.readouterr().out and not (going / "looking.json").exists()
    found = {(each["group"], each["name"]) for each in load(root / "results")["trials"]}
    assert ("table1", "var-cv") in found and ("table1", "ws-ram-cv") not in found
    shutil.rmtree(root / "runs")
    assert "no learning rates" in refused(capsys, *words(root, digits, "--so-far"))
    rates = ["--rates-from", str(whole / "results")]
    assert "nothing is finished" in refused(capsys, *words(root, digits, "--so-far", *rates))


@pytest.mark.usefixtures("undrawn")
def test_rates_tuned_under_another_budget_are_shown_as_they_were_tried(whole: Path, tmp_path: Path) -> None:
    made = load(whole / "results")
    others = made["budget"] | {"rates": [0.5]}
    for budget, columns in (
        (others, "| method | 0.001 | 0.003 | 0.5 |"),  # of this budget, so that at 0.5 every run has failed
        (others | {"tuning_updates": 9}, "| method | 0.001 | 0.003 |\n"),
    ):
        text = save(tmp_path, made | {"budget": budget}, mnist_page.page).read_text()
        assert columns in text and ("failed" in text) == ("0.5" in columns)


@pytest.mark.usefixtures("undrawn")
def test_a_trial_that_fails_is_named_and_the_others_are_there(
    whole: Path, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "failing"
    shutil.copytree(whole, root)
    broken = trial(root, "exploration/var-none")
    shutil.rmtree(broken.parent)
    broken.parent.write_text("a file where a folder has to be")
    damaged = trial(root, "exploration/var-coverage")
    for path in damaged.glob("checkpoints/*/model.safetensors"):
        path.write_bytes(b"cut")
    said = refused(capsys, *words(root, digits))
    assert "exploration/var-none/seed-0" in said and "a trial failed (and 1 more" in said
    text = page(root)
    assert "| VAR | none | — | — | — |" in text and "| VAR | coverage | — | — | — |" in text
    assert "| WS-RAM | none | — |" not in text and "| WS-RAM | none |" in text


@pytest.mark.usefixtures("undrawn")
def test_a_trial_that_was_stopped_before_it_was_measured_is_not_on_the_page_yet(
    whole: Path, tmp_path: Path, digits: Path
) -> None:
    root = tmp_path / "unmeasured"
    shutil.copytree(whole, root)
    for name in ("looking", "evaluation-validation"):
        (trial(root, "exploration/ws-ram-all") / f"{name}.json").unlink()
    main(words(root, digits, "--only", "table1"))
    assert "| WS-RAM | all | — |" in page(root)
    main(words(root, digits))
    assert page(root) == page(whole)


def one_of_table1(whole: Path, root: Path, source: Path) -> Trial[ClassificationConfig]:
    """A finished trial in a folder of its own, to be measured on digits that are somewhere."""
    there = Trial("table1", "var-cv", changed(Run.open(trial(whole, "table1/var-cv")).config, source=str(source)))
    shutil.copytree(trial(whole, "table1/var-cv"), there.run(root).folder)
    return there


def test_digits_elsewhere_are_measured_and_other_digits_are_not(whole: Path, tmp_path: Path, digits: Path) -> None:
    elsewhere = write_digits(tmp_path / "elsewhere")
    moved = one_of_table1(whole, tmp_path, elsewhere)
    run = moved.run(tmp_path)
    before = read(run.folder, "looking")
    (run.folder / "looking.json").unlink()
    mnist.measure(TINY, moved, run)
    assert read(run.folder, "looking") == before
    (run.folder / "looking.json").unlink()
    write_digits(elsewhere, DIGITS + 1)
    with pytest.raises(UserError, match="other data than it was trained with"):
        mnist.measure(TINY, moved, run)
    assert not (run.folder / "looking.json").exists()


def test_data_without_test_digits_are_measured_on_validation_digits_alone(
    whole: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mnist, "EMBEDDED", str(digits))
    untested = one_of_table1(whole, tmp_path, digits)
    run = untested.run(tmp_path)
    for name in ("evaluation-test", "evaluation-validation"):
        (run.folder / f"{name}.json").unlink()
    mnist.measure(TINY, untested, run)
    assert (run.folder / "evaluation-validation.json").exists() and not (run.folder / "evaluation-test.json").exists()


def test_mistakes_end_in_one_line(
    whole: Path, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no learning rates are chosen" in refused(capsys, *words(tmp_path, digits, "--only", "table1"))
    assert "seeds must be at least 1, got 0" in refused(capsys, *words(tmp_path, digits, "--seeds", "0"))
    (tmp_path / "incomplete").mkdir()
    shutil.copy(digits / "train-images-idx3-ubyte", tmp_path / "incomplete")
    assert "train-labels" in refused(capsys, *words(tmp_path, tmp_path / "incomplete"))
    for path in digits.glob("train-*"):
        shutil.copy(path, tmp_path / "incomplete")
    assert "t10k-images" in refused(capsys, *words(tmp_path, tmp_path / "incomplete"))
    assert "cannot read" in refused(capsys, *words(tmp_path, digits, "--from-files"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mnist.BUDGETS, "smoke", replace(TINY, updates=6))
        assert "other settings" in refused(capsys, *words(whole, digits))
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs" / "tuning.json").write_text('{"chosen": {"var-cv": 1}}')
    assert "holds no learning rates" in refused(capsys, *words(tmp_path, digits))
    assert not (tmp_path / "results").exists()
