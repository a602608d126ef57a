"""Resume states are read and written by exactly their path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class LocalCheckpointIO(TorchCheckpointIO):
    """Lightning's own takes a path for an address: "::" and "://" in a folder's name lead it to another file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the state; the caller makes the write atomic."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Read the state into main memory."""
        return torch.load(path, map_location=map_location, weights_only=weights_only is not False)
