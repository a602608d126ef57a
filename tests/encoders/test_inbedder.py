from __future__ import annotations

import json
import shutil

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.inbedder import InBedder, answer_prompt
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Encoder
from tests.builders import FAMILIES, SPECIAL, lora_adapter_folder, tiny_backbone_folder

TEXTS = ["the cat sat on the mat", "a", "What is the capital of France? \u2603", "how many legs " * 9, ""]
TEMPLATE = "Text: {text}\nTask: {instruction}\nIn a word:"


@pytest.fixture(scope="module", params=FAMILIES)
def folders(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("lm")
    base = tiny_backbone_folder(place, request.param)
    return request.param, base, lora_adapter_folder(place / "adapter", base, seed=2)


def load(base):
    return Backbone.from_pretrained(str(base), device="cpu")


@torch.no_grad()
def plain(base, adapter, prompts, prefix="base_model.model."):
    """Row by row, with W + alpha/r B A written into the weights by hand: the state at the prompt's last token."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, module in model.named_modules():
        if f"{prefix}{name}.lora_A.weight" in tensors:
            down, up = (tensors[f"{prefix}{name}.lora_{side}.weight"] for side in "AB")
            module.weight += settings["lora_alpha"] / settings["r"] * up @ down
    ids = [tokenizer(prompt).input_ids for prompt in prompts]
    return torch.stack([model(torch.tensor([row])).last_hidden_state[0, -1] for row in ids])


def close(one, other):
    return torch.allclose(one, other, rtol=0, atol=5e-5)


def test_the_embedding_is_the_state_that_predicts_the_answers_first_token(folders, monkeypatch):
    _, base, adapter = folders
    encoder = InBedder(load(base), adapter)
    monkeypatch.setattr(encoder.backbone, "max_tokens_per_micro_batch", 24)
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == torch.float32
    assert close(vectors, plain(base, adapter, [f"{text.strip()}\nIn a few words:" for text in TEXTS]))
    assert close(encoder.encode(TEXTS[::-1]), vectors.flip(0))
    assert encoder.encode([]).shape == (0, encoder.embedding_dim)
    asked = encoder.encode(TEXTS, " Name it: ")
    assert close(
        asked,
        plain(base, adapter, [f"Name it: {text}".strip() + "\nIn a few words:" for text in map(str.strip, TEXTS)]),
    )


def test_an_instruction_stands_where_the_template_has_it(folders):
    _, base, adapter = folders
    encoder = InBedder(load(base), adapter, template=TEMPLATE)
    expected = [f"Text: {text.strip()}\nTask: Name it:\nIn a word:" for text in TEXTS]
    assert close(encoder.encode(TEXTS, "Name it:"), plain(base, adapter, expected))
    ignoring = InBedder(load(base), adapter, template=TEMPLATE, use_instruction=False)
    expected = [f"Text: {text.strip()}\nTask: \nIn a word:" for text in TEXTS]
    assert close(ignoring.encode(TEXTS, "Name it:"), plain(base, adapter, expected))


def test_texts_that_spell_placeholders_and_control_tokens_are_texts(folders):
    family, base, _ = folders
    tokens = load(base).tokenization
    ids, cut = answer_prompt(tokens, TEMPLATE, "{instruction} {text}", "{text}", 512)
    assert not cut and tokens.tokenizer.decode(ids).endswith("Text: {instruction} {text}\nTask: {text}\nIn a word:")
    ids, _ = answer_prompt(tokens, TEMPLATE, f"a {SPECIAL[family][2]} b", None, 512)
    assert not set(ids[len(tokens.beginning) :]) & set(tokens.tokenizer.all_special_ids)


def test_a_long_text_loses_its_end_and_the_template_nothing(folders):
    tokens = load(folders[1]).tokenization
    for limit in (20, 30, 31):
        ids, cut = answer_prompt(tokens, "{text}\nIn a few words:", TEXTS[3], None, limit)
        shown = tokens.tokenizer.decode(ids[len(tokens.beginning) :])
        assert cut and len(ids) <= limit and shown.endswith("\nIn a few words:")
        assert TEXTS[3].startswith(shown.removesuffix("\nIn a few words:"))
    assert len(answer_prompt(tokens, "{text}\nIn a few words:", "a", None, 3)[0]) == 3


def test_adapters_of_a_causal_model_are_the_same_adapters(folders, tmp_path):
    _, base, adapter = folders
    causal = lora_adapter_folder(tmp_path / "causal", base, seed=2, prefix="base_model.model.model.")
    assert close(InBedder(load(base), causal).encode(TEXTS), InBedder(load(base), adapter).encode(TEXTS))


def test_an_adapter_of_another_backbone_is_refused(folders, tmp_path):
    family, base, adapter = folders
    wider = tiny_backbone_folder(tmp_path, family, seed=1, name="other", hidden_size=48)
    with pytest.raises(InputError, match="does not match its base model"):
        InBedder(load(base), lora_adapter_folder(tmp_path / "wide", wider))
    noted = shutil.copytree(adapter, tmp_path / "noted")
    backbone = load(base)
    (noted / "objective.json").write_text(json.dumps({"backbone": str(backbone.fingerprint)}))
    InBedder(backbone, noted)
    (noted / "objective.json").write_text(json.dumps({"backbone": "0123456789abcdef"}))
    with pytest.raises(
        InputError, match=r"inbedder.adapter=.*adapter of another backbone \(fingerprint 0123456789abcdef"
    ):
        InBedder(load(base), noted)


def test_wrong_settings_are_named(folders):
    backbone = load(folders[1])
    for template in (
        "no place",
        "{text} {text} so:",
        "{instruction}{instruction}{text} so:",
        "{text}",
        "{text} {instruction}",
    ):
        with pytest.raises(InputError, match="the InBedder template"):
            InBedder(backbone, template=template)
    backbone.quantization = "int8"
    with pytest.raises(InputError, match="set backbone.quantization=none"):
        InBedder(backbone, folders[2])
