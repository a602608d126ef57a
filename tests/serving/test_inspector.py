"""The inspector's page in headless Chromium, and the route of its comparison."""

from __future__ import annotations

import pytest

from llm2vec_gen.serving.guard import LOOPBACK
from llm2vec_gen.serving.served_index import ServedIndex
from tests.serving.running import TEXTS, running

HOSTILE = "<script>window.bad=1</script><img src=x onerror=window.bad=1> cat"


@pytest.fixture(scope="module")
def inspected(model, index):
    with running(model, index=ServedIndex(index, model), ui=True) as found:
        yield found


def opened(browser, url, width=1280):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(url)
    return page


def done(page) -> None:
    page.wait_for_selector('#status:has-text("the results are complete")', state="attached")
    assert page.locator(".error:visible").all_inner_texts() == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_text_is_read(browser, inspected, width):
    page = opened(browser, inspected.url, width)
    page.wait_for_selector('#model:has-text("40 documents")', state="attached")
    page.locator("#tokens").evaluate("field => field.value = 8")
    page.locator("#first").fill(HOSTILE)
    page.locator("#first").press("Enter")
    done(page)
    for name in ("completion", "decoding"):
        assert page.locator(f"#{name} .text").inner_text().strip()
    assert page.locator("#lens li").count() == inspected.model.num_compression_tokens
    assert page.locator("#lens .word").count() > 0
    assert page.locator("#passages .hits > li").count() == 5
    assert "was read as" in page.locator("#passages .hits > li").first.inner_text()
    assert f"{inspected.model.embedding_dim} numbers" in page.locator("#embedding").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.bad") is None and page.problems == []
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_two_texts_are_compared(browser, inspected, width):
    page = opened(browser, inspected.url, width)
    page.locator("text=Compare two").click()
    page.locator("#tokens").evaluate("field => field.value = 8")
    page.locator("#first").fill(HOSTILE)
    page.locator("#second").fill(TEXTS[0])
    page.locator("#submit").click()
    done(page)
    shown = page.locator("#comparison").inner_text()
    assert HOSTILE in shown and TEXTS[0] in shown and "cosine of the embeddings" in shown
    assert page.locator("#comparison .meter").count() == inspected.model.num_compression_tokens
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.bad") is None and page.problems == []
    page.close()


def test_the_page_asks_for_the_key(browser, model):
    with running(model, key="secret", ui=True) as found:
        page = opened(browser, found.url)
        page.locator("#key").fill("secret")
        page.locator("#key-form button").click()
        page.wait_for_selector('#model:has-text("dimensions")', state="attached")
        assert not page.locator("#key-form").is_visible()
        page.close()


def test_the_page_is_off_unless_it_is_asked_for(server, inspected):
    assert server.http.get("/").status_code == 404
    answer = inspected.http.get("/")
    assert answer.status_code == 200 and "script-src 'self'" in answer.headers["content-security-policy"]


OWN, OTHER = (
    ["127.0.0.1", "localhost:80", "[::1]:80", "[::1]"],
    ["evil.example", "evil.example:80", "127.0.0.1.evil.io"],
)


def test_inspect_answers_this_machine_alone_and_serve_any_name(model, inspected):
    """A name that a web page has made point to this machine is refused; a server with --ui may be behind any name."""
    with running(model, ui=True, hosts=LOOPBACK) as server:
        for names, status in ((OWN, 200), (OTHER, 403)):
            for name in names:
                assert server.http.get("/v1/models", headers={"Host": name}).status_code == status
                assert inspected.http.get("/v1/models", headers={"Host": name}).status_code == 200


def test_a_comparison_has_the_cosine_of_the_embeddings(inspected):
    answer = inspected.post("compare", input=TEXTS[:2], max_tokens=0)
    assert answer.status_code == 200, answer.text
    one, two = inspected.model.encode(TEXTS[:2])
    assert answer.json()["cosine"] == pytest.approx(float(one @ two / (one.norm() * two.norm())), abs=1e-3)
    assert inspected.post("compare", input=TEXTS[:1]).status_code == 400
