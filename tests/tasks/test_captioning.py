"""A captioner from the command line, on images of one coloured square whose captions name its colour."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.refusals import refusal, refused
from tests.tiny import flags, rows, same_run, trained

pytest.importorskip("PIL", reason="images need the captions extra")
pytest.importorskip("sacrebleu", reason="scores need the captions extra")

import torch

from tests.caption_world import COUNTS, backbone, tiny_captions
from wsram.cli import main
from wsram.config import CaptioningConfig
from wsram.data import open_data
from wsram.data.captioned import CaptionDataset
from wsram.models.captioner import AttentionCaptioner
from wsram.models.pretrained import from_pretrained
from wsram.runs import Run
from wsram.tasks import Options
from wsram.tasks.captioning import Captioning, caption_images, evaluate_likelihood

TASK = Captioning()


@pytest.fixture
def small_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsram.predictor.build_backbone", backbone)
    monkeypatch.setattr("wsram.models.backbone.build_backbone", backbone)


@pytest.fixture(scope="module")
def run(caption_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows its colours, to be evaluated."""
    return shutil.copytree(caption_run, tmp_path_factory.mktemp("runs") / "learned")


@pytest.fixture(scope="module")
def validation(world: Path, features: Path, caption_run: Path) -> CaptionDataset:
    dataset = open_data(tiny_captions(world, features).data).validation
    assert isinstance(dataset, CaptionDataset)
    return dataset


def evaluated(folder: Path) -> list[dict[str, Any]]:
    return [row for row in rows(folder) if "nll_word" in row]


def flowing(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# From the command line


def test_flaws_of_the_data_are_told(
    world: Path, features: Path, small_backbone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["features", str(world), "--features", str(features)])
    said = flowing(capsys.readouterr().out)
    assert "absent.png" in said and "68 images, 49 cells of 3 channels" in said


def test_a_run_from_the_command_line_is_a_folder(
    world: Path, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = tiny_captions(world, features), tmp_path / "run"
    main(["train", *flags(config), "--recipe", "captions", "--run", str(folder)])
    assert re.search(r"Validation nll word [\d.]+ on 24 examples, after update 6 of 6", capsys.readouterr().out)
    assert Run.open(folder).config == config
    for name in ("provenance.json", "metrics.jsonl", "training.png", "checkpoints"):
        assert (folder / name).exists(), name
    # No patience was asked for, words are not calibrated, and the data set holds no images to draw.
    for name in ("best", "calibration.json", "glimpses.png"):
        assert not (folder / name).exists(), name
    assert json.loads((folder / "training.json").read_text())["task"] == "image-to-text"


def test_it_learns_to_name_what_it_looks_at(caption_run: Path) -> None:
    first, *_, last = evaluated(caption_run)
    assert last["nll_word"] < first["nll_word"] / 2
    assert last["bleu1_greedy"] > 95  # 75 without the colour; captions of three words have no BLEU-4
    assert last["attention_entropy"] < first["attention_entropy"]
    assert last["nll_word"] <= last["bound_word"] + 1e-6  # Jensen


@pytest.mark.parametrize("name, split", [("validation", "dev"), ("test", "test")])
def test_evaluation_names_protocols_and_ways(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, split: str
) -> None:
    main(["evaluate", str(run), "--samples", "4", "--beam", "2", *(["--test"] if name == "test" else [])])
    said = flowing(capsys.readouterr().out)
    for part in ("papers", "with-penalty", "coco", "greedy", "beam 2", f"{2 * COUNTS[split]} {name} captions"):
        assert part in said
    found = json.loads((run / f"evaluation-{name}.json").read_text())
    assert (found["set"], found["images"], found["samples"]) == (name, COUNTS[split], 4)
    assert found["examples"] == 2 * COUNTS[split]
    for way in ("greedy", "beam_2"):
        for protocol in ("papers", "with-penalty", "coco"):
            assert all(0 <= value < 100.001 for value in found[way][protocol]["bleu"])
            assert "version" in found[way][protocol]["signature"]
    if name == "validation":  # training measured the same
        last = evaluated(run)[-1]
        for order in (1, 4):
            bleu = found["greedy"]["papers"]["bleu"][order - 1]
            assert bleu == pytest.approx(last[f"bleu{order}_greedy"], abs=1e-9)


def test_evaluation_where_everything_has_moved(run: Path, world: Path, features: Path, tmp_path: Path) -> None:
    moved, cache = shutil.copytree(run, tmp_path / "run"), shutil.copytree(features, tmp_path / "cache")
    data = shutil.copytree(world, tmp_path / "data")
    (moved / "evaluation-validation.json").unlink(missing_ok=True)
    config = json.loads((run / "training.json").read_text())
    config["data"] |= {"source": "gone", "features": "gone"}
    (moved / "training.json").write_text(json.dumps(config))
    main(["evaluate", str(moved), str(data), "--samples", "2", "--beam", "1", "--features", str(cache)])
    found = json.loads((moved / "evaluation-validation.json").read_text())
    assert found["images"] == COUNTS["dev"] and found["data"]["source"] == "data"


def test_what_is_released_says_the_same(
    run: Path, world: Path, features: Path, tmp_path: Path, small_backbone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    target, images = tmp_path / "released", [world / "Flicker8k_Dataset" / f"{n}.png" for n in (48, 49)]
    main(["evaluate", str(run), "--samples", "2", "--beam", "2", "--test"])
    main(["release", str(run), "--to", str(target)])
    capsys.readouterr()
    for folder in (run, target):
        main(["predict", *map(str, images), "--network", str(folder)])
    said = re.findall(r"\d\d\.png: (.*)", capsys.readouterr().out)
    assert len(said) == 4 and said[:2] == said[2:]
    assert "red" in said[0] and "green" in said[1]
    text = (target / "README.md").read_text()
    assert "pipeline_tag: image-to-text" in text
    scores = json.loads((run / "evaluation-test.json").read_text())["beam_2"]["papers"]["bleu"]
    assert " | ".join(f"{value:.1f}" for value in scores) in text
    for path in target.iterdir():  # where the data lay is nobody's business
        assert not [place for place in (world, features) if str(place).encode() in path.read_bytes()], path


def test_mistakes_end_in_one_line(
    world: Path, features: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = ["--recipe", "captions", "--run", str(tmp_path / "run")]
    given = ["train", *flags(tiny_captions(world, features)), *new]
    assert "feature" in refused(capsys, *given, "--features", str(tmp_path / "none"))
    assert "soft attention" in refused(capsys, *given, "--attention", "soft")
    assert "choose another folder" in refused(capsys, *given, "--backbone", "efficientnet-lite0")
    assert not (tmp_path / "run").exists()
    assert "at least 1 sample" in refused(capsys, "evaluate", str(run), "--samples", "0")
    assert "beam" in refused(capsys, "evaluate", str(run), "--beam", "0")


# What is measured


def test_likelihood_of_soft_attention_is_that_of_each_caption_by_itself(
    world: Path, features: Path, validation: CaptionDataset
) -> None:
    network = TASK.build(_soft(world, features), validation.spec).eval()
    total, words = 0.0, 0
    for n in range(len(validation)):
        batch = validation.batch(torch.tensor([n]))
        with torch.no_grad():
            generator = torch.Generator()
            rollout = network(batch.images, batch.answers, samples=1, generator=generator, with_inference=False)
        assert rollout.log_p_y.shape[-1] == int(validation.lengths[n])
        total -= float(rollout.log_p_y.sum())
        words += int(validation.lengths[n])
    found = evaluate_likelihood(network, validation, samples=1)
    assert found == {name: pytest.approx(total / words, rel=1e-5) for name in ("nll_word", "bound_word")}
    refusal(lambda: TASK.evaluate(network, validation, Options(samples=2), nullcontext), "leave --samples out")
    assert TASK.evaluate(network, validation, Options(beam=1), nullcontext)["samples"] == 1


def test_of_one_sample_the_evidence_is_the_bound_and_of_many_it_is_above_it(
    caption_run: Path, validation: CaptionDataset
) -> None:
    network = _network(caption_run)
    dataset = TASK.fitting(network, validation)
    assert isinstance(dataset, CaptionDataset)
    one, many = (evaluate_likelihood(network, dataset, samples=samples) for samples in (1, 32))
    assert one["nll_word"] == pytest.approx(one["bound_word"])
    assert many["nll_word"] < many["bound_word"]
    assert evaluate_likelihood(network, dataset, samples=32) == many  # its draws are its own


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(caption_run: Path, validation: CaptionDataset, training: bool) -> None:
    network = _network(caption_run).train(training)
    dataset = TASK.fitting(network, validation)
    assert isinstance(dataset, CaptionDataset)
    evaluate_likelihood(network, dataset, samples=2)
    assert len(caption_images(network, dataset, beam=2)) == COUNTS["dev"]
    assert network.training is training and all(p.grad is None for p in network.parameters())


def test_features_of_another_backbone_are_refused(validation: CaptionDataset) -> None:
    other = AttentionCaptioner(words=validation.spec.names, channels=5, embedding=4, units=4, attention_units=4)
    refusal(lambda: TASK.fitting(other, validation), "features of 5 channels, got 3")


def _soft(world: Path, features: Path) -> CaptioningConfig:
    soft = dict(attention="soft", name="wake-sleep", proposal="policy", control_variates=False, samples=1)
    return tiny_captions(world, features, **soft)


def _network(folder: Path) -> AttentionCaptioner:
    network = from_pretrained(folder)
    assert isinstance(network, AttentionCaptioner)
    return network


# Training


KINDS: dict[str, dict[str, Any]] = {
    "wake-sleep, inference network": {},
    "wake-sleep, policy": dict(proposal="policy"),
    "variational": dict(name="variational-credit", proposal="policy"),
    "soft": dict(attention="soft", name="wake-sleep", proposal="policy", control_variates=False, samples=1),
    "everything on": dict(temperature=1.5, entropy=0.1, coverage=0.1, control_variates=False, sleep=0.3),
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_resumed_is_as_if_never_stopped(
    world: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Dropout too: it is drawn anew for every update, from the update's own seed."""
    config = tiny_captions(world, features, **changes)
    trained(tmp_path / "whole", config)
    original = Captioning.rollout

    def once(self: Captioning, config: Any, model: Any, batch: Any, update: Any) -> Any:
        if update.step == 3:
            raise KeyboardInterrupt
        return original(self, config, model, batch, update)

    with monkeypatch.context() as patch:
        patch.setattr(Captioning, "rollout", once)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", config)
    assert not same_run(tmp_path / "whole", tmp_path / "parts")
    trained(tmp_path / "parts", config, resume=True)
    assert same_run(tmp_path / "whole", tmp_path / "parts")


def test_patience_keeps_the_best_and_stops(world: Path, features: Path, tmp_path: Path) -> None:
    """A rate far too high: the first evaluations are the best there are."""
    config = tiny_captions(world, features, updates=400, patience=2, learning_rate=3.0)
    trained(tmp_path, config)
    found = evaluated(tmp_path)
    best = min(found, key=lambda row: row["nll_word"])
    assert found[-1]["step"] < 400 and len(found) == found.index(best) + 3
    [kept] = (tmp_path / "best").iterdir()
    assert json.loads((kept / "state.json").read_text())["step"] == best["step"]
    before = rows(tmp_path)
    trained(tmp_path, config, resume=True)  # it has stopped, and stays so
    assert rows(tmp_path) == before
