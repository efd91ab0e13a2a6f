"""The page as text: what stands in it, that all is escaped, and that it asks for nothing."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from made_reports import HOSTILE, full_report, hostile_report, picture, ranked, result

from vireid_fast.report import page
from vireid_fast.report.content import Curve, FeatureMap, Histogram, MethodPicture, Report

VOID = {"meta", "link", "img", "input"}
PARTS = {"results": "There is no result.", "cmc": "CMC curves are left out",
         "precision_recall": "Precision-recall curves are left out",
         "histograms": "Distance histograms are left out", "feature_map": "The map is left out",
         "training": "Training curves are left out", "ranked": "Ranked lists are left out",
         "method_pictures": "Pictures of what the method looked at are left out"}  # fmt: skip


class Parsed(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)
        assert self._open == [], self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes), (tag, attributes)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] for _, found in self.elements if attribute in found]

    @property
    def shown(self) -> str:
        return "".join(data for tag, data in self.texts if tag not in ("script", "style"))


@pytest.fixture(scope="module")
def full() -> str:
    return page.render_page(full_report())


def test_everything_is_on_the_page(full):
    parsed = Parsed(full)
    for words in ("CSDN on drawn walkers", "sysu/agw, mode all, 1-shot, 10 trials", "67.59",
                  "± 1.97", "reranked (20, 6, 0.3)", "Cumulative match (CMC)", "rank",
                  "Precision and recall", "recall in %", "visible to infrared",
                  "distance (euclidean)", "PCA of the features", "Validation", "Loss", "epoch",
                  "infrared query, visible gallery", "Cross-modal attention", "first right match",
                  "re-ranking moved the first right match from rank 2 to 1", "no right match",
                  "Lists and curves are of the first of 10 trials.",
                  "features norm(f)"):  # fmt: skip
        assert words in parsed.shown, words
    # Every trial can be opened: 10 rows of R1 for each of two results.
    assert parsed.shown.count("every one of 10 trials") == 2
    trial = f"{100 * result(0.67).trials[4].R1:.2f}"
    assert trial in parsed.shown
    assert "Not on this page" not in parsed.shown and len(full) < 1_000_000


def test_same_report_same_bytes(full):
    assert page.render_page(full_report()) == full
    assert not re.search(r"20[2-9]\d-\d\d", full)


def test_nothing_is_asked_of_anyone(full):
    """Neither by an address nor allowed by the policy, which names the exact script and style."""
    parsed = Parsed(full)
    for attribute in ("src", "href", "srcset", "data", "action", "poster", "style"):
        for value in parsed.values(attribute):
            assert value.startswith(("data:image/", "#")), value
    assert "http:" not in full and "https:" not in full
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", full)
    policy = dict(part.split(maxsplit=1) for part in parsed.values("content")[0].split("; "))
    assert policy["default-src"] == "'none'" and policy["img-src"] == "data:"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = [data for name, data in parsed.texts if name == tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[kind] == f"'sha256-{digest}'"
    assert not any(name.startswith("on") for _, found in parsed.elements for name in found)


def test_ids_are_distinct_and_links_lead_to_them(full):
    parsed = Parsed(full)
    ids = parsed.values("id")
    assert len(set(ids)) == len(ids)
    links = [value[1:] for value in parsed.values("href") if value.startswith("#")]
    assert set(links + parsed.values("aria-labelledby")) <= set(ids)


def test_every_picture_and_diagram_has_a_text(full):
    for tag, found in Parsed(full).elements:
        if tag == "img":
            assert found["alt"] and int(found["width"]) > 0 and int(found["height"]) > 0
        if tag == "svg" and "aria-hidden" not in found:
            assert found["role"] == "img" and found["aria-label"]


def test_hostile_words_stay_words():
    text = page.render_page(hostile_report())
    parsed = Parsed(text)
    assert "<script>window" not in text and "<img src=x" not in text
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert not any("onerror" in found for _, found in parsed.elements)
    # As a title, headings, facts, captions, notes, names and texts: each whole, as it was given.
    assert parsed.shown.count(HOSTILE) >= 15
    assert HOSTILE in parsed.values("alt") and HOSTILE in parsed.values("data-kind")
    assert "{{7*7}}" in parsed.shown


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_a_sentence(part):
    empty = None if part == "feature_map" else {} if part == "results" else ()
    parsed = Parsed(page.render_page(replace(full_report(), **{part: empty})))
    assert PARTS[part] in parsed.shown
    assert parsed.shown.count("left out:") + parsed.shown.count("There is no result") == 1
    # What is left out has no heading and no link.
    titles = {
        "feature_map": "map",
        "training": "training",
        "ranked": "ranked",
        "method_pictures": "method",
        "histograms": "distances",
    }
    if part in titles:
        assert titles[part] not in parsed.values("id")
        assert f"#{titles[part]}" not in parsed.values("href")


def test_an_empty_report_is_a_page_too():
    parsed = Parsed(page.render_page(Report("Nothing", {}, {}, notes=("No valid query.",))))
    assert all(sentence in parsed.shown for sentence in PARTS.values())
    assert "No valid query." in parsed.shown and "svg" not in [tag for tag, _ in parsed.elements]


def test_why_there_is_no_result_comes_first():
    report = replace(full_report(), results={}, notes=("No result: nobody is seen twice.",))
    shown = Parsed(page.render_page(report)).shown
    assert shown.count("nobody is seen twice") == 1
    assert shown.index("There is no result.") < shown.index("nobody is") < shown.index("Cumulative")


def test_values_that_are_not_finite_never_reach_a_path():
    bad = np.array([0.5, np.nan, 0.7, np.inf, 0.9])
    none = np.full(5, np.nan)
    x = np.arange(1.0, 6)
    report = replace(
        full_report(),
        cmc=(Curve("plain", x, bad), Curve("reranked", x, none)),
        precision_recall=(Curve("plain", x / 5, none),),
        histograms=(Histogram("h", np.linspace(0, 1, 6), none, bad, (0, 5)),
                    Histogram("no pairs", np.zeros(2), np.zeros(1), np.zeros(1), (0, 0))),
        feature_map=FeatureMap("PCA", np.array([[0, np.nan], [1, 1], [np.inf, 0]]),
                               np.arange(3), np.array([0, 1, -1]), np.array([1, -1, 2])),
        ranked=(replace(ranked("best", 1, "wr", "rw"), precision={"plain": float("nan")}),),
    )  # fmt: skip
    parsed = Parsed(page.render_page(report))
    for attribute in ("d", "x", "y", "cx", "cy", "viewbox", "transform"):
        for value in parsed.values(attribute):
            assert not re.search(r"nan|inf", value), value
    assert "nan" not in re.sub(r"[a-z]{2,}nan|nan[a-z]+", "", parsed.shown)
    assert "reranked (20, 6, 0.3) (no finite value)" in parsed.shown.replace("\n", "")
    assert "2 features without a finite place are not drawn." in parsed.shown


def test_items_without_pictures_or_cameras():
    report = replace(full_report(), ranked=(ranked("best", 4, "wr", "rw", pictures=False),),
                     method_pictures=())  # fmt: skip
    parsed = Parsed(page.render_page(report))
    assert "img" not in [tag for tag, _ in parsed.elements]
    assert "cam3/0004/0001.jpg" in parsed.shown


def test_an_unknown_modality_is_not_spoken_of():
    own = ranked("best", 4, "wr", "rw", pictures=False)
    assert "infrared query, visible gallery" in page.render_page(Report("t", {}, {}, ranked=(own,)))
    nameless = replace(own, query=replace(own.query, modality=""))
    shown = Parsed(page.render_page(Report("t", {}, {}, ranked=(nameless,)))).shown
    assert "visible gallery" in shown and "unknown" not in shown


def test_the_headline_is_a_result_without_reranking():
    results = {"reranked": result(0.9, rerank=True), "plain": result(0.5, trials=1)}
    shown = Parsed(page.render_page(Report("t", {}, results))).shown
    assert shown.index("50.0") < shown.index("90.6")
    assert "90.6 % re-ranked (+40.6)" in shown
    assert "1 trial, euclidean distance, without re-ranking" in shown


def test_pictures_of_unknown_kind_are_refused():
    bad = replace(picture(0), kind="image/svg+xml")
    report = replace(full_report(), method_pictures=(MethodPicture("t", "c", (bad,)),))
    with pytest.raises(ValueError, match=r"picture\.kind must be one of"):
        page.render_page(report)


def test_curves_of_unequal_length_are_refused():
    report = replace(full_report(), cmc=(Curve("plain", np.arange(3), np.arange(4)),))
    with pytest.raises(ValueError, match="curve 'plain' must have 3 values of y as of x, got 4"):
        page.render_page(report)


def test_a_file_name_that_is_no_text(tmp_path):
    report = replace(full_report(), ranked=(ranked("best", 4, "wr", "rw", name="a\udcff\0.jpg"),))
    page.write_page(report, tmp_path / "a.html")
    assert "a?\0.jpg" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_a_page_is_written_whole(tmp_path, full):
    target = tmp_path / "deep" / "report.html"
    page.write_page(full_report(), target)
    assert target.read_text(encoding="utf-8") == full
    bad = replace(full_report(), cmc=(Curve("plain", np.arange(3), np.arange(4)),))
    with pytest.raises(ValueError, match="curve"):
        page.write_page(bad, target)
    assert target.read_text(encoding="utf-8") == full
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
