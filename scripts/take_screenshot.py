"""Draw the README's picture of a report: its top and its first mistakes, one above the other.

    python scripts/take_screenshot.py artifacts/runs/sample .github/report.png

Needs Chromium and what the extra ``dev`` installs. It is of the synthetic sample, never of people's work.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH = 1120  # of the page, in pixels of CSS
ROWS = 2  # of mistakes
COLOURS = 200  # of the picture: photographs would need more


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/take_screenshot.py RUN PICTURE.png")
    page_path, picture = Path(sys.argv[1]) / "report.html", Path(sys.argv[2])
    if not page_path.is_file():
        sys.exit(f"{page_path}: not there. Make it with: classify compare STORE, or: classify report RUN")
    picture.parent.mkdir(parents=True, exist_ok=True)
    parts = [Image.open(io.BytesIO(part)) for part in shots(page_path)]
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(f"{picture}: {whole.width} × {whole.height} pixels, {picture.stat().st_size / 1000:.0f} kB")


def shots(path: Path) -> list[bytes]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if root else [])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("#chart-map svg")
        page.add_style_tag(content=".filters { position: static !important; }")
        table = page.locator("#leaderboard .wide").bounding_box()
        first = page.locator("#mistakes").bounding_box()
        cards = page.locator("#mistakes-gallery > li")
        across = WIDTH // round(cards.first.bounding_box()["width"])
        last = cards.nth(min(ROWS * across, cards.count()) - 1).bounding_box()
        clips = [(0, table["y"] + table["height"] + 12), (first["y"], last["y"] + last["height"] + 20)]
        taken = [
            page.screenshot(full_page=True, clip={"x": 0, "y": top, "width": WIDTH, "height": end - top})
            for top, end in clips
        ]
        browser.close()
    return taken


if __name__ == "__main__":
    main()
