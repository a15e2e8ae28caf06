"""What one image costs where a network runs: in this package, in onnxruntime, and in the page in a browser."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from experiments.pages import require_writable, shown
from wsram.errors import UserError
from wsram.export.files import export_file, exportable, require_extra
from wsram.export.page import export_page
from wsram.predictor import Predictor, from_pretrained
from wsram.provenance import provenance
from wsram.tables import Table
from wsram.terminal import Screen

SIDE = 100
"""Pixels along the square grey image: noise, since no time depends on what it shows."""
WARM_UP, TIMED = 50, 1500
"""Looks before the first that counts, and looks that count."""
IN_BROWSER = 30
"""Looks that count in a browser, after as many that let it compile."""
PLACES = {"torch": "PyTorch", "onnxruntime": "onnxruntime", "page": "the page"}
SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
LOOK = """async ([side, looks]) => {
    const { open } = await import("/network.js");
    const network = (window.network ??= await open("/"));
    const image = { data: Float32Array.from({ length: side * side }, Math.random), width: side, height: side };
    const taken = [];
    for (let n = 0; n < looks; n++) {
        const began = performance.now();
        network.look(image);
        taken.push(performance.now() - began);
    }
    return taken;
}"""


def exported(names: tuple[str, ...], screen: Screen, *, to: Path | None = None) -> dict[str, Any]:
    """Show the milliseconds of one image of `SIDE` pixels, by one thread, in every place where a network runs.

    In this package all of `Predictor.predict` is timed; of onnxruntime the run alone; of the page `Network.look` in a
    headless Chromium, where playwright and one are installed.

    Args:
        names: of networks.
        screen: where the table is shown.
        to: a JSON file to keep the figures in.

    Raises:
        UserError: a network that cannot be exported, or the export extra is not installed.
    """
    require_writable(to)
    require_extra(".onnx")
    import onnxruntime

    torch.set_num_threads(1)
    rows = {}
    for name in names:
        rows[Path(name).name] = _of(from_pretrained(name, inference=False).to("cpu"))
    versions = {"onnxruntime": onnxruntime.__version__}
    found = {"side": SIDE, "networks": rows, "provenance": versions | provenance()}
    return shown(found, table(found), screen, to)


def table(found: dict[str, Any]) -> Table:
    """A row for each network in each place."""
    rows = [
        [
            f"`{name}`",
            said,
            _told(of["median"]),
            f"{_told(of['low'])} to {_told(of['high'])}",
            _told(of["processor"]),
            str(of["looks"]),
        ]
        for name, taken in found["networks"].items()
        for place, said in PLACES.items()
        if (of := taken.get(place))
    ]
    title = f"Milliseconds of one image of {found['side']}×{found['side']} pixels, one thread"
    return Table(title, ["network", "where", "median", "nine of ten", "of the processor", "looks"], rows, words=2)


def _told(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}"


def spread(taken: list[float], processor: float) -> dict[str, float]:
    """Of looks: median, 5% and 95% quantile of their milliseconds, the mean of the processor's, how many there are."""
    low, median, high = np.quantile(taken, (0.05, 0.5, 0.95)).tolist()
    return {"median": median, "low": low, "high": high, "processor": processor, "looks": len(taken)}


def _of(predictor: Predictor) -> dict[str, Any]:
    import onnxruntime

    network, quiet = exportable(predictor.network), Screen(quiet=True)
    if network.channels != 1:
        raise UserError("the image that is timed is grey, and this network is of colours; name one of grey images")
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    found = {"torch": _timed(lambda: predictor.predict(image))}
    with TemporaryDirectory() as place:
        file, page = Path(place, "network.onnx"), Path(place, "page")
        export_file(network, file, quiet)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        given = {"images": image[None, None].astype(np.float32) / 255}
        found["onnxruntime"] = _timed(lambda: session.run(None, given))
        export_page(network, Path(place), page, quiet)
        if taken := in_browser(page):
            found["page"] = taken
    return found


def _timed(look: Callable[[], object]) -> dict[str, float]:
    for _ in range(WARM_UP):
        look()
    taken, spent = [], time.process_time()
    for _ in range(TIMED):
        began = time.perf_counter()
        look()
        taken.append(1000 * (time.perf_counter() - began))
    return spread(taken, 1000 * (time.process_time() - spent) / TIMED)


def in_browser(page: Path) -> dict[str, float] | None:
    """The looks that count, and the milliseconds of the first one; none where there is no browser."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    handler = partial(_Silent, directory=str(page))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as play:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = play.chromium.launch(executable_path=chromium, args=list(SWITCHES))
        tab = browser.new_page()
        tab.goto(f"http://127.0.0.1:{server.server_port}/config.json")  # of the same origin, and computes nothing
        first, *_ = tab.evaluate(LOOK, [SIDE, IN_BROWSER])
        watch = tab.context.new_cdp_session(tab)
        watch.send("Performance.enable", {"timeDomain": "threadTicks"})

        def spent() -> float:
            """Milliseconds of the processor that the tab's thread has had."""
            told = watch.send("Performance.getMetrics")["metrics"]
            return 1000 * next(float(each["value"]) for each in told if each["name"] == "TaskDuration")

        before = spent()
        taken = tab.evaluate(LOOK, [SIDE, IN_BROWSER])
        found = spread(taken, (spent() - before) / IN_BROWSER)
        browser.close()
        server.shutdown()
    return found | {"first": first}


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""
