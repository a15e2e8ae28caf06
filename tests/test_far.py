"""Everything that is computed on an accelerator lies there, and nothing of the host is mixed in; see `tests.far`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.processes import start
from tests.tiny import tiny_config, trained, write_digits
from wsram.cli import main
from wsram.evaluate import open_trained

registration = pytest.importorskip("torch.utils.backend_registration")
if not hasattr(registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch has no backends written in Python", allow_module_level=True)

WAYS: dict[str, dict[str, object]] = {
    "wake-sleep": dict(
        name="wake-sleep-credit", defensive=0.2, sleep=0.5, temperature=1.5, scale_entropy=0.1, network="conv"
    ),
    "policy": dict(
        name="variational-credit", proposal="policy", sum_scale=True, every_glimpse=0.5, empty=0.1, aim="contrast"
    ),
    "map": dict(
        name="wake-sleep-exact", policy="map", map_stride=2, distortion=0.5, warp=0.5, dropout=0.2, contrast=True
    ),
    "evidence": dict(
        name="vimco", proposal="policy", recurrence="evidence", policy="map", map_stride=4, map_evidence=True
    ),
    "followed": dict(
        recurrence="gru",
        scene="cluttered-60",
        name="variational",
        pathwise=0.5,
        proposal="policy",
        flip="both",
        rotate=9.0,
        blur=1.0,
    ),
    "resampled": dict(
        recurrence="lstm", name="wake-sleep-resampled", precision="bf16", invert=0.5, noise=0.1, coverage=0.1
    ),
    "megapixel": dict(scene="megapixel-all", policy="map", map_stride=2, view=16),
}


def used(folder: Path, way: str) -> None:
    """Train, go on, evaluate and ask, all on the device."""
    from tests.far import NAME, far_away

    with far_away():
        config = tiny_config(folder / "digits", **WAYS[way])
        trained(folder / "run", config)
        network, run = open_trained(folder / "run").network, str(folder / "run")
        assert {parameter.device.type for parameter in network.parameters()} == {NAME}
        image = str(folder / "digit.png")
        main(["train", "--resume", run, "--updates", "8"])
        main(["evaluate", run, "--samples", "3"])
        main(["predict", image, "--network", run])
        main(["predict", image, "--network", run, "--samples", "3", "--json"])
        main(["look", image, "--network", run, "--to", str(folder / "look.png")])
        if config.data.scene != "megapixel-all":  # whose answer is no single label
            main(["explain", image, "--label", "3", "--network", run, "--picture", str(folder / "why.png")])
            main(["evaluate", run, "--stop"])
            main(["predict", image, "--network", run, "--stop-at", "0.9"])


def captioned(folder: Path) -> None:
    """Features, training and sentences on the device."""
    from tests.caption_world import tiny_captions, write_features, write_world
    from tests.far import far_away

    with far_away():
        config = tiny_captions(write_world(folder / "world"), folder / "features")
        write_features(config)
        trained(folder / "run", config)
        main(["evaluate", str(folder / "run")])


def mixed() -> None:
    from tests.far import NAME, far_away

    with far_away():
        there, here = torch.rand(3, device=NAME), torch.rand(3)
        assert there.device.type == NAME and (there + 1).device.type == NAME and there.cpu().device.type == "cpu"
        wrong: list[Callable[[], object]] = [
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[there.argsort()],
            lambda: np.asarray(there),
            lambda: torch.rand(3, device=NAME, generator=torch.Generator()),
        ]
        for number, mistake in enumerate(wrong):
            try:
                mistake()
            except (RuntimeError, TypeError):
                continue
            raise AssertionError(f"mistake {number} was not noticed")


def ended(target: Callable[..., object], *args: object, said: Path) -> None:
    process = start(target, *args, said=said)
    process.join()
    assert process.exitcode == 0, said.read_text()[-3000:]


@pytest.mark.parametrize("way", WAYS)
def test_a_network_is_trained_and_asked_on_its_device(way: str, tmp_path: Path) -> None:
    write_digits(tmp_path / "digits")
    Image.effect_noise((90, 80), 90).save(tmp_path / "digit.png")
    ended(used, tmp_path, way, said=tmp_path / "said")


def test_a_captioner_is_trained_and_speaks_on_its_device(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu", reason="scores need the captions extra")
    ended(captioned, tmp_path, said=tmp_path / "said")


def test_two_devices_would_be_noticed(tmp_path: Path) -> None:
    ended(mixed, said=tmp_path / "said")
