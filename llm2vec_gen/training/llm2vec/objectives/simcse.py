"""Unsupervised SimCSE (arXiv 2104.08821): a text is its own positive, seen twice under different dropout."""

from __future__ import annotations

from llm2vec_gen.errors import InputError
from llm2vec_gen.training.llm2vec.objectives.base import Noise, ObjectiveBatch, Tokenize, keys_of
from llm2vec_gen.training.llm2vec.objectives.contrastive import ContrastiveObjective
from llm2vec_gen.training.settings import TrainingSettings


class SimCSE(ContrastiveObjective):
    """Both views go through one pass as rows of their own, so that each draws its own dropout.

    As in LLM2Vec's code the 0.3 of its recipe are dropped from the attention weights; the inputs of the adapter's
    layers lose 0.05.
    """

    def __init__(
        self,
        training: TrainingSettings,
        temperature: float = 0.05,
        max_length: int = 128,
        lora_dropout: float = 0.05,
        attention_dropout: float = 0.3,
    ):
        super().__init__(training, temperature, max_length, lora_dropout, attention_dropout)
        if not lora_dropout and not attention_dropout:
            raise InputError(
                "lora_dropout=0 and attention_dropout=0 of SimCSE: its two views of a text would be the same; set one "
                "of them over 0"
            )

    def batch(self, ids: list[str], rows: list[tuple[str, ...]], tokenize: Tokenize, noise: Noise) -> ObjectiveBatch:
        """Columns: the texts, twice."""
        texts = tokenize([text for (text,) in rows])
        return ObjectiveBatch(ids, [texts, texts], keys_of([texts, texts]))
