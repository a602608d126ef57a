"""Training the real model through Lightning equals training the plain one: a loop, one padded batch, no tricks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.plain import Plain
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.training.datamodule import CompletionDataModule
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.builders import tiny_backbone_folder
from tests.training.stubs import StubRows, StubTargets

STEPS = 3


def build(folder: Path) -> LLM2VecGen:
    torch.manual_seed(0)
    return LLM2VecGen(
        Backbone.from_pretrained(str(folder), dtype="float64", device="cpu"), StubTargets.dim, 2, 3, max_length=24
    ).double()


def settings(budget: int) -> TrainingSettings:
    return TrainingSettings(
        max_steps=STEPS,
        warmup_steps=0,
        batch_size=6,
        learning_rate=0.01,
        gradient_clip=0.5,
        max_completion_tokens=12,
        log_every_n_steps=1,
        max_tokens_per_micro_batch=budget,
    )


def train_plainly(model: LLM2VecGen, data: Any, weights: tuple[float, float]) -> tuple[Plain, list[dict[str, float]]]:
    projections = (model.reconstruction_projection, model.alignment_projection)
    plain = Plain(model.backbone.lm, model.suffix, *projections, model.num_compression_tokens, teacher=False)
    parameters = [value for value in plain.parameters() if value.requires_grad]
    optimizer, rows = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0), []
    for step, batch in enumerate(data.train_dataloader()):
        values = plain(batch.queries, batch.completions, batch.targets)
        optimizer.zero_grad()
        (weights[0] * values["alignment"] + weights[1] * values["reconstruction"]).backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.param_groups[0]["lr"] = 0.01 * (20000 - step) / 20000
        optimizer.step()
        rows.append({name: values[name].item() for name in ("alignment", "reconstruction")} | {"norm": norm.item()})
    return plain, rows


@pytest.mark.parametrize("budget", [40, 4096])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_training_equals_the_plain_way(tmp_path: Path, family: str, budget: int) -> None:
    folder, rows, weights = tiny_backbone_folder(tmp_path, family), (StubRows(20), StubTargets(20)), (1.0, 0.5)
    data = CompletionDataModule(build(folder), *rows, settings(budget), seed=1)
    plain, expected = train_plainly(build(folder), data, weights)
    model = build(folder)
    frozen = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    losses = {"alignment": AlignmentLoss(weights[0]), "reconstruction": ReconstructionLoss(weights[1])}
    counts = fit(model, losses, *rows, settings(budget), TrainerSettings(), tmp_path / "run", seed=1)
    pairs = {
        "suffix": (model.suffix, plain.suffix),
        **{f"reconstruction {n}": (v, getattr(plain.reconstruction, n)) for n, v in _linear(model, "reconstruction")},
        **{f"alignment {n}": (v, getattr(plain.alignment, n)) for n, v in _linear(model, "alignment")},
    }
    for name, (value, truth) in pairs.items():
        torch.testing.assert_close(value, truth, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
    assert counts["alignment"] == pytest.approx(expected[-1]["alignment"], rel=1e-6)
    assert counts["reconstruction"] == pytest.approx(expected[-1]["reconstruction"], rel=1e-6)
    assert counts["gradient_norm"] == pytest.approx(expected[-1]["norm"], rel=1e-6)
    assert counts["samples"] == 6 * STEPS and counts["queries_cut"] == 0 < counts["completions_cut"]
    assert all(torch.equal(value, frozen[name]) for name, value in model.named_parameters() if name in frozen)
    saved = torch.load(tmp_path / "run/resume/last.ckpt", weights_only=True)["state_dict"]
    assert sum(value.numel() for value in saved.values()) == 5 * 32 + 32 * 32 + 32 + 32 * 4 + 4


def _linear(model: LLM2VecGen, name: str) -> list[tuple[str, torch.Tensor]]:
    return list(getattr(model, f"{name}_projection").named_parameters())
