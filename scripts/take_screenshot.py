"""Take the screenshot of a report for the README: its top and its first mistakes.

    python scripts/take_screenshot.py artifacts/runs/sample .github/report.png

Needs Chromium and the packages of the extra ``dev``. Use it for the synthetic sample only, never for people's
work.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH = 1120  # of the page, in CSS pixels
ROWS = 2  # rows of mistakes
COLOURS = 200  # of the palette; photographs would need more


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/take_screenshot.py RUN OUT.png")
    report, out = Path(sys.argv[1]) / "report.html", Path(sys.argv[2])
    if not report.is_file():
        sys.exit(f"{report}: not found. Create it with: classify compare STORE, or: classify report RUN")
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [Image.open(io.BytesIO(part)) for part in screenshots(report)]
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {whole.width} × {whole.height} pixels, {out.stat().st_size / 1000:.0f} kB")


def screenshots(path: Path) -> list[bytes]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if is_root else []
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("#chart-map svg")
        page.add_style_tag(content=".filters { position: static !important; }")
        table = page.locator("#leaderboard .wide").bounding_box()
        first = page.locator("#mistakes").bounding_box()
        cards = page.locator("#mistakes-gallery > li")
        per_row = WIDTH // round(cards.first.bounding_box()["width"])
        last = cards.nth(min(ROWS * per_row, cards.count()) - 1).bounding_box()
        clips = [(0, table["y"] + table["height"] + 12), (first["y"], last["y"] + last["height"] + 20)]
        images = [
            page.screenshot(full_page=True, clip={"x": 0, "y": top, "width": WIDTH, "height": end - top})
            for top, end in clips
        ]
        browser.close()
    return images


if __name__ == "__main__":
    main()
