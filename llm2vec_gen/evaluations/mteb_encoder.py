"""Our encoders behind mteb's protocol: it asks for the batches of a task, we answer with vectors."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from llm2vec_gen.evaluations.base import encoder_name, instruction_for
from llm2vec_gen.evaluations.ranking import vectors
from llm2vec_gen.types import Encoder, Instruction

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

TASK_TYPES = {
    "Retrieval": "retrieval",
    "InstructionRetrieval": "retrieval",
    "Reranking": "reranking",
    "InstructionReranking": "reranking",
    "Clustering": "clustering",
    "PairClassification": "pair_classification",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "Regression": "classification",
    "ZeroShotClassification": "classification",
    "STS": "sts",
    "Summarization": "summarization",
    "BitextMining": "bitext_mining",
}
"""mteb's task types -> our categories."""


class MtebEncoder(AbsEncoder):
    """An `Encoder` as mteb sees it.

    Documents of a retrieval or reranking task get the instruction's document side; everything else (queries, and both
    sides of symmetric tasks, for which mteb names no prompt type) gets the task's own instruction. mteb's batches are
    passed to the encoder at once: sorting by length and batching are the encoder's. Each text is encoded once per
    call and, with `memory`, once per lifetime of the dict given.

    category     our category name; None reads it from mteb's task type
    similarity   "cosine" or "dot": what mteb ranks by
    memory       (instruction, text) -> vector, shared by runs that encode the same texts
    """

    def __init__(
        self,
        encoder: Encoder,
        instruction: Instruction,
        category: str | None = None,
        similarity: str = "cosine",
        memory: dict[tuple[str | None, str], torch.Tensor] | None = None,
    ) -> None:
        self.encoder = encoder
        self.instruction = instruction_for(encoder, instruction)
        self.category = category
        self.memory = memory
        self.mteb_model_meta = model_meta(encoder, self.instruction, category, similarity)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return vectors (N, E), float32, in the order of the loader."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self.vectors(texts, self.instruction_for(task_metadata, prompt_type)).numpy()

    def instruction_for(self, task_metadata: TaskMetadata, prompt_type: PromptType | None) -> str | None:
        """Return the document instruction for documents, the task's instruction for all else."""
        category = self.category or TASK_TYPES.get(task_metadata.type, task_metadata.type)
        side = self.instruction.document if prompt_type == PromptType.document else self.instruction.query
        return side(task_metadata.name, category)

    def vectors(self, texts: list[str], instruction: str | None) -> torch.Tensor:
        """Return `encoder.encode` of the texts; those in memory are not encoded again."""
        known = {} if self.memory is None else self.memory
        missing = list(dict.fromkeys(text for text in texts if (instruction, text) not in known))
        if missing:
            rows = vectors(self.encoder, missing, instruction)
            known.update({(instruction, text): row for text, row in zip(missing, rows, strict=True)})
        return torch.stack([known[instruction, text] for text in texts])


def model_meta(
    encoder: Encoder, instruction: Instruction | None = None, category: str | None = None, similarity: str = "cosine"
) -> ModelMeta:
    """Return what mteb must know: a name, the similarity, and a revision that changes with whatever changes scores.

    An encoder or instruction without an identity gets a revision of its own, so that mteb shares no results.
    """
    name = re.sub(r"[^\w.-]+", "_", encoder_name(encoder)) or "encoder"
    return ModelMeta.create_empty(
        overwrites={
            "name": f"llm2vec-gen/{name}",
            "revision": _revision(encoder, instruction, category),
            "embed_dim": getattr(encoder, "embedding_dim", None),
            "similarity_fn_name": ScoringFunction(similarity),
            "use_instructions": True,
        }
    )


def _revision(encoder: Encoder, instruction: Instruction | None, category: str | None) -> str:
    known = getattr(encoder, "fingerprint", None) or uuid.uuid4().hex
    wording = instruction.wording() if hasattr(instruction, "wording") else uuid.uuid4().hex  # type: ignore[union-attr]
    return hashlib.sha256(json.dumps([known, wording, category], sort_keys=True).encode()).hexdigest()[:16]
