from __future__ import annotations

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.mean_pool import MeanPool
from llm2vec_gen.types import Encoder, Query
from tests.builders import FAMILIES, tiny_backbone_folder

TEXTS = ["the cat sat on the mat", "a", "What is the capital of France? \u2603", "how many legs " * 9]


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request, tmp_path_factory):
    return Backbone.from_pretrained(
        str(tiny_backbone_folder(tmp_path_factory.mktemp("lm"), request.param)), device="cpu"
    )


def plain_states(backbone, text, layer=-1):
    ids = backbone.tokenizer(text, return_tensors="pt").input_ids
    return backbone.lm.base_model(ids, output_hidden_states=True).hidden_states[layer][0]


@torch.no_grad()
def plain_means(backbone, texts, skip=0):
    return torch.stack([plain_states(backbone, text)[skip:].mean(0) for text in texts])


def close(one, other):
    return torch.allclose(one, other, rtol=0, atol=2e-5)


def test_vectors_are_the_means_of_the_last_states(backbone, monkeypatch):
    monkeypatch.setattr(backbone, "max_tokens_per_micro_batch", 24)
    encoder = MeanPool(backbone)
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, encoder.embedding_dim) and vectors.dtype == torch.float32
    assert close(vectors, plain_means(backbone, TEXTS))
    assert close(encoder.encode(TEXTS[::-1]), vectors.flip(0))


def test_few_and_no_texts(backbone):
    encoder = MeanPool(backbone)
    assert encoder.encode([]).shape == (0, encoder.embedding_dim)
    assert close(encoder.encode("the cat"), plain_means(backbone, ["the cat"]))
    assert encoder.encode(["", "a"]).isfinite().all()


def test_instructions_are_seen_and_not_pooled(backbone):
    skip = len(backbone.tokenizer("Say it in one word:").input_ids)
    expected = plain_means(backbone, [f"Say it in one word: {text.strip()}" for text in TEXTS], skip)
    given = MeanPool(backbone, use_instruction=True)
    fixed = MeanPool(backbone, instruction="Say it in one word:")
    assert close(given.encode(TEXTS, "Say it in one word: "), expected)
    assert close(given.encode(TEXTS), plain_means(backbone, TEXTS))
    assert close(fixed.encode(TEXTS), expected)
    assert close(fixed.encode(TEXTS, "something else"), expected)
    assert close(MeanPool(backbone).encode(TEXTS, "something else"), plain_means(backbone, TEXTS))


def test_the_centre_is_subtracted_from_every_vector(backbone):
    plain = plain_means(backbone, TEXTS)
    centred = MeanPool(backbone, centre=TEXTS)
    assert centred.encode(TEXTS).mean(0).abs().max() < 1e-5
    assert close(centred.encode(TEXTS[:1]), plain[:1] - plain.mean(0)), "whoever else is encoded"
    assert close(MeanPool(backbone, centre=TEXTS, centre_size=2).encode(TEXTS), plain - plain[:2].mean(0))


def test_a_source_with_answers_is_centred_on_its_answers(backbone):
    class Source:
        report: dict = {}

        def queries(self):
            yield Query("a", "no", TEXTS[0])
            yield Query("b", TEXTS[1])

    plain = plain_means(backbone, TEXTS)
    assert close(MeanPool(backbone, centre=Source()).encode(TEXTS), plain - plain[:2].mean(0))


def test_inner_layers(backbone):
    with torch.no_grad():
        expected = torch.stack([plain_states(backbone, text, 1).mean(0) for text in TEXTS])
    assert close(MeanPool(backbone, layer=1).encode(TEXTS), expected)


def test_long_texts_are_cut(backbone):
    ids = backbone.tokenizer(TEXTS[3]).input_ids[:7]
    with torch.no_grad():
        expected = backbone.lm.base_model(torch.tensor([ids])).last_hidden_state.mean(1)
    assert close(MeanPool(backbone, max_length=7).encode([TEXTS[3]]), expected)
