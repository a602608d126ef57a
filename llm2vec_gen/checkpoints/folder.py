"""Reading files of a folder that may be damaged or hostile: nothing outside it, nothing larger than announced."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from safetensors.torch import save_file
from torch import Tensor

from llm2vec_gen.errors import InputError

TEXT_LIMIT = 64 << 20  # the largest text files are tokenizers, 17 MB at most so far


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of the folder; InputError where the name or a symbolic link leads out of it.

    A hub download is a folder of links into the `blobs` folder of the same repository: those are followed.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        raise InputError(f"{folder}: the file name {name!r} leads out of the folder; expected a name inside it")
    path = folder / name
    try:
        real, roots = path.resolve(), [folder.resolve()]
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is a symbolic link that leads nowhere; replace it by the file itself") from error
    roots += [blobs.resolve() for place in (folder.absolute(), folder.resolve()) if (blobs := _blobs(place))]
    if not any(real.is_relative_to(root) for root in roots):
        raise InputError(f"{path} is a symbolic link that leaves the folder; replace it by the file itself")
    return path


def _blobs(folder: Path) -> Path | None:
    """Return the blobs of the hub cache that a folder lies in, at .../snapshots/<commit> or below."""
    for place in (folder, *folder.parents):
        blobs = place.parent.parent / "blobs"
        if place.parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
            return blobs
    return None


def has(folder: Path, name: str) -> bool:
    """Return whether the folder holds this file; a link that leads out of it counts too (reading it fails)."""
    path = folder / name
    return path.is_file() or path.is_symlink()


def read_bytes(folder: Path, name: str, limit: int = TEXT_LIMIT) -> bytes:
    """Return the content of a file; InputError where it is missing, no plain file, or larger than the limit."""
    path = inside(folder, name)
    if not path.is_file():
        raise InputError(f"{path} is missing or no plain file; fetch the checkpoint again")
    if path.stat().st_size > limit:
        raise InputError(f"{path} has {path.stat().st_size} bytes; at most {limit} are expected of such a file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object; InputError for anything else."""
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no valid JSON ({error}); the file is damaged, fetch it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} holds a {type(value).__name__}; a JSON object was expected")
    return value


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON object from a file of the folder."""
    return parse_json(read_bytes(folder, name), str(folder / name))


def read_tensors(folder: Path, name: str, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """Return the wanted tensors of a safetensors file, on the CPU; sizes are checked by its header before anything is
    read.
    """
    path = inside(folder, name)
    if not path.is_file():
        raise InputError(f"{path} is missing or no plain file; fetch the checkpoint again")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key).clone() for key in file.keys() if wanted(key)}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file ({error}); it is damaged, fetch it again"
        ) from error


def tensor_bytes(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file as bytes, tensors sorted by name, so that equal content gives equal bytes."""
    ready = {name: tensors[name].detach().to("cpu", copy=True).contiguous() for name in sorted(tensors)}
    return tensors_to_bytes(ready, metadata or {"format": "pt"})


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files in order: each to a temporary name first, all renamed at the end."""
    ready: list[tuple[Path, Path]] = []
    try:
        for name, content in files.items():
            target = inside(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            ready.append((temporary, target))
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for temporary, target in ready:
            temporary.replace(target)
    finally:
        for temporary, _ in ready:
            temporary.unlink(missing_ok=True)


@contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """Yield a new folder inside `folder` (made if missing); at the end its files move up, config.json last.

    After an error nothing of it is left.
    """
    target = Path(folder)
    if target.is_file():
        raise InputError(f"{target} is a file; give the name of a folder to write a checkpoint into")
    new = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target} cannot be made ({error.strerror}); give another folder to write into") from None
    try:
        with tempfile.TemporaryDirectory(dir=target, prefix=".writing-") as place:
            yield Path(place)
            files = [path.relative_to(place) for path in Path(place).rglob("*") if path.is_file()]
            for name in sorted(files, key=lambda name: (name.name == "config.json", len(name.parts) == 1, name)):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(place) / name).replace(target / name)
    except BaseException:
        if new and not any(target.iterdir()):
            target.rmdir()
        raise


def write_tensors(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file too large to hold twice, under a temporary name that is then replaced."""
    target = inside(folder, name)
    temporary = target.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, str(temporary), {"format": "pt"})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def dtype_named(name: Any) -> torch.dtype | None:
    """Return float32, float16 or bfloat16 by name, with or without `torch.`; None for anything else."""
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return known.get(str(name).removeprefix("torch."))
