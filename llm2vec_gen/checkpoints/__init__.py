"""A folder on disk <-> (settings, tensors): one file per format, and no model class in sight."""

from llm2vec_gen.checkpoints.base import FORMATS, Checkpoint, locate, read, write

__all__ = ["FORMATS", "Checkpoint", "locate", "read", "write"]
