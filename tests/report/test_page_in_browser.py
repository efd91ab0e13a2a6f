"""The page in headless Chromium: what it loads, filters, sorts, keys, widths and contrasts."""

import pytest
from made_reports import full_report, gathered_report, hostile_report, hostile_search

from vireid_fast.report.content import Report

SHOWN = "return [...document.querySelectorAll('.query:not([hidden])')].map(q => q.dataset.%s)"
COLUMN = """
return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(
  row => row.cells[arguments[1]].firstChild.textContent.trim())
"""
# Text of 4.5 against what is behind it (WCAG 2.1, 1.4.3); 3 for large text.
LOW_CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgba(colour) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}
function luminance(colour) {
  const [r, g, b] = colour.slice(0, 3).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(element) {
  for (let each = element; each; each = each.parentElement) {
    const colour = rgba(getComputedStyle(each).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255, 255];
}
const low = [];
let seen = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const ink = rgba(element.closest('svg') ? style.fill : style.color);
  const [a, b] = [luminance(ink), luminance(behind(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  seen += 1;
  if (ratio < (large ? 3 : 4.5)) {
    low.push(`${ratio.toFixed(2)} ${element.className || element.tagName}: `
      + walker.currentNode.textContent.trim().slice(0, 30));
  }
}
return [seen, low];
"""


@pytest.fixture
def page(browser, written):
    """The full report, freshly loaded."""
    browser.open(written(full_report))
    return browser


def nothing() -> Report:
    return Report("Nothing", {}, {})


@pytest.mark.parametrize(
    "make",
    [full_report, gathered_report, hostile_report, hostile_search, nothing],
    ids=lambda m: m.__name__,
)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_loads_without_error_and_asks_for_nothing(browser, written, make, dark):
    path = written(make)
    browser.open(path, dark=dark)
    assert browser.errors() == []
    assert browser.requests() == ([path.as_uri()], [])
    entries = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in entries if not name.startswith("data:")] == []
    # The script ran.
    assert not browser.run("return document.getElementById('theme').hidden")
    # Every picture was decoded.
    assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")


@pytest.mark.parametrize("make", [hostile_report, hostile_search], ids=lambda m: m.__name__)
def test_hostile_words_run_nothing(browser, written, make):
    browser.open(written(make))
    assert browser.run("return window.hacked") is None
    # Not even where code makes elements of them: the policy allows no handler and no script.
    image = "<img src=data:, onerror='window.hacked = 3'>"
    browser.run("document.body.insertAdjacentHTML('beforeend', arguments[0])", image)
    browser.run("const s = document.createElement('script');"
                "s.textContent = 'window.hacked = 4'; document.body.append(s)")  # fmt: skip
    assert browser.run("return window.hacked") is None
    assert len(browser.errors()) >= 2


def test_the_policy_lets_no_request_out(page):
    page.run(
        "new Image().src = 'http://127.0.0.1:9/x'; fetch('http://127.0.0.1:9/y').catch(() => 0)"
    )
    asked, stopped = page.requests()
    assert [url for url in asked if not url.startswith("file:")] == stopped
    refused = [message for message in page.errors() if "Content Security Policy" in message]
    assert any("127.0.0.1:9/x" in message for message in refused)
    assert any("127.0.0.1:9/y" in message for message in refused)


def test_tables_sort_by_column_both_ways(page):
    table = "#results .card > .scroll table"

    def order(column: int) -> list[str]:
        return page.run(COLUMN, table, column)

    assert order(0) == ["plain", "reranked (20, 6, 0.3)"]
    page.run(f"document.querySelectorAll('{table} .sort')[1].click()")
    state = (f"return [...document.querySelectorAll('{table} th')]"
             ".map(h => h.getAttribute('aria-sort'))")  # fmt: skip
    assert order(0) == ["reranked (20, 6, 0.3)", "plain"]
    assert page.run(state)[:3] == [None, "descending", None]
    page.run(f"document.querySelectorAll('{table} .sort')[1].click()")
    assert order(0) == ["plain", "reranked (20, 6, 0.3)"]
    assert page.run(state)[:3] == [None, "ascending", None]
    trials = "#results details table"
    page.run(f"document.querySelector('{trials}').closest('details').open = true")
    page.run(f"document.querySelector('{trials}').querySelectorAll('.sort')[1].click()")
    values = [float(value) for value in page.run(COLUMN, trials, 1)[:10]]
    assert values == sorted(values, reverse=True) and values[0] != values[9]


def test_ranked_lists_filter_and_sort(page):
    assert page.run(SHOWN % "kind") == ["best", "median", "worst"]
    form = "document.querySelector('form[data-filters]')"
    page.run(f"{form}.querySelector('input[value=best]').click()")
    assert page.run(SHOWN % "kind") == ["median", "worst"]
    assert page.run(f"return {form}.querySelector('output').value") == "2 of 3 shown"
    page.run(f"{form}.querySelector('input[value=best]').click()")
    page.run(f"{form}.elements.wrong.click()")
    # The best query begins right before and after re-ranking.
    assert page.run(SHOWN % "kind") == ["median", "worst"]
    page.run(f"{form}.elements.wrong.click()")
    page.run(f"{form}.elements.text.focus()")
    page.keys("1", "5")
    assert page.run(SHOWN % "identity") == ["15"]
    page.keys("x")
    assert page.run(SHOWN % "identity") == []
    assert "None fits" in page.run(f"return {form}.querySelector('output').value")
    page.run(f"{form}.reset(); {form}.dispatchEvent(new Event('input'))")
    for value, expected in (("precision", ["worst", "median", "best"]),
                            ("-precision", ["best", "median", "worst"]),
                            ("identity", ["best", "median", "worst"])):  # fmt: skip
        page.run(f"const o = {form}.elements.order; o.value = '{value}';"
                 "o.dispatchEvent(new Event('change', {bubbles: true}))")  # fmt: skip
        assert page.run(SHOWN % "kind") == expected


def test_the_map_filters_by_modality_and_highlights_an_identity(page):
    visible = ("return [...document.querySelectorAll('#map svg.chart .point')]"
               ".filter(p => p.getClientRects().length).length")  # fmt: skip
    chosen = ("return [...document.querySelectorAll('#map .point.chosen')]"
              ".map(p => p.dataset.identity)")  # fmt: skip
    output = "return document.querySelector('#map output').value"
    assert page.run(visible) == 168
    assert page.run(output) == "All identities: 84 visible, 84 infrared"
    page.run("document.querySelector('#map input[value=infrared]').click()")
    assert page.run(visible) == 84 and page.run(output) == "All identities: 84 visible"
    page.run("const s = document.querySelector('#map select'); s.value = '5';"
             "s.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    assert set(page.run(chosen)) == {"5"} and page.run(output) == "Identity 5: 7 visible"
    page.run("document.querySelector('#map [data-clear]').click()")
    assert page.run(chosen) == [] and page.run(visible) == 168
    # A mark, and a link of a ranked list, choose their identity; a second click lets it go.
    mark = "document.querySelector('#map svg.chart [data-identity=\"3\"]')"
    page.run(f"{mark}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    assert set(page.run(chosen)) == {"3"}
    page.run(f"{mark}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    assert page.run(chosen) == []
    page.run("document.querySelector('.query a[data-identity]').click()")
    assert set(page.run(chosen)) == {"4"}
    fill = "return getComputedStyle(document.querySelector('#map svg.chart .m-visible.h4')).fill"
    before = page.run(fill)
    page.run("document.querySelector('#map input[value=identity]').click()")
    assert page.run(fill) != before


def test_everything_works_from_the_keyboard(page):
    from selenium.webdriver import Keys

    describe = ("const e = document.activeElement;"
                "return [e.tagName, e.id || e.name || e.className || e.textContent.trim(),"
                " getComputedStyle(e).outlineStyle, getComputedStyle(e).outlineWidth]")  # fmt: skip
    stops = []
    for _ in range(120):
        page.keys(Keys.TAB)
        stops.append(page.run(describe))
        if stops[-1][0] == "BODY":
            break
    names = [name for _, name, _, _ in stops]
    assert stops[0][1] == "skip" and "theme" in names
    for wanted in ("sort", "kind", "wrong", "text", "order", "modality", "identity", "colour"):
        assert wanted in names, wanted
    assert {"SUMMARY", "A", "BUTTON", "INPUT", "SELECT"} <= {tag for tag, *_ in stops}
    # Every stop shows where it is.
    for tag, name, style, width in stops[:-1]:
        assert style != "none" and float(width.removesuffix("px")) >= 1, (tag, name)


def test_enter_and_space_press(page):
    from selenium.webdriver import Keys

    page.run("document.querySelector('#results summary').focus()")
    page.keys(Keys.ENTER)
    assert page.run("return document.querySelector('#results details').open")
    page.run("document.querySelector('#results .sort').focus()")
    page.keys(Keys.SPACE)
    assert page.run("return document.querySelector('#results th').getAttribute('aria-sort')")
    page.run("document.querySelector('form[data-filters] input').focus()")
    page.keys(Keys.SPACE)
    assert page.run(SHOWN % "kind") == ["median", "worst"]
    page.run("document.querySelector('.skip').focus()")
    page.keys(Keys.ENTER)
    assert page.run("return document.activeElement.id") == "content"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_theme_follows_the_system_and_the_button(browser, written, dark):
    browser.open(written(full_report), dark=dark)
    colour = "return getComputedStyle(document.body).backgroundColor"
    light, night = "rgb(245, 246, 248)", "rgb(17, 21, 27)"
    assert browser.run(colour) == (night if dark else light)
    label = "return document.getElementById('theme').textContent"
    assert browser.run(label) == ("Light colours" if dark else "Dark colours")
    browser.run("document.getElementById('theme').click()")
    assert browser.run(colour) == (light if dark else night)
    browser.driver.refresh()
    assert browser.run(colour) == (light if dark else night)
    browser.run("localStorage.clear()")


@pytest.mark.parametrize(("make", "least"), [(full_report, 500), (hostile_search, 50)])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out(browser, written, make, least, dark):
    browser.open(written(make), dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    seen, low = browser.run(LOW_CONTRAST)
    assert seen > least and low == []


def test_the_page_of_a_search_filters_and_marks(browser, written):
    browser.open(written(hostile_search))
    browser.run("document.querySelector('form input').focus()")
    browser.keys(*"cam6/0007")
    assert len(browser.run(SHOWN % "text")) == 1
    signs = "return [...document.querySelectorAll('.query:not([hidden]) li .sign')]"
    assert browser.run(f"{signs}.map(s => s.textContent)") == ["✓ 1: right", "✗ 2: wrong", "3"]


@pytest.mark.parametrize(
    "make",
    [full_report, gathered_report, hostile_report, hostile_search],
    ids=lambda m: m.__name__,
)
@pytest.mark.parametrize("width", [360, 1200])
def test_no_width_needs_sideways_scrolling(browser, written, make, width):
    browser.open(written(make), width=width)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [width] * 2
    if width == 360:
        # Fingers: buttons and choices are at least 24 pixels high (WCAG 2.2, 2.5.8).
        small = browser.run(
            "return ['button', 'select', 'input[type=text]', 'summary', '.choice']"
            ".flatMap(s => [...document.querySelectorAll(s)])"
            ".filter(e => e.getClientRects().length && e.getBoundingClientRect().height < 24)"
            ".map(e => e.outerHTML.slice(0, 60))"
        )
        assert small == []


def test_print_leaves_out_what_paper_cannot_do(page):
    page.command("Emulation.setEmulatedMedia", media="print")
    shown = "return ['.sections', '.controls', '#theme', 'table', '.query', '#curves svg']"
    shown += ".map(s => document.querySelector(s).getClientRects().length > 0)"
    assert page.run(shown) == [False, False, False, True, True, True]
    ink = "return getComputedStyle(document.querySelector('h1')).color"
    assert page.run(ink) == "rgb(25, 32, 42)"
    page.command("Emulation.setEmulatedMedia", media="")


def test_without_scripts_everything_is_there_and_nothing_is_dead(browser, written):
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(written(full_report))
        root = browser.command("DOM.getDocument")["root"]["nodeId"]
        for selector, hidden in ((".controls", True), ("#theme", True), (".query", False)):
            found = browser.command("DOM.querySelector", nodeId=root, selector=selector)
            attributes = browser.command("DOM.getAttributes", nodeId=found["nodeId"])["attributes"]
            assert ("hidden" in attributes[::2]) == hidden, selector
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
