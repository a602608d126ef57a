from __future__ import annotations

import json

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.last_token import LastToken
from llm2vec_gen.types import Encoder
from tests.builders import END, FAMILIES, SPECIAL, appending_end, tiny_backbone_folder

TEXTS = ["the cat sat on the mat", "a", "What is the capital of France? \u2603", "how many legs " * 9]


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request, tmp_path_factory):
    return Backbone.from_pretrained(
        str(tiny_backbone_folder(tmp_path_factory.mktemp("lm"), request.param)), device="cpu"
    )


@torch.no_grad()
def plain(backbone, rows):
    """Row by row, through transformers alone."""
    ids = [backbone.tokenizer(row).input_ids if isinstance(row, str) else row for row in rows]
    return torch.stack([backbone.lm.base_model(torch.tensor([row])).last_hidden_state[0, -1] for row in ids])


def close(one, other):
    return torch.allclose(one, other, rtol=0, atol=2e-5)


def test_vectors_are_the_last_states_of_the_last_tokens(backbone, monkeypatch):
    monkeypatch.setattr(backbone, "max_tokens_per_micro_batch", 24)
    encoder = LastToken(backbone)
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == torch.float32 and close(vectors, plain(backbone, TEXTS))
    assert close(encoder.encode(TEXTS[::-1]), vectors.flip(0))
    assert encoder.encode([]).shape == (0, encoder.embedding_dim)
    assert close(encoder.encode(TEXTS[0]), vectors[:1])


def test_an_instruction_counts_where_it_is_used(backbone):
    expected = plain(backbone, [f"Name it: {text.strip()}" for text in TEXTS])
    assert close(LastToken(backbone, use_instruction=True).encode(TEXTS, "Name it: "), expected)
    assert close(LastToken(backbone).encode(TEXTS, "Name it: "), plain(backbone, TEXTS))


def test_the_end_token_and_the_limit(backbone):
    ids = [backbone.tokenizer(text).input_ids for text in TEXTS]
    ended = [[*row[:6], backbone.end_id] for row in ids]
    assert close(LastToken(backbone, max_length=7, append_end=True).encode(TEXTS), plain(backbone, ended))
    assert close(LastToken(backbone, max_length=7).encode(TEXTS), plain(backbone, [row[:7] for row in ids]))
    assert LastToken(backbone).encode([""]).isfinite().all()


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_long_text_does_not_move_its_neighbours(kind, tmp_path):
    rope: dict = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4}
    if kind == "longrope":
        factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
        rope |= {"original_max_position_embeddings": 12, **factors}
    context = 12 if kind == "dynamic" else 64
    folder = str(tiny_backbone_folder(tmp_path, max_position_embeddings=context, rope_parameters=rope))
    vectors = LastToken(Backbone.from_pretrained(folder, device="cpu")).encode(TEXTS)
    for vector, text in zip(vectors, TEXTS, strict=True):
        assert close(vector, plain(Backbone.from_pretrained(folder, device="cpu"), [text])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_token_is_the_one_that_the_tokenizer_puts_behind_a_text(family, tmp_path):
    """Qwen3-Embedding's is another one than that which ends a turn."""
    token = SPECIAL[family][0 if family != "llama" else 1]
    backbone = Backbone.from_pretrained(str(appending_end(tiny_backbone_folder(tmp_path, family), token)), device="cpu")
    assert token != END[family]
    expected = plain(backbone, TEXTS)
    assert close(LastToken(backbone).encode(TEXTS), expected)
    assert close(LastToken(backbone, append_end=True).encode(TEXTS), expected)
    ids = [backbone.tokenizer(text).input_ids[:-1] for text in TEXTS]
    assert close(LastToken(backbone, append_end=False).encode(TEXTS), plain(backbone, ids))
    cut = [[*row[:6], backbone.tokenizer.convert_tokens_to_ids(token)] for row in ids]
    assert close(LastToken(backbone, max_length=7).encode(TEXTS), plain(backbone, cut))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_end_token_that_transformers_no_longer_appends_is_named_and_appended(family, tmp_path):
    path = tiny_backbone_folder(tmp_path, family) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_eos_token": True}), encoding="utf-8")
    backbone = Backbone.from_pretrained(str(path.parent), device="cpu")
    with pytest.warns(UserWarning, match="declares add_eos_token, which transformers"):
        encoder = LastToken(backbone)
    ended = [[*backbone.tokenizer(text).input_ids, backbone.tokenizer.eos_token_id] for text in TEXTS]
    assert close(encoder.encode(TEXTS), plain(backbone, ended))


def test_a_text_that_spells_the_end_token_is_read_at_its_last_character(backbone):
    text = f"the cat {backbone.tokenizer.eos_token}"
    split = backbone.tokenizer(text, split_special_tokens=True).input_ids
    assert split[-1] != backbone.tokenizer.eos_token_id
    assert close(LastToken(backbone).encode([text]), plain(backbone, [split]))
