"""A checkpoint as a config names it (`baseline=checkpoint`, `encoder=<folder or hub id>`)."""

from __future__ import annotations

from llm2vec_gen.models import identity
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.paths import PathOrId


def open_checkpoint(path: PathOrId, revision: str | None = None, backbone: PathOrId | None = None,
                    device: str | None = None, dtype: str | None = None) -> LLM2VecGen:  # fmt: skip
    """Return the model of a checkpoint; arguments as `LLM2VecGen.from_pretrained` has them."""
    return LLM2VecGen.from_pretrained(path, device, dtype, backbone, revision)


open_checkpoint.content_id = identity.of_node  # type: ignore[attr-defined]  # what digests see in place of the path's files
