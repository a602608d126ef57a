"""Our models in mteb's registry: after this import, `mteb.get_model` knows the published checkpoints by their names.

    import mteb
    import llm2vec_gen.integrations.mteb as ours

    model = mteb.get_model("McGill-NLP/LLM2Vec-Gen-Qwen3-4B")
    model = mteb.get_model(ours.register("outputs/train/...", instruction=...))     # a checkpoint of your own
    mteb.evaluate(model, mteb.get_tasks(["SciFact"]))

Texts come with the checkpoint's own instructions, for published checkpoints (which record none) with our generative
wording, or with any `Instruction` given as `instruction`. Whatever changes vectors is in the revision or in mteb's
experiment name, so stored results of one are never taken for another's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ModelMeta, ScoringFunction

from llm2vec_gen import checkpoints
from llm2vec_gen.artifacts import digest, fingerprint
from llm2vec_gen.checkpoints import prompts
from llm2vec_gen.evaluations.instructions import InstructionTable
from llm2vec_gen.evaluations.mteb_encoder import MtebEncoder
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import InputError, Instruction

PUBLISHED = tuple(
    f"McGill-NLP/LLM2Vec-Gen-{size}"
    for size in (
        *("Qwen3-06B", "Qwen3-17B", "Qwen3-4B", "Qwen3-8B"),
        *("Qwen25-05B-Instruct", "Qwen25-15B-Instruct", "Qwen25-3B-Instruct", "Qwen25-7B-Instruct"),
        *("Meta-Llama-32-1B-Instruct", "Meta-Llama-32-3B-Instruct", "Meta-Llama-31-8B-Instruct"),
    )
)
"""The paper's checkpoints; those that are not named in public are spelled as the teachers of the same backbone are."""


def register(folder: str | Path, name: str | None = None, **arguments: Any) -> str:
    """Make a local checkpoint known to mteb -> the name to give to `mteb.get_model` (default: llm2vec-gen/<folder>).

    arguments: of `load`, e.g. instruction, dtype, backbone. Its revision covers the folder's content and these.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"{folder} is no folder; expected a checkpoint, or one of {', '.join(PUBLISHED)}")
    settings = checkpoints.read(place).settings
    facts = {"embed_dim": settings["embedding_dim"], "max_tokens": settings["max_length"]}
    name = name or f"llm2vec-gen/{re.sub(r'[^A-Za-z0-9_.-]+', '_', place.resolve().name)}"
    facts["adapted_from"] = settings["backbone"]["path"]
    MODEL_REGISTRY[name] = meta(name, _revision(place, arguments), facts, path=place, **arguments)
    return name


def load(
    model_name: str,
    revision: str | None = None,
    device: str | None = None,
    path: str | Path | None = None,
    instruction: Instruction | Mapping[str, Any] | None = None,
    **arguments: Any,
) -> MtebEncoder:
    """What mteb calls: the model behind its protocol. `path`: where the weights are, if not at the hub under the name.

    instruction: None takes the checkpoint's own; a mapping has the form of a yaml of conf/instruction.
    arguments: dtype, backbone.
    """
    arguments.pop("embed_dim", None)  # mteb hands it on; ours have one
    model = LLM2VecGen.from_pretrained(path or model_name, device, revision=None if path else revision, **arguments)
    wording = prompts.instructions_of({"instructions": model.instructions}) if instruction is None else instruction
    return MtebEncoder(model, table(wording) if isinstance(wording, Mapping) else wording)


def _revision(place: Path, arguments: Mapping[str, Any]) -> str:
    """Digest of the checkpoint's files and of every argument that changes vectors; local folders by their content."""

    def plain(value: Any) -> Any:
        if isinstance(value, str | Path) and Path(value).expanduser().exists():
            return fingerprint(Path(value).expanduser())
        if isinstance(value, Mapping) or value is None:
            return value
        return value.wording() if hasattr(value, "wording") else f"{type(value).__qualname__} {value}"

    return digest(fingerprint(place), {name: plain(value) for name, value in arguments.items() if value is not None})


def table(wording: Mapping[str, Any]) -> InstructionTable:
    """An instruction's yaml as an object."""
    return InstructionTable(**{name: value for name, value in wording.items() if name != "_target_"})


def meta(name: str, revision: str | None = None, facts: Mapping[str, Any] | None = None, **arguments: Any) -> ModelMeta:
    """What mteb shows of a model, `facts` included; what nobody has published stays None. arguments: of `load`."""
    known: dict[str, Any] = {"embed_dim": None, "max_tokens": 512} | dict(facts or {})
    known["loader"] = partial(load, **arguments)
    return ModelMeta(
        name=name,
        revision=revision,
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=None,
        memory_usage_mb=None,
        license=None,
        open_weights=True,
        public_training_code="https://github.com/McGill-NLP/llm2vec-gen",
        public_training_data="https://huggingface.co/datasets/McGill-NLP/llm2vec-gen-tulu",
        framework=["PyTorch", "Transformers"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=True,
        training_datasets=set(),  # questions of Tulu, no task of mteb
        reference=f"https://huggingface.co/{name}" if name in PUBLISHED else None,
        **known,
    )


MODEL_REGISTRY |= {name: meta(name) for name in PUBLISHED}
