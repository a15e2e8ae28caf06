"""What every test shares: checked annotations, one seed, few threads, small finished runs, and where real data are."""

from __future__ import annotations

import os
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

# Before the first import of wsram: from here on every call checks its arguments and result against the annotations.
# A test of a `UserError` must therefore pass a wrong value of the right type. An int will do for a float (PEP 484).
jaxtyping.install_import_hook("wsram", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# Small tensors gain nothing from many threads, and parallel test processes would fight over the cores.
torch.set_num_threads(1)

# A loaded machine is not a defect: examples are bounded in number, not in time.
settings.register_profile("wsram", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("WSRAM_EXAMPLES", "wsram"))

ROOT = Path(__file__).resolve().parents[1]
MNIST_FILES = tuple(
    f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """No test depends on those that ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up digits in the format of MNIST, which no test writes into."""
    from tests.tiny import write_digits

    return write_digits(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture(scope="session")
def digit_run(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A finished run on `digits`; a test that writes into it takes a copy."""
    from tests.tiny import tiny_config, trained

    folder = tmp_path_factory.mktemp("runs") / "digits"
    trained(folder, tiny_config(digits))
    return folder


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small network that knows five letters, which no test writes into."""
    from tests.models.networks import classifier
    from wsram.models.pretrained import save_network

    folder = tmp_path_factory.mktemp("networks") / "letters"
    folder.mkdir()
    save_network(classifier(), folder)
    return str(folder)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up captioned images in Flickr8k's layout, which no test writes into."""
    pytest.importorskip("PIL", reason="images need the captions extra")
    pytest.importorskip("sacrebleu", reason="scores need the captions extra")
    from tests.caption_world import write_world

    return write_world(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """The features of all images of `world`, which no test writes into."""
    from tests.caption_world import tiny_captions, write_features

    folder = tmp_path_factory.mktemp("features") / "cache"
    write_features(tiny_captions(world, folder))
    return folder


@pytest.fixture(scope="session")
def caption_run(tmp_path_factory: pytest.TempPathFactory, world: Path, features: Path) -> Path:
    """A finished run on `world`, long enough to learn its colours; a test that writes into it takes a copy."""
    from tests.caption_world import tiny_captions
    from tests.tiny import trained

    folder = tmp_path_factory.mktemp("runs") / "captions"
    long = dict(updates=130, evaluate_every=26, learning_rate=0.015)
    trained(folder, tiny_captions(world, features, name="wake-sleep-credit", **long))
    return folder


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder of MNIST's four IDX files: $WSRAM_DATA, or ../shared/data/mnist beside the repository."""
    named = os.environ.get("WSRAM_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "mnist"
    missing = [name for name in MNIST_FILES if not (folder / name).is_file()]
    if missing:
        pytest.skip(f"real MNIST is not in {folder} ({missing[0]} is missing); set WSRAM_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def flickr8k_dir() -> Path:
    """The folder of Flickr8k in its official layout: $WSRAM_FLICKR8K, or ../shared/data/flickr8k by the repository."""
    named = os.environ.get("WSRAM_FLICKR8K")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "flickr8k"
    for name in ("Flicker8k_Dataset", "Flickr8k_text"):
        if not (folder / name).is_dir():
            pytest.skip(f"real Flickr8k is not in {folder} ({name} is missing); set WSRAM_FLICKR8K to its folder")
    return folder
