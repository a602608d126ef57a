"""llm2vec-gen index on a tiny random model: build, continue, add, search, explain, info."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen import LLM2VecGen, cli
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.cli import index as commands
from llm2vec_gen.index.vector_index import VectorIndex
from llm2vec_gen.models.expander import Expander
from tests.builders import tiny_backbone_folder

TEXTS = [f"{word} number {row}" for row, word in enumerate(["the cat", "a dog", "an owl", "one moon", "two stars"] * 8)]
BARE = ["--document-instruction", "", "--instruction", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    home = tmp_path_factory.mktemp("home")
    for seed in (0, 1):
        torch.manual_seed(seed)
        backbone = Backbone.from_pretrained(str(tiny_backbone_folder(home)), device="cpu")
        LLM2VecGen(backbone, 12, 2, 3, max_length=40).eval().save_pretrained(home / f"model{seed}")
    return str(home / "model0")


@pytest.fixture
def corpus(tmp_path) -> Path:
    file = tmp_path / "c.jsonl"
    rows = [{"id": f"d{row}", "text": text, "year": 2000 + row % 4} for row, text in enumerate(TEXTS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    return file


@pytest.fixture
def built(folder, corpus, tmp_path) -> str:
    target = str(tmp_path / "index")
    cli.main(
        ["index", "build", folder, str(corpus), "--output", target, "--metadata", "year", "--device", "cpu", *BARE]
    )
    return target


def error_of(capsys, *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().split("\n")[-1]


def test_a_build_stores_what_encode_and_soft_prompts_give(folder, corpus, tmp_path, capsys, caplog) -> None:
    built = str(tmp_path / "index")
    more = ["--metadata", "year", "--device", "cpu"]
    cli.main(["index", "build", folder, str(corpus), "--output", built, *more, *BARE])
    shown = capsys.readouterr()
    assert shown.out == f"{built}  40 documents\n"
    assert "41 rows read, 1 broken, 0 blank; 40 documents written" in shown.err
    assert any("c.jsonl:41 is no JSON" in message for message in caplog.messages)
    index, model = VectorIndex.open(built), LLM2VecGen.from_pretrained(folder, device="cpu")
    ids = [f"d{row}" for row in range(40)]
    assert np.abs(index.vectors_of(ids) - model.encode(TEXTS).numpy()).max() < 1e-5
    prompts = model.soft_prompts(TEXTS).numpy()
    steps = np.abs(prompts).max(axis=2, keepdims=True) / 127
    assert (np.abs(index.soft_prompts_of(ids) - prompts) < 0.51 * steps).all()
    cli.main(["index", "info", built])
    facts = json.loads(capsys.readouterr().out)
    assert facts["fingerprint"] == model.fingerprint and facts["metadata"] == {"year": "int"}
    assert facts["corpora"][0]["broken"] == 1 and facts["soft_prompt_shape"] == [3, 32]


def test_a_stopped_build_continues_without_double_rows(folder, corpus, tmp_path, monkeypatch, capsys) -> None:
    target, add, calls = tmp_path / "index", VectorIndex.add, []
    monkeypatch.setattr(commands, "COMMIT", 8)
    build = ["index", "build", folder, str(corpus), "--output", str(target), "--device", "cpu", *BARE]

    def stopped(self, documents, *arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(documents))
        return add(self, documents, *arguments)

    monkeypatch.setattr(VectorIndex, "add", stopped)
    with pytest.raises(SystemExit) as stop:
        cli.main(build)
    assert stop.value.code == 130
    monkeypatch.setattr(VectorIndex, "add", add)
    assert "half written: its build was stopped after 16 documents" in error_of(
        capsys, "index", "search", str(target), "x"
    )
    cli.main(build)
    assert "24 documents written" in capsys.readouterr().err
    index = VectorIndex.open(target)
    expected = LLM2VecGen.from_pretrained(folder, device="cpu").encode(TEXTS).numpy()
    assert len(index) == 40 and np.abs(index.vectors_of([f"d{row}" for row in range(40)]) - expected).max() < 1e-5
    other = str(Path(folder).parent / "model1")
    message = error_of(capsys, "index", "build", other, *build[3:])
    assert index.header.fingerprint in message and "was built by another checkpoint" in message
    assert "has soft_prompts int8, this command none" in error_of(capsys, *build, "--soft-prompts", "none")


def test_search_filters_and_writes(built, capsys, tmp_path) -> None:
    search = ["index", "search", built, "--instruction", "", "--device", "cpu"]
    cli.main([*search, TEXTS[6], "--top", "2"])
    first = capsys.readouterr().out.splitlines()
    assert first[0] == TEXTS[6] and first[1] == f"  1.000  d6  {TEXTS[6]}" and len(first) == 3
    cli.main([*search, TEXTS[6], "--where", "year = 2001", "--output", "-"])
    rows = [*map(json.loads, capsys.readouterr().out.splitlines())]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5] and {row["year"] for row in rows} == {2001}
    cli.main([*search, "x", "--where", "year > 3000"])
    assert "no document fits the filter" in capsys.readouterr().err
    assert "names 'yaer'" in error_of(capsys, *search, "x", "--where", "yaer = 1")


def test_add_skips_replaces_or_refuses_ids_that_exist(built, tmp_path, capsys) -> None:
    more = tmp_path / "more.jsonl"
    rows = [{"id": "d0", "text": "another cat", "year": 1}, {"id": "new", "text": "a whale", "year": 2}]
    more.write_text("".join(json.dumps(row) + "\n" for row in rows))
    add = ["index", "add", built, str(more), "--metadata", "year", "--device", "cpu"]
    assert "has 1 ids of" in error_of(capsys, *add)
    assert len(VectorIndex.open(built)) == 40, "nothing is added before the error"
    cli.main([*add, "--existing", "skip"])
    assert capsys.readouterr().out == f"{built}  41 documents\n"
    cli.main(["index", "search", built, "another cat", "--where", "id = 'd0'", "--output", "-"])
    assert json.loads(capsys.readouterr().out)["text"] == TEXTS[0]
    cli.main([*add, "--existing", "replace"])
    cli.main(["index", "search", built, "another cat", "--where", "id = 'd0'", "--output", "-"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["text"] == "another cat"
    assert "has the metadata year:int, this command gives none" in error_of(capsys, *add[:4])


def test_explain_reads_query_and_hits(folder, built, capsys, tmp_path) -> None:
    explain = ["index", "explain", built, TEXTS[6], "--instruction", "", "--device", "cpu", "--max-new-tokens", "4"]
    cli.main([*explain, "--top", "2", "--output", "-"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    first = found["hits"][0]
    assert first["hit"]["id"] == "d6" and min(first["token_cosines"]) > 0.999 and len(first["token_cosines"]) == 3
    model = LLM2VecGen.from_pretrained(folder, device="cpu")
    assert found["gist"] == " ".join(model.decode(model.soft_prompts([TEXTS[6]]), max_new_tokens=4)[0].split())
    assert {word.casefold() for word in first["shared"]} <= {word.casefold() for word in found["words"]}
    cli.main([*explain, "--top", "1", "--reencode", "--baseline", built])
    shown = capsys.readouterr().out
    assert "your query was read as:" in shown and "this passage was read as:" in shown
    assert "rank 1 of the baseline" in shown and "the baseline finds: d6 (" in shown


def test_explain_without_soft_prompts_names_the_ways_out(folder, corpus, tmp_path, capsys) -> None:
    target = str(tmp_path / "bare")
    cli.main(
        ["index", "build", folder, str(corpus), "--output", target, "--soft-prompts", "none", "--device", "cpu", *BARE]
    )
    message = error_of(capsys, "index", "explain", target, "x")
    assert all(way in message for way in ("--soft-prompts int8", "--reencode", "--expander FOLDER"))
    cli.main(["index", "explain", target, "x", "--reencode", "--top", "1", "--max-new-tokens", "2"])
    assert "this passage was read as" in capsys.readouterr().out


def test_an_expander_decodes_an_index_of_vectors_alone(folder, corpus, tmp_path, capsys) -> None:
    model = LLM2VecGen.from_pretrained(folder, device="cpu")
    place, target, vectors = str(tmp_path / "expander"), str(tmp_path / "bare"), model.encode(TEXTS)
    expander = Expander.of(model, vectors, model.soft_prompts(TEXTS), width=8)
    expander.save(place)
    cli.main(["index", "build", folder, str(corpus), "--output", target, "--soft-prompts", "none", *BARE])
    read = model.decode(expander.expand(vectors[6:7]), max_new_tokens=4)[0]
    given = ["--expander", place, "--top", "1", "--max-new-tokens", "4", "--output", "-"]
    capsys.readouterr()
    cli.main(["index", "search", target, TEXTS[6], *given])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["decoded"] == " ".join(read.split())
    cli.main(["index", "explain", target, TEXTS[6], *given])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["hits"][0]["gist"] == " ".join(read.split())
    assert "choose one" in error_of(capsys, "index", "explain", target, "x", "--expander", place, "--reencode")
    file = str(tmp_path / "v.npy")
    np.save(file, vectors[6:7].numpy())
    cli.main(["decode", folder, "--vectors", file, *given[:2], *given[4:]])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"row": 0, "decoded": read}
    assert "go together" in error_of(capsys, "decode", folder, "--vectors", file)
    assert "go together" in error_of(capsys, "decode", folder, "--expander", place)
    other = folder.replace("model0", "model1")
    message = error_of(capsys, "decode", other, "--vectors", file, "--expander", place)
    assert model.fingerprint in message and LLM2VecGen.from_pretrained(other).fingerprint in message


@pytest.mark.parametrize("name", [each.name for each in commands.COMMANDS])
def test_every_help_has_an_example_that_parses(name: str, capsys) -> None:
    import shlex

    (shown,) = (each for each in commands.COMMANDS if each.name == name)
    with pytest.raises(SystemExit):
        cli.main(["index", name, "--help"])
    assert shown.example in capsys.readouterr().out
    cli.command.parse(shlex.split(shown.example)[1:])


@pytest.mark.parametrize("change", ["text", "column", "file"])
def test_a_build_of_other_documents_into_the_same_folder_is_refused(folder, built, corpus, tmp_path, change, capsys):
    build = ["index", "build", folder, str(corpus), "--output", built, "--metadata", "year", "--device", "cpu", *BARE]
    cli.main(build)
    assert "0 documents written" in capsys.readouterr().err, "the same again"
    if change == "text":
        corpus.write_text(corpus.read_text().replace("the cat number 0", "the cow number 0"))
    elif change == "column":
        build += ["--id-column", "text"]
    else:
        build[3] = str(corpus.rename(tmp_path / "d.jsonl"))
        cli.main(build)
        assert "0 documents written" in capsys.readouterr().err, "the same documents, wherever they lie"
        return
    assert "was built from other documents or columns" in error_of(capsys, *build)
    assert len(VectorIndex.open(built)) == 40


def test_columns_that_results_have_are_no_metadata(folder, tmp_path, capsys):
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "b", "rank": 3}\n')
    build = ["index", "build", folder, str(tmp_path / "c.jsonl"), "--output", str(tmp_path / "i"), "--device", "cpu"]
    assert "rank" in error_of(capsys, *build, "--metadata", "rank")


def test_an_index_that_names_other_classes_runs_nothing(built, tmp_path, capsys):
    file = Path(built) / "index.json"
    made = tmp_path / "made"
    header = json.loads(file.read_text())
    header["encoder"] = {"_target_": "llm2vec_gen.atomic_files.os.system", "_args_": [f"touch {made}"]}
    file.write_text(json.dumps(header))
    for command in (["search", built, "x"], ["explain", built, "x"], ["add", built, str(file), "--metadata", "year"]):
        assert "is no encoder of this package" in error_of(capsys, "index", *command) or command[0] == "add"
    assert not made.exists()
