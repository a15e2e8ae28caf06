"""A run's folder: what it holds, what it survives, and one line for each way in which it can be wrong."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tiny import changed, checkpoint, same_bits, tiny_config, trained, weights, write_digits
from wsram import runs
from wsram.config import TrainConfig
from wsram.errors import UserError
from wsram.models.build import build_classifier
from wsram.models.classifier import AttentionClassifier
from wsram.runs import Run, load_model, load_optimizer, load_state
from wsram.training import build_optimizer


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A new run, begun and nothing more."""
    run = Run(tmp_path / "run", tiny_config(None))
    run.begin()
    return run


def stepped(config: TrainConfig, updates: int = 1) -> tuple[AttentionClassifier, torch.optim.Optimizer]:
    """A network some updates of its optimizer into a made-up task."""
    network = build_classifier(config.model, config.estimator, channels=1, classes=10)
    optimizer = build_optimizer(network, config.schedule)
    for _ in range(updates):
        optimizer.zero_grad()
        sum(p.square().sum() + p.sum() for p in network.parameters()).backward()
        optimizer.step()
    return network, optimizer


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What a folder holds


def test_a_finished_run_holds_json_and_safetensors_and_nothing_to_unpickle(tmp_path: Path) -> None:
    trained(tmp_path / "run", tiny_config(write_digits(tmp_path / "data")))
    files = {
        path.relative_to(tmp_path / "run").as_posix(): path for path in (tmp_path / "run").rglob("*") if path.is_file()
    }
    kept = {name for name in files if not name.startswith("tensorboard/events.out.tfevents.")}
    assert kept == {
        "config.json",
        "provenance.json",
        "metrics.jsonl",
        "checkpoints/step-000000006/model.safetensors",
        "checkpoints/step-000000006/optimizer.safetensors",
        "checkpoints/step-000000006/state.json",
    }
    for name in kept:
        if name.endswith(".safetensors"):
            with safe_open(files[name], framework="pt") as opened:
                assert list(opened.keys())
        else:
            text = files[name].read_text()
            for part in text.splitlines() if name.endswith(".jsonl") else [text]:
                assert isinstance(json.loads(part), dict)


def test_begun_and_opened_again(run: Run) -> None:
    assert Run.open(run.folder, TrainConfig) == run
    assert run.metrics() == []


def test_metrics_are_kept_in_order(run: Run) -> None:
    rows = [{"step": n, "loss": 0.1 * n, "scale_usage": [0.5, 0.5]} for n in range(1, 4)]
    for row in rows:
        run.log(row)
    assert run.metrics() == rows == Run.open(run.folder, TrainConfig).metrics()


@pytest.mark.parametrize("encoder", ["fc", "conv"])
@pytest.mark.parametrize("recurrence", ["relu", "lstm"])
def test_a_checkpoint_gives_back_every_bit(run: Run, encoder: str, recurrence: str) -> None:
    config = changed(run.config, encoder=encoder, recurrence=recurrence)
    network, optimizer = stepped(config, updates=2)
    path = run.save_checkpoint(network, optimizer, {"step": 7, "seconds": 1.5})

    torch.manual_seed(1)
    again = build_classifier(config.model, config.estimator, channels=1, classes=10)
    optimizer_again = build_optimizer(again, config.schedule)
    assert not same_bits(network.state_dict(), again.state_dict())
    load_model(again, path)
    load_optimizer(optimizer_again, path)

    assert same_bits(network.state_dict(), again.state_dict())
    ours, theirs = optimizer.state_dict()["state"], optimizer_again.state_dict()["state"]
    assert ours.keys() == theirs.keys() and ours
    assert all(same_bits(ours[n], theirs[n]) for n in ours)
    assert load_state(path) == {"step": 7, "seconds": 1.5}


def test_only_the_newest_checkpoint_is_kept(run: Run) -> None:
    network, optimizer = stepped(run.config)
    for step in (9, 10, 200):
        path = run.save_checkpoint(network, optimizer, {"step": step, "seconds": 0.0})
        assert [found.name for found in (run.folder / "checkpoints").iterdir()] == [path.name]
        assert run.latest_checkpoint() == path


def test_a_checkpoint_of_the_same_update_replaces_the_earlier_one(run: Run) -> None:
    network, optimizer = stepped(run.config)
    run.save_checkpoint(network, optimizer, {"step": 4, "seconds": 1.0})
    network, optimizer = stepped(run.config, updates=3)
    path = run.save_checkpoint(network, optimizer, {"step": 4, "seconds": 2.0})
    assert load_state(path)["seconds"] == 2.0
    load_model(network_again := stepped(run.config)[0], path)
    assert same_bits(network_again.state_dict(), network.state_dict())


# What a folder survives


def test_half_a_line_at_the_end_of_the_metrics_is_left_out(run: Run) -> None:
    run.log({"step": 1})
    run.log({"step": 2})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert run.metrics() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("tail", ["", '{"step": 5, "lo'])
@pytest.mark.parametrize("step, left", [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_rows_of_updates_that_will_be_made_again_are_forgotten(run: Run, step: int, left: list[int], tail: str) -> None:
    for n in (1, 2, 3):
        run.log({"step": n})
    with run.metrics_path.open("a") as file:
        file.write(tail)
    run.forget_after(step)
    run.log({"step": 99})
    assert [row["step"] for row in run.metrics()] == [*left, 99]


def test_a_checkpoint_that_was_never_completed_is_not_one(run: Run) -> None:
    network, optimizer = stepped(run.config)
    partial = run.folder / "checkpoints" / "step-000000008.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="no checkpoint yet") as caught:
        run.latest_checkpoint()
    one_line(caught)

    first = run.save_checkpoint(network, optimizer, {"step": 4, "seconds": 0.0})
    partial.mkdir(exist_ok=True)
    (partial / "model.safetensors").write_bytes(b"half")
    assert run.latest_checkpoint() == first
    second = run.save_checkpoint(network, optimizer, {"step": 8, "seconds": 0.0})
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == [second.name]
    load_model(network, second)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("written", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_full_disk_leaves_the_earlier_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    network, optimizer = stepped(run.config)
    first = run.save_checkpoint(network, optimizer, {"step": 4, "seconds": 0.0})
    before = weights(run.folder)

    def full_at(function: Callable[..., Any], argument: int) -> Callable[..., Any]:
        def write(*args: Any) -> Any:
            if Path(args[argument]).name == written:
                Path(args[argument]).write_bytes(b"as much as fitted")
                raise FULL
            return function(*args)

        return write

    monkeypatch.setattr(runs, "save_file", full_at(runs.save_file, 1))
    monkeypatch.setattr(runs, "_write_whole", full_at(runs._write_whole, 0))
    network, optimizer = stepped(run.config, updates=3)
    with pytest.raises(UserError, match=r"No space left on device.*earlier checkpoints are intact") as caught:
        run.save_checkpoint(network, optimizer, {"step": 8, "seconds": 0.0})

    assert str(run.folder) in one_line(caught)
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == [first.name]
    assert same_bits(weights(run.folder), before) and load_state(first)["step"] == 4

    monkeypatch.undo()
    run.save_checkpoint(network, optimizer, {"step": 8, "seconds": 0.0})
    assert run.latest_checkpoint().name == "step-000000008"


def test_a_limit_of_the_system_on_what_can_be_written_leaves_the_earlier_checkpoint(run: Run) -> None:
    """The same with nothing replaced: the system itself refuses the bytes beyond the first few thousand."""
    resource = pytest.importorskip("resource", reason="limits of a process are Unix's")
    network, optimizer = stepped(run.config)
    first = run.save_checkpoint(network, optimizer, {"step": 4, "seconds": 0.0})
    before = weights(run.folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(UserError, match="earlier checkpoints are intact") as caught:
            run.save_checkpoint(network, optimizer, {"step": 8, "seconds": 0.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(caught)
    assert run.latest_checkpoint() == first and same_bits(weights(run.folder), before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, a device without room, is Linux's")
def test_metrics_on_a_full_disk_end_in_one_line(run: Run) -> None:
    run.metrics_path.symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device") as caught:
        run.log({"step": 1})
    one_line(caught)


# One line for what is wrong


def test_a_folder_that_holds_a_run_is_left_alone(run: Run) -> None:
    run.log({"step": 1})
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"already holds a run.*--resume") as caught:
        Run(run.folder, changed(run.config, steps=99)).begin()
    one_line(caught)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def under_a_file(folder: Path) -> Path:
    (folder / "file").write_text("not a folder")
    return folder / "file" / "run"


UNWRITABLE: dict[str, Callable[[Path], Path]] = {
    "under a file": under_a_file,
    "a file itself": lambda folder: under_a_file(folder).parent,
    "a name too long": lambda folder: folder / ("n" * 300),
    "where nobody may write": lambda folder: Path("/proc/self/run"),  # not even the superuser
}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is Linux's")
@pytest.mark.parametrize("make", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_folder_that_cannot_be_made(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"cannot write the run folder.*--run") as caught:
        Run(folder, tiny_config(None)).begin()
    assert str(folder) in one_line(caught)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent", under_a_file(tmp_path)):
        with pytest.raises(UserError, match=r"holds no run.*config.json") as caught:
            Run.open(folder, TrainConfig)
        assert str(folder) in one_line(caught)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"stepz": 1}', b"\xff\xfe\x00garbage"])
def test_a_config_that_cannot_be_read(run: Run, content: bytes) -> None:
    (run.folder / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        Run.open(run.folder, TrainConfig)
    one_line(caught)


def test_no_checkpoint_yet(run: Run) -> None:
    with pytest.raises(UserError, match="has no checkpoint yet") as caught:
        run.latest_checkpoint()
    assert str(run.folder) in one_line(caught)


OTHERS = {
    "more units": dict(lower_units=20),
    "another patch": dict(patch=9),
    "another recurrence": dict(recurrence="gru"),
    "another encoder": dict(encoder="conv"),
    "more scales": dict(scales=(1, 2, 3)),
    "no inference network": dict(proposal="policy"),
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_another_configuration(run: Run, changes: dict[str, Any]) -> None:
    network, optimizer = stepped(run.config)
    path = run.save_checkpoint(network, optimizer, {"step": 1, "seconds": 0.0})
    other = stepped(changed(run.config, **changes))[0]
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(UserError, match=r"is of another configuration: .* should be .*, the file holds") as caught:
        load_model(other, path)
    assert str(path) in one_line(caught)
    assert same_bits(other.state_dict(), before)  # nothing was half loaded
    # and the other way round
    path = run.save_checkpoint(other, torch.optim.AdamW(other.parameters()), {"step": 2, "seconds": 0.0})
    with pytest.raises(UserError, match="is of another configuration"):
        load_model(network, path)


@pytest.mark.parametrize("name", ["model", "optimizer"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_checkpoint_cut_short(run: Run, name: str, keep: float) -> None:
    network, optimizer = stepped(run.config)
    path = run.save_checkpoint(network, optimizer, {"step": 1, "seconds": 0.0})
    file = path / f"{name}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(UserError, match=rf"cannot read .*{name}\.safetensors") as caught:
        load_model(network, path) if name == "model" else load_optimizer(optimizer, path)
    one_line(caught)


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_checkpoint_without_its_tensors(run: Run, name: str) -> None:
    network, optimizer = stepped(run.config)
    path = run.save_checkpoint(network, optimizer, {"step": 1, "seconds": 0.0})
    (path / f"{name}.safetensors").unlink()
    with pytest.raises(UserError, match=rf"cannot read .*{name}\.safetensors") as caught:
        load_model(network, path) if name == "model" else load_optimizer(optimizer, path)
    one_line(caught)


class Trap:
    """Unpickled, it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_a_pickle_in_place_of_tensors_is_not_opened(run: Run, tmp_path: Path) -> None:
    network, optimizer = stepped(run.config)
    path = run.save_checkpoint(network, optimizer, {"step": 1, "seconds": 0.0})
    (path / "model.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    with pytest.raises(UserError, match="cannot read"):
        load_model(network, path)
    assert not (tmp_path / "mark").exists()
    pickle.loads((path / "model.safetensors").read_bytes())  # the trap works
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"step": ', b"7", b"{}", b'{"step": 4}', b"\xff\xfe"])
def test_a_checkpoint_without_a_sound_state(run: Run, content: bytes | None) -> None:
    path = run.save_checkpoint(*stepped(run.config), {"step": 4, "seconds": 0.0})
    if content is None:
        (path / "state.json").unlink()
    else:
        (path / "state.json").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*state\.json") as caught:
        load_state(path)
    one_line(caught)


def test_the_newest_checkpoint_is_the_one_of_the_latest_update(run: Run) -> None:
    for step in (2, 10, 9):
        (run.folder / "checkpoints" / f"step-{step:09d}").mkdir()
    assert run.latest_checkpoint().name == "step-000000010" == checkpoint(run.folder).name


def test_a_network_of_any_kind_can_be_kept(run: Run) -> None:
    """Nothing in a checkpoint is about attention: a later model needs no other format."""
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    path = run.save_checkpoint(network, torch.optim.SGD(network.parameters()), {"step": 1, "seconds": 0.0})
    again = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    load_model(again, path)
    assert same_bits(again.state_dict(), network.state_dict())
