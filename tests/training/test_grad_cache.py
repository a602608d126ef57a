"""The query pass in chunks gives what one pass gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm2vec_gen.losses.contrastive import ContrastiveLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.training import module
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.module import encode_batch
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from llm2vec_gen.types import Batch
from tests.backbones.tiny import backbone
from tests.training.stubs import StubModel, stub_data, stub_losses


def gradients(model: LLM2VecGen, batch: Batch, chunk_size: int | None) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    output = encode_batch(model, batch, chunk_size)
    loss = ContrastiveLoss(temperature=0.2, symmetric=True)(model, output, batch)
    loss = loss + ReconstructionLoss()(model, output, batch)
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.trainables().values()]  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [{}, {"lora": {"rank": 2, "alpha": 4}}], ids=["frozen", "lora"])
def test_chunks_of_any_size_give_the_gradients_of_one_pass(options: dict) -> None:
    torch.manual_seed(0)
    model = LLM2VecGen(backbone("qwen3", dtype=torch.float64), 5, 1, 2, 64, **options).double()
    for name, parameter in model.trainables().items():
        if name.endswith("B"):
            torch.nn.init.normal_(parameter, std=0.1)  # LoRA starts as nothing
    generator = torch.Generator().manual_seed(1)
    queries = [torch.randint(5, 60, (length,), generator=generator) for length in (3, 9, 1, 5, 4)]
    completions = [torch.randint(5, 60, (length,), generator=generator) for length in (4, 2, 6, 3, 5)]
    targets = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    batch = Batch(list("abcde"), queries, completions, targets)
    loss, expected = gradients(model, batch, None)
    for size in (1, 2, 3, 5, 9):
        found, own = gradients(model, batch, size)
        assert found == pytest.approx(loss, rel=1e-10)
        assert all(torch.allclose(one, other, rtol=0, atol=1e-10) for one, other in zip(own, expected, strict=True))


def test_a_run_in_chunks_is_the_same_run(tmp_path: Path) -> None:
    curves = []
    for size in (None, 3):
        data, settings = stub_data(22), TrainingSettings(6, 9, 0, 8, 0.05, log_every_n_steps=2, query_chunk_size=size)
        folder = tmp_path / str(size)
        losses = stub_losses() | {"contrastive": ContrastiveLoss()}
        fit(StubModel(), losses, data.completions, data.targets, settings, TrainerSettings(), folder, seed=3)
        lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
        column = lines[0].index("train/loss")
        curves.append([float(line[column]) for line in lines[1:]])
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


def test_chunks_name_the_device_whose_random_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    named = []
    plain = module.checkpoint

    def spy(run, *arguments, **options):
        named.append([one.device for one in arguments if isinstance(one, torch.Tensor)])
        return plain(run, *arguments, **options)

    monkeypatch.setattr(module, "checkpoint", spy)
    model = LLM2VecGen(backbone("qwen3"), 5, 1, 2, 64)
    queries = [torch.tensor([5, 6, 7])] * 4
    encode_batch(model, Batch(list("abcd"), queries, queries, torch.randn(4, 5)), 2)
    assert len(named) == 2 and all(torch.device("cpu") in devices for devices in named)
