"""Text of growing ids against decoding them at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.serving.text_stream import TextStream


@pytest.fixture(scope="module")
def tokenizer():
    return Backbone.from_pretrained("package://llm2vec_gen/pocket/lm", device="cpu").tokenizer


def streamed(tokenizer, ids, stops=()) -> tuple[list[str], TextStream]:
    stream = TextStream(lambda part: tokenizer.decode(part, skip_special_tokens=True), stops)
    parts = []
    for token in ids:
        stream.push(token)
        parts.append(stream.release())
        if stream.stopped:
            return parts, stream
    stream.finish()
    return [*parts, stream.release(last=True)], stream


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 1919), max_size=12), text=st.text(max_size=12))
def test_the_pieces_add_up(tokenizer, ids, text):
    for row in (ids, tokenizer(text)["input_ids"]):
        parts, stream = streamed(tokenizer, row)
        assert "".join(parts) == stream.text == tokenizer.decode(row, skip_special_tokens=True)


def test_no_half_character_is_released(tokenizer):
    ids = tokenizer("é 日本 🎈")["input_ids"]
    assert len(ids) > 6
    parts, _ = streamed(tokenizer, ids)
    assert "".join(parts) == "é 日本 🎈" and not any("\ufffd" in part for part in parts)


@settings(max_examples=100, deadline=None)
@given(text=st.text("abc", min_size=1, max_size=20), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(text, stops):
    stream = TextStream(lambda ids: "".join(map(chr, ids)), stops)
    found = ""
    for character in text:
        stream.push(ord(character))
        found += stream.release()
        if stream.stopped:
            break
    stream.finish()
    found += stream.release(last=True)
    # A text that grows by single characters stops where the first stop string is complete.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    complete = min((end for end, _ in ends), default=None)
    expected = text if complete is None else text[: min(start for end, start in ends if end == complete)]
    assert found == expected and stream.stopped == bool(ends)
