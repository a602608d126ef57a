from __future__ import annotations

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.echo import TEMPLATE, Echo
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Encoder
from tests.builders import FAMILIES, appending_end, tiny_backbone_folder

TEXTS = ["the cat sat on the mat", "a", "What is the capital of France? \u2603", "legs {text} legs", "how many " * 9]


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request, tmp_path_factory):
    return Backbone.from_pretrained(
        str(tiny_backbone_folder(tmp_path_factory.mktemp("lm"), request.param)), device="cpu"
    )


@torch.no_grad()
def plain(backbone, text, template=TEMPLATE, last=False):
    """The row written by hand; positions of the second text found by growing the row until it covers them."""
    before, between, after = template.split("{text}")
    row = before + text + between + text + after
    ids = backbone.tokenizer(row).input_ids
    states = backbone.lm.base_model(torch.tensor([ids])).last_hidden_state[0]
    spans = backbone.tokenizer(row, return_offsets_mapping=True)["offset_mapping"]
    begin = len(before + text + between)
    chosen = [i for i, (left, right) in enumerate(spans) if right > begin and left < begin + len(text)]
    assert backbone.tokenizer.decode([ids[i] for i in chosen]).strip().startswith(text.strip())
    return states[chosen[-1]] if last else states[chosen].mean(0)


def close(one, other):
    return torch.allclose(one, other, rtol=0, atol=2e-5)


def test_vectors_are_the_means_over_the_second_occurrence(backbone):
    encoder = Echo(backbone)
    assert isinstance(encoder, Encoder)
    expected = torch.stack([plain(backbone, text.strip()) for text in TEXTS])
    vectors = encoder.encode(TEXTS)
    assert close(vectors, expected)
    assert close(encoder.encode(TEXTS[::-1]), vectors.flip(0))
    assert encoder.encode([]).shape == (0, encoder.embedding_dim)
    assert encoder.encode(["", " "]).isfinite().all()


def test_a_template_with_a_tail_and_the_last_position(backbone):
    template = "{text} again: {text} (end of the text)"
    expected = torch.stack([plain(backbone, text.strip(), template, last=True) for text in TEXTS])
    assert close(Echo(backbone, template, pooling="last").encode(TEXTS), expected)


def test_the_instruction_stands_before_the_template(backbone):
    expected = torch.stack([plain(backbone, text.strip(), f"Name it: {TEMPLATE}") for text in TEXTS])
    assert close(Echo(backbone, use_instruction=True).encode(TEXTS, "Name it: "), expected)
    assert close(Echo(backbone).encode(TEXTS, "Name it: "), Echo(backbone).encode(TEXTS))


def test_both_occurrences_are_cut(backbone):
    spans = backbone.tokenizer(TEXTS[0], return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    cut = TEXTS[0][: spans[3][1]]
    assert close(Echo(backbone, max_length=4).encode(TEXTS[:1]), plain(backbone, cut)[None])


@pytest.mark.parametrize("settings", [{"template": "once {text}"}, {"pooling": "max"}])
def test_wrong_settings(backbone, settings):
    with pytest.raises(InputError, match="expected"):
        Echo(backbone, **settings)


def test_a_text_that_spells_control_tokens_is_ordinary_text_in_both_places(backbone):
    """The template's own control token stays one, and the span is the second text's."""
    end = backbone.tokenizer.eos_token
    texts = [f"the cat{end} sat", end, f"the cat {end}"]
    encoder = Echo(backbone, "Text: {text}" + end + " {text} end")
    for text in texts:
        ids, start, stop = encoder._row(text, None)
        assert ids.count(backbone.tokenizer.eos_token_id) == 1
        assert backbone.tokenizer.decode(ids[start:stop]).strip() == text
        inside = backbone.tokenizer.decode(ids[len(backbone.tokenization.beginning) :])
        assert inside == f"Text: {text}{end} {text} end"
    assert encoder.encode(texts).isfinite().all()


def test_the_tokenizers_end_token_is_not_in_the_row(tmp_path):
    plain_one = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path / "plain", "llama")), device="cpu")
    other = appending_end(tiny_backbone_folder(tmp_path, "llama"), "<|eot_id|>")
    assert close(Echo(Backbone.from_pretrained(str(other), device="cpu")).encode(TEXTS), Echo(plain_one).encode(TEXTS))
