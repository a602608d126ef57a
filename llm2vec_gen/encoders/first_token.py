"""The state of the first token, as encoders of the BERT kind are trained to be read (BGE-M3, dense vectors)."""

from __future__ import annotations

from collections.abc import Sequence

from llm2vec_gen.encoders.bare_model import BareModel, load_pretrained
from llm2vec_gen.encoders.base import PooledEncoder, Row
from llm2vec_gen.paths import PathOrId


class FirstToken(PooledEncoder):
    """path: a local folder or hub id of a bidirectional encoder whose tokenizer begins each text with a special token.

    The published teacher of this kind is BAAI/bge-m3-unsupervised. A pooling layer of the model's own is not read.
    """

    def __init__(
        self,
        path: PathOrId,
        revision: str = "main",
        dtype: str = "auto",
        device: str | None = None,
        max_length: int = 512,
        use_instruction: bool = False,
        max_tokens_per_batch: int = 16384,
    ):
        model, tokenizer = load_pretrained(path, revision, dtype, device, unread="pooler")
        super().__init__(BareModel(model, tokenizer, max_tokens_per_batch), max_length, use_instruction)

    def rows(self, texts: Sequence[str], instruction: str | None) -> list[Row]:
        """Return the row of each text, read at position 0 alone, instruction or not."""
        return [Row(row.ids, 0, 1) for row in super().rows(texts, instruction)]
