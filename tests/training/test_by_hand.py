"""The documented training without Hydra and without `fit`: Lightning's Trainer with our module and data module."""

from __future__ import annotations

import csv
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from llm2vec_gen import training
from llm2vec_gen.errors import InputError

EXAMPLE = inspect.cleandoc(training.__doc__.partition("runs this):")[2])


def test_the_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    lines = EXAMPLE.replace("log_every_n_steps=2)", "log_every_n_steps=4, callbacks=callbacks, logger=logger)")
    saving = ModelCheckpoint(tmp_path / "best", monitor="train/loss", every_n_train_steps=4)
    from lightning.pytorch.loggers import CSVLogger

    names["callbacks"], names["logger"] = [saving, EarlyStopping("train/loss", patience=9)], CSVLogger(tmp_path, "", "")
    exec(lines, names)
    assert names["trainer"].global_step == 6
    with (tmp_path / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows if row["train/loss"]] == ["4", "6"]  # the last row has what is left
    assert [row["step"] for row in rows if row["val/retrieval"]] == ["6"]
    state = torch.load(saving.best_model_path, weights_only=True)["state_dict"]
    assert sorted(state) == sorted(names["module"].trainables())  # not the backbone
    assert len(EXAMPLE.splitlines()) <= 17  # with a blank line


def test_lightnings_validation_and_the_best_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own defaults: inference mode, one validation at the end of the epoch, a sanity check before it."""
    monkeypatch.chdir(tmp_path)
    best = ModelCheckpoint(tmp_path / "best", monitor="val/retrieval_mrr", mode="max")
    names: dict = {"callbacks": [EarlyStopping("val/loss"), best]}
    exec(EXAMPLE.replace("max_epochs=1", "max_epochs=1, callbacks=callbacks, logger=False"), names)
    trainer, module, data, model = (names[name] for name in ("trainer", "module", "data", "model"))
    logged = {name: float(trainer.callback_metrics[name]) for name in module.validation_names()}
    assert trainer.validate(module, datamodule=data, verbose=False) == [pytest.approx(logged)]
    trained = {name: value.clone() for name, value in model.trainables().items()}
    with torch.no_grad():
        model.suffix.zero_()
    assert training.load_trained(model, best.best_model_path) is model
    assert all(torch.equal(value, trained[name]) for name, value in model.trainables().items())
    other = type(model)(model.backbone, embedding_dim=8)
    for path, what in ((best.best_model_path, "alignment_projection.bias, alignment_projection.weight differ"),
                       (__file__, "is no checkpoint of a training"), (tmp_path / "none", "no checkpoint")):  # fmt: skip
        with pytest.raises(InputError, match=what):
            training.load_trained(other, path)
    loaded = training.LLM2VecGenModule.load_from_checkpoint(
        best.best_model_path, model=model, losses=module.losses, settings=names["settings"]
    )
    assert loaded.trainables().keys() == module.trainables().keys()


def test_the_names_are_imported_on_first_use() -> None:
    code = "import sys, llm2vec_gen.training as t; t.TrainingSettings; print('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    with pytest.raises(AttributeError, match="Trainee"):
        training.Trainee  # noqa: B018
