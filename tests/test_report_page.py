"""The report in a browser: legible at any width, light or dark, and without the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy_browser import Page, chromium
from tests.report_axe import violations
from tests.report_sample import cells_page, sample_page

WIDTHS = (390, 768, 1280)
SMALLEST = """[...document.querySelectorAll("body *")].filter((each) =>
  [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
  && each.tagName !== "TITLE").reduce((least, each) =>
  Math.min(least, parseFloat(getComputedStyle(each).fontSize)
    * (each.getScreenCTM ? each.getScreenCTM().a : 1)), 99)"""
"""The smallest text on the page, in pixels as they are shown."""
WIDER = "document.scrollingElement.scrollWidth - innerWidth"
OUTSIDE = """[...document.querySelectorAll("svg.area text")].filter((each) => {
  const box = each.getBoundingClientRect();
  return box.left < -0.5 || box.right > innerWidth + 0.5; }).map((each) => each.textContent)"""
"""Words of plots that are cut off at the sides."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(sample_page(), encoding="utf-8")
    with chromium() as page:
        page.open((folder / "report.html").as_uri())
        yield page


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_legible_at_any_width_and_in_both_schemes(
    opened: Page, width: int, dark: bool
) -> None:
    """No text is below 10 px or cut off, only tables scroll, and axe-core finds nothing."""
    opened.size(width, dark=dark)
    assert opened.ask(WIDER) <= 0
    assert opened.ask(SMALLEST) >= 10
    assert opened.ask(OUTSIDE) == []
    assert violations(opened) == []
    assert opened.errors == []


@pytest.mark.needs("chromium")
def test_plots_follow_the_scheme(opened: Page) -> None:
    """A mark has another colour in the dark, and the page another ground."""
    script = """[getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector(".c-runtime .middle")).fill].join()"""
    opened.size(768)
    light = opened.ask(script)
    opened.size(768, dark=True)
    dark = opened.ask(script)
    assert "rgb(255, 255, 255)" in light
    assert all(a != b for a, b in zip(light.split("),"), dark.split("),"), strict=True))


@pytest.mark.needs("chromium")
def test_print_is_light_and_shows_the_still(opened: Page) -> None:
    """Paper is white whatever the screen is, nothing scrolls, and the film is its last frame."""
    opened.size(768, dark=True)
    try:
        opened.call("Emulation.setEmulatedMedia", media="print")
        assert opened.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        seen = "(name) => getComputedStyle(document.querySelector(name)).display"
        assert opened.ask(f'["img.moving", "img.still"].map({seen}).join()') == "none,block"
        assert (
            opened.ask("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
        )
    finally:
        opened.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.needs("chromium")
def test_what_a_mark_stands_for_is_told_where_it_is_pointed_at(opened: Page) -> None:
    """The element under the pointer, or one around it, has a title with the values."""
    opened.size(1280)
    told = opened.ask("""["rows", "lines", "strips", "shares", "distributions",
      "points"].map((kind) => {
      const marks = document.querySelectorAll("svg." + kind + " title");
      return marks.length ? marks[0].textContent : ""; })""")
    assert [bool(each) for each in told] == [True] * 6
    assert told[0].startswith("planner alone: −1")


@pytest.mark.needs("chromium")
def test_a_page_of_a_hundred_cells_is_small(tmp_path: Path) -> None:
    """A hundred rows and curves are one page below 2 MB, which a browser lays out."""
    text = cells_page(100)
    assert len(text) < 2_000_000
    (tmp_path / "cells.html").write_text(text, encoding="utf-8")
    with chromium() as page:
        page.size(390)
        page.open((tmp_path / "cells.html").as_uri())
        assert page.ask("document.querySelectorAll('svg.area').length") == 101
        assert page.ask(WIDER) <= 0
