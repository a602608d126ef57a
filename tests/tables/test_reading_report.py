"""The page of readings: self-contained, everything escaped, small; and what it does in headless Chromium."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from html.parser import HTMLParser

import pytest

from llm2vec_gen.tables.reading_report import render, to_csv, to_json, visible
from llm2vec_gen.types import MapPoint, Reading

HOSTILE = (
    "</script><script>window.bad=1</script><img src=x onerror=window.bad=1>&amp;"
    "\u202egnp\x00\x1b[31m\u2028\ud800{{style}}"
)
READINGS = [
    Reading("1", "what is the capital of peru?", "decoding", "lima.", completion="lima.", source="own", task="facts"),
    Reading("1", "what is the capital of peru?", "logit_lens", "lima the", [["lima", "peru"], ["the"]], "lima.",
            "own", "facts", weights=[[0.7, 0.2], [0.9]], in_query=[[False, True], [True]]),
    Reading("1", "what is the capital of peru?", "latent_lens", "lima", [["lima"]], source="own", task="facts",
            weights=[[0.8]], contexts=[["to «lima» by bus"]], layer=3),
    Reading("1", "what is the capital of peru?", "attribution", "peru +2", source="own", task="facts",
            tokens=[("what", -0.5), (" peru", 2.0)]),
    Reading("<b>2", HOSTILE, "decoding", HOSTILE, completion="other", instruction=HOSTILE),
]  # fmt: skip
POINTS = [
    MapPoint("own", "facts", "1", 1.0, -0.5, [("queries", "", "<b>2", 0.25)]),
    MapPoint("queries", "", "<b>2", -1.0, 1.0, [("own", "facts", "1", 0.25)]),
]


class Page(HTMLParser):
    """Tags with their attributes, and the text of each script and title."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        self.texts.setdefault(self.inside, []).append(data)

    @property
    def data(self) -> list[dict]:
        return json.loads(self.texts["script"][0])


def test_the_page_has_everything_that_was_read():
    page = Page(render(READINGS, POINTS, {"model": "<x>"}))
    first, second = page.data
    assert (
        first["query"] == "what is the capital of peru?"
        and first["group"] == "own / facts"
        and first["completion"] == "lima."
    )
    decoding, lens, latent, attribution = first["readings"]
    assert decoding == {"name": "decoding", "text": "lima.", "same": True}
    assert lens["words"] == [[["lima", 0.7], ["peru", 0.2, 1]], [["the", 0.9, 1]]]
    assert latent["name"] == "latent lens, layer 3" and latent["words"] == [[["lima", 0.8, 0, "to «lima» by bus"]]]
    assert attribution["tokens"] == [["what", -0.5], [" peru", 2.0]]
    assert first["place"] == [1.0, -0.5] and first["near"] == [[1, 0.25]] and second["near"] == [[0, 0.25]]
    assert "model: <x>" in "".join(page.texts["p"])


def test_nothing_from_users_becomes_markup_or_is_invisible():
    text = render(READINGS, POINTS, {"model": HOSTILE}, title=HOSTILE)
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 2 and not any(tag == "img" for tag, _ in page.tags)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\u2028\ud800]", text)
    assert page.data[1]["query"].startswith("</script><script>") and page.data[1]["query"].endswith("⟨U+D800⟩{{style}}")
    text.encode("utf-8")
    assert visible("a\tb\nc") == "a\tb\nc" and visible("\x07\u200b") == "⟨U+0007⟩⟨U+200B⟩"


def test_the_page_needs_nothing_from_elsewhere():
    text = render(READINGS, POINTS)
    assert not re.search(r"(src|href)\s*=\s*['\"]?\s*(https?:|//)|@import|url\(|fetch\(|XMLHttpRequest|innerHTML", text)
    assert "default-src 'none'" in text and text == render(READINGS, POINTS)


def test_csv_and_json_keep_every_reading():
    rows = list(csv.DictReader(io.StringIO(to_csv(READINGS))))
    assert len(rows) == 5 and rows[1]["words"] == "lima peru | the" and rows[2]["layer"] == "3"
    dangerous = to_csv([Reading("1", "=HYPERLINK(1)", "decoding", "@x\x00")])
    (row,) = csv.DictReader(io.StringIO(dangerous))
    assert row["query"] == "'=HYPERLINK(1)" and row["text"] == "'@x\ufffd"
    content = json.loads(to_json(READINGS[:4], POINTS))
    assert Reading(**content["readings"][1]) == READINGS[1] and content["map"][0]["x"] == 1.0


def many(count: int) -> tuple[list[Reading], list[MapPoint]]:
    draw = random.Random(0)
    words = [f"word{number}" for number in range(2000)]

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length))

    readings, points = [], []
    for number in range(count):
        query, key = text(20), f"q{number}"
        readings.append(Reading(key, query, "decoding", text(50), completion=text(50), task=f"t{number % 3}"))
        lens = [draw.choices(words, k=5) for _ in range(10)]
        weights = [[round(draw.random(), 6) for _ in range(5)] for _ in range(10)]
        readings.append(Reading(key, query, "logit_lens", "", lens, task=f"t{number % 3}", weights=weights))
        near = [("queries", f"t{(number + 1) % 3}", f"q{(number + 1) % count}", 0.5)]
        points.append(MapPoint("queries", f"t{number % 3}", key, draw.uniform(-1, 1), draw.uniform(-1, 1), near))
    return readings, points


def test_a_thousand_queries_take_less_than_five_megabytes():
    assert len(render(*many(1000)).encode()) < 5_000_000


def opened(browser, tmp_path, content, width=1280, scheme="light"):
    file = tmp_path / "report.html"
    file.write_text(content, encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:")) else page.problems.append(request.url),
    )
    page.goto(file.as_uri())
    return page


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_the_page_is_read_searched_and_filtered(browser, tmp_path, width, scheme):
    readings, points = many(250)
    page = opened(browser, tmp_path, render([*READINGS, *readings], [*POINTS, *points]), width, scheme)
    assert page.locator("#count").inner_text() == "252 of 252"
    assert page.locator("tbody tr").count() == 100 and page.locator("circle").count() == 252
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.bad") is None
    page.locator("#search").fill("LIMA peru")
    assert page.locator("#count").inner_text() == "1 of 252" and page.locator("tbody tr").count() == 1
    assert "✓" in page.locator("tbody tr").inner_text() and page.locator(".word.own").count() == 2
    page.locator(".near").first.click()  # the hostile query, which the search had left out
    assert page.locator("tr.at").count() == 1 and "onerror" in page.locator("tr.at").inner_text()
    page.locator("#group").select_option(label="own / facts")
    assert page.locator("#count").inner_text() == "1 of 252" and page.locator("circle.off").count() == 251
    page.locator("#group").select_option("")
    page.locator("#more").click()
    assert page.locator("tbody tr").count() == 200
    page.locator("circle").first.focus()
    assert "peru" in page.locator("#tip").inner_text()
    page.keyboard.press("Enter")
    assert "peru" in page.locator("tr.at").inner_text()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(23, 24, 26)")
    assert page.problems == []
    page.close()


def test_a_page_without_readings_or_map_opens(browser, tmp_path):
    page = opened(browser, tmp_path, render([]))
    assert page.locator("#count").inner_text() == "0 of 0" and not page.locator("#map").is_visible()
    assert page.problems == []
    page.close()
