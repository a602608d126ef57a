"""Any model of the sentence-transformers kind as an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.devices import usable
from llm2vec_gen.errors import InputError, check_texts
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.rotary import masked_rows_apart
from llm2vec_gen.tokenization import restore_end, tokenizer_digest
from llm2vec_gen.weights import UNLOADABLE, check_finite, why_not


class SentenceTransformerEncoder:
    """path: a local folder or hub id; pooling and normalisation are whatever its modules do, and so is formatting: a
    bare language model with a chat template is read through that template by sentence-transformers 6.

    prompt: put before every text as it stands (with its own blank at the end). use_instruction: an instruction given
    to `encode` takes the prompt's place, joined to the text by one space; else it is ignored. Whether a prompt's tokens
    are pooled depends on the model's own configuration. max_length: null keeps the model's own.
    """

    def __init__(
        self,
        path: PathOrId,
        revision: str = "main",
        dtype: str = "auto",
        device: str | None = None,
        prompt: str | None = None,
        use_instruction: bool = False,
        max_length: int | None = 512,
        max_texts_per_batch: int = 32,
    ):
        from sentence_transformers import SentenceTransformer

        chosen = str(usable(device, "teacher.device"))
        try:
            self.model = SentenceTransformer(path, revision=revision, device=chosen, model_kwargs={"dtype": dtype})
        except torch.OutOfMemoryError:
            raise
        except UNLOADABLE as error:
            raise InputError(
                f"the encoder's path={path} (revision {revision}) cannot be loaded: {why_not(error)}; expected a "
                "local folder or a hub id of a sentence-transformers model"
            ) from error
        check_finite(self.model, f"the encoder's path={path}")
        self.model.eval().requires_grad_(False)
        for module in self.model.children():
            masked_rows_apart(module)
            _prepare_tokenizer(module, revision)
        if max_length is not None:
            self.model.max_seq_length = min(max_length, self.model.max_seq_length or max_length)
        self.prompt, self.use_instruction, self.max_texts_per_batch = prompt, use_instruction, max_texts_per_batch
        self.embedding_dim = int(self.encode(["a"]).shape[1])

    @cached_property
    def tokenizer_digest(self) -> str:
        """Digest of the tokenizer's vocabulary, see `tokenization.tokenizer_digest`; not there without a tokenizer."""
        return tokenizer_digest(self.model.tokenizer)

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the vectors of the texts, float32 (N, E) on the CPU."""
        texts = check_texts(texts)
        if not texts:
            return torch.empty(0, self.embedding_dim)
        prompt = self.prompt
        if self.use_instruction and instruction and instruction.strip():
            prompt, texts = f"{instruction.strip()} ", [text.strip() for text in texts]
        vectors = self.model.encode(
            texts,
            prompt=prompt or "",  # an empty prompt also switches off a default prompt of the model
            batch_size=self.max_texts_per_batch,
            convert_to_tensor=True,
            normalize_embeddings=False,
            show_progress_bar=False,
        )
        return vectors.float().cpu().clone()


def _prepare_tokenizer(module: Any, revision: str) -> None:
    """Keep control tokens out of texts, and put the end token behind them that the tokenizer's files declare.

    A module that reads texts through a chat template passes the complete prompt to its tokenizer, which cannot tell the
    template's control tokens from the text's: it stays as it is.
    """
    tokenizer: Any = getattr(module, "tokenizer", None)
    if not hasattr(tokenizer, "backend_tokenizer") or "message" in (getattr(module, "modality_config", None) or {}):
        return
    tokenizer.split_special_tokens = True
    restore_end(tokenizer, revision)
