"""Tensors out of a torch.save file, and nothing else: no class is imported, no code runs, no size is believed.

A torch.save file is a zip archive: a pickle (data.pkl) that describes tensors, and one record of raw bytes per storage.
The pickle is read by Python's own interpreter in pure Python (its memo is a dictionary, so that a hostile index cannot
reserve memory), in which the only names that exist are an ordered dictionary, torch's storage types and torch's tensor
builder; all three are stand-ins defined here. Sizes are compared with the records before a tensor is made.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.checkpoints import folder
from llm2vec_gen.errors import InputError

_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
}
_PICKLE_LIMIT, _RECORDS_LIMIT, _FILE_LIMIT = 1 << 20, 64, 4 << 30


def read(path: Path, name: str) -> dict[str, Any]:
    """Return the dictionary that was saved, tensors on the CPU whatever device they were saved from."""
    file = folder.inside(path, name)
    if not file.is_file():
        raise InputError(f"{file} is missing or no plain file; fetch the checkpoint again")
    if file.stat().st_size > _FILE_LIMIT:
        raise InputError(f"{file} has {file.stat().st_size} bytes, more than a projection can have")
    try:
        with zipfile.ZipFile(file) as archive:
            value = _unpickle(archive, str(file))
    except InputError:
        raise
    except Exception as error:  # damaged bytes can raise anything inside zipfile and pickle
        raise InputError(
            f"{file} is not a complete torch.save file ({type(error).__name__}: {error}); it is damaged or of an "
            f"older kind, "
            "fetch it again"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{file} holds a {type(value).__name__}; a dictionary with state_dict and config was expected")
    return value


def write(value: dict[str, Any]) -> bytes:
    """Return the bytes of a file in the same layout."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpickle(archive: zipfile.ZipFile, where: str) -> Any:
    """Check the archive's directory, then read its one pickle."""
    records = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in records if name.endswith("/data.pkl")]
    total = sum(info.file_size for info in archive.infolist())
    if len(pickles) != 1 or len(archive.infolist()) != len(records) or len(records) > _RECORDS_LIMIT:
        raise InputError(f"{where} is no torch.save file of one object: {len(archive.infolist())} records")
    packed = any(info.compress_type != zipfile.ZIP_STORED for info in records.values())
    if packed or total > Path(where).stat().st_size or records[pickles[0]].file_size > _PICKLE_LIMIT:
        raise InputError(f"{where} announces {total} bytes of records or packs them, which torch.save never does")
    prefix = pickles[0].removesuffix("data.pkl")
    order = records.get(prefix + "byteorder")
    if order is not None and (order.file_size > 16 or archive.read(order).strip() != b"little"):
        raise InputError(f"{where} was written on a machine with another byte order; save it again on a common one")
    return _Reader(archive, prefix, records, where, archive.read(pickles[0])).load()


class _Names(dict[Any, Any]):
    """Stand-in for OrderedDict: takes the attributes that state_dict() leaves on it."""


class _Reader(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Python's pickle interpreter with a vocabulary of three words."""

    def __init__(
        self, archive: zipfile.ZipFile, prefix: str, records: dict[str, zipfile.ZipInfo], where: str, content: bytes
    ) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self.archive, self.prefix, self.records, self.where = archive, prefix, records, where

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three permitted kinds of object; raise InputError with the name of any other."""
        if (module, name) in (("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")):
            return type("Names", (_Names,), {}) if name == "OrderedDict" else lambda *parts: self._tensor(*parts)
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise InputError(
            f"{self.where} asks for {module}.{name}: it holds more than tensors and is refused. Do not load this file "
            "with other software either unless you trust its author"
        )

    def persistent_load(self, pid: Any) -> tuple[torch.dtype, bytes]:
        """Return a storage: its dtype and the raw bytes of its record; their number is checked."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise InputError(f"{self.where}: a storage is described by {kind!r}, {dtype!r}, {key!r}")
        record = self.records.get(f"{self.prefix}data/{key}")
        size = record.file_size if record is not None else None
        if record is None or type(count) is not int or count < 1 or size != count * dtype.itemsize:
            raise InputError(f"{self.where}: storage {key!r} announces {count!r} numbers of {dtype} in {size} bytes")
        return dtype, self.archive.read(record)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        """Return a tensor of a storage; the shape must lie within it."""
        dtype, content = storage
        numbers = [offset, *size, *stride]
        if (
            any(type(n) is not int or not 0 <= n < 1 << 40 for n in numbers)
            or len(size) != len(stride)
            or len(size) > 4
        ):
            raise InputError(f"{self.where}: a tensor of size {size!r} and stride {stride!r} cannot be")
        count = len(content) // dtype.itemsize
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if min(size, default=1) < 1 or last >= count or math.prod(size) > count:
            raise InputError(f"{self.where}: a tensor of size {size!r} does not fit into {count} stored numbers")
        flat = torch.frombuffer(bytearray(content), dtype=dtype)
        return flat.as_strided(size, stride, offset).clone()
