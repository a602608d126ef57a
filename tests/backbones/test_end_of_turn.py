"""The token that ends an answer, by the chat template."""

from __future__ import annotations

import pytest

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.end_of_turn import end_of_turn
from tests.builders import END, FAMILIES, tiny_backbone_folder, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_ends_as_its_yaml_says(family):
    tokenizer = tiny_tokenizer(family)
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer, {"enable_thinking": False})) == END[family]


@pytest.mark.parametrize(("family", "other"), [("qwen2", "<|endoftext|>"), ("llama", "<|end_of_text|>")])
def test_the_end_of_a_turn_goes_before_the_end_of_a_text(tmp_path, family, other):
    folder = tiny_backbone_folder(tmp_path, family)
    tokenizer = tiny_tokenizer(family)
    tokenizer.eos_token = other
    tokenizer.save_pretrained(folder)
    backbone = Backbone.from_pretrained(str(folder), device="cpu")
    assert backbone.tokenizer.convert_ids_to_tokens(backbone.end_id) == END[family]
    assert backbone.tokenizer.convert_tokens_to_ids(other) in backbone.stop_ids
    assert Backbone.from_pretrained(str(folder), device="cpu", end_token=other).end_id != backbone.end_id


@pytest.mark.parametrize(
    "template",
    [None, "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", "{{ raise_exception('no') }}",
     "{% for m in messages %}{{ m['content'] }} the end{% endfor %}", "{{ messages[0]['content'] }}"],
)  # fmt: skip
def test_without_an_ending_token_it_is_the_tokenizers_end(tmp_path, template):
    folder = tiny_backbone_folder(tmp_path, "qwen2", chat_template=False)
    tokenizer = tiny_tokenizer("qwen2", chat_template=False)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    backbone = Backbone.from_pretrained(str(folder), device="cpu")
    assert end_of_turn(backbone.tokenizer, {}) is None
    assert backbone.end_id == backbone.tokenizer.eos_token_id
