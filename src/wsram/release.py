"""What others need of a run, in a folder that every command opens like a run: network, settings, and a model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from wsram.caption_report import load_captioner, load_vocabulary
from wsram.config import CaptionConfig
from wsram.models.encoder import build_encoder
from wsram.report import load_network
from wsram.results import section
from wsram.runs import open_run, write_release

CARD = "MODEL_CARD.md"


def report_release(folder: Path, target: Path, console: Console) -> None:
    """Write the network of a run, without the inference network that taught it, as a folder for others.

    The model card says how it was made and how good it is, from the run's files: evaluate the run first.

    Args:
        folder: the run's.
        target: a folder that does not exist yet.
        console: prints there.

    Raises:
        UserError: no run there, or the target exists or cannot be written.
    """
    run = open_run(folder)
    taught = replace(run.config.estimator, proposal="policy")
    if isinstance(run.config, CaptionConfig):
        data = run.config.data
        channels = build_encoder(data.encoder, data.grid).channels
        network = load_captioner(run, load_vocabulary(run), channels)
        # Where the data lay on this machine is of no use on another.
        elsewhere = replace(data, captions=None, images=None, features=None)
        write_release(run, replace(run.config, data=elsewhere, estimator=taught), network, target)
        use = "wsram caption IMAGE --run"
    else:
        digits = replace(run.config, data=replace(run.config.data, data_dir=None), estimator=taught)
        write_release(run, digits, load_network(run, inference=False), target)
        use = "wsram evaluate --data-dir PATH/TO/MNIST"
    card = (
        "# Model card\n\nThe network of one run of wsram, without the inference network that taught it, as "
        f"safetensors. Use it with `{use} FOLDER`.\n\n"
    )
    (target / CARD).write_text(card + section(target, target) + "\n")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    console.print(f"Released: {target} ({size / 1e6:.1f} MB); try `{use} {target}`")
