from __future__ import annotations

import pytest
import torch

from llm2vec_gen.interpreters.decoding import Decoding
from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.types import Query


class Echo:
    """A model whose soft prompts hold the length of each text and which decodes them to that number."""

    def __init__(self):
        self.sizes = []

    def soft_prompts(self, texts, instruction):
        self.sizes.append(len(texts))
        return torch.tensor([[[float(len(text))]] for text in texts])

    def decode(self, soft_prompts, max_new_tokens):
        return [f" {int(row[0, 0])}/{max_new_tokens} " for row in soft_prompts]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_one_reading_per_query_in_order_whatever_the_batches(batch_size):
    model = Echo()
    queries = [Query(str(n), "x" * n, answer=f"{n}!" if n % 2 else None) for n in range(5)]
    readings = Decoding(max_new_tokens=7, batch_size=batch_size).interpret(model, queries)
    assert [reading.text for reading in readings] == ["0/7", "1/7", "2/7", "3/7", "4/7"]
    assert [reading.id for reading in readings] == ["0", "1", "2", "3", "4"]
    assert [reading.completion for reading in readings] == [None, "1!", None, "3!", None]
    assert {reading.interpreter for reading in readings} == {"decoding"}
    assert max(model.sizes) == min(batch_size, 5)


def test_on_the_real_model_it_is_what_decode_says(tmp_path):
    from llm2vec_gen.backbones.backbone import Backbone
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
    from tests.builders import tiny_backbone_folder

    model = LLM2VecGen(Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu"), 8, 2, 3)
    texts = ["how many legs?", "the moon", "what is the capital of France, please?"]
    queries = [Query(str(n), text) for n, text in enumerate(texts)]
    readings = Decoding(max_new_tokens=5, batch_size=2).interpret(model, queries)
    assert [reading.text for reading in readings] == [model.decode([text], 5)[0].strip() for text in texts]
    lens = LogitLens(top=4).interpret(model, queries)
    assert [[len(words) for words in reading.words] for reading in lens] == [[4, 4, 4]] * 3


def test_no_queries_give_no_readings():
    assert Decoding().interpret(Echo(), []) == []
