"""Files of any length through the commands: formats in and out, standard input, flat memory."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from llm2vec_gen import LLM2VecGen, cli
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.cli import command, reading, writing
from llm2vec_gen.cli.writing import results
from tests.builders import tiny_backbone_folder

TEXTS = ["a cat", "the dog sat", "", "how many legs", "the moon and the stars"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    model = LLM2VecGen(Backbone.from_pretrained(str(tiny_backbone_folder(home)), device="cpu"), 12, 2, 3, max_length=40)
    model.eval().save_pretrained(home / "model")
    return str(home / "model")


@pytest.fixture(scope="module")
def expected(folder) -> np.ndarray:
    return LLM2VecGen.from_pretrained(folder, device="cpu").encode(TEXTS).numpy()


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 2)
    monkeypatch.setattr(reading.Texts.chunks, "__defaults__", (2,))


def give(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def error_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().split("\n")[-1]


@pytest.mark.parametrize("ending", ["npy", "jsonl", "parquet"])
def test_encode_in_pieces_equals_encode_at_once(folder, tmp_path, expected, small_chunks, ending):
    lines, output = tmp_path / "t.txt", tmp_path / f"v.{ending}"
    lines.write_text("\n".join(TEXTS) + "\n")
    cli.main(["encode", folder, "--file", str(lines), "--output", str(output), "--device", "cpu"])
    if ending == "npy":
        found = np.load(output)
    else:
        rows = pq.read_table(output).to_pylist() if ending == "parquet" else [*map(json.loads, output.open())]
        assert [(row["id"], row["text"]) for row in rows] == [(str(n), text) for n, text in enumerate(TEXTS, 1)]
        found = np.array([row["embedding"] for row in rows], dtype=np.float32)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "lines"])
def test_standard_input_takes_every_format(folder, tmp_path, expected, monkeypatch, kind):
    file = tmp_path / f"in.{kind}"
    rows = [{"id": f"d{number}", "q": text} for number, text in enumerate(TEXTS)]
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        file.write_text("id,q\n" + "".join(f"{row['id']},{row['q']}\n" for row in rows))
    elif kind == "parquet":
        import pyarrow as pa

        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("\n".join(TEXTS) + "\n")
    give(monkeypatch, file.read_bytes())
    output = tmp_path / "v.jsonl"
    cli.main(["encode", folder, "-", "--format", kind, "--column", "q", "--output", str(output), "--device", "cpu"])
    found = [*map(json.loads, output.open())]
    ids = [row["id"] for row in rows] if kind != "lines" else [str(number) for number in range(1, 6)]
    assert [row["id"] for row in found] == ids
    assert np.abs(np.array([row["embedding"] for row in found]) - expected).max() < 1e-5


def test_soft_prompts_are_written_and_decoded_later(folder, tmp_path, capsys):
    prompts, output = tmp_path / "p.npy", tmp_path / "d.jsonl"
    cli.main(["encode", folder, *TEXTS, "--vectors", "soft_prompts", "--output", str(prompts), "--device", "cpu"])
    assert "5 x 3 x 32" in capsys.readouterr().out and np.load(prompts).shape == (5, 3, 32)
    more = ["--max-new-tokens", "4", "--device", "cpu"]
    cli.main(["decode", folder, "--soft-prompts", str(prompts), "--output", str(output), *more])
    cli.main(["decode", folder, *TEXTS, "--output", str(tmp_path / "t.jsonl"), *more])
    stored, direct = ([*map(json.loads, file.open())] for file in (output, tmp_path / "t.jsonl"))
    assert [row["decoded"] for row in stored] == [row["decoded"] for row in direct]
    assert [row["text"] for row in direct] == TEXTS
    (tmp_path / "x.npy").write_text("no array")
    assert "expected a npy file (N, K, D)" in error_of(
        capsys, "decode", folder, "--soft-prompts", str(tmp_path / "x.npy")
    )
    assert "leave out texts" in error_of(capsys, "decode", folder, "a", "--soft-prompts", str(prompts))


def test_lens_and_search_write_rows(folder, tmp_path, capsys, small_chunks):
    cli.main(["lens", folder, "a cat", "--top", "2", "--output", "-", "--device", "cpu"])
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["text"] == "a cat" and [len(words) for words in row["words"]] == [2, 2, 2]
    corpus, output = tmp_path / "c.txt", tmp_path / "h.parquet"
    corpus.write_text("\n".join(TEXTS) + "\n")
    bare = ["--instruction", "", "--document-instruction", "", "--device", "cpu"]
    cli.main(
        [
            "search",
            folder,
            "a cat",
            "how many legs",
            "--corpus",
            str(corpus),
            "--top",
            "3",
            "--output",
            str(output),
            *bare,
        ]
    )
    hits = pq.read_table(output).to_pylist()
    vectors = LLM2VecGen.from_pretrained(folder, device="cpu").encode([TEXTS[n] for n in (0, 1, 3, 4)], normalize=True)
    for query, row in (("a cat", 0), ("how many legs", 2)):
        best = (vectors @ vectors[row]).topk(3)
        found = [hit for hit in hits if hit["query"] == query]
        assert [hit["text"] for hit in found] == [[TEXTS[n] for n in (0, 1, 3, 4)][n] for n in best.indices]
        assert np.allclose([hit["score"] for hit in found], best.values, atol=1e-5)
        assert [hit["rank"] for hit in found] == [1, 2, 3]


def test_a_broken_line_far_in_the_file_leaves_no_output(folder, tmp_path, capsys, small_chunks):
    file, output = tmp_path / "t.jsonl", tmp_path / "v.npy"
    file.write_text('{"text": "a"}\n' * 5 + "{broken\n")
    assert "t.jsonl:6 is no JSON" in error_of(capsys, "encode", folder, "--file", str(file), "--output", str(output))
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.jsonl"]


def test_wrong_outputs_are_refused_before_the_model_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(LLM2VecGen, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    for name in ("decode", "lens"):
        assert "ends in .jsonl or .parquet" in error_of(capsys, name, "m", "t", "--output", str(tmp_path / "x.npy"))
    message = error_of(capsys, "encode", "m", "t", "--normalize", "--vectors", "states")
    assert "--normalize is for embeddings" in message


def test_the_name_of_a_file_as_text_is_pointed_out(folder, tmp_path, capsys):
    (tmp_path / "q.txt").write_text("a cat\n")
    cli.main(["lens", folder, str(tmp_path / "q.txt"), "--top", "1"])
    assert f"--file {tmp_path / 'q.txt'} reads the file" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_a_growing_npy_file_is_one_that_numpy_reads(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1234, *shape)).astype(np.float32)
    with results(tmp_path / "v.npy") as writer:
        for start in range(0, len(vectors), 100):
            writer.write([{"id": "x", "v": vector} for vector in vectors[start : start + 100]])
    assert np.array_equal(np.load(tmp_path / "v.npy"), vectors)
    assert np.array_equal(np.load(tmp_path / "v.npy", mmap_mode="r")[-1], vectors[-1])


def test_memory_does_not_grow_with_the_number_of_lines(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 16)
    monkeypatch.setattr(reading.Texts.chunks, "__defaults__", (16,))
    peaks = []
    for number in (64, 64, 640):  # the first loads what is imported late
        file = tmp_path / f"{number}.txt"
        with file.open("w") as stream:
            stream.writelines(f"{row} " + "cat " * 1000 + "\n" for row in range(number))
        tracemalloc.start()
        cli.main(["encode", folder, "--file", str(file), "--output", str(tmp_path / "v.npy"), "--device", "cpu"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 500_000, "640 lines are 2.5 MB"


@pytest.mark.parametrize("name", [each.name for each in command.MODEL_COMMANDS])
def test_every_help_has_an_example_that_parses(name: str, capsys) -> None:
    (shown,) = (each for each in command.MODEL_COMMANDS if each.name == name)
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    assert shown.example in capsys.readouterr().out
    import shlex

    if shown.example.startswith("llm2vec-gen"):
        command.parse(shlex.split(shown.example)[1:])


def test_parquet_takes_types_from_later_rows_and_is_written_without_any(tmp_path: Path, monkeypatch) -> None:
    with results(tmp_path / "a.parquet") as writer:
        writer.write([{"id": "a", "year": None}])
        writer.write([{"id": "b", "year": 3}])
        writer.write([{"id": "c", "year": None}])
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [
        {"id": "a", "year": None}, {"id": "b", "year": 3}, {"id": "c", "year": None}
    ]  # fmt: skip
    with results(tmp_path / "b.parquet") as writer:
        writer.write([{"id": "a", "year": None}])
    assert pq.read_table(tmp_path / "b.parquet").to_pylist() == [{"id": "a", "year": None}]
    monkeypatch.setattr(writing, "MAX_WAITING", 2)
    with results(tmp_path / "d.parquet") as writer:
        for year in (None, None, 3):
            writer.write([{"id": "a", "year": year}])
    assert [row["year"] for row in pq.read_table(tmp_path / "d.parquet").to_pylist()] == [None, None, "3"]
    with results(tmp_path / "c.parquet"):
        pass
    assert pq.read_table(tmp_path / "c.parquet").num_rows == 0
