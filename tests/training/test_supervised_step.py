"""One step with hard negatives and documents: one joined call, in chunks, in micro-batches and on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.contrastive import ContrastiveLoss
from llm2vec_gen.losses.margin import MarginLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.training.module import LLM2VecGenModule, encode_batch, tokens_of
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.types import Batch, EncoderOutput
from tests.backbones.tiny import backbone

DIMENSIONS = 5


def model(**options: Any) -> LLM2VecGen:
    torch.manual_seed(0)
    made = LLM2VecGen(backbone("qwen3", dtype=torch.float64), DIMENSIONS, 1, 2, 64, **options).double()
    for name, parameter in made.trainables().items():
        if name.endswith("B"):
            torch.nn.init.normal_(parameter, std=0.1)  # LoRA starts as nothing
    return made


def batch(rows: int = 4, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def ids(longest: int) -> list[Tensor]:
        lengths = torch.randint(1, longest, (rows,), generator=generator).tolist()
        return [torch.randint(5, 60, (length,), generator=generator) for length in lengths]

    def side() -> Batch:
        targets = torch.randn(rows, DIMENSIONS, generator=generator, dtype=torch.float64)
        return Batch([str(row) for row in range(rows)], ids(9), ids(7), targets, documents=ids(8))

    made = side()
    made.negatives = side()
    return made


def losses() -> dict[str, Any]:
    return {
        "alignment": AlignmentLoss(),
        "reconstruction": ReconstructionLoss(0.5),
        "negative_alignment": AlignmentLoss(0.3, of="negatives"),
        "negative_reconstruction": ReconstructionLoss(0.2, of="negatives"),
        "document_alignment": AlignmentLoss(0.7, of="documents"),
        "margin": MarginLoss(0.1, margin=2.0),
        "supervised_contrastive": ContrastiveLoss(0.4, 0.2, candidates="documents", hard_negatives=True, hardness=1.0),
    }


def step(made: LLM2VecGen, given: Batch, chunk: int | None = None) -> tuple[Tensor, list[Tensor]]:
    """The weighted sum of all losses, and the gradients of all trainables."""
    module = LLM2VecGenModule(made, losses(), TrainingSettings(batch_size=4, query_chunk_size=chunk)).train()
    made.zero_grad()
    total = module.training_step(given, 0)
    total.backward()
    return total.detach(), [parameter.grad.clone() for parameter in made.trainables().values()]  # type: ignore[union-attr]


def assert_same(found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=0)
    for one, other in zip(found[1], expected[1], strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


VARIANTS = {"one_hop": {}, "hops": {"num_hops": 2, "hop_loss": "all"}, "lora": {"lora": {"rank": 2, "alpha": 4}}}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_one_joined_call_gives_what_four_calls_give(options: dict[str, Any]) -> None:
    made, given = model(**options), batch()
    assert given.documents is not None and given.negatives is not None and given.negatives.documents is not None

    def alone(queries: list[Tensor]) -> list[EncoderOutput]:
        output = made(Batch([""] * len(queries), queries, [], torch.empty(0)))
        return [*output.earlier, output]

    passed = (given.queries, given.documents, given.negatives.queries, given.negatives.documents)
    parts = [alone(rows) for rows in passed]
    output = encode_batch(made, given, None)
    hops = [*output.earlier, output]
    assert len(hops) == options.get("num_hops", 1)
    for hop, queries, documents, negatives, negative_documents in zip(hops, *parts, strict=True):
        assert hop.negatives is not None and hop.documents is not None and hop.negatives.documents is not None
        for found, expected in (
            (hop.soft_prompts, queries.soft_prompts), (hop.embedding, queries.embedding),
            (hop.documents, documents.embedding), (hop.negatives.soft_prompts, negatives.soft_prompts),
            (hop.negatives.embedding, negatives.embedding), (hop.negatives.documents, negative_documents.embedding),
        ):  # fmt: skip
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_chunks_and_micro_batches_give_the_gradients_of_the_plain_step(options: dict[str, Any]) -> None:
    made, given = model(**options), batch()
    made.backbone.max_tokens_per_micro_batch = 100_000
    expected = step(made, given)
    for chunk, budget in ((1, 100_000), (3, 100_000), (None, 20), (5, 20)):
        made.backbone.max_tokens_per_micro_batch = budget
        assert_same(step(made, given, chunk), expected)


def _part(given: Batch, rows: slice) -> Batch:
    found = Batch(given.ids[rows], given.queries[rows], given.completions[rows], given.targets[rows])
    found.documents = None if given.documents is None else given.documents[rows]
    found.negatives = None if given.negatives is None else _part(given.negatives, rows)
    return found


def _run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = step(model(lora={"rank": 2, "alpha": 4}), _part(batch(), slice(2 * rank, 2 * rank + 2)))
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_give_the_gradients_of_one(tmp_path: Path) -> None:
    expected = step(model(lora={"rank": 2, "alpha": 4}), batch())
    mp.start_processes(_run, args=(str(tmp_path),), nprocs=2, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    gradients = [(one + other) / 2 for one, other in zip(parts[0][1], parts[1][1], strict=True)]  # as DDP takes them
    assert_same(((parts[0][0] + parts[1][0]) / 2, gradients), expected)


def test_tokens_of_negatives_and_documents_count() -> None:
    given = batch()
    plain = Batch(given.ids, given.queries, given.completions, given.targets)
    assert tokens_of(plain) == sum(map(len, given.queries)) + sum(map(len, given.completions))
    assert given.documents is not None and given.negatives is not None
    assert tokens_of(given) == tokens_of(plain) + sum(map(len, given.documents)) + tokens_of(given.negatives)
