"""The contract of an encoder, and the pooling of texts common to encoders over transformers.

How to add one: a file beside this one with a subclass of `Encoder`, a yaml in conf/teacher (or conf/baseline), a test.
What it needs from another family (a backbone, a generator) it receives built, through its constructor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen import progress
from llm2vec_gen.devices import usable
from llm2vec_gen.errors import InputError, check_texts, repair_surrogates
from llm2vec_gen.paths import on_disk
from llm2vec_gen.rotary import masked_rows_apart
from llm2vec_gen.tokenization import Tokenization, restore_end
from llm2vec_gen.weights import UNLOADABLE, check_finite, why_not


class Encoder(ABC):
    """Text -> vector.

    `encode` gives float32 on the CPU, (N, E), order kept, (0, E) for no texts, NOT normalised (the alignment target is
    the vector as the encoder makes it). It must not depend on batch size, order or padding beyond float noise. A text
    without any token is encoded as if it were the tokenizer's end token.
    """

    embedding_dim: int

    @abstractmethod
    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """The vectors of the texts; each encoder documents what it does with an instruction."""


class TransformerEncoder(Encoder):
    """An encoder over a transformers model: tokens -> last states -> one pooled vector, in batches of like lengths.

    use_instruction: put the instruction before the text, joined by one space; else it is ignored. Its tokens (and the
    beginning token, which is then one of them) are seen by the attention and left out of the pooling.
    max_tokens_per_batch: padded positions of one forward pass.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        max_length: int = 512,
        use_instruction: bool = False,
        max_tokens_per_batch: int = 16384,
    ):
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.tokenization = Tokenization(tokenizer)
        self.max_length, self.use_instruction = max_length, use_instruction
        self.max_tokens_per_batch = max_tokens_per_batch
        self.embedding_dim = int(model.config.hidden_size)  # type: ignore[union-attr,arg-type]
        if tokenizer.eos_token_id is None:
            raise InputError("the encoder's tokenizer has no end token; set eos_token in its tokenizer_config.json")

    @abstractmethod
    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) last states and the (B, L) mask of positions that count -> (B, E)."""

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """The vectors of the texts."""
        ids, skips = tokenized(self.tokenize, texts, instruction if self.use_instruction else None)
        ids = [row or [self.tokenizer.eos_token_id] for row in ids]
        vectors = torch.empty(len(ids), self.embedding_dim)
        batches = length_sorted_batches([len(row) for row in ids], self.max_tokens_per_batch)
        for batch in batches:
            states, mask = self.last_states([ids[index] for index in batch])
            for row, index in enumerate(batch):
                mask[row, : skips[index]] = False
            vectors[batch] = self.pool(states, mask).float().cpu()
            progress.advance(len(batch))
        return vectors

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with the tokenizer's own special tokens around them, cut at `max_length`; none is the text's."""
        return [self.tokenization.wrap(ids, self.max_length) for ids in self.tokenization.ids(texts)]

    def last_states(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """(B, L, D) states of the last layer, padded on the right, and the (B, L) mask of the real tokens."""
        tokens, mask = padded(ids, self.tokenizer.pad_token_id or 0)
        device = next(self.model.parameters()).device
        tokens, mask = tokens.to(device), mask.to(device)
        states = self.model(input_ids=tokens, attention_mask=mask.long(), **self.forward_arguments()).last_hidden_state
        return states, mask

    def forward_arguments(self) -> dict[str, Any]:
        """What the model's forward is given beside tokens and mask."""
        return {}


def tokenized(tokenize: Any, texts: Sequence[str], instruction: str | None) -> tuple[list[list[int]], list[int]]:
    """Token ids of instruction and text, and how many tokens of each row are the instruction's (pooling skips them).

    Both are stripped and joined by one space, which byte-level tokenizers count to the text's first word. Without
    instruction the text is taken as it is. A row that has nothing but the instruction skips nothing.
    """
    texts = check_texts(texts)
    before = repair_surrogates(instruction or "").strip()
    if not before:
        return [list(map(int, row)) for row in tokenize(texts)], [0] * len(texts)
    rows = [list(map(int, row)) for row in tokenize([f"{before} {text.strip()}".strip() for text in texts])]
    (instruction_ids,) = tokenize([before])
    return rows, [_shared_prefix(row, list(map(int, instruction_ids))) for row in rows]


def _shared_prefix(row: list[int], instruction_ids: list[int]) -> int:
    """How many tokens the row shares with the instruction alone, 0 if that is all of it (end tokens do not count)."""
    shared = 0
    while shared < min(len(row), len(instruction_ids)) and row[shared] == instruction_ids[shared]:
        shared += 1
    return shared if shared < len(row) else 0


def length_sorted_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in batches of like lengths, longest first, each at most `max_tokens` padded positions (or one row)."""
    batches: list[list[int]] = []
    available = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if available < 1:
            batches.append([])
            available = max(1, max_tokens // max(1, lengths[index]))
        batches[-1].append(index)
        available -= 1
    return batches


def padded(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(B, L) token ids, padded on the right, and the (B, L) bool mask of the real ones."""
    length = max(map(len, ids))
    tokens = torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in ids])
    mask = torch.arange(length)[None, :] < torch.tensor([len(row) for row in ids])[:, None]
    return tokens, mask


def mean_of(states: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D) and (B, L) -> (B, D), the mean over the masked-in positions, at least in float32."""
    states = states if states.dtype == torch.float64 else states.float()
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def chunks(order: Sequence[int], size: int) -> Iterator[list[int]]:
    """`order` in pieces of at most `size`."""
    for start in range(0, len(order), size):
        yield list(order[start : start + size])


def load_pretrained(
    path: str, revision: str, dtype: str, device: str | None, unread: str | None = None
) -> tuple[Any, Any]:
    """The bare model (no head) and the tokenizer of a local folder or hub id; no remote code.

    InputError where one is missing, or where the folder lacks weights, other than those of the `unread` submodule.
    """
    from transformers import AutoModel, AutoTokenizer

    place, chosen = on_disk(path), usable(device, "the encoder's device")
    source = str(place) if place.is_dir() else path
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model, loading = AutoModel.from_pretrained(source, revision=revision, dtype=dtype, output_loading_info=True)
    except torch.OutOfMemoryError:
        raise
    except UNLOADABLE as error:
        raise InputError(
            f"the encoder's path={path} (revision {revision}) cannot be loaded: {why_not(error)}; expected a "
            "local folder or a hub id with a transformers model and its tokenizer"
        ) from error
    missing = sorted(key for key in loading["missing_keys"] if key.split(".")[0] != unread)
    if missing:
        raise InputError(f"the encoder's path={path} lacks {len(missing)} weights, e.g. {', '.join(missing[:3])}")
    check_finite(model, f"the encoder's path={path}")
    model = model.to(chosen)
    restore_end(tokenizer, revision)
    masked_rows_apart(model)
    return model, tokenizer
