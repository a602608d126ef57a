"""Training: modules, data modules, callbacks, and `fit`, which puts them together.

By hand, with Lightning alone (tests/training/test_by_hand.py runs this):

    import lightning, numpy
    from llm2vec_gen.backbones.backbone import Backbone
    from llm2vec_gen.losses.alignment import AlignmentLoss
    from llm2vec_gen.losses.reconstruction import ReconstructionLoss
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
    from llm2vec_gen.training import CompletionDataModule, LLM2VecGenModule, TrainingSettings
    from llm2vec_gen.types import Completion

    completions = [Completion(str(i), f"What is {i}?", f"It is {i}.", "stop") for i in range(32)]
    targets = numpy.random.default_rng(0).standard_normal((32, 16)).astype("float32")
    backbone = Backbone.from_pretrained("package://llm2vec_gen/pocket/lm", device="cpu")
    model = LLM2VecGen(backbone, embedding_dim=16)
    settings = TrainingSettings(max_steps=6, schedule_steps=6, warmup_steps=1, batch_size=8)
    module = LLM2VecGenModule(model, {"alignment": AlignmentLoss(), "reconstruction": ReconstructionLoss()}, settings)
    data = CompletionDataModule(model, completions, targets, settings, seed=42, validation=8)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, log_every_n_steps=2)
    trainer.fit(module, datamodule=data)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm2vec_gen.training.checkpoint_io import load_trained
    from llm2vec_gen.training.datamodule import CompletionDataModule
    from llm2vec_gen.training.module import LLM2VecGenModule
    from llm2vec_gen.training.settings import TrainingSettings

__all__ = ["CompletionDataModule", "LLM2VecGenModule", "TrainingSettings", "load_trained"]

_HOMES = {
    "CompletionDataModule": "datamodule", "LLM2VecGenModule": "module", "TrainingSettings": "settings",
    "load_trained": "checkpoint_io",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use: most steps of the pipeline do without Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
