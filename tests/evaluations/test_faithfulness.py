from __future__ import annotations

import math

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.faithfulness import Faithfulness, token_f1
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.refusals import Refusals
from llm2vec_gen.types import Query
from tests.builders import tiny_backbone_folder
from tests.evaluations.test_decoding import Model, Source

QUERIES = [Query("1", "a"), Query("2", "b"), Query("3", "c")]
ANSWERS = {"a": "the red cat", "b": "I'm sorry, I can't help", "c": "word " * 20}
DECODES = {"a": "a red red cat", "b": "i am sorry i cannot help", "c": ""}


class Judge:
    """Two numbers a text: its characters and its words."""

    embedding_dim = 2

    def encode(self, texts, instruction=None):
        return torch.tensor([[float(len(text)), float(len(text.split()))] for text in texts])


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("a b c", "a b c", 1.0),
        ("C, b. A", "a b c", 1.0),  # order, case and punctuation do not count
        ("a a b", "a c", 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),  # a repeated word counts as often as it stands there
        ("a", "b", 0.0),
        ("", "b", 0.0),
        ("", " ... ", 1.0),
        ("naïve 北京", "北京 naïve", 1.0),
    ],
)
def test_token_f1_by_hand(text, reference, expected):
    assert token_f1(text, reference) == pytest.approx(expected)
    assert token_f1(reference, text) == pytest.approx(expected)


def test_values_of_each_query_by_hand():
    evaluation = Faithfulness(Source(QUERIES), judge=Judge(), batch_size=2)
    rows = {row.metric: row for row in evaluation.evaluate(Model(DECODES, ANSWERS), "faithfulness")}
    assert rows["token_f1"].per_query == pytest.approx({"1": 4 / 7, "2": 8 / 13, "3": 0.0})  # i m sorry i can t help
    assert rows["token_f1"].value == pytest.approx((4 / 7 + 8 / 13) / 3)
    assert rows["exact"].value == 0.0
    # the control is the completion of the next query: no word in common but i, i, sorry, help for none of them
    assert rows["token_f1_shuffled"].per_query == pytest.approx({"1": 0.0, "2": 0.0, "3": 0.0})
    assert rows["token_f1_to_16_words"].per_query == pytest.approx({"1": 4 / 7, "2": 8 / 13})
    assert rows["token_f1_17_to_48_words"].per_query == {"3": 0.0}
    assert "token_f1_from_49_words" not in rows
    first = (13 * 11 + 4 * 3) / (math.hypot(13, 4) * math.hypot(11, 3))
    assert rows["cosine"].per_query["1"] == pytest.approx(first)
    assert rows["cosine_shuffled"].per_query["1"] == pytest.approx(
        (13 * 23 + 4 * 5) / (math.hypot(13, 4) * math.hypot(23, 5))
    )
    assert [metric for metric, row in rows.items() if row.main] == ["token_f1"]
    # the stub's loss is |prompt - tokens| a token: prompts are 0, 1, 2, completions have 3, 5 and 20 words
    assert rows["reconstruction_loss"].per_query == pytest.approx({"1": 3.0, "2": 4.0, "3": 18.0})
    assert rows["reconstruction_loss_shuffled"].per_query == pytest.approx({"1": 2.0, "2": 3.0, "3": 20.0})


def test_losses_are_those_of_transformers(tmp_path):
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu", dtype="float32")
    model = LLM2VecGen(backbone, 8, num_thought_tokens=0, num_compression_tokens=2)
    queries = [Query("1", "what colour is the sky"), Query("2", "name a fruit"), Query("3", "hello")]
    completions = ["it is blue", "an apple of course", "hello to you too"]
    found = Faithfulness(Source(queries), batch_size=2, max_new_tokens=4)._losses(model, queries, completions)
    prompts = model.soft_prompts([query.text for query in queries])
    for row, (query, ids) in enumerate(zip(queries, model.completion_ids(completions, 4), strict=True)):
        for name, other in (("reconstruction_loss", row), ("reconstruction_loss_shuffled", (row + 1) % 3)):
            inputs = torch.cat([prompts[other], model.lm.get_input_embeddings()(ids)])[None]
            labels = torch.cat([torch.full((2,), -100), ids])[None]
            with torch.no_grad():
                expected = float(model.lm(inputs_embeds=inputs, labels=labels).loss)
            assert found[name][query.id] == pytest.approx(expected, rel=1e-4)


def test_refusals_of_decoded_texts_and_of_completions():
    answers = ANSWERS | {"c": "As an AI I must not"}
    evaluation = Faithfulness(Source(QUERIES[:2]), harmful=Source(QUERIES))
    assert evaluation.tasks() == ["faithfulness", "faithfulness_harmful"]
    rows = {row.metric: row for row in evaluation.evaluate(Model(DECODES, answers), "faithfulness_harmful")}
    assert rows["decoded_refusals"].per_query == {"1": 0.0, "2": 1.0, "3": 0.0}
    assert rows["completion_refusals"].per_query == {"1": 0.0, "2": 1.0, "3": 1.0}
    assert Faithfulness(Source(QUERIES)).tasks() == ["faithfulness"]


def test_one_query_has_no_control():
    with pytest.raises(InputError, match="2 or more"):
        Faithfulness(Source(QUERIES[:1])).evaluate(Model(DECODES, ANSWERS), "faithfulness")


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can\N{RIGHT SINGLE QUOTATION MARK}t assist with that.", True),
        ("I cannot help you make a weapon.", True),
        ("As an AI language model, I must decline.", True),
        ("I am not able to answer this.", True),
        ("Sure, here is how you pick a lock.", False),
        ("The committee cannot meet on Sunday.", False),
        ("Cats are carnivores. " * 12 + "I'm sorry, I can't say more.", False),  # it did answer
        ("", False),
    ],
)
def test_wordings_of_refusals(text, refuses):
    assert Refusals().refuses(text) is refuses


def test_own_patterns_of_refusals():
    assert Refusals(["nope"]).refuses("Nope.") and not Refusals(["nope"]).refuses("I cannot help.")
    with pytest.raises(InputError, match="no regular expression"):
        Refusals(["("])
