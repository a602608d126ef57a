from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.llm2vec import LLM2Vec
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.adapted_encoder import AdaptedEncoder, Lora, make_bidirectional, merge, states_of
from tests.builders import FAMILIES, lora_adapter_folder, tiny_backbone_folder, tiny_lm, tiny_tokenizer

TEXTS = ["the cat sat on the mat", "a", "What is the capital of France?", "how many legs does a spider have " * 3]


def backbone(family: str = "qwen3", **changes) -> Backbone:
    """A tiny backbone in fp64, which adapters of fp32 round by less than 1e-6."""
    return Backbone(tiny_lm(family, dtype=torch.float64, **changes), tiny_tokenizer(family), path=f"tiny-{family}")


def adapted(base: Backbone, seed: int = 0, lora: Lora | None = None, **dropout: float) -> AdaptedEncoder:
    """An encoder whose adapter does something: PEFT starts with B = 0."""
    make_bidirectional(base)
    torch.manual_seed(seed)
    encoder = AdaptedEncoder(base, lora or Lora(4, 8), **dropout)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_sees_the_last_and_not_the_padding(family: str) -> None:
    base = backbone(family)
    bare = base.lm.base_model
    one, other = torch.tensor([[5, 6, 7], [5, 6, 8]])
    alone = torch.ones(1, 3, dtype=torch.bool)

    def first(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return states_of(bare, ids, mask)[0, 0]

    assert torch.equal(first(one[None], alone), first(other[None], alone)), "causal before"
    make_bidirectional(base)
    assert (first(one[None], alone) - first(other[None], alone)).abs().max() > 1e-3
    padded = torch.cat([one, torch.tensor([9, 9])])[None]
    with_padding = first(padded, torch.tensor([[True] * 3 + [False] * 2]))
    assert torch.allclose(with_padding, first(one[None], alone), atol=1e-12)


@pytest.mark.parametrize("family", ["nemotron", "stablelm"])
def test_a_family_that_stays_causal_is_named(family: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CONFIG_MAPPING[family](vocab_size=400, num_key_value_heads=4, max_position_embeddings=64, **sizes)
    base = Backbone(AutoModelForCausalLM.from_config(config), tiny_tokenizer("qwen3"), path="some/model")
    with pytest.raises(InputError, match=rf"some/model \({family}\) cannot be made bidirectional.*Llama.*Qwen3"):
        make_bidirectional(base)


def test_quantised_weights_are_refused() -> None:
    base = backbone()
    base.quantization = "nf4"
    with pytest.raises(InputError, match="backbone.quantization=nf4.*set backbone.quantization=none"):
        make_bidirectional(base)


@pytest.mark.parametrize("tokens", [1, 40, 10_000])
@pytest.mark.parametrize("again", [False, True])
def test_pooled_is_the_mean_of_each_row_alone(tokens: int, again: bool) -> None:
    base = backbone()
    encoder = adapted(base).eval()
    base.max_tokens_per_micro_batch, base.gradient_checkpointing = tokens, again
    ids = base.tokenize(TEXTS)
    vectors = encoder.pooled(ids)
    for row, vector in zip(ids, vectors, strict=True):
        states = encoder.model(input_ids=row[None], use_cache=False).last_hidden_state[0]
        total = torch.zeros(base.hidden_size, dtype=torch.float64)
        for state in states:
            total += state
        assert torch.allclose(vector, total / len(row), atol=1e-10)


@pytest.mark.parametrize("tokens", [1, 30, 10_000])
@pytest.mark.parametrize("again", [False, True])
def test_gradients_do_not_depend_on_passes(tokens: int, again: bool) -> None:
    def gradients(tokens: int, again: bool) -> list[torch.Tensor]:
        base = backbone()
        encoder = adapted(base)
        base.max_tokens_per_micro_batch, base.gradient_checkpointing = tokens, again
        ids = base.tokenize(TEXTS)
        targets = [torch.where(torch.arange(len(row)) % 3 == 1, row, -1) for row in ids]
        (encoder.pooled(ids).square().sum() + encoder.token_loss(ids, targets)).backward()
        assert all(parameter.grad is None for parameter in base.lm.parameters() if not parameter.requires_grad)
        return [parameter.grad for parameter in encoder.parameters() if parameter.requires_grad]

    expected = gradients(10_000, False)
    assert len(expected) == 2 * 7 * 2
    for found, wanted in zip(gradients(tokens, again), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


def test_recomputing_draws_the_same_dropout() -> None:
    def gradients(again: bool) -> list[torch.Tensor]:
        base = backbone()
        encoder = adapted(base, lora_dropout=0.3, attention_dropout=0.3)
        base.max_tokens_per_micro_batch, base.gradient_checkpointing = 30, again
        torch.manual_seed(3)
        encoder.pooled(base.tokenize(TEXTS)).square().sum().backward()
        return [parameter.grad for parameter in encoder.parameters() if parameter.requires_grad]

    for found, wanted in zip(gradients(True), gradients(False), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dropout", [{"lora_dropout": 0.3}, {"attention_dropout": 0.3}])
def test_each_dropout_gives_another_view_and_eval_gives_none(dropout: dict[str, float]) -> None:
    encoder = adapted(backbone(), **dropout)
    ids = encoder.backbone.tokenize(TEXTS[:1]) * 2
    one, other = encoder.pooled(ids)
    assert (one - other).abs().max() > 1e-4
    one, other = encoder.eval().pooled(ids)
    assert torch.allclose(one, other, atol=1e-12)


def test_token_loss_is_read_where_the_targets_stand() -> None:
    base = backbone()
    encoder = adapted(base).eval()
    ids = base.tokenize(TEXTS)
    targets = [torch.where(torch.arange(len(row)) % 2 == 1, row + 1, -1) for row in ids]
    total = 0.0
    for row, wanted in zip(ids, targets, strict=True):
        states = encoder.model(input_ids=row[None], use_cache=False).last_hidden_state[0]
        for state, token in zip(states, wanted.tolist(), strict=True):
            if token >= 0:
                total -= float((base.lm.lm_head(state)).log_softmax(-1)[token])
    assert float(encoder.token_loss(ids, targets)) == pytest.approx(total, rel=1e-9)
    nothing = encoder.token_loss(ids, [torch.full_like(row, -1) for row in ids])
    nothing.backward()
    assert float(nothing) == 0.0


def test_what_is_saved_loads_as_the_published_layout(tmp_path: Path) -> None:
    folder = tiny_backbone_folder(tmp_path, "qwen3")
    base = Backbone.from_pretrained(str(folder), device="cpu")
    vectors = {}
    for seed, name in enumerate(("mntp", "simcse")):
        encoder = adapted(base, seed, lora_dropout=0.1, attention_dropout=0.1)
        encoder.save(tmp_path / name)
        with torch.no_grad():
            vectors[name] = encoder.eval().pooled(base.tokenize(TEXTS))
        encoder.unload()
        merge(base, tmp_path / name)

    both = [str(tmp_path / "mntp"), str(tmp_path / "simcse")]
    loaded = LLM2Vec(str(folder), *both, dtype="float32", device="cpu")
    assert torch.allclose(loaded.encode(TEXTS), vectors["simcse"], atol=2e-5)
    only = LLM2Vec(str(folder), both[0], None, dtype="float32", device="cpu")
    assert torch.allclose(only.encode(TEXTS), vectors["mntp"], atol=2e-5)
    assert (vectors["simcse"] - vectors["mntp"]).abs().max() > 1e-2

    settings = json.loads((tmp_path / "mntp/adapter_config.json").read_text())
    by_hand = json.loads((lora_adapter_folder(tmp_path / "hand", folder) / "adapter_config.json").read_text())
    assert {**settings, "peft_version": 0} == {
        **by_hand,
        "lora_dropout": 0.1,
        "revision": "main",
        "fan_in_fan_out": False,
        "peft_version": 0,
    }
    plain = AutoModel.from_pretrained(folder)  # as other code of LLM2Vec does it
    plain.config.is_causal = False
    plain = peft.PeftModel.from_pretrained(plain, both[0]).merge_and_unload()
    plain = peft.PeftModel.from_pretrained(plain, both[1]).eval()
    ids = base.tokenize(TEXTS[:1])[0]
    with torch.no_grad():
        states = plain(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    assert torch.allclose(states.mean(0), vectors["simcse"][0], atol=2e-5)


def test_unload_gives_the_backbone_back() -> None:
    base = backbone()
    names = list(base.lm.state_dict())
    before = {name: tensor.clone() for name, tensor in base.lm.state_dict().items()}
    encoder = adapted(base, attention_dropout=0.2)
    assert encoder.training and list(base.lm.state_dict()) != names
    encoder.unload()
    assert not base.lm.training
    assert list(base.lm.state_dict()) == names
    assert all(torch.equal(before[name], tensor) for name, tensor in base.lm.state_dict().items())
    assert all(module.attention_dropout == 0.0 for module in base.lm.modules() if hasattr(module, "attention_dropout"))


def test_target_modules_are_checked() -> None:
    base = backbone()
    some = adapted(base, lora=Lora(4, 8, ["q_proj", "v_proj"]))
    assert {name.split(".")[-4] for name, _ in some.named_parameters() if "lora_A" in name} == {"q_proj", "v_proj"}
    some.unload()
    for wanted in (["q_proj", "c_attn"], "c_attn"):
        with pytest.raises(InputError, match="has no layer c_attn; its linear layers are down_proj, .*, v_proj"):
            adapted(backbone(), lora=Lora(4, 8, wanted))
    with pytest.raises(InputError, match="has no layer of no name"):
        adapted(backbone(), lora=Lora(4, 8, []))
    with pytest.raises(InputError, match="target_modules=.*input_layernorm.* does not fit"):
        adapted(backbone(), lora=Lora(4, 8, ["input_layernorm"]))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"rank": 1.5}, {"alpha": 0}, {"alpha": float("inf")}, {"alpha": "32"}])
def test_sizes_are_checked(wrong: dict) -> None:
    with pytest.raises(InputError, match=f"teacher_training.lora.{next(iter(wrong))}="):
        Lora(**wrong)


def test_a_family_without_attention_dropout_is_named() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    base = Backbone(GPT2LMHeadModel(config), tiny_tokenizer("qwen3"), path="some/gpt2")
    with pytest.raises(InputError, match="attention_dropout=0.3: the attention layers of backbone.path=some/gpt2"):
        adapted(base, attention_dropout=0.3)


@pytest.mark.parametrize("passes", ["pooled", "causal_token_loss", "soft_token_states", "states_at"])
def test_recomputed_passes_name_the_device_whose_random_state_is_kept(passes: str, monkeypatch) -> None:
    """torch keeps the random state of the devices of tensor arguments: without one a GPU would draw other dropout."""
    named = []

    def spy(run, *arguments, **options):
        named.append([one.device for one in arguments if isinstance(one, torch.Tensor)])
        return checkpoint(run, *arguments, **options)

    monkeypatch.setattr("llm2vec_gen.models.adapted_encoder.checkpoint", spy)
    base = backbone()
    encoder = adapted(base, lora_dropout=0.3)
    base.gradient_checkpointing = True
    ids = base.tokenize(TEXTS)
    more = {"causal_token_loss": (ids,), "soft_token_states": (2,), "states_at": ([torch.tensor([0])] * len(ids),)}
    getattr(encoder, passes)(ids, *more.get(passes, ())).sum().backward()
    assert named and all(base.device in devices for devices in named)
