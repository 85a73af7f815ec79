"""The page where it is read: on a phone and on a desk, in light and dark, by keyboard, from the disk and a host."""

import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe

from predictbench_assets_tests.kit.browser import Open, Scheme

WIDTHS = (360, 768, 1280)

# Style sheets are not fetched once more: the page's own policy forbids it.
AXE = {"preload": False, "resultTypes": ["violations"], "elementRef": False}

OVERFLOWING = """() => document.documentElement.scrollWidth > innerWidth
    ? [...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1
        && !one.closest('.scroll') && !one.closest('svg')).map(one => one.outerHTML.slice(0, 120))
    : []"""

FOCUSED = """() => {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    return {
        what: one.className || one.getAttribute('aria-label') || one.textContent.trim(),
        tag: one.tagName,
        ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
        shown: one.getBoundingClientRect().width > 0,
    };
}"""


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(visit: Open, paths: tuple[str, ...], width: int) -> None:
    opened = visit(width=width)
    for path in paths:
        page = opened.go(path)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert page.evaluate(OVERFLOWING) == [], path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    assert opened.complaints == []
    assert opened.outside == []


def test_an_experiments_results_are_seen_whole_on_a_desk(visit: Open, paths: tuple[str, ...]) -> None:
    opened = visit(width=1100)
    measured = [
        opened.go(path)
        .locator("[aria-label='Results on all boards']")
        .evaluate("one => [one.scrollWidth, one.clientWidth]")
        for path in paths
        if path.startswith("experiments/")
    ]
    assert measured
    assert [table for table, region in measured if table > region] == []


@pytest.mark.parametrize("from_disk", [True, False], ids=["from the disk", "from a host"])
def test_nothing_complains_and_nothing_is_asked_for_outside(
    visit: Open, paths: tuple[str, ...], served: str, from_disk: bool
) -> None:
    opened = visit(address=None if from_disk else served)
    for path in paths:
        page = opened.go(path)
        assert page.title().endswith("Predictbench") or "Predictbench:" in page.title()
        # The style that pages beside the front page share has arrived, and the script has run.
        assert page.evaluate("getComputedStyle(document.querySelector('.page')).maxWidth") == "1120px", path
        assert page.locator(".toggle").is_visible()
    assert opened.complaints == []
    assert opened.outside == []


def test_links_lead_from_the_front_page_to_a_market_and_back(visit: Open) -> None:
    opened = visit()
    page = opened.go("index.html")
    page.locator("#experiments").get_by_role("link", name="deep_thinker").click()
    page.wait_for_url("**/experiments/*")
    assert "Reads the news" in page.locator("main").inner_text()
    page.locator("a[href^='../markets/']").first.click()
    page.wait_for_url("**/markets/*")
    assert "Forecasts made" in (page.get_by_role("region").first.get_attribute("aria-label") or "")
    page.get_by_role("link", name="Predictbench", exact=True).click()
    page.wait_for_url("**/index.html")
    assert opened.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_rules_of_accessibility_hold_contrast_included(visit: Open, paths: tuple[str, ...], scheme: Scheme) -> None:
    opened = visit(scheme=scheme, width=768)
    for path in (*paths[:2], paths[3]):
        page = opened.go(path)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        results = Axe().run(page, options=AXE)
        assert results.violations_count == 0, f"{path}\n{results.generate_report()}"
    assert opened.complaints == []


@pytest.mark.parametrize("width", [360, 1280])
def test_reasons_that_want_to_be_markup_run_nothing_and_stay_in_their_place(
    visit: Open, paths: tuple[str, ...], width: int
) -> None:
    opened = visit(width=width)
    [path] = [path for path in paths if "evil" in path]
    page = opened.go(path)
    title = page.title()
    reasons = page.locator("details.why-so")
    assert reasons.count() == 3
    assert not reasons.first.locator("blockquote").is_visible(), "closed until somebody asks"
    for place in range(3):
        reasons.nth(place).locator("summary").click()
    words = reasons.first.locator("blockquote")
    assert "<script>document.title" in words.inner_text()
    assert page.evaluate(OVERFLOWING) == []
    # Marks that are piled on a letter end where its box does.
    assert words.evaluate("one => getComputedStyle(one).overflow") == "hidden"
    links = reasons.first.locator("a")
    assert [links.nth(place).get_attribute("href") for place in range(links.count())] == [
        "https://news.example/a?b=1&c=2#d"
    ]
    assert links.first.get_attribute("rel") == "nofollow noopener noreferrer"
    assert page.locator("script").count() == 1
    assert page.title() == title
    assert opened.complaints == []
    assert opened.outside == []


def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(visit: Open) -> None:
    page = visit().go("index.html")
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUSED)
        if stop["tag"] == "BODY":
            break
        assert stop["ring"], stop
        assert stop["shown"], stop
        stops.append(stop["what"])
    assert stops[:4] == ["skip", "brand", "toggle", "7 days ahead"]
    first_table = stops.index("scroll")
    assert stops.index("How to read this") < first_table
    assert "deep_thinker" in stops[first_table:]


def test_the_keyboard_changes_the_theme_opens_a_board_and_scrolls_a_table(visit: Open) -> None:
    opened = visit(width=360)
    page = opened.go("index.html")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.locator(".toggle").focus()
    page.keyboard.press("Enter")
    dark = page.evaluate(background)
    assert dark != light
    assert page.locator(".toggle").inner_text() == "Light theme"
    # Charts follow; the choice is kept from page to page.
    chart = page.locator("svg.chart:visible").first
    ink = chart.evaluate("one => getComputedStyle(one).getPropertyValue('--chart-entrant').trim()")
    assert ink == "#7eabff"
    page.locator("#experiments a").first.click()
    page.wait_for_url("**/experiments/*")
    assert page.evaluate(background) == dark
    opened.go("index.html")
    page.locator("details summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.evaluate("one => one.open")
    table = page.locator(".scroll").first
    table.focus()
    page.keyboard.press("ArrowRight")
    deadline = time.monotonic() + 5
    while not table.evaluate("one => one.scrollLeft") and time.monotonic() < deadline:
        page.wait_for_timeout(10)
    assert table.evaluate("one => one.scrollLeft") > 0
    assert opened.complaints == []


def test_a_dark_desk_gets_a_dark_page_and_a_phone_gets_its_own_chart(visit: Open) -> None:
    wide, narrow = visit(scheme="dark").go("index.html"), visit(width=360).go("index.html")
    [red, green, blue] = map(
        int, re.findall(r"\d+", wide.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert max(red, green, blue) < 64
    for page, shown, hidden in ((wide, ".wide", ".narrow"), (narrow, ".narrow", ".wide")):
        assert page.locator(f"figure{shown} svg").first.is_visible()
        assert not page.locator(f"figure{hidden} svg").first.is_visible()
    # As large as life: nobody has to squint at a chart of the desk that was shrunk to a phone.
    label = narrow.locator("figure.narrow svg text", has_text="deep_thinker").first
    assert label.evaluate("one => one.getBoundingClientRect().height") >= 11


def test_it_can_be_read_without_its_script(visit: Open) -> None:
    opened = visit(script=False)
    page = opened.go("index.html")
    assert page.locator("h1").is_visible()
    assert page.locator("table").first.is_visible()
    assert not page.locator(".toggle").is_visible()
    assert opened.outside == []
