"""Every reader, given whatever bytes: it reads what is right, or refuses it in one line.

`make fuzz` tries many more examples.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import checkpoint, tiny_config, weights
from wsram.data.captions import load_captions
from wsram.data.listing import read_table
from wsram.data.mnist import read_idx
from wsram.errors import UserError
from wsram.evaluate import open_trained
from wsram.models.pretrained import from_pretrained, load_network
from wsram.runs import Run, damage, load_state
from wsram.settings import from_json, to_json
from wsram.strict_json import loads


def refused_or(call: Callable[[], Any]) -> Any:
    """What the call gives, or None if it refuses: in one line."""
    try:
        return call()
    except UserError as error:
        assert "\n" not in str(error)
        return None


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with some of them changed, removed or added, or cut off."""
    place = st.integers(0, max(0, len(whole) - 1))

    def flip(at: int, bit: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]

    def put(at: int, until: int, what: bytes) -> bytes:
        return whole[: min(at, until)] + what + whole[max(at, until) :]

    odd = st.sampled_from([b"\x00" * 9, b"\xff" * 8, b"NaN", b"1e999", b"[" * 3000, b"9" * 5000, b"null", b"-1", b'"'])
    return st.one_of(
        st.builds(flip, place, st.integers(0, 7)),
        st.builds(put, place, place, st.one_of(st.binary(max_size=40), odd)),
        st.builds(lambda at: whole[:at], place),
    )


def idx(values: torch.Tensor) -> bytes:
    lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
    return bytes([0, 0, 8, values.ndim]) + lengths + values.numpy().tobytes()


FEW = settings(max_examples=max(10, settings().max_examples // 5))
"""Of what takes longer."""
ARRAY = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
SENTENCES = [{"raw": "A dog ."}, {"tokens": ["two", "dogs"]}]
KARPATHY = json.dumps({"images": [{"filename": "a.jpg", "split": "train", "sentences": SENTENCES}]}).encode()
CSV = b'path,label,split\na.png,cat,train\n"b, c.png",dog|cat,val\n'
JSONL = b'{"path": "a.png", "label": ["cat", "dog"]}\n{"path": "b.png", "label": 3.5, "split": "test"}\n'
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.jpg").write_bytes(b"not looked at")
    return folder


@given(content=st.one_of(damaged(idx(ARRAY)), damaged(gzip.compress(idx(ARRAY))), st.binary(max_size=60)))
def test_idx_files(place: Path, content: bytes) -> None:
    path = place / "array"
    path.write_bytes(content)
    read = refused_or(lambda: read_idx(path))
    assert read is None or read.dtype == torch.uint8


@given(content=st.one_of(damaged(CSV), st.binary(max_size=80)), suffix=st.sampled_from(["csv", "tsv"]))
def test_tables(place: Path, content: bytes, suffix: str) -> None:
    path = place / f"table.{suffix}"
    path.write_bytes(content)
    refused_or(lambda: read_table(path))


@given(content=st.one_of(damaged(JSONL), st.builds(lambda v: json.dumps(v).encode(), JSON_VALUES)))
def test_lines_of_json(place: Path, content: bytes) -> None:
    path = place / "table.jsonl"
    path.write_bytes(content)
    refused_or(lambda: read_table(path))


@given(
    content=damaged(KARPATHY), value=JSON_VALUES, name=st.sampled_from(["filename", "split", "sentences", "filepath"])
)
def test_captions(place: Path, content: bytes, value: Any, name: str) -> None:
    path = place / "captions.json"
    path.write_bytes(content)
    refused_or(lambda: load_captions(path, "train"))
    found = json.loads(KARPATHY)
    found["images"][0][name] = value
    path.write_text(json.dumps(found))
    refused_or(lambda: load_captions(path, "train"))


@given(value=JSON_VALUES)
def test_json_gives_back_what_was_written_if_it_means_one_thing(value: Any) -> None:
    written = json.dumps(value)
    try:
        assert json.dumps(loads(written)) == written
    except ValueError:
        assert "NaN" in written or "Infinity" in written


@FEW
@given(data=st.data())
def test_settings(data: st.DataObject) -> None:
    whole = to_json(tiny_config("digits"))
    found = refused_or(lambda: from_json(data.draw(damaged(whole.encode())).decode(errors="replace"), "settings"))
    assert found is None or from_json(to_json(found), "again") == found
    described = json.loads(whole)
    section = described[data.draw(st.sampled_from([name for name, value in described.items() if type(value) is dict]))]
    section[data.draw(st.sampled_from(sorted(section)))] = data.draw(JSON_VALUES)
    refused_or(lambda: from_json(json.dumps(described), "settings"))


@FEW
@given(data=st.data())
def test_descriptions_of_networks(place: Path, digit_run: Path, data: st.DataObject) -> None:
    """Weights are checked against the description: a network that loads is one of the file's own."""
    newest, folder = checkpoint(digit_run), place / "network"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(newest / "model.safetensors", folder / "model.safetensors")
    described = json.loads((newest / "config.json").read_text())
    name = data.draw(st.sampled_from(sorted(described["arguments"])))
    described["arguments"][name] = data.draw(JSON_VALUES)
    texts = st.sampled_from([json.dumps(described).encode()]) | damaged((newest / "config.json").read_bytes())
    (folder / "config.json").write_bytes(data.draw(texts))
    network = refused_or(lambda: load_network(folder))
    if network is not None:
        assert {name: tensor.shape for name, tensor in network.state_dict().items()} == {
            name.removeprefix("model: "): tensor.shape
            for name, tensor in weights(digit_run).items()
            if name.startswith("model: ") and (network.inference is not None or ": inference." not in name)
        }


@FEW
@given(data=st.data())
def test_weights(place: Path, digit_run: Path, data: st.DataObject) -> None:
    newest, folder = checkpoint(digit_run), place / "weights"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(newest / "config.json", folder / "config.json")
    whole = (newest / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    spoilt = damaged(whole[:header]).map(lambda head: head + whole[header:]) | damaged(whole)
    (folder / "model.safetensors").write_bytes(data.draw(spoilt))
    network = refused_or(lambda: load_network(folder))
    assert network is None or all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


@FEW
@given(data=st.data())
def test_every_file_of_a_checkpoint(place: Path, digit_run: Path, data: st.DataObject) -> None:
    """Whatever is changed of one, it is known for damaged and the one before is used."""
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(digit_run, run)
    older, newest = Run.open(run).checkpoints()
    path = data.draw(st.sampled_from(sorted(newest.iterdir())))
    whole = path.read_bytes()
    path.write_bytes(spoilt := data.draw(damaged(whole)))
    if damage(newest) is None:  # a change that was none, or of what separates names in the list of hashes
        assert spoilt == whole or path.name == "hashes.json"
    else:
        assert Run.open(run).latest_checkpoint() == older
    refused_or(lambda: load_state(newest))


@FEW
@given(data=st.data())
def test_every_small_file_of_a_run(place: Path, digit_run: Path, data: st.DataObject) -> None:
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(digit_run, run)
    names = ["training.json", "data.json", "metrics.jsonl", "calibration.json"]
    path = run / data.draw(st.sampled_from([name for name in names if (run / name).exists()]))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    opened = refused_or(lambda: Run.open(run))
    if opened is not None:
        refused_or(opened.metrics)
        refused_or(lambda: opened.check_data({"train": "a", "validation": "b"}))
    refused_or(lambda: from_pretrained(run))
    if path.name == "data.json":
        trained = refused_or(lambda: open_trained(run))
        assert trained is None or refused_or(trained.own_data) in (True, False, None)
