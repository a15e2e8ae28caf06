"""A captioner from the command line, on images of one coloured square whose captions name its colour."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from refusals import refused
from tiny import rows, same_bits, weights

pytest.importorskip("PIL", reason="images need the captions extra")
pytest.importorskip("sacrebleu", reason="scores need the captions extra")

from safetensors.torch import load_file

from caption_world import COUNTS, encoder, words, write_world
from wsram import caption_report, release
from wsram.cli import main
from wsram.results import BEGIN, END
from wsram.runs import Run
from wsram.tasks import captions as task


@pytest.fixture(autouse=True)
def _small_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (task, caption_report, release):
        monkeypatch.setattr(module, "build_encoder", encoder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def features(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "build_encoder", encoder)
        main(["features", "--captions", str(world), "--features", str(folder)])
    return folder


@pytest.fixture(scope="module")
def run(world: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run long enough to learn the colours."""
    folder = tmp_path_factory.mktemp("runs") / "learned"
    main(words(world, features, "--run", str(folder), "--patience", "0", steps=240))
    return folder


def flowing(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_flaws_of_the_data_are_told(world: Path, features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["features", "--captions", str(world), "--features", str(features)])
    said = flowing(capsys.readouterr().out)
    assert "absent.png" in said and "68 images, 49 cells of 3 channels" in said


def test_it_learns_to_name_what_it_looks_at(run: Path) -> None:
    first, *_, last = [row for row in rows(run) if "nll_word" in row]
    assert last["nll_word"] < first["nll_word"] / 2
    assert last["bleu1_greedy"] > 95  # 75 without the colour; captions of three words have no BLEU-4
    assert last["attention_entropy"] < first["attention_entropy"]
    assert last["nll_word"] <= last["bound_word"] + 1e-6  # Jensen


def test_its_run_is_a_folder(run: Path) -> None:
    for name in ("config.json", "provenance.json", "metrics.jsonl", "vocabulary.json", "training.png", "checkpoints"):
        assert (run / name).exists(), name
    assert not (run / "best").exists()  # no patience was asked for
    assert json.loads((run / "config.json").read_text())["task"] == "captions"


@pytest.mark.parametrize("split", ["dev", "test"])
def test_evaluation_names_protocols_and_ways(run: Path, capsys: pytest.CaptureFixture[str], split: str) -> None:
    main(["evaluate", str(run), "--samples", "4", "--beam", "2", *(["--test"] if split == "test" else [])])
    said = flowing(capsys.readouterr().out)
    for part in ("papers", "with-penalty", "coco", "greedy", "beam 2", f"{COUNTS[split]} images of {split}"):
        assert part in said
    found = json.loads((run / f"evaluation-{split}.json").read_text())
    assert found["set"] == split and found["images"] == COUNTS[split] and found["samples"] == 4
    for way in ("greedy", "beam_2"):
        for protocol in ("papers", "with-penalty", "coco"):
            assert all(0 <= value < 100.001 for value in found[way][protocol]["bleu"])
            assert "version" in found[way][protocol]["signature"]
    if split == "dev":  # training measured the same
        last = [row for row in rows(run) if "nll_word" in row][-1]
        assert found["greedy"]["papers"]["bleu"][3] == pytest.approx(last["bleu4_greedy"], abs=1e-9)


def test_evaluation_where_everything_has_moved(run: Path, world: Path, features: Path, tmp_path: Path) -> None:
    moved = {name: shutil.copytree(folder, tmp_path / name) for name, folder in [("run", run), ("cache", features)]}
    data = shutil.copytree(world, tmp_path / "data")
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"captions": "gone", "features": "gone"}
    (moved["run"] / "config.json").write_text(json.dumps(config))
    words = ["--samples", "2", "--beam", "1", "--data-dir", str(data), "--features", str(moved["cache"])]
    main(["evaluate", str(moved["run"]), *words])
    assert json.loads((moved["run"] / "evaluation-dev.json").read_text())["images"] == COUNTS["dev"]


def test_its_results_are_made_from_files(run: Path, tmp_path: Path) -> None:
    main(["evaluate", str(run), "--samples", "4", "--beam", "2", "--test"])
    page, summary, folder = tmp_path / "results.md", tmp_path / "README.md", tmp_path / "results"
    for path in (page, summary):
        path.write_text(f"{BEGIN}{END}")
    main(["results", "--add", str(run), "--folder", str(folder), "--page", str(page), "--summary", str(summary)])
    found = json.loads((run / "evaluation-test.json").read_text())
    scores = found["beam_2"]["papers"]["bleu"]
    assert " / ".join(f"{value:.1f}" for value in scores) in summary.read_text()
    for value in scores:
        assert f"{value:.1f}" in page.read_text()
    assert found["greedy"]["coco"]["signature"].replace("|", r"\|") in page.read_text()


def test_what_is_released_says_the_same(
    run: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = world / "Flicker8k_Dataset" / "50.png"
    main(["release", str(run), "--to", str(tmp_path / "released")])
    for folder in (run, tmp_path / "released"):
        main(["caption", str(image), "--run", str(folder), "--pictures", str(tmp_path)])
    said = re.findall(rf"{image}: (.*)", capsys.readouterr().out)
    assert len(said) == 2 and said[0] == said[1]
    assert (
        str(world) not in (tmp_path / "released" / "config.json").read_text()
    )  # where the data lay is nobody's business
    kept = load_file(tmp_path / "released" / "best" / "model.safetensors")
    assert kept and all(name.startswith("decoder.") for name in kept)
    assert "exists already" in refused(capsys, "release", str(run), "--to", str(tmp_path / "released"))


def test_a_caption_and_its_picture(run: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [world / "Flicker8k_Dataset" / f"{n}.png" for n in (48, 49)]
    main(["caption", *map(str, images), "--run", str(run), "--pictures", str(tmp_path)])
    said = capsys.readouterr().out
    assert "red" in said and "green" in said
    for n in (48, 49):
        assert (tmp_path / f"{n}.png").read_bytes().startswith(b"\x89PNG")


KINDS = {
    "wake-sleep, inference network": [],
    "wake-sleep, policy": ["--proposal", "policy"],
    "variational": ["--recipe", "captions-variational"],
    "soft": ["--recipe", "captions-soft", "--samples", "1"],
    "everything on": ["--temperature", "1.5", "--entropy", "0.1", "--coverage", "0.1", "--no-control-variates"],
}


@pytest.mark.parametrize("more", KINDS.values(), ids=KINDS)
def test_resumed_is_as_if_never_stopped(world: Path, features: Path, tmp_path: Path, more: list[str]) -> None:
    """Dropout too: it is drawn anew for every update, from the update's own seed."""
    main(words(world, features, *more, "--run", str(tmp_path / "whole")))
    with pytest.MonkeyPatch.context() as patch:
        save, saved = Run.save_checkpoint, []

        def once(self: Run[Any], *given: Any) -> Path:
            saved.append(save(self, *given))
            raise KeyboardInterrupt

        patch.setattr(Run, "save_checkpoint", once)
        with pytest.raises(SystemExit):
            main(words(world, features, *more, "--run", str(tmp_path / "parts")))
    main(["train-captions", "--resume", str(tmp_path / "parts")])
    assert same_bits(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


def test_patience_keeps_the_best_and_stops(world: Path, features: Path, tmp_path: Path) -> None:
    """A rate far too high: the first evaluations are the best there are."""
    main(words(world, features, "--run", str(tmp_path), "--patience", "2", "--learning-rate", "3", steps=400))
    evaluated = [row for row in rows(tmp_path) if "nll_word" in row]
    best = min(evaluated, key=lambda row: row["nll_word"])
    assert evaluated[-1]["step"] < 400 and len(evaluated) == evaluated.index(best) + 3
    assert json.loads((tmp_path / "best" / "state.json").read_text())["step"] == best["step"]
    before = rows(tmp_path)
    main(["train-captions", "--resume", str(tmp_path)])  # it has stopped, and stays so
    assert rows(tmp_path) == before


def test_mistakes_end_in_one_line(
    world: Path, features: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(world, features, "--run", str(tmp_path / "run"))
    assert "--captions" in refused(capsys, "features")
    assert "feature cache" in refused(capsys, *given, "--features", str(tmp_path / "none"))
    assert "soft attention" in refused(capsys, *given, "--attention", "soft")
    assert "choose another folder" in refused(capsys, *given, "--encoder", "efficientnet-lite0")
    assert "unknown recipe" in refused(capsys, *given, "--recipe", "cake")
    assert not (tmp_path / "run").exists()
    assert "at least 1 sample" in refused(capsys, "evaluate", str(run), "--samples", "0")
    assert "beam" in refused(capsys, "evaluate", str(run), "--beam", "0")
    (tmp_path / "text.jpg").write_text("no image")
    assert "text.jpg" in refused(capsys, "caption", str(tmp_path / "text.jpg"), "--run", str(run))
    assert "holds no run" in refused(capsys, "caption", str(tmp_path / "text.jpg"), "--run", str(tmp_path))
    assert "train --resume" not in refused(capsys, *words(world, features, "--run", str(run)))
    assert "expected a run that trains digits" in refused(capsys, "train", "--resume", str(run))
