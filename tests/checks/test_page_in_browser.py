"""The page of a check in a browser, at desktop and phone width, in light and dark."""

from __future__ import annotations

import shutil

import pytest

import bodies_with_defects as defects
from bodies_with_defects import body, clean, write
from monaiseg.checks import check, write_page

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright for Python")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the PATH")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    clean(folder / "scans", 10)
    for name, how in (("a" * 70, defects.shifted_labels), ("mirrored", defects.mirrored)):
        made = body(50)
        how(made)
        write(folder / "scans", name, made)
    write_page(folder / "check.html", check(folder / "scans"))
    return folder / "check.html"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_and_asks_for_nothing(page_file, width, theme):
    requests, complaints = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        viewport = {"width": width, "height": 900}
        page = browser.new_context(viewport=viewport, color_scheme=theme).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(page_file.as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        widths = page.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.close()

    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert complaints == []
    assert wide <= width
    assert len(widths) == 2
    assert min(widths) > 100
    assert back == {"light": "rgb(246, 247, 249)", "dark": "rgb(15, 18, 22)"}[theme]
