"""Which tokens of a query move its embedding: gradient times input through the query pass, or integrated gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from llm2vec_gen.errors import InputError, check_integer, check_texts
from llm2vec_gen.interpreters.base import Interpreter
from llm2vec_gen.interpreters.inputs import Inputs
from llm2vec_gen.models.hops import hop_states
from llm2vec_gen.types import Reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

BASELINES = ("zero", "mean")

Score = Callable[[Tensor, Tensor], Tensor]  # embeddings (B, E) and references (B, E) -> scalars (B,)


class Attribution(Interpreter):
    """How much each query token contributes to a scalar s of the embedding e.

    s is e . r / |r|, where r is the embedding itself without gradient: the change of e along itself. With references
    r (`attribute(..., references=...)`) s is the cosine of e and r: what makes a query near to a passage.

    Token i with input vector x_i gets (x_i - b) . ds/dx_i. `steps` 1 is gradient times input, the change of s to first
    order as x_i moves from the baseline b; more are integrated gradients (arXiv 1703.01365): the gradient is averaged
    over midpoints between b and x, and the sum over tokens is s(x) - s(b), but for the error of the sum. The suffix
    stays as it is.

    Args:
        steps: passes with gradient per query.
        baseline: b, "zero" or "mean" (of the input embeddings of all tokens). The norm that every layer begins with
            takes the length out of its input, so that steps near zero say little: use "mean" with many steps.
        batch_size: queries whose gradients are computed together.

    Example:
        Attribution().interpret(model, ["what is the capital of peru?"])[0].tokens  # [(" capital", 0.8), ...]
    """

    needs_soft_prompts = False

    def __init__(self, steps: int = 1, baseline: str = "zero", batch_size: int = 8) -> None:
        super().__init__(batch_size)
        check_integer("interpreter.attribution.steps", steps)
        if baseline not in BASELINES:
            raise InputError(f"interpreter.attribution.baseline={baseline}: expected {' or '.join(BASELINES)}")
        self.steps, self.baseline = steps, baseline

    def read(self, model: LLM2VecGen, inputs: Inputs) -> list[Reading]:
        """Return one reading each: `tokens` in the query's order, `text` the five that move the embedding most."""
        if inputs.space is not None:
            raise InputError(f"attribution was given {inputs.space}; expected texts, through which it takes gradients")
        texts = [query.text for query in inputs.queries]
        readings = []
        for query, tokens in zip(inputs.queries, self.attribute(model, texts, inputs.instruction), strict=True):
            most = sorted(tokens, key=lambda token: -abs(token[1]))[:5]
            text = " · ".join(f"{token.strip()} {weight:+.3g}" for token, weight in most)
            readings.append(Reading(query.id, query.text, "attribution", text, [], query.answer, tokens=tokens))
        return readings

    def attribute(self, model: LLM2VecGen, texts: str | Sequence[str], instruction: str | None = None,
                  references: Tensor | None = None) -> list[list[tuple[str, float]]]:  # fmt: skip
        """Return (token, attribution) of each text, instruction included; `references` are embeddings (N, E)."""
        rows = check_texts(texts, instruction)
        if references is not None and tuple(references.shape) != (len(rows), model.embedding_dim):
            raise InputError(
                f"references have shape {tuple(references.shape)}; expected one embedding for each text "
                f"({len(rows)}, {model.embedding_dim})"
            )
        found = []
        for start in range(0, len(rows), self.batch_size):
            ids = model.tokenize_queries(rows[start : start + self.batch_size])
            target = None if references is None else references[start : start + self.batch_size]
            found += [
                list(zip(token_texts(model.tokenizer, row.tolist()), weights.tolist(), strict=True))
                for row, weights in zip(ids, self._weights(model, ids, target), strict=True)
            ]
        return found

    def _weights(self, model: LLM2VecGen, ids: list[Tensor], references: Tensor | None) -> list[Tensor]:
        """Attributions (L_i,) of the tokens of each row of ids."""
        vectors, suffix = model.suffix_tokenization.split(ids, model.suffix.detach())
        vectors = [row.detach() for row in vectors]  # (L_i, D)
        score: Score = along if references is None else cosine_similarity
        if references is None:
            with torch.no_grad():
                references = embed(model, vectors, suffix)
        references = references.to(model.device, torch.float32)
        baseline = self._baseline(model, suffix)
        total = [torch.zeros(len(row), device=row.device) for row in vectors]
        for step in range(self.steps):
            alpha = 1.0 if self.steps == 1 else (step + 0.5) / self.steps
            points = [(baseline + alpha * (row - baseline)).requires_grad_() for row in vectors]
            with torch.enable_grad():
                scalars = score(embed(model, points, suffix), references)
                gradients = torch.autograd.grad(scalars.sum(), points)
            for part, row, gradient in zip(total, vectors, gradients, strict=True):
                part += ((row - baseline).float() * gradient.float()).sum(dim=1) / self.steps
        return [part.cpu() for part in total]

    def _baseline(self, model: LLM2VecGen, like: Tensor) -> Tensor:
        """The baseline's input vector (D,)."""
        if self.baseline == "zero":
            return torch.zeros(like.shape[-1], dtype=model.dtype, device=model.device)
        ids = torch.arange(len(model.tokenizer)).split(4096)
        total = sum(model.backbone.embed(part).float().sum(dim=0) for part in ids)
        return (total / len(model.tokenizer)).to(model.dtype)  # type: ignore[union-attr]


def embed(model: LLM2VecGen, vectors: Sequence[Tensor], suffix: Tensor) -> Tensor:
    """Input vectors of queries (L_i, D) and suffix vectors (B, S, D) -> embeddings (B, E) with gradients."""
    return model.embed_states(hop_states(model, vectors, suffix, full=True)[-1])


def along(embeddings: Tensor, references: Tensor) -> Tensor:
    """e . r / |r| of embeddings and references (B, E)."""
    return (embeddings * normalize(references, dim=1)).sum(dim=1)


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return the text of each token; a piece of a character as the tokenizer spells it."""
    texts = [str(tokenizer.decode([token])) for token in ids]
    return [
        str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text or not text else text
        for token, text in zip(ids, texts, strict=True)
    ]
