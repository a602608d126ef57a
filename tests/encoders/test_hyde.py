from __future__ import annotations

import json

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders import hyde
from llm2vec_gen.encoders.hyde import HyDE, identity
from llm2vec_gen.encoders.mean_pool import MeanPool
from llm2vec_gen.evaluations.base import instruction_for
from llm2vec_gen.evaluations.instructions import InstructionTable, NoInstruction
from llm2vec_gen.generators.transformers import TransformersGenerator
from llm2vec_gen.types import Completion, Encoder
from tests.builders import tiny_backbone_folder


class Lengths:
    """A vector of two counts, so that sums can be done by hand."""

    embedding_dim = 2

    def encode(self, texts, instruction=None):
        return torch.tensor([[float(len(text)), float(text.count("a"))] for text in texts]).view(-1, 2)


class Counting:
    """Answers "a" as often as it was asked so far."""

    def __init__(self, max_new_tokens=5):
        self.report, self.max_new_tokens, self.asked = {}, max_new_tokens, []
        self._calls = 0

    def complete(self, queries):
        self.asked += [query.text for query in queries]
        found = []
        for query in queries:
            self._calls += 1
            found.append(Completion(query.id, query.text, "a" * self._calls, "stop"))
        return found


def test_the_mean_of_query_and_answers_by_hand():
    encoder = HyDE(Lengths(), Counting(), n=3)
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(["bba", " c"], "Answer: ")
    assert vectors.tolist() == [[(1 + 2 + 3 + 3) / 4, (1 + 2 + 3 + 1) / 4], [(4 + 5 + 6 + 2) / 4, (4 + 5 + 6) / 4]]
    assert HyDE(Lengths(), Counting(), n=2, encode_query=False).encode(["bba"], "Answer:").tolist() == [[1.5, 1.5]]


def test_prompts_and_documents():
    generator = Counting()
    encoder = HyDE(Lengths(), generator, n=2)
    assert encoder.encode(["bba"]).tolist() == [[3.0, 1.0]] and generator.asked == []
    encoder.encode([" bba\n", "bba"], " Answer:\n")
    assert generator.asked == ["Answer: bba"] * 2, "one prompt, twice answered, however often it is encoded"
    assert encoder.encode([], "Answer:").shape == (0, 2)


def test_its_prompts_go_before_the_evaluations():
    own = InstructionTable(categories={"sts": "Say it again:"})
    assert instruction_for(HyDE(Lengths(), Counting(), own), NoInstruction()) is own
    run = NoInstruction()
    assert instruction_for(HyDE(Lengths(), Counting()), run) is run and instruction_for(Lengths(), run) is run


def test_answers_are_cached_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(hyde, "CHUNK", 2)
    first = HyDE(Lengths(), Counting(), n=2, cache=tmp_path).encode(["x", "y"], "Answer:")
    (file,) = tmp_path.iterdir()
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 4
    with file.open("a") as stream:
        stream.write('{"id": "half a li')
    generator = Counting()
    again = HyDE(Lengths(), generator, n=2, cache=tmp_path)
    assert again.encode(["y", "x"], "Answer:").equal(first.flip(0)) and generator.asked == []
    other = Counting(max_new_tokens=6)
    HyDE(Lengths(), other, n=2, cache=tmp_path).encode(["x"], "Answer:")
    assert len(other.asked) == 2, "another generator has its own answers"


def test_with_a_language_model_against_a_plain_loop(tmp_path):
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu")
    generator = TransformersGenerator(backbone, max_new_tokens=6, sampling={"temperature": 1.5}, seed=1)
    pool = MeanPool(backbone)
    encoder = HyDE(pool, generator, n=2)
    texts = ["the cat sat", "how many legs"]
    vectors = encoder.encode(texts, "Write a passage:")
    for text, vector in zip(texts, vectors, strict=True):
        answers = encoder.answers([f"Write a passage: {text}"])[0]
        assert len(set(answers)) == 2, "sampled"
        expected = sum(pool.encode([part])[0] for part in [text, *answers]) / 3
        assert torch.allclose(vector, expected, atol=2e-5)


@pytest.mark.parametrize("change", [{"seed": 2}, {"max_new_tokens": 7}, {"sampling": None}, {"chat_template": "none"}])
def test_a_generators_identity_is_what_changes_its_answers(tmp_path, change):
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu")
    settings = {"max_new_tokens": 6, "sampling": {"temperature": 1.5}, "seed": 1}
    one = identity(TransformersGenerator(backbone, **settings))
    assert identity(TransformersGenerator(backbone, **settings, max_texts_per_batch=3)) == one
    assert identity(TransformersGenerator(backbone, **(settings | change))) != one
    other = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path, seed=1, name="other")), device="cpu")
    assert identity(TransformersGenerator(other, **settings)) != one
