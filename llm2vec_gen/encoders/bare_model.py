"""A transformers model without its head as an encoder reads it: token ids -> last states, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_gen.devices import usable
from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import on_disk
from llm2vec_gen.rotary import masked_rows_apart
from llm2vec_gen.tokenization import Tokenization, restore_end
from llm2vec_gen.weights import UNLOADABLE, check_finite, why_not

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class BareModel:
    """A frozen transformers model and its tokenizer, with what `PooledEncoder` asks of a backbone.

    model: gives last states (B, L, D) from ids and mask; no gradients. tokenizer: its own special tokens stand around
    each text; InputError where it has no end token. max_tokens_per_batch: padded positions of one forward pass.
    forward_arguments: what the model's forward gets beside ids and mask.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens_per_batch: int = 16384,
        **forward_arguments: Any,
    ):
        if tokenizer.eos_token_id is None:
            raise InputError("the encoder's tokenizer has no end token; set eos_token in its tokenizer_config.json")
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.tokenization, self.end_id = Tokenization(tokenizer), int(tokenizer.eos_token_id)
        self.hidden_size = int(model.config.hidden_size)
        self.max_tokens_per_batch, self.forward_arguments = max_tokens_per_batch, forward_arguments

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text between its special tokens, cut at `max_length`; no text spells such a token."""
        return [self.tokenization.wrap(ids, max_length) for ids in self.tokenization.ids(texts)]

    def micro_batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the row numbers of each forward pass, longest rows first."""
        return length_sorted_batches(lengths, self.max_tokens_per_batch)

    @torch.no_grad()
    def states(self, ids: Sequence[Tensor]) -> list[Tensor]:
        """Return the last states (L_i, D) of each row, in order: one padded pass, so `micro_batches` comes first."""
        device = self.model.device
        tokens, mask = (part.to(device) for part in padded([row.tolist() for row in ids], self._pad_id))  # (B, L)
        output = self.model(input_ids=tokens, attention_mask=mask.long(), **self.forward_arguments)
        return [states[: len(row)] for states, row in zip(output.last_hidden_state, ids, strict=True)]  # (B, L, D)

    @property
    def _pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0  # masked out: any id will do


def length_sorted_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return indices in batches of like lengths, longest first, each of `max_tokens` padded positions or one row."""
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
    """Return (B, L) token ids, padded on the right, and the (B, L) bool mask of the real ones."""
    length = max(map(len, ids))
    tokens = torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in ids])
    mask = torch.arange(length)[None, :] < torch.tensor([len(row) for row in ids])[:, None]
    return tokens, mask


def mean_of(states: Tensor, mask: Tensor) -> Tensor:
    """Return (B, D), the mean of states (B, L, D) over the positions in mask (B, L), at least in float32."""
    states = states if states.dtype == torch.float64 else states.float()
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def load_pretrained(
    path: str, revision: str, dtype: str, device: str | None, unread: str | None = None
) -> tuple[Any, Any]:
    """Return the bare model (no head) and the tokenizer of a local folder or hub id; no remote code.

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
