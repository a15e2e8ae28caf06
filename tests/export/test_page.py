"""The page looks as the network does, in a browser without a server, and asks nobody for anything."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.export.test_graph import KINDS, opinionated
from tests.models.networks import captioner, classifier
from tests.refusals import refusal, refused
from wsram.cli import main
from wsram.data.given import given
from wsram.data.mnist import load_mnist
from wsram.export import page as pages
from wsram.export.checks import own
from wsram.export.page import export_page
from wsram.models.classifier import AttentionClassifier
from wsram.models.pretrained import from_pretrained
from wsram.terminal import Screen

CHROMIUM = "/usr/bin/chromium"
SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
LOOK = """async ([folder, planes, width, height]) => {
    const { open } = await import(`/${folder}/network.js`);
    const network = await open(`/${folder}/`);
    const began = performance.now();
    const found = network.look({ data: Float32Array.from(planes), width, height });
    return [found.map(({ x, y, scale, beliefs }) => ({ x, y, scale, beliefs })), performance.now() - began];
}"""
QUIET = Screen(quiet=True)


def networks() -> dict[str, AttentionClassifier]:
    torch.manual_seed(0)
    kinds = {f"kind-{n}": opinionated(**changes) for n, changes in enumerate(KINDS.values())}
    released = from_pretrained("translated", inference=False)
    assert isinstance(released, AttentionClassifier)
    return kinds | {"translated": released}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that has a page for each network."""
    folder = tmp_path_factory.mktemp("host")
    for name, network in networks().items():
        export_page(network, pages.BROWSER, folder / name, QUIET)
    shutil.rmtree(folder / "translated")
    main(["export", "translated", "--to", str(folder / "translated")])

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright, of the dev extra")
    if not os.path.exists(CHROMIUM):
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    with api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield running
        running.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A new tab, which must ask for nothing but the page's own files and report no mistake."""
    tab = browser.new_context(viewport={"width": 1100, "height": 800}).new_page()
    asked: list[str] = []
    wrong: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    yield tab
    tab.context.close()
    assert not wrong
    assert asked and all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in asked), asked


def test_every_kind_of_network_answers_as_in_torch(host: str, tab: Any) -> None:
    visit(tab, host)
    for n, (name, network) in enumerate(networks().items()):
        height, width = ((60, 60), (33, 47), (128, 50))[n % 3]
        image = torch.rand(1, network.channels, height, width, generator=torch.Generator().manual_seed(n))
        glimpses, _ = tab.evaluate(LOOK, [name, image.flatten().tolist(), width, height])
        said, *_, locations, scales = own(network, image, None)
        assert [glimpse["scale"] for glimpse in glimpses] == scales[0].tolist(), name
        for glimpse, location, belief in zip(glimpses, locations[0].tolist(), said[0], strict=True):
            assert (glimpse["x"], glimpse["y"]) == pytest.approx(location, abs=1e-4), name
            unit = network.arguments["unit"][1] if network.arguments["answer"] == "number" else 1
            assert (torch.tensor(glimpse["beliefs"]) - belief).abs().max() < 1e-4 * unit, name


def visit(tab: Any, host: str) -> None:
    """Open the page of the network that comes along, and wait until it has looked."""
    tab.goto(f"{host}/translated/index.html")
    tab.locator("#glimpses li").nth(3).wait_for(state="attached")


def draw(tab: Any, digit: Tensor, left: int, top: int) -> Tensor:
    """Draw a digit on the canvas row by row, as a mouse does; returns what the canvas then holds, (1, side, side)."""
    box = tab.locator("#pixels").bounding_box()
    side = tab.evaluate("document.getElementById('pixels').width")
    zoom = box["width"] / side
    for y in range(digit.shape[0]):
        lit = (digit[y] > 100).nonzero().flatten().tolist()
        starts = [x for x in lit if x - 1 not in lit]
        for start in starts:
            end = next(x for x in range(start, 29) if x + 1 not in lit)
            at = [box["x"] + (left + start + 1) * zoom, box["y"] + (top + y + 0.5) * zoom]
            tab.mouse.move(*at)
            tab.mouse.down()
            tab.mouse.move(at[0] + max(0, end - start - 1) * zoom, at[1])
            tab.mouse.up()
    pixels = tab.evaluate("""() => {
        const canvas = document.getElementById('pixels');
        return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
    }""")
    return torch.tensor(pixels, dtype=torch.uint8).view(side, side, 4)[:, :, 0].unsqueeze(0)


def test_a_digit_that_is_drawn_is_named_as_in_torch(host: str, tab: Any, mnist_dir: Path) -> None:
    digit = load_mnist("test", mnist_dir).images[0]
    tab.emulate_media(reduced_motion="reduce")
    visit(tab, host)
    canvas = draw(tab, digit, 20, 15)
    network = from_pretrained("translated", inference=False)
    assert isinstance(network, AttentionClassifier)
    said, _, _ = own(network, given(canvas, 1).unit().unsqueeze(0), None)
    name, value = network.head.names[int(said[0, -1].argmax())], float(said[0, -1].max())
    answer = tab.inner_text("#answer")
    assert answer.split()[0] == name == "7" and value > 0.5
    assert answer == f"7 ({'>99.9%' if value > 0.999 else f'{value:.1%}'})"


def test_it_is_usable_by_keyboard_and_told_to_those_who_hear_it(host: str, tab: Any) -> None:
    visit(tab, host)
    unnamed = tab.evaluate("""[...document.querySelectorAll('canvas, button, input, progress')].filter((each) =>
        !(each.getAttribute('aria-label') || each.textContent || each.labels?.length || each.ariaHidden))
        .map((each) => each.outerHTML)""")
    assert unnamed == [] and tab.get_attribute("#answer", "aria-live") == "polite"
    tab.focus("#pixels")
    before = tab.evaluate("document.getElementById('pixels').toDataURL()")
    for key in (" ", *["ArrowDown"] * 12):
        tab.keyboard.press(key)
    assert tab.evaluate("document.getElementById('pixels').toDataURL()") != before
    tab.focus("#shown")
    tab.keyboard.press("Home")
    assert tab.inner_text("#count") == "0 of 4" and tab.inner_text("#answer") == "It has not looked yet."
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#count") == "1 of 4"
    tab.focus("#clear")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.getElementById('pixels').toDataURL()") == before


def test_an_image_is_opened_and_what_is_none_is_told(host: str, tab: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (90, 40), (10, 200, 30)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    tab.emulate_media(reduced_motion="reduce")
    visit(tab, host)
    tab.set_input_files("#file", str(tmp_path / "a.png"))
    tab.locator("#speed", has_text="90×40 pixels").wait_for()
    tab.set_input_files("#file", str(tmp_path / "b.png"))
    tab.locator("#problem", has_text="b.png cannot be read").wait_for()
    assert tab.inner_text("#speed").startswith("90×40")


def test_a_page_is_small_and_whole(tmp_path: Path) -> None:
    main(["export", "translated", "--to", str(tmp_path / "site")])
    files = {path.name: path.stat().st_size for path in (tmp_path / "site").iterdir()}
    assert files.keys() == {path.name for path in pages.BROWSER.iterdir()} | {
        "config.json",
        "model.safetensors",
        "page.json",
    }
    assert sum(files.values()) < 6_000_000
    assert json.loads((tmp_path / "site" / "page.json").read_text())["side"] == 60


def test_what_a_page_cannot_do_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "site"
    refusal(lambda: export_page(captioner(), tmp_path, to, QUIET), "captions cannot be exported")
    network = opinionated()
    network.arguments["eyes"] = 2
    refusal(lambda: export_page(network, tmp_path, to, QUIET), "does not know", "eyes")
    refusal(lambda: export_page(opinionated(policy="map"), tmp_path, to, QUIET), "does not know", "policy, a map")
    refusal(lambda: export_page(opinionated(binding="product"), tmp_path, to, QUIET), "does not know", "a product")
    refusal(lambda: export_page(opinionated(leak=0.1), tmp_path, to, QUIET), "does not know", "leak")
    gathering, placeless = (
        classifier(inference=False, **odd) for odd in ({"recurrence": "evidence"}, {"binding": "none"})
    )
    refusal(lambda: export_page(gathering, tmp_path, to, QUIET), "does not know", "recurrence, a evidence")
    refusal(lambda: export_page(placeless, tmp_path, to, QUIET), "does not know", "binding, a none")
    assert "--step" in refused(capsys, "export", "translated", "--to", str(to), "--step")
    assert not to.exists()
    to.mkdir()
    dotted = tmp_path / "my.site"
    assert "without a dot in its name, got '.site'" in refused(capsys, "export", "translated", "--to", f"{dotted}/")
    dotted.mkdir()
    for folder in (to, dotted):
        assert "exists already; name a new" in refused(capsys, "export", "translated", "--to", str(folder))
    assert not list(to.iterdir())


def test_the_page_heeds_every_setting_of_a_network() -> None:
    """A new setting must be taught to the page, or be refused by it."""
    assert opinionated().arguments.keys() == pages.KNOWN
