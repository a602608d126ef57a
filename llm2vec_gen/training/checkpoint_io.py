"""Checkpoints of Lightning: written and read by exactly their path, and loaded into a model."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from llm2vec_gen.errors import InputError, one_line


class LocalCheckpointIO(TorchCheckpointIO):
    """Lightning's own takes a path for an address: "::" and "://" in a folder's name lead it to another file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the state; the caller makes the write atomic."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Read the state into main memory."""
        return torch.load(path, map_location=map_location, weights_only=weights_only is not False)


def load_trained(model: Any, path: Path | str) -> Any:
    """Load the trained tensors of a checkpoint of Lightning's ModelCheckpoint into a model, and return the model.

    model: an LLM2VecGen of the same shape, for example that of the finished run: `LLM2VecGen.from_pretrained(run)`. It
    can then be used, or saved with `save_pretrained`. Raises InputError where the file is no such checkpoint, or of
    another model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (OSError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is no checkpoint of a training ({one_line(error)}); expected a .ckpt file") from error
    given = {name.removeprefix("model."): value for name, value in state.items()}
    expected = model.trainables()
    if differing := sorted(
        name for name in {**given, **expected}
        if name not in given or name not in expected or given[name].shape != expected[name].shape
    ):  # fmt: skip
        raise InputError(f"{path} is of another model: {', '.join(differing)} differ; load it into a model of its run")
    with torch.no_grad():
        for name, value in given.items():
            expected[name].copy_(value)
    return model
