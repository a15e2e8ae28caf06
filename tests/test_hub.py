"""Networks go to the Hugging Face Hub and come back, by its own client, to and from a stand-in of its servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.hub import Hub, serving
from tests.refusals import refusal, refused
from wsram.cli import main
from wsram.models.pretrained import RELEASED
from wsram.predictor import from_pretrained

# How huggingface_hub hands a file to httpx.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOKEN = "hf_of_nobody"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, which HF_ENDPOINT would name, and an empty cache."""
    from huggingface_hub import constants

    with serving(TOKEN) as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another protocol, of servers of its own
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield found


@pytest.fixture
def image() -> np.ndarray:
    drawn = np.zeros((60, 60), dtype=np.uint8)
    drawn[20:44, 28:32] = 255
    return drawn


def test_a_network_is_pushed_and_fetched_by_name_and_revision(
    hub: Hub, image: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = from_pretrained("translated")
    expected = ours.predict(image).outputs
    address = ours.push_to_hub("somebody/digits", token=TOKEN)
    assert address == f"{hub.address}/somebody/digits"
    files = hub.commits["somebody/digits"][0]
    assert {"README.md", "config.json", "model.safetensors", "training.json"} <= files.keys()
    assert not [name for name in files if not name.endswith((".json", ".md", ".png", ".safetensors"))]
    assert TOKEN.encode() not in b"".join(files.values())
    assert any(path.startswith("PUT /blobs/") for path in hub.asked)  # the weights as a large file
    first = "0" * 40

    with torch.no_grad():
        for parameter in ours.network.prediction.parameters():
            parameter.zero_()
    ours.push_to_hub("somebody/digits", token=TOKEN)
    assert len(hub.commits["somebody/digits"]) == 2

    assert torch.equal(from_pretrained("somebody/digits", revision=first).predict(image).outputs, expected)
    assert not torch.equal(from_pretrained("somebody/digits").predict(image).outputs, expected)
    fetched = [path for path in hub.asked if path.startswith("GET /somebody/digits/resolve/")]
    assert {path.rpartition("/")[2] for path in fetched} == {"config.json", "model.safetensors"}  # and nothing else

    refusal(lambda: from_pretrained("somebody/digits", revision="absent"), "somebody/digits", "Hub")
    refusal(lambda: from_pretrained("somebody/absent"), "somebody/absent", "Hub")

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what was fetched is there without the Hub
    before = len(hub.asked)
    assert torch.equal(from_pretrained("somebody/digits", revision=first).predict(image).outputs, expected)
    assert len(hub.asked) == before


def test_what_the_hub_reads_of_the_card_is_what_was_measured(hub: Hub) -> None:
    from_pretrained("translated").push_to_hub("somebody/digits", token=TOKEN)
    head = hub.cards[-1]
    assert head["library_name"] == "wsram" and head["pipeline_tag"] == "image-classification"
    assert head["license"] == "mit" and head["datasets"] == ["ylecun/mnist"] and head["metrics"] == ["accuracy"]
    (entry,) = head["model-index"]
    assert entry["name"] == "digits"
    for result in entry["results"]:
        part = result["dataset"]["split"]
        kept = json.loads((RELEASED / "translated" / f"evaluation-{part}.json").read_text())
        (metric,) = result["metrics"]
        assert metric["type"] == "accuracy" and metric["value"] == pytest.approx(1 - kept["error_mode"], abs=1e-6)
        assert metric["args"] == {"precision": "float32", "examples": kept["examples"]}
    assert {result["dataset"]["split"] for result in entry["results"]} == {"validation", "test"}


def test_a_stranger_may_not_write(hub: Hub) -> None:
    refusal(lambda: from_pretrained("translated").push_to_hub("somebody/digits", token="hf_wrong"), "somebody/digits")
    assert not hub.commits


def test_a_command_takes_a_name_of_the_hub(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from_pretrained("translated").push_to_hub("somebody/digits", token=TOKEN)
    Image.new("L", (60, 60)).save(tmp_path / "black.png")
    main(["predict", "black.png", "--network", "somebody/digits"])
    assert capsys.readouterr().out.startswith("black.png: ")
    assert "somebody/absent" in refused(capsys, "predict", "black.png", "--network", "somebody/absent")
