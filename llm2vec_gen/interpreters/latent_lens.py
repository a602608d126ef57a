"""States of the compression tokens -> the contextual tokens of a corpus that the same language model gives them to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.backbones.layer_states import layer_states, number_of_layers
from llm2vec_gen.errors import InputError, check_integer, check_texts
from llm2vec_gen.interpreters.base import Interpreter
from llm2vec_gen.interpreters.inputs import Inputs
from llm2vec_gen.interpreters.latent_index import LatentIndex
from llm2vec_gen.interpreters.logit_lens import readable, words_of
from llm2vec_gen.models.hops import last_tail
from llm2vec_gen.models.readouts.base import check_decodable
from llm2vec_gen.paths import on_disk
from llm2vec_gen.types import Reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


class LatentLens(Interpreter):
    """The tokens whose states in context are nearest to each compression token's state (arXiv 2602.00462).

    Args:
        index: folder of the corpus's token states (latent_index.py).
        corpus: a data file; the index is built from its texts where it is not complete. None: the index must be there.
        column: of the corpus that holds the texts; a file without columns is read line by line.
        limit: texts of the corpus at most.
        layers: which are read, numbered as transformers' `hidden_states`; None is all that the index has. One reading
            each. Stored states and soft prompts have the last alone.
        per_token: states that the index keeps of each token of the vocabulary.
        top: different words per compression token.
        search: numpy (exact) or faiss (approximate, for indexes of many millions).
        batch_size: queries that are read together.

    Example:
        LatentLens("latent-index", corpus="texts.jsonl").interpret(model, ["capital of peru"])[0].words
    """

    def __init__(self, index: Path | str | None = None, corpus: Path | str | None = None, column: str = "text",
                 limit: int | None = None, layers: Sequence[int] | None = None, per_token: int | None = 50,
                 top: int = 5, search: str = "numpy", batch_size: int = 64) -> None:  # fmt: skip
        super().__init__(batch_size)
        check_integer("interpreter.latent_lens.top", top)
        check_integer("interpreter.latent_lens.limit", limit, null=True)
        self.index = None if index is None else on_disk(str(index))
        self.corpus = None if corpus is None else on_disk(str(corpus))
        self.column, self.limit, self.layers, self.per_token = column, limit, layers, per_token
        self.top, self.search = top, search

    def read(self, model: LLM2VecGen, inputs: Inputs) -> list[Reading]:
        """Return one reading per layer for each query: `words` is K lists of words, `contexts` where each was found.

        `weights` are cosines; in a context the token stands between « and ».
        """
        index = self.open(model)
        last = number_of_layers(model.backbone)
        layers = index.layers if self.layers is None else list(self.layers)
        if inputs.space is not None and layers != [last]:
            raise InputError(
                f"stored {inputs.space} have the last layer ({last}) alone, but layers {layers} are to be read; "
                f"pass texts, or read an index of layer {last}"
            )
        readings = []
        for batch in inputs.batches(self.batch_size):
            states = {last: batch.states} if layers == [last] else self._states(model, batch, layers)
            found = {layer: self._words(model, index, layer, states[layer]) for layer in layers}
            for row, query in enumerate(batch.queries):
                own = words_of(model.tokenizer, query.text)
                for layer in layers:
                    positions = found[layer][row]
                    words = [[word for word, _, _ in position] for position in positions]
                    readings.append(
                        Reading(
                            query.id, query.text, "latent_lens", " ".join(row[0] for row in words if row), words,
                            query.answer, weights=[[cosine for _, cosine, _ in position] for position in positions],
                            in_query=[[word.casefold() in own for word in position] for position in words],
                            contexts=[[context for _, _, context in position] for position in positions],
                            layer=None if layer == last else layer,
                        )
                    )  # fmt: skip
        return readings

    def open(self, model: LLM2VecGen) -> LatentIndex:
        """Return the index, built first where a corpus is given; InputError where it is another backbone's."""
        if self.index is None:
            raise InputError(
                "interpreter.latent_lens.index is not set; expected the folder of an index, or where to build it from "
                "interpreter.latent_lens.corpus"
            )
        if self.corpus is not None:
            texts = islice(_texts(self.corpus, self.column), self.limit)
            return LatentIndex.build(model.backbone, texts, self.index, self.layers, self.per_token, search=self.search)
        index = LatentIndex(self.index, self.search)
        index.check_backbone(model.backbone)
        return index

    def _states(self, model: LLM2VecGen, batch: Inputs, layers: Sequence[int]) -> dict[int, Tensor]:
        """Layer -> states of the compression tokens (B, K, D) of the queries' texts."""
        check_decodable(model)
        texts = check_texts([query.text for query in batch.queries], batch.instruction)
        rows, suffix = model.suffix_tokenization.split(model.tokenize_queries(texts), model.suffix.detach())
        with torch.no_grad():
            suffix = last_tail(model, rows, suffix)  # (B, S, D), after the soft prompts that hops feed back
        with torch.no_grad(), model.adapted():
            found = layer_states(
                model.backbone, [torch.cat([row, tail.to(row)]) for row, tail in zip(rows, suffix, strict=True)], layers
            )
        tokens = model.num_compression_tokens
        return {layer: torch.stack([row[layer][-tokens:] for row in found]) for layer in layers}

    def _words(
        self, model: LLM2VecGen, index: LatentIndex, layer: int, states: Tensor
    ) -> list[list[list[tuple[str, float, str]]]]:
        """(word, cosine, context) of the nearest tokens at each position of states (B, K, D)."""
        queries = states.flatten(0, 1).float().cpu().numpy()
        rows, cosines = index.nearest(queries, layer, 8 * self.top)
        found = [self._different(model.tokenizer, index, *pair) for pair in zip(rows, cosines, strict=True)]
        tokens = states.shape[1]
        return [found[start : start + tokens] for start in range(0, len(found), tokens)]

    def _different(
        self, tokenizer: PreTrainedTokenizerBase, index: LatentIndex, rows: np.ndarray, cosines: np.ndarray
    ) -> list[tuple[str, float, str]]:
        words: dict[str, tuple[str, float, str]] = {}
        for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True):
            word = readable(tokenizer, int(index.tokens[row])) if row >= 0 else ""
            if word and word.casefold() not in words:
                before, token, behind = (tokenizer.decode(ids) for ids in index.context(row))
                words[word.casefold()] = (word, round(cosine, 6), f"{before}«{token}»{behind}")
            if len(words) == self.top:
                break
        return list(words.values())


def _texts(file: Path, column: str) -> Iterator[str]:
    """The texts of a data file's column, or of a file's lines; those that are missing or blank are left out."""
    from llm2vec_gen.local_files import format_of, read_lines, read_rows

    if not file.is_file():
        raise InputError(f"interpreter.latent_lens.corpus: there is no file {file}")
    if format_of(file) is None:
        yield from (text for _, text in read_lines(file, "utf-8") if text.strip())
        return
    for number, row in read_rows(file):
        if column not in row:
            raise InputError(f"{file}:{number} has no column {column!r}; it has {', '.join(map(str, row))}")
        if row[column] and str(row[column]).strip():
            yield str(row[column])
