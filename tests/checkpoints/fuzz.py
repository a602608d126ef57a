"""Damage checkpoint folders at random and see that reading them ends in a clear error, or in a valid checkpoint.

    python -m tests.checkpoints.fuzz 500 [seed]

runs in one process with a limit on its memory and a clock on every folder; a crash, a hang, any error but InputError,
or a damaged native folder that is taken for whole ends it with status 1.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm2vec_gen import LLM2VecGen, checkpoints
from llm2vec_gen.errors import InputError
from tests.checkpoints.samples import FAMILIES, same, saved

SECONDS, MEMORY = 20, 6 << 30
WEIRD: list[Any] = [
    *(None, -1, 0, 1, 7, 10**9, 10**40, 0.5, -0.0, True, float("nan"), [], {}, [[]], [1, 2], {"a": {"b": []}}),
    *("", "None", "../../../etc/passwd", "/etc/passwd", "torch.float64", "x" * 10000, "\ud800"),
]


def main(count: int, seed: int = 0) -> int:
    """Number of folders that were handled wrongly."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    signal.signal(signal.SIGALRM, _too_slow)
    signal.signal(signal.SIGPROF, _too_slow)
    outcomes: dict[str, int] = {}
    wrong, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as name:
        sources = _sources(Path(name) / "sources")
        examine("reference qwen2_5", sources["reference qwen2_5"], sources["reference qwen2_5"])  # slow imports first
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
        for index in range(count):
            rng = random.Random(f"{seed}-{index}")
            kind = rng.choice(sorted(sources))
            folder = Path(name) / "case"
            shutil.copytree(sources[kind], folder, symlinks=True)
            done = [damage(folder, rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
            start = time.process_time()
            outcome = examine(kind, folder, sources[kind])
            seconds = time.process_time() - start
            slowest = max(slowest, seconds)
            if seconds > SECONDS / 4:
                print(f"slow: {seconds:.1f} s for case {seed}-{index}, {kind}, {done}: {outcome}")
            outcomes[outcome.split(":")[0]] = outcomes.get(outcome.split(":")[0], 0) + 1
            if outcome.startswith("WRONG"):
                wrong += 1
                print(f"case {seed}-{index}, {kind}, {done}: {outcome}")
            _remove(folder)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    print(f"{count} damaged folders: {outcomes}; slowest {slowest:.2f} s")
    return wrong


def examine(kind: str, folder: Path, source: Path) -> str:
    """What reading the folder ends in."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(20 * SECONDS)  # a wait that costs no processor time; generous, as the machine may be busy
    try:
        read = checkpoints.read(folder)
        model = LLM2VecGen.from_pretrained(folder, device="cpu", backbone=str(FAMILIES / kind.split()[1] / "backbone"))
        model.encode("a text")
    except InputError as error:
        return "refused" if len(str(error)) > 20 else f"WRONG: empty message {error}"
    except BaseException as error:
        return f"WRONG: {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    original = checkpoints.read(source)
    if same(read, original) and read.settings == original.settings:
        return "read unchanged"
    return "read, valid" if kind.startswith("reference") else "WRONG: a damaged native folder was read"


def damage(folder: Path, rng: random.Random) -> str:
    """One change to one file; returns what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    files = [path for path in files if path.name != "README.md" and path.stat().st_size < 1 << 24]
    if not files:
        return "nothing left"
    path = rng.choice(files)
    ways: list[Callable[[Path, random.Random], None]] = [_remove_file, _truncate, _flip, _replace_file, _grow]
    if path.suffix in (".json", ".yml"):
        ways += [_edit_text] * 6
    if path.suffix == ".safetensors":
        ways += [_edit_header] * 6
    if path.name.endswith("_mlp"):
        ways += [_edit_zip] * 6
    way = rng.choice(ways)
    way(path, rng)
    return f"{way.__name__} {path.relative_to(folder)}"


def _remove_file(path: Path, rng: random.Random) -> None:
    path.unlink()


def _truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 3, 30])):
        if content:
            content[rng.randrange(min(len(content), rng.choice([64, 1024, 1 << 30])))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def _replace_file(path: Path, rng: random.Random) -> None:
    path.unlink()
    choice = rng.randrange(6)
    if choice == 0:
        path.mkdir()
    elif choice == 1:
        os.mkfifo(path)
    else:
        path.symlink_to(rng.choice(["/etc/passwd", "/dev/zero", path.name, "../..", "nowhere"]))


def _grow(path: Path, rng: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(rng.choice([1 << 20, 1 << 33, 1 << 40]))


def _edit_text(path: Path, rng: random.Random) -> None:
    """Drop, replace or add a value somewhere in a JSON file; the same with lines of YAML."""
    if path.suffix == ".yml":
        lines = path.read_text(errors="replace").splitlines() or [""]
        place = rng.randrange(len(lines))
        value = rng.choice(
            [*map(repr, WEIRD), "!!python/object/apply:os.system ['true']", "&a [*a]", "[" * 5000, "? {", "1e999"]
        )
        lines[place : place + 1] = rng.choice([[], [lines[place].split(":")[0] + ": " + value]])
        path.write_text("\n".join(lines), errors="replace")
        return
    try:
        value = json.loads(path.read_text(errors="replace"))
    except (ValueError, RecursionError):
        return
    spot, key = value, None
    while isinstance(spot, dict | list) and spot and (key is None or rng.random() < 0.7):
        parent, key = spot, rng.choice(list(spot) if isinstance(spot, dict) else range(len(spot)))
        spot = parent[key]
    if key is not None:
        if rng.random() < 0.3:
            del parent[key]
        else:
            parent[key] = rng.choice(WEIRD)
    text = json.dumps(value, indent=rng.choice([None, 2]))
    path.write_text(rng.choice([text, text, text, "[" * 100000, text + text]))


def _edit_header(path: Path, rng: random.Random) -> None:
    """Change one entry of a safetensors header, or the length it announces."""
    content = path.read_bytes()
    if len(content) < 8 or (size := struct.unpack("<Q", content[:8])[0]) > len(content) - 8:
        return
    try:
        header = json.loads(content[8 : 8 + size])
    except ValueError:
        return
    name = rng.choice([name for name in header if name != "__metadata__"] or ["x"])
    entry = header.get(name, {})
    choice = rng.randrange(8)
    if choice == 0:
        header.pop(name, None)
    elif choice == 1:
        header["other"] = dict(entry)
    elif choice == 2:
        entry["shape"] = rng.choice([[], [1], [10**9, 10**9], [2**63, 2], [-1], [0], "x"])
    elif choice == 3:
        entry["dtype"] = rng.choice(["I64", "F64", "BF16", "F16", "BOOL", "Z9", None])
    elif choice == 4:
        entry["data_offsets"] = rng.choice([[0, 2**62], [2**62, 2**63], [5, 1], [0, 0], [0], None])
    elif choice == 5:
        size = rng.choice([0, 1, 2**31, 2**62, 2**64 - 1])
        path.write_bytes(struct.pack("<Q", size) + content[8:])
        return
    elif choice == 6:
        header["__metadata__"] = rng.choice([{}, {"format": "tf"}, {"a": 1}, None])
    else:  # values that are not finite
        data = bytearray(content)
        data[8 + size : 12 + size] = struct.pack("<f", rng.choice([float("nan"), float("inf")]))
        path.write_bytes(bytes(data))
        return
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


class _Call:
    def __reduce__(self) -> tuple:
        return os._exit, (99,)


def _edit_zip(path: Path, rng: random.Random) -> None:
    """Change one record of a torch.save file, keeping the archive itself sound."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return
    name = rng.choice(sorted(records))
    pickled = next((name for name in records if name.endswith("data.pkl")), name)
    choice = rng.randrange(8)
    if choice == 0:
        records.pop(name)
    elif choice == 1:
        records[name] = records[name][: rng.randrange(len(records[name]) + 1)]
    elif choice == 2:
        records[pickled] = pickle.dumps(_Call(), protocol=rng.choice([0, 2, 4, 5]))
    elif choice == 3:
        records[pickled] = rng.choice(
            [b"\x80\x02r\xff\xff\xff\x7f.", b"\x80\x04\x8e" + b"\xff" * 8, b"(" * 100000, b"K\x01."]
        )
    elif choice == 4:
        records[name.replace("0", "9")] = b"\0" * (1 << 20)
    elif choice == 5:
        big = struct.pack("<i", rng.choice([2**31 - 1, -1, 0, 1 << 20]))
        place = records[pickled].find(rng.choice([b"M", b"K"]), rng.randrange(len(records[pickled])))
        step = 3 if records[pickled][place : place + 1] == b"M" else 2
        records[pickled] = records[pickled][:place] + b"J" + big + records[pickled][place + step :]
    else:
        damaged = bytearray(records[pickled] if choice == 6 else records[name])
        for _ in range(rng.choice([1, 2, 5])):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        records[pickled if choice == 6 else name] = bytes(damaged)
    pack = zipfile.ZIP_DEFLATED if rng.random() < 0.15 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", pack) as archive:
        for record, data in records.items():
            archive.writestr(record, data)


def _sources(root: Path) -> dict[str, Path]:
    """One whole folder per kind."""
    found = {f"reference {name}": FAMILIES / name / "checkpoint" for name in ("qwen2_5", "llama_20", "qwen3_lora")}
    for name in ("qwen2_5", "qwen3_lora"):
        checkpoint = checkpoints.read(FAMILIES / name / "checkpoint")
        found[f"native {name}"] = saved(root / name, checkpoint)
    return found


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"reading took more than {SECONDS} s")


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) else 0)
