"""The report, opened in a browser as its reader would."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.report]


def test_smoke(photo_run, open_page):
    print(photo_run.page.stat().st_size, photo_run.record["recommended"])
    page = open_page(photo_run.page.as_uri())
    page.screenshot(path="/tmp/shots/smoke.png", full_page=True)
