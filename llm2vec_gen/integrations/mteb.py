"""Our models in mteb's registry: after this import, `mteb.get_model` finds the published checkpoints by their names.

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

import logging
import re
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ModelMeta, ScoringFunction

from llm2vec_gen import checkpoints, targets
from llm2vec_gen.artifacts import digest
from llm2vec_gen.checkpoints import prompts
from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.evaluations.instructions import InstructionTable, NoInstruction
from llm2vec_gen.evaluations.mteb_encoder import MtebEncoder
from llm2vec_gen.models import identity
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import Instruction

if TYPE_CHECKING:
    import torch

    from llm2vec_gen.backbones.backbone import Backbone

log = logging.getLogger(__name__)

PUBLISHED = tuple(
    f"McGill-NLP/LLM2Vec-Gen-{size}"
    for size in (
        *("Qwen3-06B", "Qwen3-17B", "Qwen3-4B", "Qwen3-8B"),
        *("Qwen25-05B-Instruct", "Qwen25-15B-Instruct", "Qwen25-3B-Instruct", "Qwen25-7B-Instruct"),
        *("Meta-Llama-32-1B-Instruct", "Meta-Llama-32-3B-Instruct", "Meta-Llama-31-8B-Instruct"),
    )
)
"""The paper's checkpoints; those that are not named in public are spelled as the teachers of the same backbone are."""


def register(folder: str | Path, name: str | None = None, instruction: Instruction | Mapping[str, Any] | None = None,
             dtype: torch.dtype | str | None = None, backbone: str | Backbone | None = None,
             max_length: int | None = None) -> str:  # fmt: skip
    """Make a local checkpoint known to mteb and return the name for `mteb.get_model` (default: llm2vec-gen/<folder>).

    The other arguments are those of `load`. The revision covers the checkpoint's content and all of them. A name
    stands for what was registered last under it; the log warns where that replaces something else.
    """
    check_integer("max_length", max_length, null=True)
    if name is not None and not re.fullmatch(r"[^/\s]+/[^/\s]+", name):
        raise InputError(
            f"name={name!r}: mteb expects owner/name, e.g. me/{name.strip('/').replace('/', '-') or 'mine'}"
        )
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise InputError(f"{folder} is no folder; expected a checkpoint, or one of {', '.join(PUBLISHED)}")
    settings = checkpoints.read(place).settings
    facts = {
        "embed_dim": settings["embedding_dim"],
        "max_tokens": max_length or settings["max_length"],
        "adapted_from": settings["backbone"]["path"],
    }
    wording = _wording(settings, instruction)
    parts = [identity.of_checkpoint(place, None, backbone, dtype), facts["max_tokens"]]
    parts.append(wording.wording() if hasattr(wording, "wording") else uuid.uuid4().hex)  # has no identity
    name = name or f"llm2vec-gen/{re.sub(r'[^A-Za-z0-9_.-]+', '_', place.resolve().name)}"
    given = {"instruction": instruction, "dtype": dtype, "backbone": backbone, "max_length": max_length}
    new, old = meta(name, digest(*parts), facts, path=place, **given), MODEL_REGISTRY.get(name)
    if old is not None and old.revision != new.revision:
        log.warning(
            "%s now stands for %s with these arguments (revision %s), no longer for revision %s; give name= to have "
            "both at a time", name, folder, new.revision, old.revision,
        )  # fmt: skip
    MODEL_REGISTRY[name] = new
    return name


def load(
    model_name: str,
    revision: str | None = None,
    device: str | None = None,
    path: str | Path | None = None,
    instruction: Instruction | Mapping[str, Any] | None = None,
    max_length: int | None = None,
    **arguments: Any,
) -> MtebEncoder:
    """Load the model behind mteb's protocol, as mteb calls it. `path`: where the weights are, if not at the hub.

    instruction: None takes the checkpoint's own; a mapping has the form of a yaml of conf/instruction. max_length: of
    texts, suffix included (None: the checkpoint's). arguments: dtype and backbone, as in LLM2VecGen.from_pretrained.
    """
    arguments.pop("embed_dim", None)  # mteb hands it on; ours have one
    model = LLM2VecGen.from_pretrained(path or model_name, device, revision=None if path else revision, **arguments)
    if instruction is None and model.instructions is None:
        log.warning("%s; its texts get this package's generative wording", prompts.NONE_RECORDED)
    if max_length is not None:
        model.max_query_tokens(max_length)
        model.max_length = max_length
    return MtebEncoder(model, _wording({"instructions": model.instructions}, instruction))


def _wording(settings: Mapping[str, Any], instruction: Instruction | Mapping[str, Any] | None) -> Instruction:
    """Return the instruction that is given, else the checkpoint's own."""
    given = prompts.instructions_of(settings) if instruction is None else instruction
    return table(given) if isinstance(given, Mapping) else given


def table(wording: Mapping[str, Any]) -> Instruction:
    """Return the instruction that a yaml of conf/instruction, or a checkpoint's settings, describes."""
    if "_target_" in wording:
        return targets.build(dict(wording), "instruction")
    unknown = sorted(set(wording) - {"categories", "tasks", "documents"})
    if unknown:
        raise InputError(f"instruction has no {', '.join(unknown)}; expected categories, tasks and documents")
    return InstructionTable(**wording) if any(wording.values()) else NoInstruction()


def meta(name: str, revision: str | None = None, facts: Mapping[str, Any] | None = None, **arguments: Any) -> ModelMeta:
    """Return mteb's description of a model; unknown values stay None. arguments: of `load`; facts: further fields."""
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
