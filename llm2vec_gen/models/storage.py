"""A model <-> a checkpoint: what is recorded of the backbone, and what must agree before tensors are loaded."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llm2vec_gen import checkpoints
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.inputs import row_scale
from llm2vec_gen.backbones.loading import load_tokenizer
from llm2vec_gen.checkpoints import native
from llm2vec_gen.checkpoints.folder import staged
from llm2vec_gen.errors import InputError
from llm2vec_gen.models import export, readouts, reference_embeddings
from llm2vec_gen.models.lora import QueryLora
from llm2vec_gen.models.readouts.mean_linear import MeanLinear
from llm2vec_gen.models.suffix_tokenization import LiteralSuffixTokenization

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


def load(cls: Any, source: str | Path, device: Any, dtype: Any, backbone: str | Backbone | None,
         revision: str | None) -> Any:  # fmt: skip
    """Read a checkpoint, find and compare its backbone, build the model around it."""
    checkpoint = checkpoints.read(source, revision)
    settings = checkpoint.settings
    recorded = settings["backbone"]
    if not isinstance(backbone, Backbone):
        dtype = dtype or recorded.get("dtype", "auto")
        backbone = Backbone.from_pretrained(**_backbone_arguments(checkpoint, backbone), device=device, dtype=dtype)
    compare(recorded, backbone, str(source))
    lora = settings.get("lora") or {}
    model = cls(
        backbone, settings["embedding_dim"], settings["num_thought_tokens"], settings["num_compression_tokens"],
        settings.get("max_length", 512), readout=readouts.from_settings(settings.get("readout")),
        num_hops=settings.get("num_hops", 1),
    )  # fmt: skip
    if settings.get("suffix_spelling") == "literal":
        tokenizer = _tokenizer(checkpoint)
        model.suffix_tokenization = LiteralSuffixTokenization(
            backbone, tokenizer, settings["suffix_tokens"], settings["suffix_ids"]
        )
    if lora:
        pairs = checkpoint.lora()
        model.lora = QueryLora(backbone.lm, pairs, lora["alpha"], lora.get("dropout") or 0.0).to(backbone.device)
    model.end_marker, model.card = settings.get("end_marker"), dict(settings.get("card") or {})
    model.instructions = settings.get("instructions")
    model.matryoshka_dims = tuple(settings.get("matryoshka_dims") or ())
    if settings.get("suffix_space") == "rows":
        checkpoint.tensors["suffix"] = checkpoint.tensors["suffix"] * _known_scale(backbone)
    load_tensors(model, checkpoint.tensors)
    reference_embeddings.check(model.eval(), settings.get("golden") or [], recorded)
    return model


def _known_scale(backbone: Backbone) -> float:
    """The factor from an embedding row to an input vector."""
    scale = row_scale(backbone)
    if scale is None:
        raise InputError(
            f"the checkpoint holds its suffix as embedding rows, and the input vectors of backbone {backbone.path!r} "
            "are not its rows times a number; such a checkpoint cannot be used with this backbone"
        )
    return scale


def _backbone_arguments(checkpoint: checkpoints.Checkpoint, path: str | None) -> dict[str, Any]:
    """Constructor arguments of the recorded backbone; a path given by the caller replaces path and revision."""
    recorded = checkpoint.settings["backbone"]
    kept = ("end_token", "chat_template_arguments", "quantization")
    arguments = {name: recorded[name] for name in kept if recorded.get(name) is not None}
    if path is not None:
        return {"path": str(path), **arguments}
    return {"path": checkpoint.backbone_path(), "revision": recorded.get("revision") or "main", **arguments}


def compare(recorded: dict[str, Any], backbone: Backbone, source: str) -> None:
    """InputError, naming both values, unless this is the backbone the checkpoint was trained over."""
    found: dict[str, Any] = {"hidden_size": backbone.hidden_size, "vocab_size": backbone.vocab_size}
    if recorded.get("fingerprint"):
        found["fingerprint"] = backbone.fingerprint
    if recorded.get("num_tokens"):
        found["num_tokens"] = len(backbone.tokenizer)
    for name, value in found.items():
        expected = recorded.get(name)
        if expected is not None and expected != value:
            raise InputError(
                f"{source} was trained over a backbone with {name.replace('_', ' ')} {expected}, but {backbone.path!r} "
                f"has {value}; give the backbone it was trained over ({recorded['path']}) as backbone=..."
            )


def load_tensors(model: LLM2VecGen, tensors: dict[str, Tensor]) -> None:
    """Copy suffix and projections into the model; InputError where a shape does not match."""
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            if parameter.shape != tensors[name].shape:
                shapes = tuple(tensors[name].shape), tuple(parameter.shape)
                raise InputError(f"tensor {name!r} of the checkpoint is {shapes[0]}; this model expects {shapes[1]}")
            parameter.copy_(tensors[name])


def trained_parameters(model: LLM2VecGen) -> dict[str, nn.Parameter]:
    """Suffixes and projections by their names in a checkpoint, frozen or not; LoRA matrices have their own."""
    own = ("suffix", "hop_suffixes", "reconstruction_projection", "alignment_projection")
    return {name: value for name, value in model.named_parameters() if name.partition(".")[0] in own}


def _tokenizer(checkpoint: Any) -> Any:
    """The checkpoint's own tokenizer, from its files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in checkpoint.files.items():
            (Path(folder) / name).write_bytes(content)
        tokenizer = load_tokenizer(folder, "main", trust_remote_code=False)
    # decoded text as the software of that time gave it, where the tokenizer asks for it (Llama 3)
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    return tokenizer


def save(model: LLM2VecGen, folder: str | Path, format: str) -> None:
    """Write the checkpoint in a format of llm2vec_gen.checkpoints; merged folders get the backbone's weights too.

    What was written is read again and must give the model's own embeddings before it moves into `folder`.
    """
    checkpoints.check_free(folder, format)
    backbone = model.backbone
    tensors = {name: parameter.detach().float().cpu() for name, parameter in trained_parameters(model).items()}
    if model.lora is not None:
        tensors |= model.lora.tensors()
    extra = {"weights": backbone.lm.state_dict()} if format == "merged" else {}
    described = settings(model) | {"golden": reference_embeddings.record(model)}
    files = _tokenizer_files(model.tokenizer)
    if format == "merged" and backbone.runner.ropes is not None:
        short = min(module.short for module in backbone.runner.ropes.modules)
        warnings.warn(
            "the backbone's rotary positions depend on the length of the text; transformers takes that of a batch: "
            f"the merged folder gives texts of up to {short} tokens, suffix included, other embeddings beside longer "
            "ones; embed longer texts one at a time there",
            stacklevel=3,
        )
    with staged(folder) as place:
        checkpoints.write(place, described, tensors, files, format, **extra)
        export.check(model, place, format, described["golden"], lambda: _read_again(model, place))
        (Path(folder) / native.SCORES).unlink(missing_ok=True)  # of the model that was there


def _read_again(model: LLM2VecGen, folder: Path) -> Any:
    """The checkpoint just written, over the backbone of the model it was written from."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # what differs is an error here
        return load(type(model), folder, None, None, model.backbone, None)


def settings(model: LLM2VecGen) -> dict[str, Any]:
    """Return the settings of a checkpoint beside its tensors (see checkpoints/base.py)."""
    backbone, tokenization = model.backbone, model.suffix_tokenization
    literal = isinstance(tokenization, LiteralSuffixTokenization)
    scale = row_scale(backbone)
    described: dict[str, Any] = {
        "backbone": {
            "path": backbone.path, "revision": backbone.revision, "fingerprint": backbone.fingerprint,
            "hidden_size": backbone.hidden_size, "vocab_size": backbone.vocab_size,
            "dtype": str(backbone.dtype).removeprefix("torch."), "quantization": backbone.quantization,
            "end_token": backbone.tokenizer.convert_ids_to_tokens(backbone.end_id),
            "chat_template_arguments": backbone.chat_template_arguments,
            "num_tokens": len(backbone.tokenizer), "config": _config(backbone.lm),
            **({} if scale == 1.0 else {"row_scale": scale}),
        },
        "num_thought_tokens": model.num_thought_tokens, "num_compression_tokens": model.num_compression_tokens,
        "embedding_dim": model.embedding_dim, "max_length": model.max_length,
        "suffix_spelling": "literal" if literal else "own", "end_marker": model.end_marker,
    }  # fmt: skip
    if isinstance(tokenization, LiteralSuffixTokenization):
        described["suffix_ids"] = tokenization.token_ids.tolist()
        described["suffix_tokens"] = tokenization.suffix_tokens
    described |= variant(model)
    if model.lora is not None:
        described["lora"] = model.lora.settings()
    if model.matryoshka_dims:
        described["matryoshka_dims"] = list(model.matryoshka_dims)
    if model.instructions is not None:
        described["instructions"] = model.instructions
    if model.card:
        described["card"] = model.card
    return described


def variant(model: LLM2VecGen) -> dict[str, Any]:
    """Return the settings of a readout other than the paper's, and of several hops; empty for the paper's model."""
    found: dict[str, Any] = {}
    if not isinstance(model.readout, MeanLinear):
        found["readout"] = model.readout.settings() | {"features": model.alignment_projection.in_features}
    if model.num_hops > 1:
        found["num_hops"] = model.num_hops
    return found


def _config(lm: Any) -> dict[str, Any]:
    """Return the language model's config as plain values, without where it was read from."""
    config = json.loads(lm.config.to_json_string(use_diff=False))
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
