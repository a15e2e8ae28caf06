"""The page in a browser: drawing, choosing a file, watching, and what a keyboard and a screen reader meet."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models.networks import classifier
from wsram.app.serving import serving
from wsram.models.pretrained import save_network

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs chromium, which is not installed", allow_module_level=True)
pytest.importorskip("gradio", reason="the page needs the app extra")
playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
playwright.expect.set_options(timeout=120_000)  # a loaded machine is not a defect
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("networks") / "letters"
    folder.mkdir()
    save_network(classifier(), folder)
    with serving(["translated", str(folder)], port=0) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync", "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened; whatever goes wrong in it, or is asked for elsewhere, fails the test."""
    page = opened(browser, address)
    yield page
    assert page.wrong == []
    page.context.close()


def opened(browser: Any, address: str, **context: Any) -> Any:
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(120_000)
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.wrong.append(said.text))
    page.on("request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or page.wrong.append(asked.url))
    page.goto(address)
    page.locator("canvas").wait_for()
    return page


def draw(page: Any, *places: tuple[float, float]) -> None:
    """A stroke through places, from (0, 0) to (1, 1)."""
    box = page.locator("canvas").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in at[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


SEVEN = ((0.35, 0.25), (0.65, 0.25), (0.45, 0.75))


def said(page: Any, pattern: str, n: int = 0) -> str:
    """What is said of the n-th network, once it is as the pattern wants it."""
    place = page.locator("article .said").nth(n)
    playwright.expect(place).to_have_text(re.compile(pattern), timeout=120_000)
    return str(place.inner_text())


def test_a_drawn_seven_is_called_one_by_the_network_and_looked_at_step_by_step(page: Any) -> None:
    draw(page, *SEVEN)
    whole = said(page, "after 4 glimpses: 7")
    assert page.locator("article h2").all_inner_texts() == ["translated", "letters"]
    page.get_by_role("button", name="Watch it look").click()
    said(page, "before the first glimpse")
    said(page, "after 1 glimpse:")
    said(page, "after 2 glimpses:")
    said(page, "after 4 glimpses:")
    page.wait_for_timeout(3000)  # and stands still
    assert said(page, "after 4 glimpses:") == whole
    page.get_by_label("number input for Glimpses, or words").fill("2")
    page.keyboard.press("Tab")
    said(page, "after 2 glimpses: ")
    page.get_by_role("button", name="Clear").click()
    playwright.expect(page.get_by_role("status").first).to_contain_text("nothing is drawn yet")


def test_a_file_is_chosen_and_a_wrong_one_is_told_in_a_line(page: Any, tmp_path: Path) -> None:
    photo, wrong = tmp_path / "photo.png", tmp_path / "wrong.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)).save(photo)
    wrong.write_text("no image")
    page.get_by_role("radio", name="a file").check()
    playwright.expect(page.locator("canvas")).to_be_hidden()
    page.locator("input[type=file]").first.set_input_files(photo)
    said(page, "after 4 glimpses:")
    page.get_by_role("button", name="Show the evidence").click()
    playwright.expect(page.locator(".maps img")).to_have_count(4)
    page.get_by_role("button", name="Clear").first.click()
    page.locator("input[type=file]").first.set_input_files(wrong)
    line = page.locator("#line .wrong")
    playwright.expect(line).to_contain_text("expected a whole image in wrong.png")
    assert "Traceback" not in page.content() and page.locator("article").count() == 0


def test_two_tabs_do_not_meet(browser: Any, page: Any, address: str) -> None:
    other = opened(browser, address)
    draw(page, *SEVEN)
    draw(other, (0.5, 0.2), (0.5, 0.8))
    said(page, "after 4 glimpses: 7")
    said(other, "after 4 glimpses: 1")
    said(page, "after 4 glimpses: 7")
    assert other.wrong == []
    other.context.close()


def test_a_keyboard_reaches_everything_in_order_and_can_draw(page: Any) -> None:
    page.locator("canvas").focus()
    for key in ["ArrowUp"] * 10 + [" "] + ["ArrowDown"] * 20 + [" "]:
        page.keyboard.press(key)
    said(page, "after 4 glimpses: 1")
    order = []
    for _ in range(30):
        name = page.evaluate("() => { const e = document.activeElement; return e.ariaLabel || e.innerText || e.name }")
        if order and name == order[0]:
            break
        order.append(name)
        page.keyboard.press("Tab")
    places = [next(n for n, name in enumerate(order) if name.startswith(each)) for each in NAMES]
    assert places == sorted(places), order


NAMES = (
    *("Draw a digit", "Undo", "Clear", "Watch it look", "number input for Glimpses", "range slider for Glimpses"),
    *("Network", "Beside it", "Where is the evidence for", "Show the evidence"),
)


def test_every_control_and_picture_has_a_name(page: Any) -> None:
    draw(page, *SEVEN)
    said(page, "after 4 glimpses: 7")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, canvas, a[href], article img")]
            .filter((e) => e.checkVisibility() && !(e.ariaLabel || e.alt || e.title || e.innerText?.trim()
                || e.labels?.[0]?.innerText.trim()))
            .map((e) => e.outerHTML.slice(0, 200))"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(browser: Any, address: str, scheme: str) -> None:
    page = opened(browser, address, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    draw(page, *SEVEN)
    said(page, "after 4 glimpses: 7")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert page.wrong == []
    page.context.close()
