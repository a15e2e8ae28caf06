"""A run's folder: what it holds, what it survives, and one line for each way in which it can be wrong."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.refusals import refusal
from tests.tiny import checkpoint, same_bits, tiny_config, weights
from wsram.checkpoints import load_checkpoint, write_checkpoint
from wsram.config import ClassificationConfig, changed
from wsram.data import Spec
from wsram.errors import UserError
from wsram.models.classifier import AttentionClassifier
from wsram.runs import HASHES, Run, damage, load_state, read_text, write_whole
from wsram.tasks import TASKS
from wsram.training import build_optimizer

SPEC = Spec(1, "class", tuple("0123456789"), (60, 60))


def stepped(config: ClassificationConfig, updates: int = 1) -> tuple[AttentionClassifier, torch.optim.Optimizer]:
    """A network some updates of its optimizer into a made-up task."""
    torch.manual_seed(0)
    network = TASKS[config.task].build(config, SPEC)
    optimizer = build_optimizer(network, config.schedule)
    for _ in range(updates):
        optimizer.zero_grad()
        sum(p.square().sum() + p.sum() for p in network.parameters()).backward()
        optimizer.step()
    return network, optimizer


def saved(run: Run[Any], step: int, updates: int = 1, **how: bool) -> Path:
    """Keep a checkpoint of update `step`."""
    network, optimizer = stepped(run.config, updates)
    state = json.dumps({"step": step, "seconds": step / 2})
    return run.save_checkpoint(step, lambda folder: write_checkpoint(folder, network, optimizer, state), **how)


@pytest.fixture
def run(tmp_path: Path) -> Run[Any]:
    """A new run, begun and nothing more."""
    run = Run(tmp_path / "run", tiny_config("digits"))
    network, optimizer = stepped(run.config, 0)
    state = json.dumps({"step": 0, "seconds": 0.0})
    run.begin(lambda folder: write_checkpoint(folder, network, optimizer, state), {"train": "a", "validation": "b"})
    return run


def files(folder: Path) -> dict[str, bytes]:
    """All that a folder holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What a folder holds


def test_a_finished_run_holds_json_and_safetensors_and_nothing_to_unpickle(digit_run: Path) -> None:
    found = {path.relative_to(digit_run).as_posix(): path for path in digit_run.rglob("*") if path.is_file()}
    kept = set(found)
    parts = ("config.json", "hashes.json", "model.safetensors", "optimizer.safetensors", "state.json")
    assert kept == {
        ".lock",
        "training.json",
        "provenance.json",
        "data.json",
        "metrics.jsonl",
        *(f"checkpoints/step-00000000{step}/{part}" for step in (4, 6) for part in parts),
    }
    assert found[".lock"].stat().st_size == 0
    for name in kept - {".lock"}:
        if name.endswith(".safetensors"):
            with safe_open(found[name], framework="pt") as opened:
                assert list(opened.keys())
        else:
            text = found[name].read_text()
            for part in text.splitlines() if name.endswith(".jsonl") else [text]:
                assert isinstance(json.loads(part), dict)


@pytest.mark.skipif(os.name == "nt", reason="permissions are Unix's")
def test_whoever_may_read_the_folder_may_read_every_file(digit_run: Path) -> None:
    for path in (digit_run / "checkpoints").rglob("*.*"):
        assert path.stat().st_mode & 0o044 == 0o044, path


def test_begun_and_opened_again(run: Run[Any]) -> None:
    assert Run.open(run.folder) == run
    assert run.metrics() == [] and load_state(run.latest_checkpoint()) == {"step": 0, "seconds": 0.0}


def test_metrics_are_kept_in_order(run: Run[Any]) -> None:
    rows = [{"step": n, "loss": 0.1 * n, "scale_usage": [0.5, 0.5]} for n in range(1, 4)]
    for row in rows:
        run.log(row)
    assert run.metrics() == rows == Run.open(run.folder).metrics()


@pytest.mark.parametrize("network, recurrence", [("fc", "lstm"), ("conv", "relu")])
def test_a_checkpoint_gives_back_every_bit(run: Run[Any], network: str, recurrence: str) -> None:
    run = Run(run.folder, changed(run.config, network=network, recurrence=recurrence))
    path = saved(run, 7, updates=2)
    ours, optimizer = stepped(run.config, updates=2)
    theirs, optimizer_again = stepped(run.config, updates=0)
    assert not same_bits(ours.state_dict(), theirs.state_dict())

    assert load_checkpoint(path, theirs, optimizer_again) == {"step": 7, "seconds": 3.5}

    assert same_bits(ours.state_dict(), theirs.state_dict())
    moments, again = optimizer.state_dict()["state"], optimizer_again.state_dict()["state"]
    assert moments.keys() == again.keys() and moments
    assert all(same_bits(moments[n], again[n]) for n in moments)


def test_the_two_newest_checkpoints_are_kept_and_one_that_is_the_best(run: Run[Any]) -> None:
    for step in (9, 10, 200):
        best, path = saved(run, step, best=True), saved(run, step)
        assert run.latest_checkpoint() == path and run.best_checkpoint() == best
        assert names(run.folder / "best") == [best.name]
    assert names(run.folder / "checkpoints") == ["step-000000010", "step-000000200"]


def test_the_newest_stands_in_where_no_best_was_kept(run: Run[Any]) -> None:
    assert run.best_checkpoint() == run.latest_checkpoint() == saved(run, 0, updates=3)


def test_a_damaged_best_checkpoint_is_told_and_nothing_stands_in(run: Run[Any]) -> None:
    saved(run, 4)
    (saved(run, 4, best=True) / "model.safetensors").write_bytes(b"")
    refusal(run.best_checkpoint, "best/step-000000004 is damaged (model.safetensors is not as it was written)")


def test_a_checkpoint_of_the_same_update_replaces_the_earlier_one(run: Run[Any]) -> None:
    first = files(saved(run, 4))
    path = saved(run, 4, updates=3)
    assert files(path)["model.safetensors"] != first["model.safetensors"] and run.latest_checkpoint() == path
    assert same_bits(load_file(path / "model.safetensors"), stepped(run.config, updates=3)[0].state_dict())


# What a folder survives


def test_half_a_line_at_the_end_of_the_metrics_is_left_out(run: Run[Any]) -> None:
    run.log({"step": 1})
    run.log({"step": 2})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert run.metrics() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("tail", ["", '{"step": 5, "lo'])
@pytest.mark.parametrize("step, left", [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_rows_of_updates_that_will_be_made_again_are_forgotten(
    run: Run[Any], step: int, left: list[int], tail: str
) -> None:
    for n in (1, 2, 3):
        run.log({"step": n})
    with run.metrics_path.open("a") as file:
        file.write(tail)
    run.forget_after(step)
    run.log({"step": 99})
    assert [row["step"] for row in run.metrics()] == [*left, 99]


@pytest.mark.parametrize("content", [b"\0\0\0\0", b'{"step": 1', b"\xff\xfe"])
def test_a_damaged_line_is_named_and_no_other_is_dropped(run: Run[Any], content: bytes) -> None:
    for n in (1, 2):
        run.log({"step": n})
    lines = run.metrics_path.read_bytes().splitlines()
    run.metrics_path.write_bytes(b"\n".join([lines[0], content, lines[1]]) + b"\n")
    before = run.metrics_path.read_bytes()
    refusal(lambda: run.forget_after(0), run.metrics_path, "line 2 is damaged")
    assert run.metrics_path.read_bytes() == before


def test_a_checkpoint_that_was_never_completed_is_not_one(run: Run[Any]) -> None:
    begun = run.latest_checkpoint()
    partial = run.folder / "checkpoints" / "step-000000008.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert run.latest_checkpoint() == begun
    assert names(run.folder / "checkpoints") == [begun.name, partial.name]
    path = saved(run, 8)
    assert names(run.folder / "checkpoints") == [begun.name, path.name] and damage(path) is None


class DiedError(BaseException):
    """The process ended: no handler of an error sees it, and nothing is done after it."""


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


TAKING_ROOM = ((os, "mkdir"), (os, "open"), (os, "fsync"), (os, "rename"), (os, "replace"), (io, "open"))
OTHERS_STILL = ((os, "close"), (os, "unlink"), (os, "rmdir"), (os, "scandir"), (os, "chmod"))


class Faults:
    """Counts what is done to files and folders, and fails at one of these operations.

    at: the operation that fails, from 0.
    failure: makes what is raised in its place; on a full disk what needs no room goes on.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int, failure: Callable[[], BaseException]) -> None:
        self.at, self.failure, self.count = at, failure, 0
        for where, name in TAKING_ROOM + (OTHERS_STILL if failure is DiedError else ()):
            patch.setattr(where, name, self.faulty(getattr(where, name)))
        for name in ("wsram.models.pretrained.save_file", "wsram.checkpoints.save_file"):
            patch.setattr(name, self.faulty(save_file))

    def faulty(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at + 1 or (self.count > self.at and self.failure is DiedError):
                raise self.failure()
            return function(*args, **options)

        return operation


@pytest.fixture
def some_checkpoint(run: Run[Any]) -> Callable[[Path], None]:
    """Writes small files in place of a network's, which take as many operations."""
    tensors = {"a": torch.arange(3.0)}

    def write(folder: Path) -> None:
        from wsram import checkpoints
        from wsram.models import pretrained

        pretrained.save_file(tensors, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o644)
        write_whole(folder / "config.json", "{}\n")
        checkpoints.save_file(tensors, folder / "optimizer.safetensors")
        write_whole(folder / "state.json", '{"step": 1, "seconds": 1}\n')

    return write


@pytest.mark.parametrize("again", [False, True], ids=["a new update", "the same update again"])
@pytest.mark.parametrize("best", [False, True], ids=["newest", "best"])
@pytest.mark.parametrize("failure", [DiedError, full], ids=["died", "disk full"])
def test_whatever_a_save_is_interrupted_in_a_whole_checkpoint_is_there(
    tmp_path: Path,
    run: Run[Any],
    some_checkpoint: Callable[[Path], None],
    failure: Callable[[], BaseException],
    best: bool,
    again: bool,
) -> None:
    """At each of its operations on files in turn; once none of them fails, the save is done."""
    for step in (10, 20):
        run.save_checkpoint(step, some_checkpoint, best=best)
    new = 20 if again else 30
    latest = run.best_checkpoint if best else run.latest_checkpoint
    for at in range(200):
        folder = tmp_path / f"at-{at}"
        shutil.copytree(run.folder, folder)
        tried = Run(folder, run.config)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, failure)
            try:
                tried.save_checkpoint(new, some_checkpoint, best=best)
                raised = None
            except BaseException as error:
                raised = error
        assert raised is None or isinstance(raised, (DiedError, UserError)), (at, raised)
        left = tried.best_checkpoint() if best else tried.latest_checkpoint()
        allowed = {10, 20} if again and not best else {20}
        assert int(left.name[5:14]) in allowed | {new}, (at, left)
        assert damage(left) is None and set(files(left)) == set(files(latest()))
        # What is left does not hinder the next try, whose checkpoint is the newest then.
        assert tried.save_checkpoint(new, some_checkpoint, best=best) == (
            tried.best_checkpoint() if best else tried.latest_checkpoint()
        )
        assert not list(folder.rglob("*.partial"))
        if faults.count <= at:
            break
    assert raised is None and at > 20  # or nothing was tried


@pytest.mark.parametrize("written", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_full_disk_leaves_the_earlier_checkpoint(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    first = saved(run, 4)
    before = files(first)

    def full_at(function: Callable[..., Any], argument: int) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:
            if Path(args[argument]).name == written:
                Path(args[argument]).write_bytes(b"as much as fitted")
                raise full()
            return function(*args, **options)

        return write

    for name in ("wsram.checkpoints.save_file", "wsram.models.pretrained.save_file"):
        monkeypatch.setattr(name, full_at(save_file, 1))
    monkeypatch.setattr("wsram.checkpoints.write_whole", full_at(write_whole, 0))
    refusal(lambda: saved(run, 8, updates=3), run.folder, "No space left on device", "earlier checkpoints are intact")
    assert run.latest_checkpoint() == first and files(first) == before
    assert names(run.folder / "checkpoints") == ["step-000000000", first.name]

    monkeypatch.undo()
    assert run.latest_checkpoint() != saved(run, 8, updates=3) == run.latest_checkpoint()


def test_a_limit_of_the_system_on_what_can_be_written_leaves_the_earlier_checkpoint(run: Run[Any]) -> None:
    """The same with nothing replaced: the system itself refuses the bytes beyond the first few thousand."""
    resource = pytest.importorskip("resource", reason="limits of a process are Unix's")
    first = saved(run, 4)
    before = weights(run.folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        refusal(lambda: saved(run, 8), "earlier checkpoints are intact")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.latest_checkpoint() == first and same_bits(weights(run.folder), before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, a device without room, is Linux's")
def test_metrics_on_a_full_disk_end_in_one_line(run: Run[Any]) -> None:
    run.metrics_path.symlink_to("/dev/full")
    refusal(lambda: run.log({"step": 1}), "No space left on device", run.resume_command)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "old\n")
    for at in range(20):
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, DiedError)
            with contextlib.suppress(DiedError):
                write_whole(path, "new\n")
        assert path.read_text() in ("old\n", "new\n")
        if faults.count <= at:
            break
        write_whole(path, "old\n")
    assert path.read_text() == "new\n" and names(tmp_path) == ["file.json"]


# One at a time, and on the data it began with


def test_a_folder_is_one_process_at_a_time(run: Run[Any]) -> None:
    with run.lock():
        refusal(Run(run.folder, run.config).lock, "another process is training in", run.folder)
    with run.lock():
        pass  # free again


def test_data_are_those_of_the_beginning_or_refused_by_name(run: Run[Any]) -> None:
    run.check_data({"train": "a", "validation": "b"})
    refusal(lambda: run.check_data({"train": "a", "validation": "c"}), "the validation examples", run.folder)
    refusal(lambda: run.check_data({"train": "x", "validation": "b"}), "the train examples", run.folder)
    (run.folder / "data.json").unlink()
    refusal(lambda: run.check_data({"train": "a"}), "data.json", "restore it")
    (run.folder / "data.json").write_text("{")
    refusal(lambda: run.check_data({"train": "a"}), "data.json", "not valid JSON")


# One line for what is wrong


def test_a_folder_that_holds_a_run_is_left_alone(run: Run[Any]) -> None:
    run.log({"step": 1})
    before = files(run.folder)
    other = Run(run.folder, changed(run.config, updates=99))
    refusal(lambda: other.begin(lambda folder: None, {}), "already holds a run", f"wsram train --resume {run.folder}")
    assert files(run.folder) == before


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
    run = Run(folder, tiny_config("digits"))
    before = sorted(tmp_path.rglob("*"))
    for call in (run.lock, lambda: run.begin(lambda folder: None, {})):
        refusal(call, "cannot write the run folder", folder, "--run")
        assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent", under_a_file(tmp_path)):
        refusal(lambda folder=folder: Run.open(folder), folder / "training.json", "holds no run")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"stepz": 1}', b"\xff\xfe\x00garbage", b"[" * 100_000], ids=range(6)
)
def test_settings_that_cannot_be_read(run: Run[Any], content: bytes) -> None:
    (run.folder / "training.json").write_bytes(content)
    refusal(lambda: Run.open(run.folder), run.folder / "training.json")


def test_a_byte_order_mark_is_no_matter(run: Run[Any]) -> None:
    path = run.folder / "training.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Run.open(run.folder) == run


def test_text_that_is_none_is_told(tmp_path: Path) -> None:
    refusal(lambda: read_text(tmp_path, "otherwise"), "cannot read", "otherwise")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    refusal(lambda: read_text(tmp_path / "bytes", "otherwise"), "is not text", tmp_path / "bytes")


def test_no_checkpoint(run: Run[Any]) -> None:
    shutil.rmtree(run.folder / "checkpoints")
    refusal(run.latest_checkpoint, run.folder, "no checkpoint")


@pytest.fixture
def kept(run: Run[Any]) -> Path:
    """A checkpoint on its own, of a network with moments."""
    return saved(run, 4)


def refused(run: Run[Any], path: Path, *words: object, **changes: Any) -> None:
    """Loading a checkpoint into a network, of changed settings perhaps, ends in one line and changes no weight."""
    network, optimizer = stepped(changed(run.config, **changes), updates=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    refusal(lambda: load_checkpoint(path, network, optimizer), path, *words)
    if "model.safetensors" in map(str, words):
        assert same_bits(network.state_dict(), before)  # nothing was half loaded


OTHERS = {
    "more units": dict(lower_units=20),
    "another patch": dict(patch=9),
    "another recurrence": dict(recurrence="gru"),
    "another glimpse network": dict(network="conv"),
    "more scales": dict(scales=(1, 2, 3)),
    "no inference network": dict(proposal="policy"),
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_another_network(run: Run[Any], kept: Path, changes: dict[str, Any]) -> None:
    refused(run, kept, "model.safetensors", "is of another network", "should be", "the file holds", **changes)
    other = Run(run.folder, changed(run.config, **changes))
    refused(run, saved(other, 5), "model.safetensors", "is of another network")  # and the other way round


@pytest.mark.parametrize("name", ["model", "optimizer"])
@pytest.mark.parametrize("keep", [None, 0.0, 0.001, 0.5, 0.999])
def test_tensors_cut_short_or_missing(run: Run[Any], kept: Path, name: str, keep: float | None) -> None:
    file = kept / f"{name}.safetensors"
    whole = file.read_bytes()
    if keep is None:
        file.unlink()
    else:
        file.write_bytes(whole[: int(keep * len(whole))])
    refused(run, kept, "cannot read", f"{name}.safetensors")


Tensors = dict[str, torch.Tensor]


def some(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of more than one number."""
    return ((name, tensor) for name, tensor in tensors.items() if tensor.numel() > 1)


def nan(tensors: Tensors) -> Tensors:
    name, tensor = next(some(tensors))
    return tensors | {name: tensor.flatten().index_fill(0, torch.tensor([1]), float("nan")).reshape(tensor.shape)}


WEIGHTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "not finite": (nan, "not finite"),
    "whole numbers": (lambda t: {name: value.long() for name, value in t.items()}, "int64"),
    "yes or no": (lambda t: {name: value.bool() for name, value in t.items()}, "bool"),
    "complex": (lambda t: {name: value.cfloat() for name, value in t.items()}, "complex64"),
    "half of them": (lambda t: dict(list(t.items())[::2]), "the file holds nothing"),
    "one too many": (lambda t: t | {"extra\x1b[31m": torch.ones(1)}, r"'extra\x1b[31m' should be nothing"),
}


@pytest.mark.parametrize("change, named", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_none(run: Run[Any], kept: Path, change: Callable[[Tensors], Tensors], named: str) -> None:
    path = kept / "model.safetensors"
    save_file(change(load_file(path)), path)
    refused(run, kept, "model.safetensors", named)


MOMENTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "none": (lambda t: {}, "holds no moments"),
    "of no parameter": (lambda t: t | {"9999.step": torch.ones(())}, "another network (entry 9999)"),
    "with odd names": (lambda t: {f"x{name}": value for name, value in t.items()}, "another network"),
    "without squares": (lambda t: {n: v for n, v in t.items() if n != "0.exp_avg_sq"}, "another network (entry 0)"),
    "of other shapes": (lambda t: {n: v.reshape(-1) for n, v in t.items()}, "another network"),
}


@pytest.mark.parametrize("change, named", MOMENTS.values(), ids=MOMENTS)
def test_moments_that_are_none(run: Run[Any], kept: Path, change: Callable[[Tensors], Tensors], named: str) -> None:
    path = kept / "optimizer.safetensors"
    save_file(change(load_file(path)), path)
    refused(run, kept, "optimizer.safetensors", named)


class Trap:
    """Unpickled, it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_pickle_in_place_of_tensors_is_not_opened(run: Run[Any], kept: Path, tmp_path: Path, name: str) -> None:
    file = kept / f"{name}.safetensors"
    file.write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    refused(run, kept, "cannot read", file.name)
    assert not (tmp_path / "mark").exists()
    pickle.loads(file.read_bytes())  # the trap works
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b'{"step": ', b"7", b"{}", b'{"step": 4}', b"\xff\xfe", b'{"step": -5, "seconds": 1}'],
    ids=str,
)
def test_a_checkpoint_without_a_sound_state(run: Run[Any], kept: Path, content: bytes | None) -> None:
    if content is None:
        (kept / "state.json").unlink()
    else:
        (kept / "state.json").write_bytes(content)
    refused(run, kept, "cannot read", kept / "state.json")


@pytest.mark.parametrize("content", ["", "[]", "7", '{"model.safetensors": 7}', '{"absent": "0"}', "null"])
def test_hashes_that_are_none_are_damage(kept: Path, content: str) -> None:
    assert damage(kept) is None
    (kept / HASHES).write_text(content)
    assert damage(kept) is not None


def test_a_file_that_has_no_hash_is_damage(run: Run[Any], kept: Path) -> None:
    """Else a checkpoint whose hashes were cut to none would pass."""
    hashes = json.loads((kept / HASHES).read_text())
    del hashes["model.safetensors"]
    (kept / HASHES).write_text(json.dumps(hashes))
    assert damage(kept) is not None


def test_the_newest_checkpoint_is_the_one_of_the_latest_update(run: Run[Any]) -> None:
    for step in (2, 9, 10):
        saved(run, step)
    assert run.latest_checkpoint().name == "step-000000010" == checkpoint(run.folder).name
