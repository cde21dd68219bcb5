"""The report in a browser: nothing is requested, nothing is complained of, and everything works."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pages import call, make_page, write_folders

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright for Python")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs Chromium, as `chromium` or `google-chrome` on the PATH"
)
# WebGL in software: a machine for tests has no GPU.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
MANY = 144


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """The page of two structures in three cases."""
    root = tmp_path_factory.mktemp("few")
    write_folders(root)
    return make_page(root)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """The page of 144 structures, each two voxels wide."""
    root = tmp_path_factory.mktemp("many")
    write_folders(root, num_labels=MANY, shape=(2 * MANY + 4, 20, 16))
    return make_page(root)


@pytest.fixture(scope="module")
def model(tmp_path_factory, trained) -> Path:
    """The page of a trained network, with the curves of its training."""
    scores = tmp_path_factory.mktemp("model") / "scores"
    call("evaluate", trained.run_folder, "--data", trained.run_folder.parent, "--report", scores)
    call("report", scores)
    return scores / "report.html"


class Visit:
    """A page that is open in the browser, and all that it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, theme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def open_viewer(self) -> Any:
        """The canvas, when it shows a case."""
        self.page.locator("#viewer-canvas").scroll_into_view_if_needed()
        return self.page.wait_for_selector("#viewer-canvas[data-shows]")

    def column(self, table: str, number: int) -> list[str]:
        return self.page.eval_on_selector_all(
            f"{table} tbody tr", f"rows => rows.map(row => row.cells[{number}].innerText.trim())"
        )


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["few", "many", "model"])
def test_no_request_leaves_the_page_and_the_console_is_silent(browser, request, name, width, theme):
    path = request.getfixturevalue(name)
    visit = Visit(browser, path, width, theme)
    visit.open_viewer()

    leaving = [url for url in visit.requests if not url.startswith(("data:", "blob:"))]
    assert leaving == [path.as_uri()]
    assert visit.complaints == []


@pytest.mark.parametrize("name", ["few", "many"])
def test_a_phone_shows_the_page_without_scrolling_sideways(browser, request, name):
    visit = Visit(browser, request.getfixturevalue(name), width=390)

    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_table_of_144_labels_sorts_by_number_and_back(browser, many):
    visit = Visit(browser, many)
    heading = visit.page.locator("#labels-table thead th", has_text=re.compile("^Dice$"))

    heading.get_by_role("button").click()
    ascending = [float(text) for text in visit.column("#labels-table", 4)]
    heading.get_by_role("button").click()
    descending = [float(text) for text in visit.column("#labels-table", 4)]

    assert len(ascending) == MANY
    assert ascending == sorted(ascending)
    assert descending == ascending[::-1] or descending == sorted(ascending, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"


def test_the_search_leaves_the_labels_with_that_name(browser, many):
    visit = Visit(browser, many)

    visit.page.fill("#labels-find", "STRUCTURE 14")

    shown = visit.page.locator("#labels-table tbody tr:visible")
    assert shown.count() == 1 + 5  # 14, 140 to 144
    assert "6 of 144" in visit.page.inner_text("#labels-count")


def test_the_viewer_draws_the_image_and_the_colours_of_the_labels(browser, few):
    visit = Visit(browser, few)
    canvas = visit.open_viewer()

    assert canvas.get_attribute("data-shows") == "case_2"  # the worst case first
    gray, coloured = _pixels(canvas)
    assert gray > 0.05
    assert coloured > 0.005
    visit.page.locator("#viewer-opacity").fill("0")
    assert _pixels(canvas)[1] < coloured / 4


def test_the_viewer_starts_at_the_largest_error_and_names_the_labels_there(browser, few):
    visit = Visit(browser, few)
    visit.open_viewer()

    here = visit.page.inner_text("#viewer-here")
    known, found = re.search(r"reference: (.+) · prediction: (.+)", here).groups()
    assert known != found


def test_the_keys_move_the_cross_and_choose_the_label_map(browser, few):
    visit = Visit(browser, few)
    visit.open_viewer()
    visit.page.focus("#viewer-canvas")
    before = _position(visit)

    visit.page.keyboard.press("ArrowRight")
    visit.page.keyboard.press("ArrowUp")
    visit.page.keyboard.press("PageUp")

    moved = [after - old for after, old in zip(_position(visit), before, strict=True)]
    assert moved == pytest.approx([1, 1, 2])  # a voxel is 1 x 1 x 2 mm
    for key, name in (("r", "reference"), ("e", "errors"), ("p", "prediction")):
        visit.page.keyboard.press(key)
        assert visit.page.locator("input[name=viewer-map]:checked").input_value() == name
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.id") != "viewer-canvas"


def test_everything_can_be_reached_with_the_tab_key_and_sorted_with_enter(browser, few):
    visit = Visit(browser, few)
    reached = []
    for _ in range(80):
        visit.page.keyboard.press("Tab")
        reached.append(
            visit.page.evaluate(
                "(e => e.id || (e.closest('thead') ? 'heading ' + e.textContent : e.tagName))(document.activeElement)"
            )
        )
        if reached[-1].startswith("heading Dice") and "sorted" not in reached:
            visit.page.keyboard.press("Enter")
            reached.append("sorted")

    assert {
        "theme",
        "viewer-case",
        "viewer-place",
        "viewer-canvas",
        "labels-find",
        "sorted",
    } <= set(reached)
    assert visit.page.locator("#labels-table th[aria-sort]").count() == 1


def test_the_page_of_a_model_has_its_curves_and_settings(browser, model):
    visit = Visit(browser, model)

    assert visit.page.locator("#training figure svg").count() == 2
    visit.page.click("summary")
    assert '"patch_size"' in visit.page.inner_text("details pre")


def test_another_case_opens_from_its_picture(browser, few):
    visit = Visit(browser, few)
    visit.open_viewer()

    visit.page.locator("button.open[data-case=case_0]").click()

    visit.page.wait_for_selector("#viewer-canvas[data-shows=case_0]")
    assert visit.complaints == []


def _position(visit: Visit) -> list[float]:
    """Place of the cross in mm."""
    words = visit.page.inner_text("#viewer-here").split(" mm")[0]
    return [float(number) for number in words.split(", ")]


def _pixels(canvas: Any) -> tuple[float, float]:
    """Shares of the canvas that are gray, and that have a colour."""
    import io

    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)
    spread = np.ptp(pixels, axis=-1)
    return float(((spread < 8) & (pixels.max(axis=-1) > 40)).mean()), float((spread > 40).mean())
