"""Small random models and tokenizers that tests write to disk as ordinary Hugging Face folders.

    folder = tiny_backbone_folder(tmp_path, family="qwen3")       a causal LM with tokenizer, chat template, end tokens
    folder = tiny_backbone_folder(tmp_path, family="llama", seed=1, name="other")
    adapter = lora_adapter_folder(tmp_path / "mntp", folder, seed=2)   a LoRA adapter written by hand in PEFT's layout

Every weight is random, norms and biases too, so that a tensor that is not loaded shows up in the figures.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

FAMILIES = ("qwen3", "qwen2", "llama")

CORPUS = (
    "the cat sat on the mat and the dog sat on the log",
    "What is the capital of France? The capital of France is Paris.",
    "how many legs does a spider have? a spider has eight legs.",
    "Summarise the following passage in one sentence: the river runs to the sea.",
    "please write a short poem about the moon, the stars and the quiet night",
)

SPECIAL = {
    "qwen3": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "qwen2": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
PADDING = {"qwen3": "<|endoftext|>", "qwen2": "<|endoftext|>", "llama": "<|end_of_text|>"}
END = {"qwen3": "<|im_end|>", "qwen2": "<|im_end|>", "llama": "<|eot_id|>"}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT_TEMPLATES = {
    "qwen2": CHATML,
    "qwen3": CHATML
    + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    + "<think>\n\n</think>\n\n{% endif %}",
    "llama": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
}


@cache
def _tokenizer_json(family: str, vocab_size: int) -> str:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens, special tokens last, as the text of tokenizer.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = [*SPECIAL[family], *(["<think>", "</think>"] if family == "qwen3" else [])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(list(SPECIAL[family]))
    if family == "qwen3":
        tokenizer.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    if family == "llama":
        begin = SPECIAL["llama"][0]
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{begin} $A",
                    pair=f"{begin} $A {begin} $B",
                    special_tokens=[(begin, tokenizer.token_to_id(begin))],
                ),
            ]
        )
    return tokenizer.to_str()


def tiny_tokenizer(family: str = "qwen3", vocab_size: int = 400, chat_template: bool = True) -> Any:
    """A fast tokenizer of the family's manners: its special tokens, its beginning token, its chat template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json(family, vocab_size)),
        eos_token=END[family],
        pad_token=PADDING[family],
        bos_token=SPECIAL[family][0] if family == "llama" else None,
        clean_up_tokenization_spaces=False,
        model_max_length=131072,
    )
    if chat_template:
        tokenizer.chat_template = CHAT_TEMPLATES[family]
    return tokenizer


def tiny_config(family: str = "qwen3", vocab_size: int = 400, tied: bool = True, **changes: Any) -> Any:
    """The family's config at 2 layers x 32; `changes` are passed on (hidden_size=..., num_hidden_layers=...)."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
        "initializer_range": 0.1,
        "attention_dropout": 0.0,
    }
    if family == "qwen3":
        settings["head_dim"] = 8
    settings.update(changes)
    return {"qwen3": Qwen3Config, "qwen2": Qwen2Config, "llama": LlamaConfig}[family](**settings)


def tiny_lm(family: str = "qwen3", seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A random causal LM in eval mode; norms around 1 and biases around 0, so that none is at its default."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = AutoModelForCausalLM.from_config(tiny_config(family, **config))
        with torch.no_grad():
            for name, parameter in lm.named_parameters():
                if "norm" in name:
                    parameter.uniform_(0.7, 1.3)
                elif name.endswith("bias"):
                    parameter.normal_(0.0, 0.1)
    return lm.to(dtype).eval()


def tiny_backbone_folder(
    tmp_path: Path,
    family: str = "qwen3",
    tied: bool = True,
    vocab_size: int = 400,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    chat_template: bool = True,
    sampling: dict[str, Any] | None = None,
    name: str | None = None,
    **config: Any,
) -> Path:
    """Writes a causal LM with tokenizer to `tmp_path/name` (default: the family) and gives the folder.

    `sampling` goes into generation_config.json, e.g. {"do_sample": True, "temperature": 0.6}. The embedding matrix has
    `vocab_size` rows, a little more than the tokenizer has tokens, as in the real families.
    """
    folder = Path(tmp_path) / (name or family)
    tokenizer = tiny_tokenizer(family, vocab_size - 8, chat_template)
    lm = tiny_lm(family, seed, dtype, vocab_size=vocab_size, tied=tied, **config)
    lm.config.eos_token_id = lm.generation_config.eos_token_id = tokenizer.eos_token_id
    lm.config.bos_token_id = lm.generation_config.bos_token_id = tokenizer.bos_token_id
    lm.generation_config.pad_token_id = tokenizer.pad_token_id
    for key, value in (sampling or {}).items():
        setattr(lm.generation_config, key, value)
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def appending_end(folder: Path, token: str) -> Path:
    """Let the tokenizer of a folder append `token` to every text, as those of many embedding models do."""
    from tokenizers import Tokenizer, processors

    path = str(Path(folder) / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    begin = [name for name in SPECIAL["llama"][:1] if tokenizer.token_to_id(name) is not None]
    names = [*begin, token]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*begin, "$A", token], special_tokens=[(name, tokenizer.token_to_id(name)) for name in names]
    )
    tokenizer.save(path)
    return Path(folder)


LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_adapter_folder(
    folder: Path,
    base: Path,
    rank: int = 4,
    alpha: int = 8,
    seed: int = 0,
    scale: float = 0.1,
    prefix: str = "base_model.model.",
    modules: tuple[str, ...] = LORA_MODULES,
) -> Path:
    """Writes a LoRA adapter for the model in `base`, in PEFT's layout, with both factors random (none is zero).

    The default prefix is that of an adapter saved from AutoModel; "base_model.model.model." is that of a CausalLM.
    """
    from transformers import AutoModel

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in AutoModel.from_pretrained(base).named_modules():
        if name.split(".")[-1] in modules:
            rows, columns = module.weight.shape
            down, up = (rank, columns), (rows, rank)
            tensors[f"{prefix}{name}.lora_A.weight"] = scale * torch.randn(down, generator=generator)
            tensors[f"{prefix}{name}.lora_B.weight"] = scale * torch.randn(up, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "bias": "none",
        "inference_mode": True,
        "task_type": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return folder
