"""Readouts and hops through Lightning: started at the targets, continued bit for bit, refused with another choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.models.readouts.first_n import FirstN
from llm2vec_gen.models.readouts.per_token import PerToken
from llm2vec_gen.models.readouts.query_mean import QueryMean
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.builders import tiny_backbone_folder
from tests.training.stubs import StubTargets, stub_data

HOPS = {"num_hops": 2, "hop_loss": "all"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbone_folder(tmp_path_factory.mktemp("home"))


def train(
    folder: Path,
    place: Path,
    steps: int = 6,
    alignment: dict[str, Any] | None = None,
    further: AlignmentLoss | None = None,
    **options: Any,
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = LLM2VecGen(
        Backbone.from_pretrained(str(folder), device="cpu"), StubTargets.dim, 2, 3, max_length=40,
        projection_init="targets", **options,
    )  # fmt: skip
    losses: dict[str, Any] = {"alignment": AlignmentLoss(**(alignment or {"reduction": "variance"}))}
    losses |= {"reconstruction": ReconstructionLoss()} if model.readout.reads_suffix else {}
    losses |= {} if further is None else {"further": further}
    settings = TrainingSettings(
        max_steps=steps, schedule_steps=20, warmup_steps=0, batch_size=4, learning_rate=0.01, max_completion_tokens=12,
        log_every_n_steps=1,
    )  # fmt: skip
    data = stub_data(20)
    fit(model, losses, data.completions, data.targets, settings, TrainerSettings(), place, 1, validation=4)
    return {name: value.detach().clone() for name, value in model.trainables().items()}


@pytest.mark.parametrize(
    "options", [HOPS, {"readout": PerToken()}, {"readout": QueryMean()}], ids=["hops", "per_token", "query_mean"]
)
def test_it_starts_at_the_targets_and_continues_bit_for_bit(
    folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    straight = train(folder, tmp_path / "straight", **options)
    train(folder, tmp_path / "cut", 3, **options)
    continued = train(folder, tmp_path / "cut", **options)
    assert set(straight) == set(continued)
    assert all(torch.equal(straight[name], continued[name]) for name in straight)
    rows = MetricsFile(tmp_path / "straight" / "metrics.csv").rows()
    found = [row["train/alignment"] for row in rows if "train/alignment" in row]
    assert 0.5 < found[0] < 1.5  # a batch of 4 at the targets' mean and a tenth of their spread


@pytest.mark.parametrize("options", [HOPS, {"num_hops": 2}, {"readout": FirstN(1)}], ids=["all", "last", "first_n"])
def test_a_state_of_another_choice_is_refused(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    train(folder, tmp_path, 2, **options)
    others = [{}, {"num_hops": 3, "hop_loss": "all"}, {"readout": FirstN(3)}]
    for other in others:
        with pytest.raises(InputError, match=r"was saved with another config \(.*model\."):
            train(folder, tmp_path, 3, **other)


@pytest.mark.parametrize(
    ("alignment", "key"),
    [({"reduction": "mean"}, "reduction"), ({"distance": "smooth_l1", "reduction": "variance"}, "distance"),
     ({"matryoshka": [2], "reduction": "variance"}, "matryoshka")],
)  # fmt: skip
def test_a_state_of_another_loss_is_refused(folder: Path, tmp_path: Path, alignment: dict[str, Any], key: str) -> None:
    train(folder, tmp_path, 2)
    with pytest.raises(InputError, match=r"was saved with another config \(loss\.further"):
        train(folder, tmp_path, 3, further=AlignmentLoss(0.5, "mean"))
    with pytest.raises(InputError, match=rf"was saved with another config \(.*loss\.alignment\.{key}"):
        train(folder, tmp_path, 3, alignment)
