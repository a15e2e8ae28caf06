"""The pictures of `wsram app` in its page of the documentation: `python docs/hooks/screenshots.py` makes them anew.

It needs the app extra, playwright, and a Chromium that is on the path.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from wsram.app.serving import serving

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
NETWORKS = ("translated", str(ROOT / "checkpoints" / "cluttered-60"))
THREE = ((0.36, 0.26), (0.55, 0.2), (0.64, 0.33), (0.5, 0.46), (0.66, 0.6), (0.56, 0.77), (0.34, 0.72))


def draw(page: Any) -> None:
    """A three, by the mouse."""
    box = page.locator("canvas").bounding_box()
    for n, (x, y) in enumerate(THREE):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
        if not n:
            page.mouse.down()
    page.mouse.up()
    page.locator("article table").first.wait_for()


def keep(page: Any, name: str) -> None:
    """A picture of the whole page, in few colours and therefore few bytes."""
    page.wait_for_timeout(1000)
    path = FIGURES / name
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Make both pictures."""
    with serving(NETWORKS, port=0) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-sync"]
        )
        for name, scheme, width in (("app.png", "light", 1180), ("app-evidence.png", "dark", 1180)):
            page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
            page.set_default_timeout(240_000)
            page.goto(address)
            page.locator("canvas").wait_for()
            draw(page)
            if "evidence" in name:
                label = page.get_by_label("Where is the evidence for")
                label.click()
                page.get_by_role("option", name="8", exact=True).click()
                page.get_by_role("button", name="Show the evidence").click()
                page.locator(".maps").first.wait_for()
            keep(page, name)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
