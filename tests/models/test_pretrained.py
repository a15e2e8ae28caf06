"""Networks come back from their folder to the last bit, and nothing else does: each other file is refused by name."""

from __future__ import annotations

import inspect
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.refusals import refusal
from wsram.data.vocabulary import SPECIALS
from wsram.models import pretrained
from wsram.models.captioner import AttentionCaptioner
from wsram.models.classifier import AttentionClassifier
from wsram.models.pretrained import (
    CONFIG,
    NETWORKS,
    WEIGHTS,
    Network,
    fill,
    from_pretrained,
    load_network,
    network_folder,
    read_tensors,
    released,
    save_network,
)

CLASSIFIER = dict(
    answer="labels",
    names=("cat", "dög"),
    channels=2,
    glimpses=2,
    patch=8,
    scales=(1, 3),
    sensor="nearest",
    contrast=True,
    aim="contrast",
    recurrence="lstm",
    network="conv",
    widths=(3, 5),
    lower_units=9,
    upper_units=7,
    view=9,
    std_range=(0.1, 0.5),
    unit=(1.5, 0.25),
    longest=300,
    calibration=(0.25, -1.5),
    precision="bf16",
    scale_toll=0.75,
    binding="product",
    leak=0.125,
    warp=0.1,
    dropout=0.25,
    read_dropout=0.25,
)
CAPTIONER = dict(
    words=(*SPECIALS, "a", "hünd"),
    channels=6,
    backbone="efficientnet-lite0",
    grid=14,
    attention="hard",
    embedding=5,
    units=7,
    attention_units=3,
    dropout=0.25,
    precision="bf16",
)


def classifier(inference: bool = True, **changes: Any) -> AttentionClassifier:
    return AttentionClassifier(inference=inference, **(CLASSIFIER | changes))


def captioner(inference: bool = True, **changes: Any) -> AttentionCaptioner:
    return AttentionCaptioner(inference=inference, **(CAPTIONER | changes))


KINDS: dict[str, Callable[..., Network]] = {"classifier": classifier, "captioner": captioner}
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A classifier in a folder."""
    save_network(classifier(), tmp_path)
    return tmp_path


def equal(ours: Network, theirs: Network) -> bool:
    one, other = ours.state_dict(), theirs.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def as_json(arguments: dict[str, Any]) -> Any:
    return json.loads(json.dumps(arguments))


# There and back


def test_there_is_a_network_here_of_every_kind() -> None:
    assert NETWORKS.keys() == KINDS.keys()


@EVERY
@pytest.mark.parametrize("inference", [True, False])
def test_what_is_saved_is_loaded_to_the_last_bit(kind: str, inference: bool, tmp_path: Path) -> None:
    network = KINDS[kind](inference)
    save_network(network, tmp_path)
    loaded = load_network(tmp_path)
    assert type(loaded) is type(network) and equal(loaded, network)
    assert (loaded.inference is not None) == inference
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    # Also as they lie in memory: convolutions with their channels last, which are faster and round differently.
    assert [p.stride() for p in loaded.parameters()] == [p.stride() for p in network.parameters()]


@EVERY
def test_arguments_survive_and_the_second_copy_is_the_first_to_the_byte(kind: str, tmp_path: Path) -> None:
    network = KINDS[kind]()
    for name, parameter in inspect.signature(type(network)).parameters.items():
        if name not in ("attention", "inference", "freeze", "policy") and not name.startswith("map_"):  # tested below
            assert network.arguments[name] != parameter.default  # the test can see that it survives
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        save_network(network, folder)
        network = load_network(folder)
        assert as_json(network.arguments) == as_json(KINDS[kind]().arguments)
    for name in (CONFIG, WEIGHTS):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
        assert (folders[0] / name).stat().st_mode & 0o044 == 0o044  # whoever gets the folder can read it
    assert sorted(path.name for path in folders[0].iterdir()) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize(
    "arguments",
    [
        dict(answer="class", calibration=(2.5,)),
        dict(answer="number", names=("größe",), unit=(40.0, 0.1), calibration=None),
        dict(longest=None, calibration=None),
        dict(
            policy="map",
            map_stride=3,
            map_apart=True,
            map_query=False,
            inference=False,
            map_toll=5.0,
            map_evidence=True,
            map_dropout=0.3,
            recurrence="evidence",
            aim="middle",
        ),
    ],
    ids=str,
)
def test_every_kind_of_answer_survives(arguments: dict[str, Any], tmp_path: Path) -> None:
    network = classifier(**arguments).eval()
    save_network(network, tmp_path)
    loaded = load_network(tmp_path)
    assert as_json(loaded.arguments) == as_json(network.arguments)
    images = torch.rand(3, 2, 20, 30)
    ours, theirs = (each.head.probabilities(each.predict(images).outputs) for each in (loaded, network))
    assert torch.equal(ours, theirs)


def test_a_calibration_made_after_training_survives(tmp_path: Path) -> None:
    network = classifier(calibration=None)
    network.calibrate([1.0, 2.0])
    save_network(network, tmp_path)
    assert load_network(tmp_path).head.thresholds == [1.0, 2.0]


def test_soft_attention_survives(tmp_path: Path) -> None:
    save_network(captioner(inference=False, attention="soft"), tmp_path)
    assert load_network(tmp_path).decoder.attention == "soft"


def test_a_loaded_network_answers_as_the_saved_one(tmp_path: Path) -> None:
    images, features = torch.rand(3, 2, 20, 30), torch.randn(3, 4, 6)
    for kind, build in KINDS.items():
        (tmp_path / kind).mkdir()
        network = build().eval()
        save_network(network, tmp_path / kind)
        loaded = load_network(tmp_path / kind)
        if kind == "classifier":
            assert torch.equal(loaded.predict(images).outputs, network.predict(images).outputs)
            assert loaded.head.names == ("cat", "dög") and loaded.head.thresholds == [0.25, -1.5]
        else:
            assert torch.equal(loaded.speak(features).log_p, network.speak(features).log_p)
            assert loaded.vocabulary == network.vocabulary


@EVERY
def test_the_inference_network_can_be_left_out_on_either_way(kind: str, tmp_path: Path) -> None:
    network, without, again = KINDS[kind](), tmp_path / "without", tmp_path / "again"
    for folder in (without, again):
        folder.mkdir()
    save_network(network, tmp_path)
    save_network(network, without, inference=False)
    assert network.inference is not None  # it is left out of the file alone
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("inference.")}
    for folder, asked in ((tmp_path, False), (without, True), (without, False)):
        loaded = load_network(folder, inference=asked)
        assert loaded.inference is None and loaded.arguments["inference"] is False
        assert loaded.state_dict().keys() == kept.keys()
        assert all(torch.equal(value, kept[name]) for name, value in loaded.state_dict().items())
    save_network(load_network(tmp_path, inference=False), again)
    assert (again / WEIGHTS).read_bytes() == (without / WEIGHTS).read_bytes()


@EVERY
def test_loading_neither_draws_random_numbers_nor_depends_on_them(kind: str, tmp_path: Path) -> None:
    save_network(KINDS[kind](), tmp_path)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(load_network(tmp_path))
        assert torch.equal(torch.get_rng_state(), before)
    assert equal(*found)


def test_a_byte_order_mark_is_read_over(saved: Path) -> None:
    (saved / CONFIG).write_bytes(b"\xef\xbb\xbf" + (saved / CONFIG).read_bytes())
    load_network(saved)


# Weights that are not the network's

NAME = "prediction.policy_head.bias"


def changed(of: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """Damage that a program did which could write safetensors."""

    def damage(path: Path) -> None:
        tensors = load_file(path)
        of(tensors)
        save_file(tensors, path)

    return damage


def becomes(value: Tensor | Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    """Damage to one tensor."""
    return changed(lambda t: t.update({NAME: value if isinstance(value, Tensor) else value(t[NAME]).contiguous()}))


def one_number(value: float) -> Callable[[Path], None]:
    return changed(lambda t: t[NAME].__setitem__(0, value))


def bytes_become(of: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(of(path.read_bytes()))  # type: ignore[return-value]


def header(text: str) -> Callable[[Path], None]:
    return bytes_become(lambda _: len(text.encode()).to_bytes(8, "little") + text.encode())


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "int64": (becomes(lambda t: t.long()), (NAME, "float32", "int64")),
    "float16": (becomes(lambda t: t.half()), (NAME, "float32", "float16")),
    "float64": (becomes(lambda t: t.double()), (NAME, "float32", "float64")),
    "bool": (becomes(lambda t: t > 0), (NAME, "float32", "bool")),
    "complex": (becomes(lambda t: t.to(torch.complex64)), (NAME, "float32", "complex64")),
    "eight bits": (becomes(lambda t: t.to(torch.float8_e4m3fn)), (NAME, "float32", "float8")),
    "no number": (one_number(float("nan")), (NAME, "not finite")),
    "infinite": (one_number(float("-inf")), (NAME, "not finite")),
    "another shape": (becomes(lambda t: t[:-1]), (NAME, "(6, 'float32')", "(5, 'float32')")),
    "another axis": (becomes(lambda t: t.unsqueeze(0)), (NAME, "(1, 6, 'float32')")),
    "a scalar": (becomes(torch.tensor(0.0)), (NAME, "('float32',)")),
    "nothing in it": (becomes(torch.zeros(0)), (NAME, "(0, 'float32')")),
    "too many": (changed(lambda t: t.update(another=torch.zeros(1))), ("'another'", "nothing")),
    "too few": (changed(lambda t: t.pop(NAME)), (NAME, "nothing")),
    "none at all": (changed(lambda t: t.clear()), ("nothing",)),
    "a name to command a terminal": (changed(lambda t: t.update({"\x1b[2J\nx": torch.zeros(1)})), ("x1b[2J",)),
    "an endless name": (changed(lambda t: t.update({"x" * 10**5: torch.zeros(1)})), ("xxx",)),
    "truncated": (bytes_become(lambda b: b[:-1]), ()),
    "truncated in its header": (bytes_become(lambda b: b[:100]), ()),
    "a byte too many": (bytes_become(lambda b: b + b"\0"), ()),
    "empty": (bytes_become(lambda _: b""), ()),
    "a header of 2**63 bytes": (bytes_become(lambda b: (2**63).to_bytes(8, "little") + b[8:]), ()),
    "a header of nothing": (header(""), ()),
    "a header that is no JSON": (header("{"), ()),
    "a header of lists": (header("[" * 10_000), ()),
    "a header of objects": (header('{"a":' * 10_000), ()),
    "a header of a type nobody knows": (header('{"a":{"dtype":"F7","shape":[0],"data_offsets":[0,0]}}'), ()),
    "a header of a type torch lacks": (header('{"a":{"dtype":"F4","shape":[0],"data_offsets":[0,0]}}'), ()),
    "a header of impossible sizes": (
        header('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
        (),
    ),
    "a header that reads beyond the end": (header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), ()),
    "a web page": (bytes_become(lambda _: b"<html>not found</html>"), ()),
    "a folder": (a_folder, ()),
    "absent": (Path.unlink, ("No such file",)),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_weights_that_are_not_the_networks_are_refused_by_name(
    damage: Callable[[Path], None], words: tuple[str, ...], saved: Path
) -> None:
    damage(saved / WEIGHTS)
    message = refusal(lambda: load_network(saved), saved / WEIGHTS, *words)
    assert message.isprintable() and len(message) < 600


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_in_their_place_is_refused_and_no_code_in_it_runs(how: str, saved: Path) -> None:
    bomb = {NAME: Bomb(saved / "exploded")}
    if how == "pickle":
        (saved / WEIGHTS).write_bytes(pickle.dumps(bomb))
        pickle.loads((saved / WEIGHTS).read_bytes())
        assert (saved / "exploded").exists()  # it would
        (saved / "exploded").unlink()
    else:
        torch.save(bomb, saved / WEIGHTS)
    refusal(lambda: load_network(saved), saved / WEIGHTS)
    assert not (saved / "exploded").exists()


def test_a_file_that_memory_cannot_hold_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> dict[str, Tensor]:
        raise MemoryError  # which says nothing

    monkeypatch.setattr(pretrained, "load_file", full)
    refusal(lambda: read_tensors(saved / WEIGHTS), saved / WEIGHTS, "MemoryError")


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    for kind, build in KINDS.items():
        (tmp_path / kind).mkdir()
        save_network(build(), tmp_path / kind)
    (tmp_path / "classifier" / WEIGHTS).write_bytes((tmp_path / "captioner" / WEIGHTS).read_bytes())
    refusal(lambda: load_network(tmp_path / "classifier"), tmp_path / "classifier" / WEIGHTS, "another network")


def test_a_network_is_filled_whole_or_not_at_all(saved: Path) -> None:
    network, tensors = classifier(), read_tensors(saved / WEIGHTS)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    bad = tensors | {max(tensors): torch.full_like(tensors[max(tensors)], float("nan"))}
    refusal(lambda: fill(network, bad, saved / WEIGHTS), saved / WEIGHTS, max(tensors))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    fill(network, tensors, saved / WEIGHTS)
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())


# Descriptions that are of no network


def described(folder: Path, kind: str | None = None, **changes: Any) -> None:
    """Change arguments in a folder's config.json, or the kind of network."""
    whole = json.loads((folder / CONFIG).read_text())
    whole["arguments"].update(changes)
    (folder / CONFIG).write_text(json.dumps(whole | ({} if kind is None else {"model_type": kind})))


TEXTS = {
    "empty": b"",
    "no JSON": b"{'model_type': 1}",
    "cut off": b'{"model_type": "wsram-cla',
    "nested deeply": b"[" * 100_000,
    "nested deeply in its arguments": b'{"model_type": "wsram-classifier", "arguments": ' + b'{"a":' * 100_000,
    "a list": b"[]",
    "null": b"null",
    "a number of 5000 digits": b"9" * 5000,
    "no kind": b'{"arguments": {}}',
    "a kind that is no name": b'{"model_type": ["wsram-classifier"], "arguments": {}}',
    "no arguments": b'{"model_type": "wsram-classifier"}',
    "a list of arguments": b'{"model_type": "wsram-classifier", "arguments": [["names", ["a", "b"]]]}',
    "not UTF-8": b"\xff\xfe{}",
    "somebody else's": b'{"model_type": "bert", "hidden_size": 768}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_description_of_no_network_is_refused_by_name(text: bytes, saved: Path) -> None:
    (saved / CONFIG).write_bytes(text)
    message = refusal(lambda: load_network(saved), saved / CONFIG)
    assert message.isprintable() and len(message) < 600


ARGUMENTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown": (dict(depth=3), ("'depth'", "another version")),
    "unknown and to command a terminal": ({"\x1b[2J\n": 3}, ("x1b[2J",)),
    "a word for a number": (dict(glimpses="4"), ("glimpses", "'4'")),
    "a fraction for a number": (dict(glimpses=2.5), ("glimpses", "2.5")),
    "a truth for a number": (dict(patch=True), ("patch", "True")),
    "nothing for a number": (dict(view=None), ("view", "None")),
    "a word for a truth": (dict(inference="yes"), ("inference", "'yes'")),
    "a word for a list": (dict(names="ab"), ("names", "'ab'")),
    "numbers for words": (dict(names=[1, 2]), ("names", "[1, 2]")),
    "lists for numbers": (dict(scales=[[1], [3]]), ("scales", "[[1], [3]]")),
    "an object for a word": (dict(recurrence={}), ("recurrence", "{}")),
    "an endless word": (dict(sensor="x" * 10**6), ("xxx",)),
    "a word for a number or nothing": (dict(longest="far"), ("longest", "'far'")),
    "one bound": (dict(std_range=[0.1]), ("not enough values",)),
    "no scale": (dict(scales=[]), ("scales",)),
    "an unknown recurrence": (dict(recurrence="elman"), ("'elman'", "relu, gru, lstm, evidence")),
    "an unknown answer": (dict(answer="essay"), ("'essay'",)),
    "no number": (dict(std_range=[float("nan"), 1.0]), ("NaN",)),
    "endless": (dict(std_range=[0.1, float("inf")]), ("Infinity",)),
    "a calibration of no number": (dict(calibration=[float("nan"), 0.0]), ("NaN is no number",)),
    "a calibration of something else": (dict(calibration=[0.5]), ("expected 2 value(s)", "got 1")),
    "a number no float holds": (dict(std_range=[0.1, 10**400]), ("std_range",)),
    "below 1": (dict(glimpses=-4), ("glimpses", "-4")),
    "sizes beyond numbers": (dict(lower_units=10**30), ("arguments",)),
    "sizes beyond addresses": (dict(lower_units=10**12), ("arguments",)),
}


@pytest.mark.parametrize(("changes", "words"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_no_network_has_are_refused_by_name(
    changes: dict[str, Any], words: tuple[str, ...], saved: Path
) -> None:
    described(saved, **changes)
    message = refusal(lambda: load_network(saved), saved / CONFIG, *words)
    assert message.isprintable() and len(message) < 600


@pytest.mark.parametrize(
    "changes", [dict(lower_units=10**6), dict(view=10**5), dict(widths=[3, 10**9]), dict(widths=[3, 5, 7])], ids=str
)
def test_sizes_beyond_memory_are_held_against_the_file_before_memory_is_asked_for(
    changes: dict[str, Any], saved: Path
) -> None:
    described(saved, **changes)
    refusal(lambda: load_network(saved), saved / WEIGHTS, "of another network")


def test_an_unknown_kind_is_refused(saved: Path) -> None:
    described(saved, "wsram-oracle")
    refusal(lambda: load_network(saved), saved / CONFIG, "'oracle'", *NETWORKS)


def test_an_argument_without_which_no_network_can_be_is_missed_by_name(saved: Path) -> None:
    whole = json.loads((saved / CONFIG).read_text())
    del whole["arguments"]["names"]
    (saved / CONFIG).write_text(json.dumps(whole))
    refusal(lambda: load_network(saved), saved / CONFIG, "names")


@pytest.mark.parametrize(
    "words",
    [["a", "hünd", *SPECIALS], [*SPECIALS], ["a"], [*SPECIALS, "a", "a"], []],
    ids=["specials last", "no word", "no specials", "a word twice", "nothing"],
)
def test_words_that_are_no_vocabulary_are_refused(words: list[str], tmp_path: Path) -> None:
    save_network(captioner(), tmp_path)
    described(tmp_path, words=words)
    refusal(lambda: load_network(tmp_path), tmp_path / CONFIG, "vocabulary")


def test_what_is_no_folder_of_a_network_is_refused(saved: Path) -> None:
    refusal(lambda: load_network(saved / "absent"), saved / "absent", "name the folder")
    a_folder(saved / CONFIG)
    refusal(lambda: load_network(saved), saved / CONFIG, "directory")


# By name


def test_a_folder_is_a_networks_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    monkeypatch.chdir(saved.parent)
    for name in (saved, str(saved), f"~/{saved.name}", saved.name):
        assert equal(from_pretrained(name), load_network(saved))
    assert from_pretrained(saved, inference=False).inference is None


def test_networks_that_come_with_the_package_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "RELEASED", tmp_path / "released")
    monkeypatch.chdir(tmp_path)
    assert released() == ()
    refusal(lambda: from_pretrained("second"), "found none at second", "none here")
    for name in ("second", "first"):
        (tmp_path / "released" / name).mkdir(parents=True)
        save_network(classifier(), tmp_path / "released" / name)
    (tmp_path / "released" / "not one").mkdir()
    assert released() == ("first", "second")
    assert equal(from_pretrained("second"), load_network(tmp_path / "released" / "second"))
    assert network_folder("second") == tmp_path / "released" / "second"
    # A folder of that name goes before, since it is what a person sees.
    (tmp_path / "second").mkdir()
    refusal(lambda: from_pretrained("second"), "second", "holds no network")


@pytest.mark.parametrize("name", ["third", "", "~nobody-of-that-name/x", "x" * 5000, "a\0b", "a/b/c", "../x"])
def test_a_name_that_nothing_has_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refusal(lambda: from_pretrained(name), "network")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        "[]",
        "{}",
        '{"step": 6}',
        '{"step": 6, "values": 2}',
        '{"step": 6, "values": ["2"]}',
        '{"step": 6, "values": [NaN]}',
        '{"step": 6, "values": [0.0]}',
        '{"step": 6, "values": [1.0, 2.0]}',
    ],
    ids=lambda text: text[:30] or "empty",
)
def test_a_runs_calibration_that_is_none_is_refused_by_name(text: str, digit_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(digit_run, tmp_path / "run"))
    assert json.loads((run / "training.json").read_text())["schedule"]["updates"] == 6
    shutil.rmtree(run / "best", ignore_errors=True)  # so that the newest network, of update 6, is taken
    (run / "calibration.json").write_text('{"step": 6, "values": [2.0]}')
    assert from_pretrained(run).arguments["calibration"] == [2.0]
    (run / "calibration.json").write_text(text)
    message = refusal(lambda: from_pretrained(run), run / "calibration.json", "remove it")
    assert message.isprintable() and len(message) < 600


# The Hugging Face Hub, stood in for by what is used of it


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What was asked of the Hub, which has one network, someone/something."""
    asked: list[tuple[str, dict[str, Any]]] = []
    errors: Any = ModuleType("huggingface_hub.errors")
    for name in ("HfHubHTTPError", "HFValidationError", "LocalEntryNotFoundError"):
        setattr(errors, name, type(name, (Exception,), {}))

    def snapshot_download(name: str, **more: Any) -> str:
        asked.append((name, more))
        if name != "someone/something":
            raise errors.HfHubHTTPError("404 Client Error.\n\nRepository Not Found\x1b for url: ...")
        (tmp_path / "cache").mkdir(exist_ok=True)
        save_network(classifier(), tmp_path / "cache")
        return str(tmp_path / "cache")

    module: Any = ModuleType("huggingface_hub")
    module.snapshot_download, module.errors = snapshot_download, errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_network_on_the_hub_is_fetched_by_name_and_only_its_two_files(hub: list[Any]) -> None:
    assert isinstance(from_pretrained("someone/something", revision="v2"), AttentionClassifier)
    assert hub == [("someone/something", {"revision": "v2", "allow_patterns": [CONFIG, WEIGHTS]})]


def test_nothing_is_fetched_that_is_here_or_cannot_be_a_name(hub: list[Any], saved: Path) -> None:
    from_pretrained(saved)
    (saved / "owner").mkdir()
    for name in ("owner/name", "word", "a/b/c", "https://hub/x"):  # of the first, the owner is a folder here
        refusal(lambda name=name: from_pretrained(name), "found none")
    assert hub == []


def test_what_the_hub_has_not_is_refused_in_one_line(hub: list[Any]) -> None:
    message = refusal(lambda: from_pretrained("someone/else"), "someone/else", "404 Client Error. Repository Not Found")
    assert message.isprintable()


def test_the_hubs_own_package_out_of_reach_is_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    refusal(lambda: from_pretrained("someone/something"), "someone/something", "name a folder")
    refusal(lambda: from_pretrained("someone/-.-"), "someone/-.-")
