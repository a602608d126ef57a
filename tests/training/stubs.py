"""A model of a few hundred weights with the interface that training needs, and data to train it on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from llm2vec_gen.types import Batch, Completion, EncoderOutput

VOCABULARY, WIDTH, SUFFIX = 128, 8, 3


class StubTokenization:
    """Bytes spell no control token."""

    def count(self, texts: list[str]) -> int:
        return 0


class StubBackbone:
    """The attributes that training reads."""

    tokenization = StubTokenization()

    device = "cpu"
    fingerprint = "stub"
    max_positions: int | None = None
    max_tokens_per_micro_batch = 1024


class StubModel(nn.Module):
    """The embedding projects the query's mean (frozen) embedding plus the suffix. Bytes are tokens, 0 ends a text."""

    num_thought_tokens, num_compression_tokens = 1, SUFFIX - 1

    def __init__(self, embedding_dim: int = 4, max_length: int = 32, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.frozen = nn.Embedding(VOCABULARY, WIDTH).requires_grad_(False)
            self.suffix = nn.Parameter(torch.randn(SUFFIX, WIDTH))
            self.reconstruction_projection = nn.Linear(WIDTH, WIDTH)
            self.alignment_projection = nn.Linear(WIDTH, embedding_dim)
        self.backbone: Any = StubBackbone()
        self.max_length, self.noise = max_length, 0.0
        self.embedding_dim = embedding_dim

    def tokenize_and_count(self, texts: list[str], max_length: int | None = None, strip: bool = False) -> tuple:
        budget = (max_length or self.max_length) - SUFFIX
        rows = [list((text.strip() if strip else text).encode()) for text in texts]
        return [torch.tensor(row[:budget]) for row in rows], sum(len(row) > budget for row in rows)

    def completion_ids(self, texts: list[str], max_length: int = 512) -> list[torch.Tensor]:
        rows = [[*text.strip().encode(), 0] for text in texts]
        return [torch.tensor(row[:max_length]) for row in rows]

    def forward(self, batch: Batch) -> EncoderOutput:
        means = torch.stack([self.frozen(query).mean(dim=0) for query in batch.queries])
        soft_prompts = self.reconstruction_projection(means[:, None] + self.suffix[1:])
        soft_prompts = torch.nn.functional.dropout(soft_prompts, self.noise)
        return EncoderOutput(soft_prompts, self.alignment_projection(soft_prompts).mean(dim=1))


class StubAlignment(nn.Module):
    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight, self.calls = weight, 0

    def forward(self, model: StubModel, output: EncoderOutput, batch: Batch) -> torch.Tensor:
        self.calls += 1
        return (output.embedding - batch.targets).square().mean()


class StubReconstruction(nn.Module):
    """Bag of words from the mean soft prompt; a mean over all completion tokens of the batch."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight, self.calls = weight, 0

    def terms(self, batch: Batch) -> int:
        return sum(map(len, batch.completions))

    def forward(self, model: StubModel, output: EncoderOutput, batch: Batch) -> torch.Tensor:
        self.calls += 1
        scores = (output.soft_prompts.mean(dim=1) @ model.frozen.weight.T).log_softmax(dim=-1)
        gains = [row[ids].sum() for row, ids in zip(scores, batch.completions, strict=True)]
        return -torch.stack(gains).sum() / self.terms(batch)


def stub_losses(alignment: float = 1.0, reconstruction: float = 1.0) -> dict[str, Any]:
    return {"alignment": StubAlignment(alignment), "reconstruction": StubReconstruction(reconstruction)}


class StubRows:
    """Completions of different lengths, made as they are asked for; and their targets."""

    def __init__(self, rows: int):
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> Completion:
        if index >= self._rows:
            raise IndexError(index)
        query, answer = f" query {index} {'x' * (index % 7)}\n", f"answer {'y' * (index % 11)} "
        return Completion(f"id{index}", query, answer, "stop")


class StubTargets(StubRows):
    bad: int | None = None
    dim = 4

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            return torch.full((self.dim,), float("nan")).numpy()
        return torch.randn(self.dim, generator=torch.Generator().manual_seed(index)).numpy()


def stub_data(rows: int = 40) -> SimpleNamespace:
    return SimpleNamespace(completions=StubRows(rows), targets=StubTargets(rows))
