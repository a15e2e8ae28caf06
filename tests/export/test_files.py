"""A file for other programs is the network, at any size, or is not kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.export.test_graph import opinionated
from tests.models.networks import captioner
from tests.refusals import refusal, refused
from wsram.cli import main
from wsram.export import files
from wsram.export.checks import own
from wsram.export.files import export_file
from wsram.export.graph import Looking
from wsram.models.pretrained import save_network
from wsram.predictor import from_pretrained
from wsram.terminal import Screen

ROOT = Path(__file__).resolve().parents[2]
QUIET = Screen(quiet=True)


@pytest.fixture(scope="module")
def onnxruntime() -> Any:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="the export extra is not installed")
    return pytest.importorskip("onnxruntime", reason="the export extra is not installed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, onnxruntime: Any) -> tuple[Path, Path]:
    """A network's folder, and what `wsram export` made of it."""
    folder = tmp_path_factory.mktemp("networks")
    save_network(opinionated(glimpses=2), folder)
    main(["export", str(folder), "--to", str(folder / "new" / "model.onnx")])
    return folder, folder / "new" / "model.onnx"


def test_the_file_alone_answers_without_torch(exported: tuple[Path, Path], tmp_path: Path) -> None:
    folder, model = exported
    pixels = np.random.default_rng(0).integers(0, 256, (31, 47), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    words = [str(ROOT / "examples" / "predict_onnx.py"), str(model), str(tmp_path / "a.png")]
    said = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    expected = from_pretrained(folder).predict(tmp_path / "a.png")
    lines = said.stdout.splitlines()
    assert len(lines) == len(expected.glimpses) == 2
    for line, glimpse in zip(lines, expected.glimpses, strict=True):
        # Squares of a file have their edges at whole numbers, the pixels' centres in between.
        middle = (glimpse.left + glimpse.side / 2 - 0.5, glimpse.top + glimpse.side / 2 - 0.5)
        best = max(range(5), key=lambda n: glimpse.belief[n])
        name, share = expected.names[best], glimpse.belief[best]
        assert line == f"{glimpse.side:.0f} pixels around {middle[0]:.1f}, {middle[1]:.1f}: {name} ({share:.1%})"


def test_the_example_is_the_documented_one_and_short() -> None:
    code = (ROOT / "examples" / "predict_onnx.py").read_text().split('"""\n', 1)[1].strip()
    assert code in (ROOT / "docs" / "export.md").read_text()
    assert (
        sum(1 for line in code.splitlines() if line and not line.startswith(("import", "from", " " * 4 + "#", "#")))
        < 15
    )


def test_the_file_says_what_it_is_and_nothing_of_this_machine(exported: tuple[Path, Path], onnxruntime: Any) -> None:
    _, model = exported
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert about["names"] == list("abcde") and about["answer"] == "class" and about["channels"] == 1
    assert about["patch"] == 6 and about["scales"] == [1, 2] and about["glimpses"] == 2
    assert about["precision"] == "float32" and about["trained_in"] == "float32"
    assert [each.shape for each in session.get_inputs()] == [["batch", 1, "height", "width"]]
    outputs = {each.name: each.shape for each in session.get_outputs()}
    assert outputs == {"probabilities": ["batch", 2, 5], "locations": ["batch", 2, 2], "scales": ["batch", 2]}
    assert str(ROOT).encode() not in model.read_bytes() and b"site-packages" not in model.read_bytes()


def test_steps_can_be_taken_one_at_a_time_and_sampled(tmp_path: Path, onnxruntime: Any) -> None:
    network = opinionated(glimpses=1, answer="labels", sensor="nearest")
    export_file(network, tmp_path / "m.onnx", QUIET, sampled=True, step=True)
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.start.onnx", "m.step.onnx"}
    start, step = (onnxruntime.InferenceSession(tmp_path / f"m.{name}.onnx") for name in ("start", "step"))
    network.prediction.glimpses = 2  # steps go on for as long as one likes
    images = torch.rand(2, 1, 33, 21)
    noise = torch.randn(2, 2, 2), torch.randn(2, 2, 2)
    upper, lower = start.run(None, {"images": images.numpy()})
    expected = own(network, images, noise)
    for n in range(2):
        given = {"images": images.numpy(), "upper": upper, "lower": lower, "number": np.array(n + 1, np.float32)}
        given |= {"location_noise": noise[0][:, n].numpy(), "scale_noise": noise[1][:, n].numpy()}
        *said, upper, lower = step.run(None, given)
        for ours, theirs in zip(expected, said, strict=True):
            assert np.allclose(ours[:, n], theirs, atol=1e-5)
    names = [each.name for each in step.get_outputs()]
    assert names == ["probabilities", "present", "location", "scale", "next_upper", "next_lower"]


def test_a_network_that_points_is_a_file_too_whole_and_in_steps(tmp_path: Path, onnxruntime: Any) -> None:
    network = opinionated(glimpses=2, policy="map", network="conv", widths=(3, 4))
    export_file(network, tmp_path / "m.onnx", QUIET, step=True)  # checked by itself
    start, step = (onnxruntime.InferenceSession(tmp_path / f"m.{name}.onnx") for name in ("start", "step"))
    images = torch.rand(2, 1, 40, 30)
    upper, lower = start.run(None, {"images": images.numpy()})
    *_, locations, _ = own(network, images, None)
    for n in range(2):
        given = {"images": images.numpy(), "upper": upper, "lower": lower, "number": np.array(n + 1, np.float32)}
        _, location, _, upper, lower = step.run(None, given)
        assert np.allclose(locations[:, n], location, atol=1e-5)
    assert not torch.allclose(locations[:, 0], locations[:, 1])
    refusal(lambda: export_file(network, tmp_path / "s.onnx", QUIET, sampled=True), "leave --sampled out")


def test_a_program_of_torch_is_the_network_too(tmp_path: Path) -> None:
    network = opinionated(glimpses=2, contrast=True)
    export_file(network, tmp_path / "m.pt2", QUIET)
    known = {"about.json": ""}
    module = torch.export.load(tmp_path / "m.pt2", extra_files=known).module()
    images = torch.rand(4, 1, 25, 70)
    with torch.no_grad():
        for ours, theirs in zip(own(network, images, None), module(images), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
    assert json.loads(known["about.json"])["contrast"] is True


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = opinionated(glimpses=1)
    monkeypatch.setattr(Looking, "answer", lambda self, r1: (self.prediction.head(r1),))
    refusal(lambda: export_file(network, tmp_path / "m.pt2", QUIET), "differ from its own", "not kept")
    assert not list(tmp_path.iterdir())


def test_a_size_that_is_frozen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(self: files.Part) -> torch.export.ExportedProgram:
        return torch.export.export(self.module, tuple(self.inputs.values()), strict=False)

    monkeypatch.setattr(files.Part, "export", frozen)
    refusal(lambda: export_file(opinionated(glimpses=1), tmp_path / "m.pt2", QUIET), "1 image(s) of 60×60", "not kept")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.Part, "export", None)
    refusal(lambda: export_file(captioner(), tmp_path / "m.onnx", QUIET), "captions cannot be exported")
    network = opinionated()
    refusal(lambda: export_file(network, tmp_path / "m.tflite", QUIET), ".onnx or .pt2", ".tflite")
    (tmp_path / "m.pt2").write_text("somebody else's")
    assert "exists already" in refused(capsys, "export", "translated", "--to", str(tmp_path / "m.pt2"))
    assert (tmp_path / "m.pt2").read_text() == "somebody else's"
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refusal(lambda: export_file(network, tmp_path / "m.onnx", QUIET), 'pip install "wsram[export]"')
