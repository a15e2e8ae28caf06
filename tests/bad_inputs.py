"""Inputs that somebody may hand to the program and that it must refuse: each with the words that the line must have.

Every one is written into an empty folder and gives the rest of a command line. GOOD, RUN and DIGITS stand for an image,
a finished run and a folder of digits that are in order.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny import checkpoint, flags, tiny_config, write_digits

ESCAPE, MARKUP, LINES = "\x1b[31m\x1b]0;title\x07", "[bold]b[/] [/x] :smile:", "first\nsecond\rthird"
DEEP = "[" * 100_000
SETTINGS = flags(tiny_config("DIGITS"))[1:]
Write = Callable[[Path, Path], list[str]]
"""Writes what is bad into a folder, given that of a finished run, and returns the command line."""


class Trap:
    """Unpickled, it would leave a mark."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def image(content: bytes | Callable[[Path], object], name: str = "image.png") -> Write:
    """A file that is looked at."""

    def write(folder: Path, run: Path) -> list[str]:
        if callable(content):
            content(folder / name)
        else:
            (folder / name).write_bytes(content)
        return ["look", str(folder / name), "--network", "RUN"]

    return write


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG file that states a size, and little else."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(64))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def encoded(kind: str, side: int = 30) -> bytes:
    """A whole image file."""
    file = io.BytesIO()
    Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)).save(file, kind)
    return file.getvalue()


def tiff(values: list[float]) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(np.array([values], dtype=np.float32)).save(path)


def table(content: bytes | str, name: str = "table.csv", *words: str) -> Write:
    """A table of images that is trained on."""

    def write(folder: Path, run: Path) -> list[str]:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["train", str(folder / name), "--run", str(folder / "new"), *words]

    return write


def digits(content: bytes, name: str = "train-images-idx3-ubyte") -> Write:
    """A folder of digits of which one file is of that content."""

    def write(folder: Path, run: Path) -> list[str]:
        write_digits(folder)
        (folder / name).unlink()
        (folder / f"{name}.gz").write_bytes(content)
        return ["train", str(folder), *SETTINGS, "--run", str(folder / "new")]

    return write


def idx(*lengths: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(lengths)]) + b"".join(length.to_bytes(4, "big") for length in lengths)


def captions(content: str, name: str = "captions.json") -> Write:
    """Captions whose features are asked for."""

    def write(folder: Path, run: Path) -> list[str]:
        (folder / name).write_text(content)
        return ["features", str(folder / name)]

    return write


def network(change: Callable[[Path], object]) -> Write:
    """A network of which something was changed."""

    def write(folder: Path, run: Path) -> list[str]:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(checkpoint(run) / name, folder / name)
        change(folder)
        return ["look", "GOOD", "--network", str(folder)]

    return write


def described(**arguments: Any) -> Write:
    """A network whose description has other arguments."""

    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        found["arguments"] |= arguments
        (folder / "config.json").write_text(json.dumps(found))

    return network(change)


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace the first such part of a text file; all of it if no part is named."""

    def change(folder: Path) -> None:
        found = (folder / name).read_text()
        assert old in found
        (folder / name).write_text(found.replace(old, new, 1) if old else new)

    return change


def weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Write:
    def rewrite(folder: Path) -> None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")

    return network(rewrite)


def file(name: str, content: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        was = (folder / name).read_bytes()
        (folder / name).write_bytes(content(was) if callable(content) else content)

    return change


def trapped(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(folder / "mark")))


def trapped_by_torch(folder: Path) -> None:
    torch.save({"weight": Trap(folder / "mark")}, folder / "model.safetensors")


def run(change: Callable[[Path], object], *words: str) -> Write:
    """A run of which something was changed, and which is then gone on with, or what `words` say."""

    def write(folder: Path, source: Path) -> list[str]:
        shutil.copytree(source, folder / "run")
        change(folder / "run")
        return [word.replace("CHANGED", str(folder / "run")) for word in words or ("train", "--resume", "CHANGED")]

    return write


def both(name: str, content: bytes) -> Callable[[Path], None]:
    """The same damage to all checkpoints."""

    def change(folder: Path) -> None:
        for path in folder.glob(f"checkpoints/step-*/{name}"):
            path.write_bytes(content)

    return change


def words(*given: str) -> Write:
    return lambda folder, run: [word.replace("FOLDER", str(folder)) for word in given]


def training(*given: str) -> Write:
    return lambda folder, run: ["train", "DIGITS", *SETTINGS, "--run", str(folder / "new"), *given]


RELEASE, AS_KEPT = ("release", "CHANGED", "--to", "CHANGED/new"), "expected figures as the program keeps them"


def measured(change: Callable[[dict[str, Any]], object]) -> Write:
    """A run that was measured, and whose figures were changed, is released."""

    def write(folder: Path) -> None:
        figures = {
            "set": "validation",
            "step": 6,
            "examples": 16,
            "precision": "no",
            "error_mode": 0.5,
            "nll_mode": 1.0,
        }
        figures |= {"error_one_sample": 0.5, "nll_one_sample": 1.0, "error_vote_16": 0.5, "nll_vote_16": 1.0}
        change(figures)
        (folder / "evaluation-validation.json").write_text(json.dumps(figures))

    return run(write, *RELEASE)


def among_others(folder: Path, run: Path) -> list[str]:
    (folder / "data.json").write_text('{"somebody": "else\'s"}')
    return ["train", "DIGITS", *SETTINGS, "--run", str(folder)]


def folder_of_one_class(folder: Path, run: Path) -> list[str]:
    (folder / "data" / ESCAPE).mkdir(parents=True)
    for n in range(4):
        (folder / "data" / ESCAPE / f"{n}.png").write_bytes(encoded("PNG", 30 + n))
    return ["train", str(folder / "data"), "--run", str(folder / "new")]


def an_archive(folder: Path, run: Path) -> list[str]:
    shutil.make_archive(str(folder / "data"), "zip", run)
    return ["train", str(folder / "data.zip"), "--run", str(folder / "new")]


def a_link_in_a_circle(folder: Path, run: Path) -> list[str]:
    os.symlink(folder / "loop.png", folder / "loop.png")
    return ["look", str(folder / "loop.png"), "--network", "RUN"]


ROW = '{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "A dog ."}]}'
BAD: dict[str, tuple[Write, str]] = {
    # Images
    "an empty image": (image(b""), "expected a whole image"),
    "a page in place of an image": (image(b"<html>Not found</html>", "image.jpg"), "expected a whole image"),
    "an image cut short": (image(encoded("PNG")[:-100]), "expected a whole image"),
    "an image that is a bomb": (image(png(60_000, 60_000)), "(3600000000 pixels) exceeds"),
    "an image of no size": (image(png(0, 10)), "expected a whole image"),
    "an animation cut short": (image(encoded("GIF")[:40], "image.gif"), "expected a whole image"),
    "PostScript called a photo": (image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.jpg"), "whole image"),
    "a drawing called a photo": (image(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "expected a whole image"),
    "an image of no numbers": (image(tiff([float("nan")] * 9), "image.tif"), "not finite"),
    "an image of absurd numbers": (image(tiff([1e9] * 9), "image.tif"), "its values lie between 1e+09 and 1e+09"),
    "a pickle called an image": (image(pickle.dumps(Trap(Path("mark")))), "expected a whole image"),
    "an image with an escape in its name": (image(b"", f"{ESCAPE}.png"), "\\x1b[31m\\x1b]0;title\\x07.png"),
    "an image with lines in its name": (image(b"", f"{LINES}.png"), "first second\\rthird.png"),
    "an image with markup in its name": (image(b"", f"{MARKUP}".replace("/", "|")), "[bold]b[|] [|x] :smile:"),
    "no image": (words("look", "FOLDER/absent.png", "--network", "RUN"), "No such file"),
    "a folder for an image": (words("look", "FOLDER", "--network", "RUN"), "expected an image file, got the folder"),
    "an image with a name of any length": (words("look", "x" * 5000 + ".png", "--network", "RUN"), "name too long"),
    "an image in nobody's home": (words("look", "~nobody-of-that-name/x.png", "--network", "RUN"), "No such file"),
    "a link in a circle": (a_link_in_a_circle, "Too many levels of symbolic links"),
    # Digits
    "digits that are a bomb": (digits(gzip.compress(idx(76, 28, 28) + bytes(10**6))), "expected 59600 bytes"),
    "digits of absurd sizes": (digits(idx(2**31, 2**31, 2**31)), "its header states 9903520314283042199192993808"),
    "digits without end": (digits(gzip.compress(idx(76, 28, 28) + bytes(59584))[:-20]), "whole gzip"),
    "digits of real numbers": (digits(idx(76, 28, 28, kind=13)), "the first bytes 00 00 08"),
    "digits of no size": (digits(idx(76, 0, 28)), "expected images (count, height, width)"),
    "labels that are none": (digits(idx(76) + b"\xff" * 76, "train-labels-idx1-ubyte"), "expected labels from 0 to 9"),
    "data with a name of any length": (words("train", "x" * 5000, "--run", "FOLDER/new"), "found nothing at 'xxx"),
    "data in nobody's home": (words("train", "~nobody-of-that-name/x", "--run", "FOLDER/new"), "found nothing at '~no"),
    "an archive for data": (an_archive, "found nothing at"),
    # Tables and folders of images
    "a table without columns": (table("a.png,cat\n"), "found none"),
    "a table of other columns": (table("file,class\na.png,cat\n"), 'expected "path" and "label"'),
    "a row without a label": (table("path,label\na.png,\n"), "row 2"),
    "a table with zeros": (table(b"path,label\na\x00.png,cat\n"), "can be read"),
    "a table that is no text": (table(b"path,label\n\xff\xfe.png,cat\n"), "expected a readable table"),
    "a cell without end": (table('path,label\n"' + "x" * 200_000), "field larger than field limit"),
    "a part that is none": (table("path,label,split\na.png,cat,night\n"), "'night'"),
    "a table of what is not there": (table("path,label\na.png,cat\nb.png,dog\n"), "none of 2 images can be read"),
    "a path that leads out": (table("path,label\n../../../../etc/passwd,cat\n"), "none of 1 images can be read"),
    "a name that is a command": (table(f"path,label\n{ESCAPE},cat\n"), "\\x1b[31m"),
    "a row that is no JSON": (table("{path}\n", "t.jsonl"), "row 1 is not JSON"),
    "a row of nothing but depth": (table(DEEP, "t.jsonl"), "nested too deeply"),
    "a row that says two things": (table('{"path": "a", "label": 1, "label": 2}', "t.jsonl"), "'label' stands"),
    "a label that is no number": (table('{"path": "a.png", "label": NaN}', "t.jsonl"), "NaN is no number"),
    "a label beyond all numbers": (table('{"path": "a.png", "label": 1e999}', "t.jsonl"), "1e999 is too large"),
    "a number that is a word": (table("path,label\na.png,many\n", "t.csv", "--answer", "number"), "finite number"),
    "a single class": (folder_of_one_class, "\\x1b[31m\\x1b]0;title\\x07; add another"),
    # Captions
    "captions that are no JSON": (captions("dog"), "got no JSON"),
    "captions of nothing but depth": (captions(DEEP), "nested too deeply"),
    "captions that are a list": (captions("[]"), 'a list "images"'),
    "captions of no file": (captions('{"images": [{"split": "train"}]}'), "in image 0"),
    "captions of a part that is none": (captions('{"images": [' + ROW.replace("train", "\\u001b[31m") + "]}"), "\\x1b"),
    "captions of what leads out": (captions('{"images": [' + ROW.replace("a.jpg", "../x.jpg") + "]}"), "found none"),
    "captions that say two things": (captions('{"images": [], "images": []}'), "'images' stands there twice"),
    "captions that are numbers": (captions('{"images": [' + ROW.replace('"A dog ."', "7") + "]}"), "text, not 7"),
    # Networks
    "a description that is no JSON": (network(text("config.json", "", "{")), "expected the description of a network"),
    "a description of nothing but depth": (network(text("config.json", "", DEEP)), "nested too deeply"),
    "a description that says two things": (network(text("config.json", "{", '{"model_type": "x",')), "stands there"),
    "a description with no number": (described(std_range=[float("nan"), 1.0]), "NaN is no number"),
    "a description of another version": (described(**{ESCAPE: 1}), "has no argument '\\x1b[31m"),
    "a kind of network that is none": (network(text("config.json", "wsram-", ESCAPE.encode("unicode_escape").decode()
        .replace("\\x", "\\u00"))), "unknown kind"),
    "a network of endless glimpses": (described(glimpses=10**9), "1,000,000,000 glimpses at an image would want"),
    "a network of absurd layers": (described(lower_units=10**9), "of another network"),
    "a network beyond all sizes": (described(upper_units=10**18), "expected the arguments of a classifier"),
    "a network of negative glimpses": (described(glimpses=-1), "glimpses must be at least 1"),
    "names that are commands": (described(names=[ESCAPE, MARKUP]), "of another network"),
    "weights that are a pickle": (network(trapped), "expected a safetensors file"),
    "weights that are torch's pickle": (network(trapped_by_torch), "expected a safetensors file"),
    "weights of an absurd header": (network(file("model.safetensors", b"\xff" * 7 + b"\x0f{}")), "expected a"),
    "weights cut short": (network(file("model.safetensors", lambda was: was[:-9])), "expected a safetensors file"),
    "weights that are no numbers": (weights(lambda t: {k: v * float("nan") for k, v in t.items()}), "not finite"),
    "weights that are whole numbers": (weights(lambda t: {k: v.long() for k, v in t.items()}), "int64"),
    "weights of one layer too many": (weights(lambda t: t | {ESCAPE: torch.zeros(1)}), "\\x1b[31m"),
    "no weights": (network(lambda folder: (folder / "model.safetensors").unlink()), "cannot read"),
    "a network with a command for a name": (words("look", "GOOD", "--network", f"FOLDER/{ESCAPE}"), "\\x1b[31m"),
    # Runs
    "settings with no number": (run(text("training.json", '"clip": 5.0', '"clip": NaN')), "NaN is no number"),
    "settings that say two things": (run(text("training.json", "{", '{"task": "x",')), "'task' stands there twice"),
    "settings of another version": (run(text("training.json", '"clip"', '"clap"')), "got clap"),
    "settings of absurd numbers": (run(text("training.json", '"samples": 2', '"samples": 1e400')), "too large"),
    "hashes of data that are none": (run(text("data.json", "", "[]")), "expected hashes of the data"),
    "a row of metrics that is none": (run(text("metrics.jsonl", "{", "x{")), "line 1 is damaged"),
    "checkpoints whose state is none": (run(both("state.json", b"{}")), "state.json is not as it was written"),
    "checkpoints whose hashes are none": (run(both("hashes.json", b'{"x": NaN}')), "NaN is no number"),
    "a calibration that is none": (run(
        lambda folder: (folder / "calibration.json").write_text('{"step": 6, "values": [NaN]}'),
        "look", "GOOD", "--network", "CHANGED"), "NaN is no number"),
    "figures of no update": (measured(lambda found: found.pop("step")), "KeyError: 'step'"),
    "figures of half an update": (measured(lambda found: found.update(step="6")), "the update '6'"),
    "figures that are a list": (run(lambda f: (f / "evaluation-test.json").write_text("[]"), *RELEASE), AS_KEPT),
    "figures of another task": (run(lambda f: (f / "evaluation-test.json").write_text('{"step": 6}'), *RELEASE),
        AS_KEPT),
    "robustness that is a list": (run(lambda f: (f / "robustness.json").write_text("[1]"), *RELEASE), AS_KEPT),
    "metrics that are a list": (run(text("metrics.jsonl", "{", "[]\n{")),
        "line 1 is damaged (it is no row of an update)"),
    "metrics without updates": (run(text("metrics.jsonl", '"step"', '"stop"')), "line 1 is damaged"),
    # Words that name nothing, and places for what is made that are none
    "no name of a run": (training("--run", ""), "expected a word or a number after --run, got ''"),
    "a name of spaces": (training("--run", "  "), "after --run, got '  '"),
    "a name that an option lacks": (training("--run="), "after --run, got ''"),
    "a name with a zero": (training("--run", "a\0b"), "after --run, got 'a\\x00b'"),
    "no network": (words("look", "GOOD", "--network", ""), "after --network, got ''"),
    "no run to go on with": (words("train", "--resume", ""), "after --resume, got ''"),
    "no data": (words("train", "  ", "--run", "FOLDER/new"), "expected a word or a number, got '  '"),
    "no network to measure": (words("evaluate", ""), "expected a word or a number, got ''"),
    "nothing to go on from": (training("--start-from", " "), "after --start-from, got ' '"),
    "no place for a picture": (words("look", "GOOD", "--network", "RUN", "--to", ""), "after --to, got ''"),
    "a picture of no kind": (words("look", "GOOD", "--network", "RUN", "--to", "FOLDER/x.exe"), "'x.exe'; name"),
    "a folder for a picture": (words("look", "GOOD", "--network", "RUN", "--to", "FOLDER"), "a picture's name"),
    "a picture over its photo": (words("look", "GOOD", "--network", "RUN", "--to", "GOOD"), "left as it is"),
    "a map of no kind": (words("explain", "GOOD", "--network", "RUN", "--label", "7", "--picture", "FOLDER/x"), "'x'"),
    "a folder for figures": (words("evaluate", "RUN", "--save", "FOLDER"), "Is a directory"),
    "figures in a picture": (words("evaluate", "RUN", "--save", "FOLDER/x.png"), "a picture of them beside"),
    "a run among digits": (lambda folder, run: ["train", "DIGITS", *SETTINGS, "--run", "DIGITS"], "which holds t10k-"),
    "a run among other things": (among_others, "expected a new folder for a run"),
    "a run in the root of all": (training("--run", "/"), "expected a new folder for a run, got /"),
    # Settings that mean nothing
    "a rate of nothing": (training("--learning-rate", "0"), "the learning rate must be above 0"),
    "a rate without end": (training("--learning-rate", "inf"), "learning rate must be a finite number"),
    "a scale twice": (training("--scales", "2", "2"), "scales must differ from one another"),
    "no scales": (training("--scales"), "scales must be one or more"),
    "no updates": (training("--updates", "0"), "updates must be at least 1"),
    "a seed below all": (training("--seed", "-1"), "seed must be from 0"),
    "all that there is for validation": (training("--validation", "76"), "to leave digits to train on"),
    "a tracker that is none": (training("--tracker", "nope"), "invalid choice 'nope'"),
    "an estimator that is none": (training("--estimator", "reinforce"), "unknown estimator 'reinforce'"),
    "a stride that does not fit": (training("--policy", "map", "--map-stride", "3"), "a multiple of the map's stride"),
    "an answer that is none": (words("explain", "GOOD", "--network", "RUN", "--label", "cat"), "a label among"),
    "a probability beyond 1": (words("predict", "GOOD", "--network", "RUN", "--stop-at", "2"), "above 0 and at most 1"),
    "a port beyond all": (words("app", "RUN", "--port", "99999999"), "port 99999999"),
    # Settings that no machine has room for
    "endless glimpses": (training("--glimpses", "100000000"), "GiB of memory or more"),
    "endless samples": (training("--samples", "1000000000"), "GiB of memory or more"),
    "endless units": (training("--lower-units", "1000000000"), "GiB of memory or more"),
    "units beyond all sizes": (training("--lower-units", str(10**15)), "more than any memory holds"),
    "a view beyond all sizes": (training("--view", str(10**12)), "more than any memory holds"),
    "an endless view": (training("--view", "1000000"), "GiB of memory or more"),
    "endless channels": (training("--network", "conv", "--widths", "1000000", "1000000"), "GiB of memory or more"),
    "an endless scale": (training("--scales", "1", str(10**12)), "whole numbers from 1 to 1048576"),
    "an endless patch": (training("--patch", "1000000000"), "more than any memory holds"),
    "a number of a thousand digits": (training("--warmup", "9" * 1000), "must be a number of 64 bits"),
    "an endless vote": (words("evaluate", "RUN", "--samples", "1000000000"), "GiB of memory or more"),
    "an endless vote on one": (words("look", "GOOD", "--network", "RUN", "--samples", "9" * 30), "GiB of memory"),
}  # fmt: skip
