"""The command line, in this process, on a tiny random model."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen import LLM2VecGen, cli
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.cli.arguments import check_device
from llm2vec_gen.cli.command import parse
from llm2vec_gen.cli.reading import read_texts
from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.types import Query
from tests.builders import tiny_backbone_folder

ROOT = Path(__file__).parents[2]
HARD = "one\ftwo\u2028three\x85four"  # a single line, to all but str.splitlines


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    model = LLM2VecGen(Backbone.from_pretrained(str(tiny_backbone_folder(home)), device="cpu"), 12, 2, 3, max_length=40)
    model.eval().save_pretrained(home / "model")
    return str(home / "model")


@pytest.fixture
def unloaded(monkeypatch) -> None:
    """Fails the test that loads a model: what is wrong is said before."""
    monkeypatch.setattr(LLM2VecGen, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))


def refused(capsys, *arguments: str) -> str:
    """What the command says of wrong input, in one line after argparse's own usage."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == ""
    *usage, message = said.err.strip().split("\n")
    assert not usage or usage[0].startswith("usage: ")
    return message


def give(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


@pytest.mark.parametrize("name", ["vectors.npy", "noext", "vectors.v1"])
def test_encode_writes_the_file_it_names_and_nothing_else(folder, tmp_path, capsys, name):
    output = tmp_path / name
    cli.main(["encode", folder, "a cat", "a dog", "--output", str(output), "--normalize"])
    assert capsys.readouterr().out == f"{output}  2 x 12\n"
    assert list(tmp_path.iterdir()) == [output]
    expected = LLM2VecGen.from_pretrained(folder).encode(["a cat", "a dog"], normalize=True)
    assert np.allclose(np.load(output), expected.numpy(), atol=1e-6)


def test_encode_refuses_an_output_that_cannot_be_before_any_work(unloaded, tmp_path, capsys):
    assert "this is a folder; expected the name of a file" in refused(
        capsys, "encode", "m", "text", "--output", str(tmp_path)
    )
    missing = tmp_path / "none" / "x.npy"
    message = refused(capsys, "encode", "m", "text", "--output", str(missing))
    assert f"there is no folder {missing.parent}" in message
    assert not list(tmp_path.parent.glob("*.npy"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_encode_refuses_a_folder_that_may_not_be_written(unloaded, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "may not write" in refused(capsys, "encode", "m", "text", "--output", str(tmp_path / "x.npy"))


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (f"{HARD}\nlast\n".encode(), [HARD, "last"]),
        (f"{HARD}\nlast".encode(), [HARD, "last"]),
        (b"dos\r\nend\r\n", ["dos", "end"]),
        (b"mac\rline\n", ["mac\rline"]),
        (b"\xef\xbb\xbffirst\n\nthird\n", ["first", "", "third"]),
        (b"\n", [""]),
    ],
)
def test_rows_are_the_lines_of_a_file_and_of_standard_input_alike(monkeypatch, tmp_path, data, rows):
    file = tmp_path / "texts.txt"
    file.write_bytes(data)
    give(monkeypatch, data)
    assert [row.text for row in read_texts(parse(["encode", "m", "--file", str(file)]))] == rows
    assert [row.text for row in read_texts(parse(["encode", "m"]))] == rows


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"fine\ncaf\xe9\n", ":2 is not utf-8 text (byte 0xe9)"),
        (b"\xef\xbb\xbffine\n\xff", ":2 is not utf-8 text (byte 0xff)"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
    ],
)
def test_texts_that_cannot_be_read_are_refused_by_name(unloaded, monkeypatch, tmp_path, capsys, data, message):
    file = tmp_path / "texts.txt"
    file.write_bytes(data)
    for arguments in (["encode", "m", "--file", str(file)], ["search", "m", "q", "--corpus", str(file)]):
        said = refused(capsys, *arguments)
        assert str(file) in said and message in said and "expected" in said
    give(monkeypatch, data)
    said = refused(capsys, "decode", "m")
    assert "standard input" in said and message in said


def test_files_that_are_none_are_refused(unloaded, tmp_path, capsys):
    assert "choose one of the two" in refused(capsys, "lens", "m", "a text", "--file", str(tmp_path / "texts.txt"))
    for file in (tmp_path, tmp_path / "none.txt"):
        assert f"{file}: " in refused(capsys, "lens", "m", "--file", str(file))
        assert f"{file}: " in refused(capsys, "search", "m", "q", "--corpus", str(file))


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
@pytest.mark.parametrize(
    ("command", "option"), [("search", "--top"), ("lens", "--top"), ("decode", "--max-new-tokens")]
)
def test_counts_are_whole_numbers_of_one_or_more(capsys, command, option, value):
    more = ["--corpus", "c"] if command == "search" else []
    said = refused(capsys, command, "m", "text", *more, option, value)
    assert f"argument {option}: {value}: expected a whole number of 1 or more" in said


def test_a_device_that_is_not_there_is_refused_with_those_that_are(unloaded, monkeypatch, capsys):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    for name in ("cuda", "gpu", "cuda:1"):
        said = refused(capsys, "lens", "m", "text", "--device", name)
        assert said == f"error: --device {name}: this machine has cpu; choose one of these"
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert "this machine has cpu, cuda, cuda:0;" in refused(capsys, "lens", "m", "text", "--device", "cuda:1")
    for name in ("cpu", "cuda", "cuda:0"):
        check_device(name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["m", "--corpus", "c", "one", "two"],
        ["m", "one", "--corpus", "c", "two"],
        ["m", "one", "two", "--corpus", "c"],
        ["--corpus", "c", "m", "one", "two"],
        ["--corpus", "c", "m", "--", "one", "two"],
    ],
)
def test_texts_may_stand_before_and_after_options(arguments):
    options = parse(["search", *arguments])
    assert (options.model, options.texts, str(options.corpus)) == ("m", ["one", "two"], "c")


def test_what_is_no_option_or_command_is_refused(capsys):
    assert "unrecognized arguments: --bottom" in refused(capsys, "search", "m", "q", "--corpus", "c", "--bottom")
    assert "required: --corpus" in refused(capsys, "search", "m", "q")
    assert "required: model" in refused(capsys, "encode")
    assert "invalid choice: 'find'" in refused(capsys, "find", "m")
    assert "required: command" in refused(capsys)


def test_search_ranks_the_lines_of_the_corpus(folder, tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(f"a spider has eight legs\n{HARD}\nthe cat sat on the mat\n", encoding="utf-8")
    bare = ["--instruction", "", "--document-instruction", ""]
    cli.main(["search", folder, "--corpus", str(corpus), "--top", "2", HARD, "the cat sat on the mat", *bare])
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == HARD and lines[1] == f"  1.000  2  {HARD}"
    assert lines[3] == "the cat sat on the mat" and lines[4] == "  1.000  3  the cat sat on the mat"
    assert len(lines) == 7


def test_search_takes_the_instructions_of_the_model_and_names_them(folder, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("a cat\na dog\n")
    cli.main(["search", folder, "--corpus", str(tmp_path / "corpus.txt"), "a cat"])
    shown = capsys.readouterr()
    model = LLM2VecGen.from_pretrained(folder, device="cpu")
    assert (
        f"query instruction: {model.prompts['query']}\ndocument instruction: {model.prompts['document']}" in shown.err
    )
    query = model.encode("a cat", prompt_name="query", normalize=True)
    best = (query @ model.encode(["a cat", "a dog"], prompt_name="document", normalize=True).T).max()
    assert shown.out.split("\n")[1].startswith(f"  {best:.3f}  ")


def test_decode_and_lens_say_something_of_every_text(folder, capsys):
    cli.main(["decode", folder, "--max-new-tokens", "3", "a cat", "a dog", "--device", "cpu"])
    said = capsys.readouterr().out
    assert said.startswith("a cat\n  ") and "\na dog\n  " in said
    cli.main(["lens", folder, "a cat", "--top", "2"])
    text, *positions = capsys.readouterr().out.rstrip("\n").split("\n")
    assert text == "a cat" and [line.split()[0] for line in positions] == ["1", "2", "3"]


def test_lens_reads_the_space_and_the_instruction_that_are_named(folder, capsys):
    model = LLM2VecGen.from_pretrained(folder, device="cpu")
    for space in ("states", "soft_prompts"):
        cli.main(["lens", folder, "a cat", "--top", "2", "--space", space, "--instruction", "Say it:"])
        (reading,) = LogitLens(2, space).interpret(model, [Query("0", "Say it: a cat")])
        shown = [line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]]
        assert shown == [" ".join(words).split() for words in reading.words]


def test_a_text_of_the_command_line_that_is_no_utf8_is_refused(unloaded, capsys):
    said = refused(capsys, "decode", "m", "a cat", "caf\udce9")
    assert "text 2 of the command line is not UTF-8" in said


def test_text_that_the_output_cannot_encode_is_printed_with_question_marks(folder):
    command = [sys.executable, "-m", "llm2vec_gen.cli", "lens", folder, "caf\xe9", "--top", "1", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == b"caf?"


def test_a_reader_that_has_enough_ends_the_command_quietly(folder, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as stop:
            cli.main(["info", folder])
    assert stop.value.code == 1 and capsys.readouterr().err == ""


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "llm2vec_gen.cli", "search", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith("usage: llm2vec-gen search ")


def test_a_data_file_is_read_by_its_column(folder, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a cat", "other": "a dog"}\n{"text": "NA", "other": "x"}\n')
    (tmp_path / "x.csv").write_text('text,other\n"a cat",a dog\nNA,x\n')
    model = LLM2VecGen.from_pretrained(folder, device="cpu")
    for file in ("x.jsonl", "x.csv"):
        for column, texts in (("text", ["a cat", "NA"]), ("other", ["a dog", "x"])):
            output = tmp_path / "v.npy"
            cli.main(["encode", folder, "--file", str(tmp_path / file), "--column", column, "--output", str(output)])
            assert np.abs(np.load(output) - model.encode(texts).numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ('{"query": "a"}', "text", "x.jsonl:1 has no text in column 'text'; it has query; name one with --column"),
        ('{"text": 5}', "text", "x.jsonl:1: column 'text' holds int 5; expected text"),
        ("", "text", "x.jsonl is empty"),
    ],
)
def test_a_data_file_without_the_column_is_named(folder, tmp_path, capsys, content, column, message):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(SystemExit) as stop:
        cli.main(["encode", folder, "--file", str(tmp_path / "x.jsonl"), "--column", column])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_blank_documents_are_skipped_and_counted_and_ids_shown(folder, tmp_path, capsys):
    (tmp_path / "c.txt").write_text("a cat\n\n   \na dog\n")
    cli.main(["search", folder, "--corpus", str(tmp_path / "c.txt"), "a cat"])
    shown = capsys.readouterr()
    assert "2 blank documents skipped" in shown.err
    assert {line.split()[1] for line in shown.out.splitlines()[1:]} == {"1", "4"}
    rows = [{"_id": "d7", "title": "t", "body": "a cat"}, {"_id": "d8", "body": ""}, {"_id": "d9", "body": "a dog"}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cli.main(["search", folder, "--corpus", str(tmp_path / "c.jsonl"), "--corpus-column", "body", "a cat"])
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]} == {"d7", "d9"}
    (tmp_path / "c.txt").write_text("\n\n")
    with pytest.raises(SystemExit):
        cli.main(["search", folder, "--corpus", str(tmp_path / "c.txt"), "a cat"])
    assert "holds blank lines alone" in capsys.readouterr().err
