"""What interpreters read: texts, which are embedded when they are needed, or vectors that an index has stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.errors import InputError, check_texts
from llm2vec_gen.types import Query

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

MAX_CONDITION = 1e8  # of W_recon in the 1-norm; beyond it h cannot be computed back from p


class Inputs:
    """N queries and their vectors: states h and soft prompts p (N, K, D), embeddings e (N, E), computed when asked for.

    Args:
        model: an LLM2VecGen.
        queries: `Query` objects, texts or one text; None where `states` or `soft_prompts` stand alone.
        instruction: stands before every text when it is embedded.
        states, soft_prompts: stored vectors (N, K, D), one of the two; the texts are then not embedded again. Tensors,
            numpy arrays and memory maps are read batch by batch.
        fingerprint: of the model that made the stored vectors (`LLM2VecGen.fingerprint`), where it is known.

    p = W_recon h + b is square, so that states are computed back from stored soft prompts: the logit lens over an index
    reads h. Raises InputError for pooled vectors, another number or size of vectors, and another model's fingerprint.

    Example:
        inputs = Inputs(model, ["how do vaccines work?"])
        inputs.states, inputs.soft_prompts, inputs.embeddings
    """

    def __init__(self, model: LLM2VecGen, queries: Sequence[Query] | Sequence[str] | str | None = None,
                 instruction: str | None = None, states: Any = None, soft_prompts: Any = None,
                 fingerprint: str | None = None):  # fmt: skip
        self.model, self.instruction = model, instruction
        self._shared: dict[str, Tensor] = {}  # between all parts
        if states is not None and soft_prompts is not None:
            raise InputError("both states and soft_prompts were given; pass one, the other follows from it")
        self.space = "states" if states is not None else "soft_prompts" if soft_prompts is not None else None
        self.stored = states if states is not None else soft_prompts
        if self.space is not None:
            self._check_stored(fingerprint)
        elif queries is None:
            raise InputError("there is nothing to read; expected queries, states or soft_prompts")
        self.queries = self._queries(queries)

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, rows: slice) -> Inputs:
        """Return some of the queries with their vectors."""
        part = object.__new__(Inputs)
        part.model, part.instruction, part.space = self.model, self.instruction, self.space
        part._shared, part.queries = self._shared, self.queries[rows]
        part.stored = None if self.stored is None else self.stored[rows]
        for name in ("states", "soft_prompts", "embeddings"):
            if name in self.__dict__:  # computed already
                part.__dict__[name] = self.__dict__[name][rows]
        return part

    def batches(self, size: int) -> Iterator[Inputs]:
        """Yield parts of `size` queries, so that never all vectors are in memory."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @cached_property
    def states(self) -> Tensor:
        """Last states h of the compression tokens (N, K, D), float32 on the model's device."""
        if self.space is None:
            texts = [query.text for query in self.queries]
            return self.model.states(texts, instruction=self.instruction).to(self.model.device)
        vectors = self._read()
        if self.space == "states":
            return vectors
        if "inverse" not in self._shared:
            self._shared["inverse"] = inverse_projection(self.model)
        return states_from_soft_prompts(self.model, vectors, self._shared["inverse"])

    @cached_property
    def soft_prompts(self) -> Tensor:
        """Soft prompts p (N, K, D), float32 on the model's device."""
        if self.space == "soft_prompts":
            return self._read()
        with torch.no_grad():
            return self.model.project(self.states)

    @cached_property
    def embeddings(self) -> Tensor:
        """Embeddings e (N, E), float32 on the model's device, not normalised."""
        with torch.no_grad():
            return self.model.align(self.soft_prompts)

    def _read(self) -> Tensor:
        """The stored vectors as a float32 tensor on the model's device; InputError where they are not finite."""
        stored = self.stored
        found = stored if isinstance(stored, Tensor) else torch.from_numpy(np.array(stored, dtype=np.float32))
        found = found.to(self.model.device, torch.float32)
        if not bool(torch.isfinite(found).all()):
            row = int((~torch.isfinite(found)).flatten(1).any(dim=1).nonzero()[0])
            name = self.queries[row].id
            raise InputError(f"{self.space} of {name!r} are not finite (NaN or infinite); compute them again")
        return found

    def _check_stored(self, fingerprint: str | None) -> None:
        if not isinstance(self.stored, Tensor | np.ndarray):
            kind = type(self.stored).__name__
            raise InputError(f"{self.space} is a {kind}; expected one tensor or numpy array (N, K, D)")
        tokens, size = self.model.num_compression_tokens, self.model.backbone.hidden_size
        shape = tuple(self.stored.shape)
        if self.stored.ndim == 2 and shape == (tokens, size):
            self.stored = self.stored[None]
        elif self.stored.ndim != 3 or shape[1:] != (tokens, size):
            pooled = self.stored.ndim < 3 and shape[-1:] == (self.model.embedding_dim,)
            hint = (
                "these look like pooled embeddings, which cannot be read: store model.soft_prompts(texts)"
                if pooled
                else "were they made by another model?"
            )
            raise InputError(f"{self.space} has shape {shape}; this model's are (N, {tokens}, {size}); {hint}")
        kind = str(self.stored.dtype).removeprefix("torch.")
        if not kind.startswith(("float", "bfloat")):
            raise InputError(
                f"{self.space} is of dtype {kind}; expected floating point numbers (dequantise them first)"
            )
        if fingerprint is not None and fingerprint != self.model.fingerprint:
            raise InputError(
                f"{self.space} were made by the model {fingerprint}, but this one is {self.model.fingerprint}; load "
                "the checkpoint that made them, or make them again"
            )

    def _queries(self, queries: Sequence[Query] | Sequence[str] | str | None) -> list[Query]:
        rows = None if self.stored is None else len(self.stored)
        if queries is None:
            return [Query(str(row), "") for row in range(rows or 0)]
        named = not isinstance(queries, str) and all(isinstance(query, Query) for query in queries)
        found = list(queries) if named else [Query(str(row), text) for row, text in enumerate(check_texts(queries))]
        if rows is not None and rows != len(found):
            raise InputError(f"{len(found)} queries were given with {rows} rows of {self.space}; expected as many")
        return found  # type: ignore[return-value]


def inverse_projection(model: LLM2VecGen) -> Tensor:
    """Return W_recon^-1 (D, D) in double precision; InputError where it does not exist or is useless."""
    weight = model.reconstruction_projection.weight.detach().double()
    inverse, failed = torch.linalg.inv_ex(weight)
    condition = torch.linalg.matrix_norm(weight, 1) * torch.linalg.matrix_norm(inverse, 1)
    if bool(failed) or not bool(condition < MAX_CONDITION):
        raise InputError(
            "the states cannot be computed back from soft prompts: this model's reconstruction projection has no "
            "inverse; store model.states(texts), or read the soft prompts themselves (space=soft_prompts)"
        )
    return inverse


def states_from_soft_prompts(model: LLM2VecGen, soft_prompts: Tensor, inverse: Tensor | None = None) -> Tensor:
    """Soft prompts p (..., D) -> states h (..., D) = W_recon^-1 (p - b), computed in double precision, float32.

    Errors of p grow by at most the condition number of W_recon (1e3 in the pocket): fp32 is lossless, fp16 leaves h
    within 2%. `inverse` is that of `inverse_projection`, which is computed where it is not given.
    """
    inverse = inverse_projection(model) if inverse is None else inverse
    bias = model.reconstruction_projection.bias.detach().double()
    return ((soft_prompts.to(inverse) - bias) @ inverse.T).float()
