"""The state of the first token, as encoders of the BERT kind are trained to be read (BGE-M3, dense vectors)."""

from __future__ import annotations

from torch import Tensor

from llm2vec_gen.encoders.base import TransformerEncoder, load_pretrained
from llm2vec_gen.paths import PathOrId


class FirstToken(TransformerEncoder):
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
        super().__init__(model, tokenizer, max_length, use_instruction, max_tokens_per_batch)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) -> (B, D), the states at position 0, instruction or not."""
        return states[:, 0]
