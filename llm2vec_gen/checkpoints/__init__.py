"""A folder on disk <-> (settings, tensors): one file per format, without model classes."""

from llm2vec_gen.checkpoints.base import FORMATS, Checkpoint, check_free, locate, read, write

__all__ = ["FORMATS", "Checkpoint", "check_free", "locate", "read", "write"]
