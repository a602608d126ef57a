"""HyDE (arXiv 2212.10496): the language model answers the query, and the answers are embedded in its place."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm2vec_gen import progress
from llm2vec_gen.errors import check_integer, check_texts
from llm2vec_gen.types import Encoder, Instruction, Query

if TYPE_CHECKING:
    from llm2vec_gen.generators.base import Generator

CHUNK = 1000  # texts that are answered at a time, and that a kill can cost at most


class HyDE:
    """e = 1/(n + 1) (sum over k of f(d_k) + f(q)), equation 8 of the paper: f is `encoder`, d_1 .. d_n what `generator`
    answers to the prompt "<instruction> <q>".

    A text that comes without instruction is a document and is encoded as it is: HyDE writes for queries alone.
    prompts: which instruction stands before a text of which task; evaluations ask this encoder for it (as
    `own_instruction`) instead of using their own. n > 1 needs a generator that samples; each answer has a seed of its
    own. encode_query: false leaves f(q) out and divides by n.
    cache: folder of a JSON-lines file per generator, identified by its settings and weights; null keeps nothing.
    """

    def __init__(
        self,
        encoder: Encoder,
        generator: Generator,
        prompts: Instruction | None = None,
        n: int = 8,
        encode_query: bool = True,
        cache: str | Path | None = None,
    ):
        check_integer("n (of HyDE)", n)
        self.encoder, self.generator, self.own_instruction = encoder, generator, prompts
        self.n, self.encode_query = n, encode_query
        self.embedding_dim = int(encoder.embedding_dim)
        self._answers: dict[str, str] = {}
        self._file = Path(cache) / f"{identity(generator)}.jsonl" if cache else None
        if self._file and self._file.is_file():
            with self._file.open(encoding="utf-8") as stream:
                self._answers = {row["id"]: row["answer"] for row in map(_record, stream) if row}

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the vectors of the texts: documents as they are, queries through their answers."""
        texts = check_texts(texts)
        prompt = (instruction or "").strip()
        if not prompt or not texts:
            return self.encoder.encode(texts)
        answers = self.answers([f"{prompt} {text.strip()}" for text in texts])
        rows = [answer for row in answers for answer in row]
        with progress.track("encode answers", len(rows), "texts"):  # the texts themselves are what the caller counts
            total = self.encoder.encode(rows).view(len(texts), self.n, -1).sum(1)
        return (total + self.encoder.encode(texts)) / (self.n + 1) if self.encode_query else total / self.n

    def answers(self, prompts: Sequence[str]) -> list[list[str]]:
        """n answers to each prompt, written where the cache has none."""
        missing = [
            Query(_id(prompt, k), prompt)
            for prompt in dict.fromkeys(prompts)
            for k in range(self.n)
            if _id(prompt, k) not in self._answers
        ]
        with progress.track("complete", len(missing), "prompts") as done:
            for start in range(0, len(missing), CHUNK):
                written = self.generator.complete(missing[start : start + CHUNK])
                self._keep({completion.id: completion.completion for completion in written})
                done.advance_to(min(start + CHUNK, len(missing)))
        return [[self._answers[_id(prompt, k)] for k in range(self.n)] for prompt in prompts]

    def _keep(self, answers: dict[str, str]) -> None:
        self._answers |= answers
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as stream:
                rows = (json.dumps({"id": key, "answer": text}, ensure_ascii=False) for key, text in answers.items())
                stream.write("".join(f"{row}\n" for row in rows))
                stream.flush()
                os.fsync(stream.fileno())


def identity(generator: Any) -> str:
    """16 hex digits of everything that changes what this generator answers: its plain settings and its weights."""
    speed = ("report", "concurrency", "max_texts_per_batch")
    names = [name for name in vars(generator) if name == "_body" or not (name.startswith("_") or name in speed)]
    plain = {name: vars(generator)[name] for name in names}
    weights = {name: getattr(value, "fingerprint", None) for name, value in plain.items()}
    known = {
        name: weights[name] or value
        for name, value in plain.items()
        if weights[name] or isinstance(value, str | int | float | dict | list | type(None))
    }
    text = json.dumps([type(generator).__name__, known], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _id(prompt: str, k: int) -> str:
    return f"{hashlib.sha256(prompt.encode()).hexdigest()[:24]}-{k}"


def _record(line: str) -> dict[str, str] | None:
    """A line of the cache; None for the half line that a kill left behind."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
