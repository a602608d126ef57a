"""Vectors on disk: encoded once, bit for bit, whoever was killed and whatever was torn."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen.encoders.cached import CachedEncoder, Shards, keys
from llm2vec_gen.errors import InputError

TEXTS = [f"text {number} " + "long " * (number % 7) for number in range(50)]


class Counting:
    """Vectors from a hash of instruction and text, full of awkward bits; counts the texts it is asked for."""

    embedding_dim = 5
    own_instruction = "its own"

    def __init__(self, model: str = "a"):
        self.model, self.asked = model, []

    def encode(self, texts, instruction=None):
        self.asked += list(texts)
        seeds = [hashlib.sha256(f"{self.model}|{instruction}|{text}".encode()).digest() for text in texts]
        rows = [np.random.default_rng(list(seed)).standard_normal(5, np.float32) for seed in seeds]
        return torch.tensor(np.array(rows).reshape(-1, 5))


def test_a_second_evaluation_encodes_nothing_and_gives_the_same_bits(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    plain = Counting().encode(TEXTS, "find:")
    assert torch.equal(CachedEncoder(first, tmp_path / "m", batch_size=8).encode(TEXTS, "find:"), plain)
    assert torch.equal(CachedEncoder(second, tmp_path / "m").encode(TEXTS[::-1], "find:"), plain.flip(0))
    assert (sorted(first.asked), second.asked) == (sorted(TEXTS), [])


def test_only_what_is_new_is_encoded_and_repeats_once(tmp_path: Path) -> None:
    encoder = Counting()
    cached = CachedEncoder(encoder, tmp_path / "m")
    cached.encode(["a", "b"])
    rows = cached.encode(["c", "b", "c", "a"])
    assert encoder.asked == ["a", "b", "c"]
    assert torch.equal(rows, Counting().encode(["c", "b", "c", "a"]))


def test_what_another_process_has_encoded_meanwhile_is_taken(tmp_path: Path) -> None:
    class Slow(Counting):
        def encode(self, texts, instruction=None):
            CachedEncoder(Counting(), tmp_path).encode(TEXTS)  # as another one would, while this one works
            return super().encode(texts, instruction)

    slow = Slow()
    assert torch.equal(CachedEncoder(slow, tmp_path, batch_size=8).encode(TEXTS), Counting().encode(TEXTS))
    assert 0 < len(slow.asked) <= 8


def test_instructions_and_models_never_mix(tmp_path: Path) -> None:
    instructions = [None, "", "None", "a", "ab"]
    for model in ("a", "b"):
        cached = CachedEncoder(Counting(model), tmp_path / model)
        for instruction in instructions:
            for text in ("b", "", "\nb"):
                assert torch.equal(cached.encode([text], instruction), Counting(model).encode([text], instruction))
    found = [keys([text], instruction).tobytes() for instruction in instructions for text in ("b", "", "bb", "\nb")]
    assert len(set(found)) == len(found)


def test_no_texts_and_a_single_text(tmp_path: Path) -> None:
    cached = CachedEncoder(Counting(), tmp_path / "m")
    assert cached.encode([]).shape == (0, 5)
    assert torch.equal(cached.encode("one"), Counting().encode(["one"]))


def test_all_else_is_the_encoders_own(tmp_path: Path) -> None:
    cached = CachedEncoder(Counting(), tmp_path / "f00d")
    assert (cached.own_instruction, cached.embedding_dim, cached.name) == ("its own", 5, "Counting")
    assert cached.fingerprint == "f00d"
    assert not hasattr(cached, "decode")


@pytest.mark.parametrize("lost", ["vectors", "keys", "both"])
def test_a_torn_shard_loses_its_tail_alone(tmp_path: Path, lost: str) -> None:
    CachedEncoder(Counting(), tmp_path).encode(TEXTS)
    for file in tmp_path.iterdir():
        if lost in (file.suffix[1:], "both"):
            file.write_bytes(file.read_bytes()[:-7])
    again = Counting()
    assert torch.equal(CachedEncoder(again, tmp_path).encode(TEXTS), Counting().encode(TEXTS))
    assert len(again.asked) == 1


def test_altered_vectors_are_encoded_again(tmp_path: Path) -> None:
    CachedEncoder(Counting(), tmp_path).encode(TEXTS)
    (file,) = tmp_path.glob("*.vectors")
    content = bytearray(file.read_bytes())
    content[2 * 5 * 4 : 4 * 5 * 4] = bytes(2 * 5 * 4)  # rows 2 and 3 as after a crash of the machine: zeros
    file.write_bytes(content)
    again = Counting()
    assert torch.equal(CachedEncoder(again, tmp_path).encode(TEXTS), Counting().encode(TEXTS))
    assert len(again.asked) == 2
    assert torch.equal(CachedEncoder(again, tmp_path).encode(TEXTS), Counting().encode(TEXTS))
    assert len(again.asked) == 2


def test_vectors_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    class Broken(Counting):
        def encode(self, texts, instruction=None):
            return super().encode(texts, instruction) / torch.tensor([[float(text != "bad")] for text in texts])

    assert not CachedEncoder(Broken(), tmp_path).encode(["good", "bad"]).isfinite().all()
    again = Counting()
    CachedEncoder(again, tmp_path).encode(["good", "bad"])
    assert again.asked == ["bad"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/m.*embedding_cache=false"):
        CachedEncoder(Counting(), tmp_path / "file" / "m").encode(["a"])


def test_many_rows_in_many_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [str(number) for number in range(20_000)]
    found, rows = keys(texts, None), rng.standard_normal((20_000, 3), np.float32)
    for part in np.array_split(rng.permutation(20_000), 7):
        Shards(tmp_path, 3).write(found[part], rows[part])
    out = np.zeros_like(rows)
    wanted = rng.permutation(20_000)
    assert Shards(tmp_path, 3).read(found[wanted], out) == []
    assert (out == rows[wanted]).all()


WORKER = """
import sys, time
from tests.encoders.test_cached import Counting, TEXTS
from llm2vec_gen.encoders.cached import CachedEncoder

class Slow(Counting):
    def encode(self, texts, instruction=None):
        time.sleep(0.1)
        with open(sys.argv[2], "a") as stream:
            stream.write("".join(f"{text}\\n" for text in texts))
        return super().encode(texts, instruction)

CachedEncoder(Slow(), sys.argv[1], batch_size=4).encode(TEXTS)
"""


def worker(folder: Path, asked: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(asked)], cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_a_kill_costs_one_batch_at_most(tmp_path: Path) -> None:
    folder, asked = tmp_path / "m", tmp_path / "asked"
    for batches in (3, 6):  # killed twice
        job = worker(folder, asked)
        end = time.monotonic() + 120
        while not asked.is_file() or len(asked.read_text().splitlines()) < batches * 4:
            assert time.monotonic() < end
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert worker(folder, asked).wait() == 0
    assert len(asked.read_text().splitlines()) <= len(TEXTS) + 2 * 4
    again = Counting()
    assert torch.equal(CachedEncoder(again, folder).encode(TEXTS), Counting().encode(TEXTS))
    assert again.asked == []


@pytest.mark.slow
def test_several_processes_write_at_once(tmp_path: Path) -> None:
    jobs = [worker(tmp_path / "m", tmp_path / "asked") for _ in range(3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    again = Counting()
    assert torch.equal(CachedEncoder(again, tmp_path / "m").encode(TEXTS), Counting().encode(TEXTS))
    assert again.asked == []
