"""A network as a page that any static host can serve: draw, and watch it look, without a server and without a request.

The page computes by itself, in JavaScript, from the network's own two files. Nothing in it is anybody else's.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from wsram.data.scenes import SCENES
from wsram.errors import UserError
from wsram.export.files import exportable
from wsram.models.classifier import AttentionClassifier
from wsram.models.layers import NETWORKS
from wsram.models.pretrained import Network, save_network
from wsram.numbering import COLOURS
from wsram.runs import SETTINGS, Run, new_folder
from wsram.terminal import Screen

BROWSER = Path(__file__).parent / "browser"
"""The page's own files."""
KNOWN = {
    *(
        "names",
        "answer",
        "channels",
        "glimpses",
        "patch",
        "scales",
        "sensor",
        "contrast",
        "recurrence",
        "network",
        "freeze",
    ),
    *("widths", "lower_units", "upper_units", "view", "std_range", "unit", "longest", "calibration", "inference"),
    *("precision", "aim", "policy"),
    *("map_stride", "map_apart", "map_query", "map_toll", "map_evidence", "map_freeze", "map_dropout"),
    *("binding", "leak", "warp", "dropout", "read_dropout", "scale_toll"),
}
"""Arguments of a network that the page heeds, or that do not matter to it."""
SIDE = 100
"""Pixels along a drawing, where the network was not trained on scenes of a known size."""
PEN = 20
"""Strokes of the pen along a drawing."""


def export_page(network: Network, known: Path, to: Path, screen: Screen) -> None:
    """Write a folder that a static host can serve.

    Args:
        network: what looks, on the CPU.
        known: the folder it was opened from: what it was trained on decides how large a drawing is.
        to: a new folder.
        screen: says what was written.

    Raises:
        UserError: a captioner, a network with an argument that the page does not know, or a folder that is there or
            cannot be written; nothing is left of it then.
    """
    classifier = exportable(network)
    _require_known(classifier)
    if os.path.lexists(to):
        raise UserError(f"{to} exists already; name a new folder")
    with new_folder(to) as partial:
        shutil.copytree(BROWSER, partial, dirs_exist_ok=True)
        save_network(classifier, partial, inference=False)
        (partial / "page.json").write_text(json.dumps(_about(known), ensure_ascii=False) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in to.iterdir())
    screen.say(f"Exported: {to} ({size / 1e6:.1f} MB); look at it with `python -m http.server --directory {to}`")


def _require_known(network: AttentionClassifier) -> None:
    odd = sorted(network.arguments.keys() - KNOWN)
    if network.arguments["network"] not in NETWORKS:
        odd.append(f"pretrained {network.arguments['network']}")
    taught = {"policy": ("gaussian",), "recurrence": ("relu", "gru", "lstm"), "binding": ("sum",), "leak": (0.0,)}
    chosen = {name: network.arguments[name] for name in taught}
    odd += [f"{name}, a {kind}" for name, kind in chosen.items() if kind not in taught[name]]
    if len(network.arguments["widths"]) != 2:
        odd.append(f"{len(network.arguments['widths'])} convolutions")
    if odd:
        raise UserError(f"the page does not know the network's {', '.join(odd)}; export .onnx instead")


def _about(known: Path) -> dict[str, object]:
    """How large a drawing is, how broad the pen, and what is drawn best."""
    run = Run.open(known) if (known / SETTINGS).is_file() else None
    scene = SCENES.get(getattr(run.config.data, "scene", None) or "") if run else None
    if scene is None:
        return {"side": SIDE, "stroke": SIDE / PEN, "hint": "", "colours": COLOURS}
    # MNIST leaves a border of 4 pixels around digits of 20.
    sizes = sorted({round(side * 20 / 28) for side in (scene.min_side, scene.max_side)})
    hint = f"It was trained on digits {' to '.join(map(str, sizes))} pixels high; the canvas has {scene.canvas}."
    return {"side": scene.canvas, "stroke": scene.canvas / PEN, "hint": hint, "colours": COLOURS}
