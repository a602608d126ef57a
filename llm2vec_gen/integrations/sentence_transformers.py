"""Our model as a module of sentence-transformers: live, or from a folder saved with format="sentence_transformers".

    model = to_sentence_transformer(LLM2VecGen.from_pretrained(...))
    model = SentenceTransformer(folder, trust_remote_code=True)

Since its version 6 that library asks for trust_remote_code=True for every class outside its own package; no remote code
is involved, the class is this one, from the package that is installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData
from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook

from llm2vec_gen.artifacts import digest
from llm2vec_gen.checkpoints import card
from llm2vec_gen.checkpoints.prompts import joinable
from llm2vec_gen.errors import InputError, check_texts
from llm2vec_gen.models import storage
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "llm2vec-gen/sentence_transformer"  # mteb asks for owner/name


def to_sentence_transformer(model: LLM2VecGen, prompts: Mapping[str, str] | None = None) -> SentenceTransformer:
    """Return a live SentenceTransformer around the model; `prompts` by name (default: `model.prompts`, {} for none).

    mteb keeps its results under a revision that covers the model, its dtype and length, and the prompts.
    """
    live = SentenceTransformer(
        modules=[GenerativeEmbedding(model)],
        prompts=joinable(model.prompts if prompts is None else prompts),
        similarity_fn_name="cosine",
        device=str(model.suffix.device),
        model_card_data=LiveCardData(model_name=NAME),
    )
    text: Any = card.model_card(storage.settings(model))
    live._model_card_text = text  # what the library writes when it saves
    return live


class LiveCardData(SentenceTransformerModelCardData):
    """Card facts by which mteb files results: a revision that changes with the model, its dtype, length and prompts.

    Without it mteb files every local SentenceTransformer under one name, and gives one's results for another's.
    """

    @property  # computed at every use, since prompts and max_seq_length may be set at any time
    def base_model_revision(self) -> str | None:  # type: ignore[override]
        """Return 12 hex digits, None before the model is there."""
        live: Any = self.model
        if live is None:
            return None
        return digest(live[0].model.fingerprint, live.prompts, live.default_prompt_name, live.truncate_dim)

    @base_model_revision.setter
    def base_model_revision(self, value: str | None) -> None:
        """Ignore what the dataclass sets at its start."""


class GenerativeEmbedding(InputModule):
    """Texts -> embeddings, in one module; prompt and text are joined as `LLM2VecGen.encode` joins its instruction."""

    def __init__(self, model: LLM2VecGen) -> None:
        super().__init__()
        self.model = model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:  # type: ignore[override]
        """The model's tokenizer."""
        return self.model.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Longest query, the suffix included."""
        return self.model.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.model.max_query_tokens(value)
        self.model.max_length = value

    def get_embedding_dimension(self) -> int:
        """Return the embedding size E."""
        return self.model.embedding_dim

    get_sentence_embedding_dimension = get_embedding_dimension

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Return the texts unchanged: the model tokenizes, sorts and batches them itself."""
        return {"texts": check_texts(inputs), "instruction": prompt}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add `sentence_embedding` (B, E)."""
        vectors: Tensor = self.model.encode(features["texts"], instruction=features["instruction"])
        return _Features(features | {"sentence_embedding": vectors.to(self.model.suffix.device)})

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the native files of the model into the folder that sentence-transformers is writing."""
        self.model.save_pretrained(output_path)

    @classmethod
    def load(  # type: ignore[override]
        cls, model_name_or_path: str, revision: str | None = None, model_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> GenerativeEmbedding:
        """Load from the folder or hub id; `model_kwargs` may name device, dtype and backbone."""
        known = {name: value for name, value in (model_kwargs or {}).items() if name in ("device", "dtype", "backbone")}
        if "torch_dtype" in (model_kwargs or {}):
            known["dtype"] = (model_kwargs or {})["torch_dtype"]
        module = cls(LLM2VecGen.from_pretrained(Path(model_name_or_path), revision=revision, **known))

        def name_owner(owner: torch.nn.Module, _: str, child: torch.nn.Module | None) -> None:
            """Give the SentenceTransformer its card facts; it is built around modules that were loaded before."""
            if child is module:
                hook.remove()
                if isinstance(owner, SentenceTransformer) and owner.model_card_data.model_name is None:
                    owner.model_card_data = LiveCardData(model_name=NAME)

        hook = register_module_module_registration_hook(name_owner)
        return module


class _Features(dict[str, Any]):
    """What `forward` returns: with an error for values that this model does not have."""

    def __missing__(self, name: str) -> Any:
        raise InputError(
            f"a generative embedding has no {name}: it is read from the suffix, not from the text's own tokens; "
            'expected output_value="sentence_embedding", or model[0].model.soft_prompts(texts) for its K vectors'
        )
