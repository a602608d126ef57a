"""Everything in one plain transformers folder plus one small head, for servers without this package.

The suffix rows are in the embedding matrix, the tokenizer appends the suffix by itself, LoRA is added to the weights,
and head.safetensors holds both projections folded into one layer after the mean of the last K states:
W_align (W_recon h + b_recon) + b_align. Other readouts read other states (`variant.pooling_of`): a part of the K, all K
end to end, or, without suffix, the mean of all. The language model's head is left out, so that this folder cannot
decode; the original checkpoint stays in the subfolder llm2vec_gen/, from which the folder can be converted back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.checkpoints import card, folder, native, tokenizer_files
from llm2vec_gen.checkpoints.base import Checkpoint, suffix_rows
from llm2vec_gen.checkpoints.reference_writer import older_rope
from llm2vec_gen.checkpoints.variant import Pooling, pooling_of, refuse
from llm2vec_gen.errors import InputError

HEAD, ORIGINAL = "head.safetensors", "llm2vec_gen"
INDEX = "model.safetensors.index.json"
READOUTS = ("first_n", "last_token", "per_token", "query_mean")  # beside the paper's: one layer after a `Pooling`
_EMBEDDING = "embed_tokens.weight"


def missing(path: Path) -> list[str]:
    """Return what the folder lacks to be of this format."""
    return [name for name in (HEAD, f"{ORIGINAL}/{native.CONFIG}") if not folder.has(path, name)]


def read(path: Path) -> Checkpoint:
    """Return the checkpoint that was merged, not the merged weights."""
    folder.inside(path, ORIGINAL)
    return native.read(path / ORIGINAL)


def write(path: Path, checkpoint: Checkpoint, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the merged model; `weights` are its tensors by transformers names (model.layers..., lm_head...)."""
    settings = checkpoint.settings
    refuse(settings, "a merged folder", READOUTS)
    config = settings["backbone"].get("config")
    if weights is None or not isinstance(config, Mapping) or "tokenizer.json" not in checkpoint.files:
        raise InputError(
            "a merged folder holds the backbone's weights, config and tokenizer; load the checkpoint with "
            "LLM2VecGen.from_pretrained and save it with format='merged'"
        )
    count = checkpoint.num_suffix_tokens
    suffix_tokens = settings.get("suffix_tokens") or [f"<|llm2vec_gen_{i + 1}|>" for i in range(count)]
    files, ids = tokenizer_files.with_appended_suffix(checkpoint.files, suffix_tokens, settings.get("max_length", 512))
    merged = _merged_weights(checkpoint, weights, ids)
    native_folder = path / ORIGINAL
    native_folder.mkdir(exist_ok=True)
    native.write(native_folder, checkpoint)
    folder.write_tensors(path, "model.safetensors", merged)
    files |= {
        HEAD: folder.tensor_bytes(fold(checkpoint.tensors)),
        "README.md": (card.model_card(settings, COMPLETE) + _serving(pooling_of(settings))).encode(),
        INDEX: json.dumps(_index(merged), indent=2).encode(),
        "config.json": json.dumps(_config(config, merged), indent=2).encode(),
    }
    folder.write_files(path, files)


def fold(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weight (E, n D) and bias (E,) of the one layer that equals both projections, computed in fp64.

    n is 1 where the states are pooled first; else the alignment projection [W_1 .. W_n] reads the n soft prompts end to
    end, divided by n: e = 1/n sum_i W_i (W_recon h_i + b_recon) + b_align.
    """
    first, first_bias = (tensors[f"reconstruction_projection.{part}"].double() for part in ("weight", "bias"))
    second, second_bias = (tensors[f"alignment_projection.{part}"].double() for part in ("weight", "bias"))
    parts = second.unflatten(1, (-1, len(first)))  # (E, n, D)
    weight, bias = (parts @ first).flatten(1), (parts @ first_bias).sum(dim=1)
    count = parts.shape[1]
    return {"weight": (weight / count).float(), "bias": (bias / count + second_bias).float()}


def _merged_weights(checkpoint: Checkpoint, weights: Mapping[str, Tensor], ids: list[int]) -> dict[str, Tensor]:
    """Return the bare model's tensors (no head), with the suffix rows in spare rows of the embedding or in new ones."""
    inner = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
    if _EMBEDDING not in inner:
        raise InputError(f"the weights have no model.{_EMBEDDING}; this architecture cannot be merged")
    result = {name: value.detach().to("cpu").contiguous() for name, value in inner.items()}
    rows = result[_EMBEDDING]
    spare = rows.new_zeros(max(0, max(ids, default=-1) + 1 - rows.shape[0]), rows.shape[1])
    embedding = torch.cat([rows, spare])
    embedding[ids] = suffix_rows(checkpoint).to(embedding.dtype)
    result[_EMBEDDING] = embedding
    for module, (down, up) in checkpoint.lora().items():
        name, lora = f"{module}.weight", checkpoint.settings["lora"]
        change = up.double() @ down.double() * (lora["alpha"] / lora["rank"])
        if name not in result or result[name].shape != change.shape:
            raise InputError(f"the LoRA of {module} ({tuple(change.shape)}) fits no weight of the backbone")
        result[name] = (result[name].double() + change).to(result[name].dtype)
    return result


def _index(merged: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the list of the backbone's tensors; without it some servers read the head as one of them."""
    total = sum(value.numel() * value.element_size() for value in merged.values())
    return {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(merged, "model.safetensors")}


def _config(config: Mapping[str, Any], merged: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the backbone's config, as a model without head and with as many rows as there are now.

    It has the rotary settings twice, as transformers 5 and as older software read them.
    """
    architecture = str((config.get("architectures") or ["Model"])[0]).removesuffix("ForCausalLM").removesuffix("Model")
    dtype = str(merged[_EMBEDDING].dtype).removeprefix("torch.")
    own: dict[str, Any] = {
        "architectures": [f"{architecture}Model"],
        "vocab_size": merged[_EMBEDDING].shape[0],
        "dtype": dtype,
    }
    if config.get("attn_logit_softcapping"):
        own["attn_implementation"] = "eager"  # transformers' default leaves the capping out
    return {**config, **older_rope(dict(config)), **own}


COMPLETE = (
    "This folder holds the whole language model too, with the trained suffix rows in its embedding matrix; "
    "plain transformers opens it."
)

_SERVING = """
## Without the package: this merged folder

The folder is a plain transformers model{appends}; `head.safetensors` holds one linear layer
that stands for both projections. It encodes; it cannot decode.

```python
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder = "this folder"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder).eval()
head = load_file(folder + "/head.safetensors")


@torch.no_grad()
def embed(texts):
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")  # pads on the left
    states = model(**batch).last_hidden_state{pooled}
    return states.float() @ head["weight"].T + head["bias"]


vectors = embed(["What is the capital of France?", "Name a river in Africa."])
```

Servers that can give one vector per token (vLLM with its `token_embed` pooling, text-embeddings-inference with
`/embed_all`) can host it: take {words} of a text and apply the head in the client. {others}
vLLM can with the plugin of llm2vec-gen-lightning, whose documentation has the commands. Only transformers itself was
tried.
"""

_SUFFIX_ONLY = """Servers
that only pool (mean of all tokens, first, last) cannot, as none has "{words}"; nor can formats that
drop the tokenizer's post-processor, such as GGUF (llama.cpp, Ollama), unless the client appends the suffix tokens."""

_POOLED_BY_SERVERS = """So can
servers that give the mean of all tokens, not normalised: apply the head in the client. An empty text needs others in
its batch."""

_MEAN_OF_ALL = """
    mask = batch["attention_mask"][..., None].bool()
    states = states.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)"""


def _serving(pooling: Pooling) -> str:
    """Return the README's part on use without the package: the same as code and in words."""
    if pooling.start is None:
        words = "the mean of all vectors"
        return _SERVING.format(pooled=_MEAN_OF_ALL, words=words, appends="", others=_POOLED_BY_SERVERS)
    kept = f"[{pooling.start}:{pooling.stop or ''}]"
    which = f"the last {-pooling.start} vectors" if pooling.stop is None else f"the vectors {kept}"
    words = f"{which} end to end" if pooling.joined else f"the mean of {which}"
    pooled = f"[:, {kept[1:]}" + (".flatten(1)" if pooling.joined else ".mean(dim=1)")
    others = _SUFFIX_ONLY.format(words=words)
    return _SERVING.format(pooled=pooled, words=words, appends=" whose tokenizer appends the suffix", others=others)
