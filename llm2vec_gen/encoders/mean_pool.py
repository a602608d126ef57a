"""The mean of a frozen language model's own states: the simplest teacher, and the input-centric baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen.encoders.base import PooledEncoder, Row
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Query, QuerySource
from llm2vec_gen.whitening import zca

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone


class MeanPool(PooledEncoder):
    """The mean over all tokens of the last states after the final norm; causal attention, the backbone's own.

    instruction: a fixed one for every text (the teacher of a full JEPA reads a completion under a summarising
    instruction). use_instruction: one given to `encode` takes its place; else that is ignored. Instructions are joined
    by one space, seen by the attention and left out of the mean.
    layer: -1 for the last states, else the output of that layer (0: the embedded tokens), as transformers counts.
    centre: texts, or a query source, the mean of whose first `centre_size` vectors is subtracted from every vector:
    mean-pooled states have a large common component, which hides the differences in cosine. Of a source that has
    answers, the answers are averaged. null: nothing is subtracted.
    whiten: what is left is scaled to the same variance in every direction of those vectors (ZCA), after their
    covariance C was shrunk to (1 - whiten) C + whiten tr(C)/D: 0 whitens fully, 1 only rescales, null leaves it.
    """

    backbone: Backbone

    def __init__(
        self,
        backbone: Backbone,
        centre: Iterable[str] | QuerySource | None = None,
        centre_size: int = 1000,
        whiten: float | None = None,
        instruction: str | None = None,
        use_instruction: bool = False,
        max_length: int = 512,
        layer: int = -1,
    ):
        super().__init__(backbone, max_length, use_instruction)
        self.instruction, self.layer = instruction, layer
        self._centre_texts = None if centre is None else list(islice(_texts(centre), centre_size))
        self._centre: Tensor | None = None
        self.whiten, self._scaling = whiten, torch.ones(())
        if whiten is not None and (centre is None or not 0 <= whiten <= 1):
            raise InputError(
                f"whiten={whiten}, centre={centre}: expected a fraction from 0 to 1, and texts to centre on"
            )

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the vectors of the texts, float32 (N, D), centred and whitened as set."""
        vectors = super().encode(texts, instruction)
        if self._centre_texts is None:
            return vectors
        if self._centre is None:
            self._learn_centre(super().encode(self._centre_texts).double())
        assert self._centre is not None
        return vectors - self._centre if self.whiten is None else (vectors - self._centre) @ self._scaling

    def _learn_centre(self, vectors: Tensor) -> None:
        self._centre = vectors.mean(0).float()
        if self.whiten is not None:
            self._scaling = zca(vectors.T.cov(), self.whiten).float()

    def rows(self, texts: Sequence[str], instruction: str | None) -> list[Row]:
        """Return the row of each text behind its instruction, the fixed one where none is given."""
        return super().rows(texts, instruction or self.instruction)

    def states(self, ids: list[Tensor]) -> list[Tensor]:
        """Return the states (L_i, D) of each row at `layer`."""
        return super().states(ids) if self.layer == -1 else [self._layer_of(row) for row in ids]

    def _layer_of(self, ids: Tensor) -> Tensor:
        """Return the states (L, D) of an inner layer, one text at a time."""
        bare = self.backbone.lm.base_model
        tokens = ids[None].to(self.backbone.device)
        return bare(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states[self.layer][0]


def _texts(source: Iterable[str] | QuerySource) -> Iterable[str]:
    if isinstance(source, QuerySource):
        return (query.answer or query.text for query in source.queries())
    return (item.answer or item.text if isinstance(item, Query) else item for item in source)
