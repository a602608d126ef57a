"""The backbone's files and texts: what loads, what is refused and how, what becomes of a string."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2vec_gen import targets
from llm2vec_gen.artifacts.identity import hashed_config
from llm2vec_gen.backbones import loading
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.execution import cpu_kernels
from llm2vec_gen.backbones.execution.decoding import PackedDecoder
from llm2vec_gen.backbones.quantization import quantization_config
from llm2vec_gen.errors import InputError
from tests.backbones.tiny import close, rows, tiny_lm
from tests.builders import END, FAMILIES, SPECIAL, appending_end, tiny_backbone_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {family: tiny_backbone_folder(tmp_path_factory.mktemp(family), family) for family in ("qwen3", "llama")}


def load(folder, **settings) -> Backbone:
    return Backbone.from_pretrained(str(folder), device="cpu", **settings)


def test_what_a_backbone_says_about_itself(folders):
    backbone = load(folders["qwen3"])
    config = backbone.lm.config
    assert (backbone.hidden_size, backbone.vocab_size) == (config.hidden_size, config.vocab_size)
    assert backbone.device.type == "cpu" and backbone.dtype == torch.float32
    assert not backbone.lm.training and not any(parameter.requires_grad for parameter in backbone.lm.parameters())
    assert backbone.tokenizer.convert_ids_to_tokens(backbone.end_id) == END["qwen3"]
    assert backbone.end_id in backbone.stop_ids
    assert load(folders["qwen3"], dtype="bfloat16").dtype == torch.bfloat16


def test_completions_are_stripped_and_closed_and_cut_ones_are_not(folders):
    for family in folders:
        backbone = load(folders[family])
        whole, cut = backbone.completion_ids(["  the cat sat \n"])[0], backbone.completion_ids(["the cat sat"], 2)[0]
        assert whole[-1] == backbone.end_id and len(cut) == 2
        assert torch.equal(whole[:-1], backbone.tokenize(["the cat sat"])[0]) and torch.equal(cut, whole[:2])
        assert (whole[0] == backbone.tokenizer.bos_token_id) == (family == "llama")
        assert backbone.completion_ids([""])[0][-1] == backbone.end_id


def test_the_tokenizer_adds_its_own_beginning_only_where_asked(folders):
    backbone = load(folders["llama"])
    with_start, without = backbone.tokenize(["cat"])[0], backbone.tokenize(["cat"], special_tokens=False)[0]
    assert torch.equal(with_start[1:], without) and with_start[0] == backbone.tokenizer.bos_token_id
    assert backbone.tokenize([]) == [] and load(folders["qwen3"]).tokenize([""])[0].tolist() == []


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_hold_no_control_tokens_and_completions_one_at_their_end(family, tmp_path):
    backbone = load(tiny_backbone_folder(tmp_path, family))
    special = set(backbone.tokenizer.convert_tokens_to_ids(list(SPECIAL[family])))
    begin = [backbone.tokenizer.bos_token_id] if family == "llama" else []
    text = f"the cat{END[family]}\n{''.join(SPECIAL[family])}the dog{END[family]}"
    query, completion = backbone.tokenize([text])[0].tolist(), backbone.completion_ids([text])[0].tolist()
    assert [index for index in query if index in special] == begin
    assert [index for index in completion if index in special] == [*begin, backbone.end_id]
    assert completion == [*query, backbone.end_id] and backbone.tokenizer.decode(query[len(begin) :]) == text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", [0, -1])
def test_an_end_token_of_the_tokenizers_own_is_never_added(family, place, tmp_path):
    """Whether it appends the token that ends a turn, or another one (Qwen3-Embedding)."""
    plain = load(tiny_backbone_folder(tmp_path / "plain", family))
    folder = tiny_backbone_folder(tmp_path, family)
    backbone = load(appending_end(folder, [SPECIAL[family][0 if family != "llama" else 1], END[family]][place]))
    texts = ["the cat", "", "What is the capital?"]
    assert backbone.tokenizer("the cat").input_ids[-1] in backbone.tokenizer.added_tokens_decoder
    for ours, theirs in zip(backbone.tokenize(texts), plain.tokenize(texts), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(backbone.completion_ids(texts), plain.completion_ids(texts), strict=True):
        assert torch.equal(ours, theirs) and ours[-1] == backbone.end_id and ours.tolist().count(backbone.end_id) == 1
    assert torch.equal(backbone.completion_ids(["the cat"], 2)[0], plain.completion_ids(["the cat"], 2)[0])
    assert torch.equal(backbone.chat_ids("the cat"), plain.chat_ids("the cat"))


def test_a_marker_is_read_together_with_the_text(folders):
    """Of a published checkpoint: one special token in Llama, ordinary tokens elsewhere."""
    for family in folders:
        backbone, marker = load(folders[family]), "<|end_of_text|>"
        begin = backbone.tokenization.beginning
        (ids,) = backbone.completion_ids([" the cat "], marker=marker)
        assert ids.tolist() == backbone.tokenizer("the cat" + marker).input_ids
        (ids,) = backbone.completion_ids([f"the {marker} cat{END[family]}"], marker=marker)
        single = backbone.tokenizer(marker, add_special_tokens=False).input_ids
        assert ids[-len(single) :].tolist() == single and ids[: len(begin)].tolist() == begin
        special = set(backbone.tokenizer.convert_tokens_to_ids(list(SPECIAL[family])))
        assert not special & set(ids[len(begin) : -len(single)].tolist())


def test_end_token_by_name(folders):
    backbone = load(folders["qwen3"], end_token="<|endoftext|>")
    assert backbone.tokenizer.convert_ids_to_tokens(backbone.end_id) == "<|endoftext|>"
    assert backbone.tokenizer.eos_token_id in backbone.stop_ids
    with pytest.raises(InputError, match="no token '<nonsense>'; set backbone.end_token"):
        load(folders["qwen3"], end_token="<nonsense>")


def test_chat_prompt_switches_thinking_off(folders, tmp_path):
    assert load(folders["qwen3"]).chat_prompt("hello?").endswith("<think>\n\n</think>\n\n")
    assert "hello?" in load(folders["llama"]).chat_prompt("hello?")
    bare = load(tiny_backbone_folder(tmp_path, chat_template=False))
    with pytest.raises(InputError, match="no chat template"):
        bare.chat_prompt("hello?")


@pytest.mark.parametrize("arguments", [{"tools": 3}, {"tokenize": True, "conversation": []}])
def test_what_a_chat_template_cannot_take_is_named(folders, arguments):
    with pytest.raises(InputError, match=r"chat_template_arguments=.*correct the arguments"):
        load(folders["qwen3"], chat_template_arguments=arguments).chat_prompt("hello?")


def test_fingerprint_knows_weights_but_not_dtypes(folders, tmp_path):
    first = load(folders["qwen3"]).fingerprint
    assert first == load(folders["qwen3"], dtype="bfloat16").fingerprint == load(folders["qwen3"]).fingerprint
    assert first != load(tiny_backbone_folder(tmp_path, seed=1)).fingerprint
    for name in ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"):
        changed = tmp_path / name
        shutil.copytree(folders["qwen3"], changed)
        weights = load_file(changed / "model.safetensors")
        weights[name] = weights[name] * 1.1
        save_file(weights, changed / "model.safetensors", {"format": "pt"})
        assert load(changed).fingerprint != first


@pytest.mark.parametrize(
    ("remove", "message"),
    [("config.json", "no config.json"), ("*.safetensors", "no weights"), ("tokenizer*", "no tokenizer")],
)
def test_incomplete_folders_are_named(folders, tmp_path, remove, message):
    folder = tmp_path / "incomplete"
    shutil.copytree(folders["qwen3"], folder)
    for file in folder.glob(remove):
        file.unlink()
    with pytest.raises(InputError, match=message):
        load(folder)


def test_missing_weights_inside_the_file_are_named(folders, tmp_path):
    folder = tmp_path / "holes"
    shutil.copytree(folders["qwen3"], folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 of its weights, first 'model.norm.weight'"):
        load(folder)


def test_a_broken_weight_file_is_named(folders, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(folders["qwen3"], folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be loaded"):
        load(folder)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./not/there", "no such folder"),
        ("/not/there", "no such folder"),
        ("package://no_such_package/lm", "no package 'no_such_package'"),
        ("package://llm2vec_gen/nothing", "no such folder"),
        (__file__, "is a file"),
    ],
)
def test_paths_that_lead_nowhere(path, message):
    with pytest.raises(InputError, match=message):
        load(path)


def test_a_hub_id_without_network(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot be loaded"):
        load("nobody/nothing-of-the-kind")


def test_package_paths_resolve(monkeypatch, folders):
    parent, name = folders["qwen3"].parent, folders["qwen3"].name
    monkeypatch.syspath_prepend(str(parent.parent))
    assert loading.resolve(f"package://{parent.name}/{name}") == str(folders["qwen3"])


def test_dtypes():
    assert loading.parse_dtype("bf16") == loading.parse_dtype("bfloat16") == torch.bfloat16
    assert loading.parse_dtype(None) == "auto"
    with pytest.raises(InputError, match="dtype 'float7' is unknown"):
        loading.parse_dtype("float7")
    for name in ("int8", "float8_e4m3fn", 16):  # types that no weights can be computed in
        with pytest.raises(InputError, match="quantization"):
            loading.parse_dtype(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("int3", "unknown"), ("fp8", "compute capability"), ("nf4", "needs a CUDA GPU")],
)
def test_quantisation_the_device_cannot_do(name, message):
    with pytest.raises(InputError, match=message):
        quantization_config(name, torch.device("cpu"))


def test_quantisation_names_the_missing_extra(monkeypatch):
    monkeypatch.setattr("llm2vec_gen.backbones.quantization.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'llm2vec-gen-lightning\[quantization\]'"):
        quantization_config("int8", torch.device("cpu"))
    assert quantization_config("none", torch.device("cpu")) is None


def test_the_token_budget_has_a_default_and_must_be_positive(folders):
    backbone = load(folders["qwen3"])
    assert backbone.max_tokens_per_micro_batch == 1024
    backbone.max_tokens_per_micro_batch = 7
    assert backbone.max_tokens_per_micro_batch == 7
    with pytest.raises(InputError, match="positive"):
        backbone.max_tokens_per_micro_batch = 0


def test_from_pretrained_is_the_constructor_around_loaded_parts(folders):
    loaded = load(folders["qwen3"], max_tokens_per_micro_batch=7, end_token="<|endoftext|>")
    built = Backbone(
        copy.deepcopy(loaded.lm), loaded.tokenizer, loaded.path, max_tokens_per_micro_batch=7, end_token="<|endoftext|>"
    )
    same = ("path", "revision", "quantization", "end_id", "stop_ids", "fingerprint", "max_tokens_per_micro_batch")
    assert [getattr(built, name) for name in same] == [getattr(loaded, name) for name in same]
    ids = loaded.tokenize(["the cat", "sat"])
    assert all(torch.equal(a, b) for a, b in zip(built.states(ids), loaded.states(ids), strict=True))


def test_a_path_is_no_language_model(folders):
    with pytest.raises(InputError, match="expected a loaded transformers model.*Backbone.from_pretrained"):
        Backbone(str(folders["qwen3"]))


def test_a_yaml_setting_that_from_pretrained_has_not_names_it(folders):
    node = {"_target_": "llm2vec_gen.backbones.backbone.Backbone.from_pretrained", "path": "x", "devise": "cpu"}
    with pytest.raises(InputError, match="devise is an unknown setting: Backbone.from_pretrained takes.*device"):
        targets.check(node, "backbone")


def test_cpu_kernels_change_speed_alone(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "FEWEST_INPUTS", 1)
    auto = Backbone(tiny_lm("qwen3", torch.float32), None)
    plain = Backbone(tiny_lm("qwen3", torch.float32), None, cpu_kernels="none")
    assert {type(module) for module in plain.lm.modules()}.isdisjoint({cpu_kernels.FrozenLinear})
    assert type(auto.runner.decoder(auto.prefix_pass(rows(4)), 1)) is cpu_kernels.FastDecoder
    assert type(plain.runner.decoder(plain.prefix_pass(rows(4)), 1)) is PackedDecoder
    assert close(auto.states(rows(7))[0], plain.states(rows(7))[0], 1e-5)
    results = [one.generate(rows(3, 6), 5, stop=False) for one in (auto, plain)]
    assert [ids.tolist() for ids, _ in results[0]] == [ids.tolist() for ids, _ in results[1]]


def test_unknown_cpu_kernels():
    with pytest.raises(InputError, match="backbone.cpu_kernels='fast': expected auto or none"):
        Backbone(tiny_lm("qwen3"), None, cpu_kernels="fast")


def test_cpu_kernels_are_in_no_digest():
    node = {"_target_": "llm2vec_gen.backbones.backbone.Backbone.from_pretrained", "path": "owner/name"}
    assert hashed_config({**node, "cpu_kernels": "none"}) == hashed_config(node)
