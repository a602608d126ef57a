"""Convert checkpoints between formats, and GGUF files to model folders; experiments/convert.py is the command line."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from llm2vec_gen import checkpoints
from llm2vec_gen.backbones import gguf
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.checkpoints.folder import staged
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


def convert(
    source: str | Path,
    target: str | Path,
    format: str = "native",
    revision: str | None = None,
    backbone: str | None = None,
) -> Path:
    """Read `source` (a folder, hub id or GGUF file), write `target` (a new folder), read it back and compare.

    Tensors are carried over bit by bit. Only the merged format needs the backbone itself (`backbone` replaces the
    recorded path); projections written for a 16-bit backbone in the reference layout are rounded, with a warning.
    A GGUF file becomes an ordinary folder of its language model: dequantised float32 weights, config, tokenizer, chat
    template.
    """
    if format not in checkpoints.FORMATS:
        raise InputError(f"format={format} is no format; known: {', '.join(checkpoints.FORMATS)}")
    folder = Path(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"to convert into, {folder} must be a new or empty folder; choose another or remove it")
    if gguf.is_gguf(source):
        _convert_gguf(str(source), folder, format)
        return folder
    checkpoint = checkpoints.read(source, revision)
    if format == "merged":
        LLM2VecGen.from_pretrained(source, device="cpu", backbone=backbone, revision=revision).save_pretrained(
            folder, format
        )
    else:
        place = checkpoint.settings["backbone"]
        settings = checkpoint.settings | {"backbone": place | {"path": backbone or checkpoint.backbone_path()}}
        checkpoints.write(folder, settings, checkpoint.tensors, checkpoint.files, format=format)
    _compare(checkpoint, checkpoints.read(folder))
    return folder


def _convert_gguf(source: str, folder: Path, format: str) -> None:
    if format != "native":
        raise InputError(f"format={format} is one of checkpoints; a GGUF file becomes a model folder: leave format out")
    with staged(folder) as place:
        gguf.write_folder(source, place)
        fingerprints = [
            Backbone.from_pretrained(str(path), dtype="float32", device="cpu").fingerprint for path in (source, place)
        ]
        if fingerprints[0] != fingerprints[1]:
            raise RuntimeError(f"the folder written of {source} is another model than the file")


def _compare(before: checkpoints.Checkpoint, after: checkpoints.Checkpoint) -> None:
    """Raise RuntimeError where a tensor was lost; warn where one was rounded."""
    if set(before.tensors) != set(after.tensors):
        raise RuntimeError(f"tensors were lost in the conversion: {sorted(set(before.tensors) ^ set(after.tensors))}")
    rounded = [
        name
        for name, tensor in before.tensors.items()
        if not torch.equal(tensor.double(), after.tensors[name].double())
    ]
    if rounded:
        warnings.warn(
            f"{', '.join(rounded)} were rounded to {after.tensors[rounded[0]].dtype}, the backbone's dtype, as the "
            f"{after.format} format has them",
            stacklevel=3,
        )
