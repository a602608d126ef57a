from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2vec_gen.encoders.llm2vec import LLM2Vec
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Encoder
from tests.builders import FAMILIES, lora_adapter_folder, tiny_backbone_folder

TEXTS = [
    "the cat sat on the mat",
    "a",
    "What is the capital of France? \u2603",
    "how many legs does a spider have " * 4,
]


@pytest.fixture(scope="module", params=FAMILIES)
def folders(request, tmp_path_factory):
    """(base, first adapter, second adapter) of a family."""
    folder = tmp_path_factory.mktemp(request.param)
    base = tiny_backbone_folder(folder, request.param)
    first = lora_adapter_folder(folder / "mntp", base, rank=4, alpha=8, seed=1)
    second = lora_adapter_folder(folder / "simcse", base, rank=2, alpha=8, seed=2)
    return str(base), str(first), str(second)


def build(folders, **settings):
    return LLM2Vec(*folders, **{"dtype": "float32", "device": "cpu", **settings})


# ------------------------------------------------------------------ the plain way, one text and one head at a time


def plain_weights(base, *adapters):
    """The base's tensors in float64 with (alpha / r) B A of each adapter added."""
    tensors = load_file(base + "/model.safetensors")
    weights = {name.removeprefix("model."): tensor.double() for name, tensor in tensors.items()}
    for adapter in adapters:
        settings = json.loads(Path(adapter, "adapter_config.json").read_text())
        lora = {name: tensor.double() for name, tensor in load_file(adapter + "/adapter_model.safetensors").items()}
        for name in lora:
            if name.endswith("lora_A.weight"):
                module = name.removeprefix("base_model.model.").removesuffix("lora_A.weight")
                delta = lora[name.replace("lora_A", "lora_B")] @ lora[name]
                weights[module + "weight"] = weights[module + "weight"] + settings["lora_alpha"] / settings["r"] * delta
    return weights


def rms(states, weight, eps):
    return states / (states.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotated(states, base):
    """Rotary positions for (L, head size), first half paired with second half."""
    half = states.shape[-1] // 2
    angles = torch.outer(torch.arange(len(states)).double(), base ** (-torch.arange(half).double() / half))
    first, second = states[:, :half], states[:, half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


def plain_states(weights, config, ids):
    """(L, D) last states with every position seeing every other."""
    states = weights["embed_tokens.weight"][ids]
    heads, groups = config["num_attention_heads"], config["num_attention_heads"] // config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    theta = (config.get("rope_parameters") or config)["rope_theta"]
    eps = config["rms_norm_eps"]

    def linear(name, inputs):
        bias = weights.get(name + ".bias")
        return inputs @ weights[name + ".weight"].T + (0 if bias is None else bias)

    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        inputs = rms(states, weights[at + "input_layernorm.weight"], eps)
        queries, keys, values = (linear(f"{at}self_attn.{name}_proj", inputs).split(size, -1) for name in "qkv")
        outputs = []
        for head in range(heads):
            query, key = queries[head], keys[head // groups]
            if at + "self_attn.q_norm.weight" in weights:
                query = rms(query, weights[at + "self_attn.q_norm.weight"], eps)
                key = rms(key, weights[at + "self_attn.k_norm.weight"], eps)
            scores = rotated(query, theta) @ rotated(key, theta).T / math.sqrt(size)
            outputs.append(scores.softmax(-1) @ values[head // groups])
        states = states + linear(at + "self_attn.o_proj", torch.cat(outputs, -1))
        inputs = rms(states, weights[at + "post_attention_layernorm.weight"], eps)
        gate = torch.nn.functional.silu(linear(at + "mlp.gate_proj", inputs))
        states = states + linear(at + "mlp.down_proj", gate * linear(at + "mlp.up_proj", inputs))
    return rms(states, weights["norm.weight"], eps)


@pytest.mark.parametrize("merge_second", [True, False])
def test_equals_a_plain_loop_in_float64(folders, merge_second):
    weights = plain_weights(*folders)
    config = json.loads(Path(folders[0], "config.json").read_text())
    encoder = build(folders, dtype="float64", merge_second=merge_second)
    assert isinstance(encoder, Encoder)
    ids = encoder.backbone.tokenize(TEXTS)
    expected = torch.stack([plain_states(weights, config, torch.tensor(row)).mean(0) for row in ids])
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, encoder.embedding_dim) and vectors.dtype == torch.float32
    assert torch.allclose(vectors, expected.float(), rtol=0, atol=1e-6 * expected.abs().max())
    assert torch.allclose(build(folders).encode(TEXTS), expected.float(), rtol=0, atol=2e-5)
    assert not torch.allclose(vectors.norm(dim=-1), torch.ones(4), atol=0.1), "targets are not normalised"


def test_each_adapter_changes_the_vectors(folders):
    base, first, second = folders
    variants = [(first, second), (first, None), (None, second), (None, None)]
    vectors = [build((base, *variant)).encode(TEXTS[:1]) for variant in variants]
    for index, one in enumerate(vectors):
        for other in vectors[index + 1 :]:
            assert (one - other).abs().max() > 1e-3


def test_the_first_token_sees_the_last(folders):
    encoder = build(folders)
    with torch.inference_mode():
        states = encoder.states([torch.tensor(ids) for ids in ([40, 41, 42], [40, 41, 43], [40, 41, 42, 44, 45])])
    assert (states[0][0] - states[1][0]).abs().max() > 1e-3
    with torch.inference_mode():
        (alone,) = encoder.states([torch.tensor([40, 41, 42])])
    assert (states[0] - alone).abs().max() < 1e-5, "padding is not seen"


def test_vectors_do_not_depend_on_batch_order_or_padding(folders):
    encoder = build(folders)
    together = encoder.encode(TEXTS)
    encoder.backbone.max_tokens_per_batch = 1
    assert torch.allclose(encoder.encode(TEXTS), together, rtol=0, atol=1e-5)
    assert torch.allclose(encoder.encode(TEXTS[::-1]).flip(0), together, rtol=0, atol=1e-5)
    assert encoder.encode([]).shape == (0, encoder.embedding_dim)
    assert encoder.encode("the cat").shape == (1, encoder.embedding_dim)
    assert encoder.encode(["", " "]).isfinite().all()


def test_the_instruction_is_seen_and_not_pooled(folders):
    encoder = build(folders, use_instruction=True)
    ids = encoder.backbone.tokenize(["say it: the cat"])[0]
    length = len(encoder.backbone.tokenize(["say it:"])[0])
    with torch.inference_mode():
        (states,) = encoder.states([torch.tensor(ids)])
    vectors = encoder.encode([" the cat", "the cat "], instruction="say it: ")
    assert torch.allclose(vectors, states[length:].mean(0).expand(2, -1), rtol=0, atol=1e-5)
    deaf = build(folders)
    assert torch.equal(deaf.encode(["the cat"], instruction="say it:"), deaf.encode(["the cat"]))


def test_long_texts_are_cut(folders):
    encoder = build(folders, max_length=6)
    assert len(encoder.backbone.tokenize([TEXTS[3]], 6)[0]) == 6
    assert torch.allclose(encoder.encode([TEXTS[3]]), encoder.encode([TEXTS[3] + " and more"]), atol=1e-6)


# ------------------------------------------------------------------ wrong adapters


@pytest.fixture
def qwen3(tmp_path):
    return str(tiny_backbone_folder(tmp_path, "qwen3"))


def spoiled(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


KEY = "base_model.model.layers.1.mlp.up_proj.lora_A.weight"
SPOILERS = {
    "1 missing .*layers.1.mlp.up_proj.lora_A": lambda tensors: tensors.pop(KEY),
    "1 unexpected .*extra": lambda tensors: tensors.update({"base_model.model.extra.lora_A.weight": torch.ones(2, 2)}),
    r"1 of another shape .*up_proj.lora_A.weight \(4, 31\) instead of \(4, 32\)": lambda tensors: tensors.update(
        {KEY: torch.ones(4, 31)}
    ),
    "1 not finite .*up_proj.lora_A": lambda tensors: tensors.update({KEY: torch.full((4, 32), torch.nan)}),
}


@pytest.mark.parametrize("message", SPOILERS)
@pytest.mark.parametrize("place", [1, 2])
def test_adapters_that_do_not_match_are_listed(qwen3, tmp_path, message, place):
    good = str(lora_adapter_folder(tmp_path / "good", qwen3))
    bad = spoiled(lora_adapter_folder(tmp_path / "bad", qwen3), SPOILERS[message])
    folders = [qwen3, good, good]
    folders[place] = bad
    with pytest.raises(InputError, match=f"does not match its base model: {message}"):
        build(folders)


def test_an_adapter_of_a_causal_lm_is_refused(qwen3, tmp_path):
    """Loaded carelessly it would have no effect at all."""
    adapter = lora_adapter_folder(tmp_path / "lm", qwen3, prefix="base_model.model.model.")
    with pytest.raises(InputError, match=r"28 missing .*28 unexpected .*base_model.model.model.layers.0"):
        build((qwen3, str(adapter), None))


def test_an_adapter_of_another_model_is_refused(qwen3, tmp_path):
    wide = tiny_backbone_folder(tmp_path, "qwen3", name="wide", hidden_size=48)
    adapter = str(lora_adapter_folder(tmp_path / "wide_adapter", wide))
    with pytest.raises(InputError, match="of another shape"):
        build((qwen3, adapter, None))
    deep = tiny_backbone_folder(tmp_path, "qwen3", name="deep", num_hidden_layers=3)
    with pytest.raises(InputError, match=r"14 unexpected \(base_model.model.layers.2"):
        build((qwen3, str(lora_adapter_folder(tmp_path / "deep_adapter", deep)), None))


def test_wrong_folders(qwen3, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"teacher.adapter=.*no-such/adapter.* is no folder here and not to be had"):
        build((qwen3, "no-such/adapter", None))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="lacks adapter_config.json and adapter_model.safetensors"):
        build((qwen3, None, str(tmp_path / "empty")))
    good = lora_adapter_folder(tmp_path / "good", qwen3)
    with pytest.raises(InputError, match="encoder's path=.*empty .*cannot be loaded"):
        build((str(tmp_path / "empty"), str(good), None))
    (good / "adapter_model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(InputError, match="cannot be used"):
        build((qwen3, str(good), None))


def test_another_kind_of_adapter_is_refused(qwen3, tmp_path):
    adapter = lora_adapter_folder(tmp_path / "good", qwen3)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    for change in ({"peft_type": "IA3"}, {"peft_type": "NONSENSE"}, {"target_modules": ["no_such_module"]}):
        (adapter / "adapter_config.json").write_text(json.dumps(settings | change))
        with pytest.raises(InputError, match="the adapter .*good"):
            build((qwen3, str(adapter), None))


def test_a_base_without_all_its_weights_is_refused(qwen3):
    tensors = load_file(qwen3 + "/model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, qwen3 + "/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights, e.g. layers.1.mlp.up_proj.weight"):
        build((qwen3, None, None))


def test_adapters_may_lie_in_an_installed_package(tmp_path: Path):
    place = "package://llm2vec_gen/pocket/teacher"
    encoder = LLM2Vec("package://llm2vec_gen/pocket/lm", f"{place}/mntp", f"{place}/simcse", dtype="float32")
    assert encoder.encode(["a", "b"]).shape == (2, encoder.embedding_dim)
    with pytest.raises(InputError, match="no package 'nowhere'"):
        LLM2Vec("package://llm2vec_gen/pocket/lm", "package://nowhere/mntp", None, dtype="float32")


# ------------------------------------------------------------------ adapters of the kinds that PEFT itself writes


def peft_adapter(folder, base, **settings):
    """An adapter that PEFT made and saved, every factor and bias of it random."""
    import peft
    from transformers import AutoModel

    adapted = peft.get_peft_model(AutoModel.from_pretrained(base), peft.LoraConfig(r=4, lora_alpha=8, **settings))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    return str(folder)


KINDS = {
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding_alone": {"target_modules": ["embed_tokens"]},
    "lora_bias": {"target_modules": ["q_proj", "down_proj"], "lora_bias": True},
    "bias": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "dora": {"target_modules": ["q_proj"], "use_dora": True},
    "saved_embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


@pytest.mark.parametrize("family", ["qwen3", "qwen2"])  # without and with biases of its own
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_the_same_merged_and_on_top(family, kind, tmp_path):
    base = str(tiny_backbone_folder(tmp_path, family))
    adapter = peft_adapter(tmp_path / kind, base, **KINDS[kind])
    places = [(adapter, None, False), (None, adapter, False), (None, adapter, True)]
    first, top, merged = (build((base, *pair), merge_second=merge).encode(TEXTS) for *pair, merge in places)
    plain = build((base, None, None)).encode(TEXTS)
    assert (top - plain).abs().max() > 1e-2
    assert torch.allclose(first, top, rtol=0, atol=1e-4) and torch.allclose(merged, top, rtol=0, atol=1e-4)


def test_an_adapter_over_other_embeddings_is_refused_for_that(qwen3, tmp_path):
    adapter = Path(peft_adapter(tmp_path / "a", qwen3, target_modules=["embed_tokens"]))
    tensors = load_file(adapter / "adapter_model.safetensors")
    (name,) = (name for name in tensors if "base_layer" in name)
    for change, message in ((lambda t: t + 1, "with other values"), (lambda t: t[:-5], "of shape .* instead of")):
        save_file(tensors | {name: change(tensors[name]).contiguous()}, adapter / "adapter_model.safetensors")
        with pytest.raises(InputError, match=f"carries base_model.model.embed_tokens.weight of its base, {message}"):
            build((qwen3, str(adapter), None))
    save_file(tensors | {name: tensors[name].bfloat16()}, adapter / "adapter_model.safetensors")
    assert build((qwen3, str(adapter), None)).encode(TEXTS).isfinite().all(), "rounded it is the same"
