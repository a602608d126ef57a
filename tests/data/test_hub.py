from __future__ import annotations

import json

import pytest

from llm2vec_gen.config import compose
from llm2vec_gen.data.hub import HubDataset, split_name
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Query


@pytest.fixture
def folder(tmp_path):
    """A local folder in the layout of the published completions: one file per split."""
    data = tmp_path / "completions"
    data.mkdir()
    for split, answer in (("Qwen3_8B", "red."), ("original", "I think red.")):
        rows = [{"question": "Which colour?", "answer": answer}, {"question": "", "answer": "x"}]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - {split: Qwen3_8B, path: Qwen3_8B.jsonl}\n  - {split: original, path: original.jsonl}\n---\n"
    )
    return str(data)


@pytest.mark.parametrize(
    ("model", "split"),
    [
        ("Qwen/Qwen3-8B", "Qwen3_8B"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen25_05B_Instruct"),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama_31_8B_Instruct"),
        ("models/Qwen3-1.7B/", "Qwen3_17B"),
        ("Gemini", "Gemini"),
    ],
)
def test_split_names(model, split):
    assert split_name(model) == split


def test_a_split_is_read_by_name_or_by_model(folder):
    settings = {"query_column": "question", "answer_column": "answer"}
    human = HubDataset(folder, split="original", **settings)
    assert list(human.queries()) == [Query("0", "Which colour?", "I think red.")]
    assert human.report["empty"] == 1
    machine = HubDataset(folder, split=None, split_of="Qwen/Qwen3-8B", **settings)
    assert [query.answer for query in machine.queries()] == ["red."]
    assert [query.answer for query in machine.queries()] == ["red."], "a second reading gives the same"
    assert [query.answer for query in HubDataset(folder, split="original", query_column="question").queries()] == [None]


def test_wrong_input(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="Gemini"):
        HubDataset(folder, split="Gemini", query_column="question")
    with pytest.raises(InputError, match=r"no column 'query' .*it has question, answer"):
        HubDataset(folder, split="original")
    with pytest.raises(InputError, match="cannot be read"):
        HubDataset(folder + "/none", split="original")
    with pytest.raises(InputError, match="data.split is null"):
        HubDataset(folder, split=None)


def write(file, *rows):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["test.jsonl", "validation-00000-of-00001.jsonl", "dev/part.jsonl"])
def test_files_of_another_split_are_never_training_data(tmp_path, name):
    write(tmp_path / name, {"query": "of the test"})
    write(tmp_path / "questions.jsonl", {"query": "a"})
    with pytest.raises(InputError, match="is of another split; name the training file after its split"):
        HubDataset(str(tmp_path))
    write(tmp_path / "train.jsonl", {"query": "of the training"})
    assert [query.text for query in HubDataset(str(tmp_path)).queries()] == ["of the training"]


def test_every_file_has_the_columns(tmp_path):
    write(tmp_path / "a.jsonl", {"query": "a"})
    write(tmp_path / "b.jsonl", {"question": "b"})
    with pytest.raises(InputError, match=r"b.jsonl has no column 'query' .*it has question"):
        list(HubDataset(str(tmp_path)).queries())


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("messages", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        ("alpaca", {"instruction": "q", "input": "", "output": "a"}),
    ],
)
def test_conversation_formats_by_their_yaml(tmp_path, name, row):
    from llm2vec_gen.config import compose

    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    source = compose(f"data={name}", f"data.path={file}", f"paths.outputs={tmp_path}").build("data")
    assert list(source.queries()) == [Query("0", "q", "a")]
    with pytest.raises(InputError, match=r"data.input_column"):
        HubDataset(str(file), query_column=next(iter(row)), input_column="context")


def test_the_published_hard_negatives_are_read_by_their_columns(tmp_path):
    rows = [
        {"question": "hot?", "answer": "yes", "negative_question": "cold?", "negative_answer": "no"},
        {"question": "wet?", "answer": "yes", "negative_question": None, "negative_answer": "no"},
    ]
    write(tmp_path / "Qwen3_8B.jsonl", *rows)
    for name in ("tulu_hard_negatives", "echo_hard_negatives"):
        given = ["backbone=qwen3_8b", "generator=replay", f"paths.outputs={tmp_path / 'out'}"]
        plan = compose(f"data={name}", *given)
        assert plan.settings["data"]["path"].endswith("-w-hard-negative")
        source = compose(f"data={name}", f"data.path={tmp_path}", *given).build("data")
        assert list(source.queries()) == [Query("0", "hot?", "yes", Query("0/negative", "cold?", "no"))]
        assert source.report["without_negative"] == 1
    with pytest.raises(InputError, match=r"no column 'negative' \(data.negative_query_column\)"):
        HubDataset(str(tmp_path), split="Qwen3_8B", query_column="question", negative_query_column="negative")
