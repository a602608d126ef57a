from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.decoding import Decoding, can_decode
from llm2vec_gen.types import Encoder, Query


class Source:
    def __init__(self, queries):
        self.all = queries

    def queries(self):
        return iter(self.all)


class Model:
    """Decodes each text to what `decodes` says; its language model answers what `answers` says."""

    name = "ours"
    embedding_dim = 1

    def __init__(self, decodes, answers):
        self.texts = list(decodes)
        self.decodes = decodes
        words = list(answers.values())
        self.backbone = SimpleNamespace(
            chat_ids=lambda query: torch.tensor([list(answers).index(query)] if query else []),
            generate=lambda prompts, max_new_tokens: [(ids, "stop") for ids in prompts],
            tokenizer=SimpleNamespace(decode=lambda ids, skip_special_tokens: f" {words[int(ids[0])]}"),
            reconstruction_loss=lambda prompts, rows: (abs(float(prompts) - len(rows[0])) * len(rows[0]), len(rows[0])),
        )

    def completion_ids(self, texts, max_length):
        return [torch.zeros(len(text.split()))[:max_length] for text in texts]

    def encode(self, texts, instruction=None):
        raise AssertionError("not needed")

    def soft_prompts(self, texts):
        return torch.tensor([[[float(self.texts.index(text))]] for text in texts])

    def decode(self, soft_prompts, max_new_tokens):
        return [self.decodes[self.texts[int(row[0, 0])]] + " " for row in soft_prompts]


QUERIES = [Query("1", "a", "A"), Query("2", "b", "B"), Query("3", "c", "C"), Query("4", "d", None)]
DECODES = {"a": "A", "b": "x", "c": "x", "d": "D"}
ANSWERS = {"a": "A", "b": "B", "c": "x", "d": "D"}


class Passing:
    """Has the attributes of another object, as a submodule of an nn.Module and a cached encoder have theirs."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_what_can_decode():
    model = Model(DECODES, ANSWERS)
    assert can_decode(model)
    assert can_decode(Passing(model))
    assert not can_decode(Passing(SimpleNamespace(encode=model.encode, backbone=model.backbone)))


def test_isinstance_does_not_find_what_is_passed_on():
    """As from Python 3.12 on; conftest.py makes older ones alike."""
    assert isinstance(Model(DECODES, ANSWERS), Encoder)
    assert not isinstance(Passing(Model(DECODES, ANSWERS)), Encoder)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_fractions_by_hand(batch_size):
    rows = Decoding(Source(QUERIES), batch_size=batch_size).evaluate(Model(DECODES, ANSWERS), "decode_exact")
    found = {row.metric: row for row in rows}
    assert found["exact"].per_query == {"1": 1.0, "2": 0.0, "3": 0.0, "4": 1.0}  # c: own answer, but a wrong one
    assert found["exact_completion"].per_query == {"1": 1.0, "2": 0.0, "3": 1.0, "4": 1.0}
    assert found["exact_answer"].per_query == {"1": 1.0, "2": 0.0, "3": 0.0}
    assert found["completion_answer"].per_query == {"1": 1.0, "2": 1.0, "3": 0.0}
    assert [row.metric for row in rows if row.main] == ["exact"]
    assert found["exact"].value == 0.5 and found["exact"].n == 4 and found["exact"].category == "decoding"


def test_limit_and_no_known_answers():
    rows = Decoding(Source([Query("4", "d"), *QUERIES]), limit=1).evaluate(Model(DECODES, ANSWERS), "decode_exact")
    assert [(row.metric, row.n) for row in rows] == [("exact", 1), ("exact_completion", 1)]


def test_an_encoder_that_cannot_decode_is_skipped_and_logged(caplog):
    class Teacher:
        name = "teacher"

        def encode(self, texts, instruction=None):
            return torch.zeros(len(texts), 1)

    evaluation = Decoding(Source(QUERIES))
    with caplog.at_level("INFO"):
        assert evaluation.evaluate(Teacher(), "decode_exact") == []
    assert "teacher cannot decode" in caplog.text


def test_own_completions_are_greedy_answers_to_the_chat_prompt(tmp_path):
    from llm2vec_gen.backbones.backbone import Backbone
    from tests.builders import tiny_backbone_folder

    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu")
    found = Decoding(Source([]), max_new_tokens=6).completions(SimpleNamespace(backbone=backbone), QUERIES)
    for query, text in zip(QUERIES, found, strict=True):
        ids = backbone.tokenizer(
            backbone.chat_prompt(query.text), return_tensors="pt", add_special_tokens=False
        ).input_ids
        expected = backbone.lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        assert text == backbone.tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_own_completions_answer_the_prompts_of_the_training(tmp_path):
    """Cut as `complete` cuts them; bare for a language model without chat template."""
    from llm2vec_gen.backbones.backbone import Backbone
    from llm2vec_gen.generators.transformers import TransformersGenerator
    from tests.builders import tiny_backbone_folder

    queries = [Query("1", "the cat sat " * 40), Query("2", "the moon")]
    for chat_template in ("model", "none"):
        folder = tiny_backbone_folder(tmp_path / chat_template, chat_template=chat_template == "model")
        backbone = Backbone.from_pretrained(str(folder), device="cpu")
        settings = {"max_new_tokens": 6, "max_prompt_tokens": 90, "chat_template": chat_template}
        written = TransformersGenerator(backbone, **settings).complete(queries)
        assert written[0].query_tokens <= 90
        found = Decoding(Source([]), **settings).completions(SimpleNamespace(backbone=backbone), queries)
        assert found == [completion.completion for completion in written]
    with pytest.raises(InputError, match="evaluation.decoding.max_prompt_tokens=1 leaves no tokens"):
        Decoding(Source([]), chat_template="none", max_prompt_tokens=1).completions(
            SimpleNamespace(backbone=SimpleNamespace(tokenize=lambda texts: [torch.zeros(1)])), queries
        )
    with pytest.raises(InputError, match="evaluation.decoding.chat_template=no; expected model or none"):
        Decoding(Source([]), chat_template="no").completions(SimpleNamespace(backbone=None), queries)


def test_bad_input():
    model = Model(DECODES, ANSWERS)
    with pytest.raises(InputError, match="empty"):
        Decoding(Source([])).evaluate(model, "decode_exact")
    with pytest.raises(InputError, match="decode_exact"):
        Decoding(Source(QUERIES)).evaluate(model, "decode")
    for name in ("limit", "max_new_tokens", "batch_size"):
        for value in (0, 2.5, "ten"):
            with pytest.raises(InputError, match=f"evaluation.decoding.{name}={value}: expected a whole number"):
                Decoding(Source(QUERIES), **{name: value})
