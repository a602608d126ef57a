"""Evaluations on a file of one's own: what is read, scored and refused."""

from __future__ import annotations

import csv
import gzip
import json
import logging

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation
from llm2vec_gen.evaluations.instructions import InstructionTable, NoInstruction
from llm2vec_gen.evaluations.own_classification import OwnClassification
from llm2vec_gen.evaluations.own_clustering import OwnClustering
from llm2vec_gen.evaluations.own_pairs import OwnPairs
from llm2vec_gen.evaluations.own_reranking import OwnReranking
from llm2vec_gen.evaluations.own_sts import OwnSTS


class Letters:
    """How often a, b, c and d occur; the texts it was asked for."""

    name, embedding_dim = "letters", 4

    def __init__(self):
        self.asked = []

    def encode(self, texts, instruction=None):
        self.asked += [(instruction, text) for text in texts]
        counts = torch.tensor([[float(text.count(letter)) for letter in "abcd"] for text in texts])
        return 10 * torch.nn.functional.normalize(counts + 1e-3, dim=-1)


LABELLED = [{"text": letter * (n + 1), "label": letter.upper()} for letter in "abc" for n in range(10)]
PAIRS = [("a", "a", 1), ("ab", "a", 1), ("abc", "a", 0), ("ab", "abb", 0), ("c", "cd", 1), ("d", "a", 0)]
GRADES = [5, 4, 2, 3, 3.5, 0]


def write(file, rows):
    if file.name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), file)
        return file
    with gzip.open(file, "wt", newline="") if file.suffix == ".gz" else file.open("w", newline="") as stream:
        if ".jsonl" in file.name:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            table = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if ".tsv" in file.name else ",")
            table.writeheader()
            table.writerows(rows)
    return file


def pairs(file, column="label", values=None):
    values = [pair[2] for pair in PAIRS] if values is None else values
    rows = [{"sentence1": a, "sentence2": b, column: value} for (a, b, _), value in zip(PAIRS, values, strict=True)]
    return str(write(file, rows))


def main_row(evaluation, encoder=None):
    assert isinstance(evaluation, Evaluation)
    evaluation.check_data()
    (row,) = [row for row in evaluation.evaluate(encoder or Letters(), evaluation.task) if row.main]
    if row.per_query:
        assert row.n == len(row.per_query) and np.mean(list(row.per_query.values())) == pytest.approx(
            row.value, abs=1e-5
        )
    return row


def cosines():
    first, second = (Letters().encode([pair[side] for pair in PAIRS]) for side in (0, 1))
    return torch.nn.functional.cosine_similarity(first, second).double().numpy()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.gz"])
def test_classification_in_every_format(tmp_path, name, caplog):
    path = str(write(tmp_path / name, LABELLED))
    evaluation = OwnClassification(NoInstruction(), path, samples_per_label=4)
    with caplog.at_level(logging.INFO):
        row = main_row(evaluation)
    assert (row.metric, row.category, row.value, row.n) == ("accuracy", "classification", 1.0, 6)
    assert "24 rows to learn from, 3 classes of 8 to 8 rows; 6 scored rows, 3 classes of 2 to 2 rows" in caplog.text
    scored = {query.id: query.text for query in evaluation.queries("own_classification")}
    assert scored.keys() == row.per_query.keys()
    assert all(LABELLED[int(id_) - 1]["text"] == text for id_, text in scored.items())


def test_a_row_is_worth_the_draws_that_find_its_class(tmp_path):
    """Two texts of the wrong class: no draw can find theirs."""
    rows = [row | {"split": "train"} for row in LABELLED]
    rows += [{"text": text, "label": label, "split": "test"} for text, label in (("aa", "A"), ("bb", "A"), ("cc", "B"))]
    path = str(write(tmp_path / "a.csv", rows))
    row = main_row(OwnClassification(NoInstruction(), path, split_column="split"))
    assert row.per_query == {"31": 1.0, "32": 0.0, "33": 0.0} and row.value == pytest.approx(1 / 3)


def test_parts_by_file_and_by_seed(tmp_path):
    write(tmp_path / "train.csv", LABELLED)
    write(tmp_path / "dev.jsonl", LABELLED[::5])
    row = main_row(OwnClassification(NoInstruction(), str(tmp_path), split="dev"))
    assert (row.split, row.n, row.value) == ("dev", 6, 1.0)
    path = str(write(tmp_path / "one.csv", LABELLED + LABELLED[:7]))
    parts = [OwnClassification(NoInstruction(), path, split_seed=seed)._data for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]
    assert not set(parts[0].texts) & set(parts[0].train_texts), "equal texts are on one side"
    drawn = [OwnClustering(NoInstruction(), path, test_fraction=0.5, split_seed=seed)._data.ids for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 18


def test_clustering(tmp_path):
    path = str(write(tmp_path / "a.jsonl", [row | {"label": "abc".index(row["label"].lower())} for row in LABELLED]))
    row = main_row(OwnClustering(NoInstruction(), path))
    assert row.metric == "v_measure" and 0.99 < row.value <= 1 and len(row.per_query) == 30


@pytest.mark.parametrize("values", [GRADES, [str(grade) for grade in GRADES]])
def test_sts_is_spearmans_correlation(tmp_path, values):
    row = main_row(OwnSTS(NoInstruction(), pairs(tmp_path / "a.jsonl", "score", values)))
    assert row.metric == "cosine_spearman" and row.value == pytest.approx(spearmanr(GRADES, cosines())[0])
    assert len(row.per_query) == 6


@pytest.mark.parametrize(
    ("values", "positive"),
    [((0, 1), None), ((False, True), None), (("no", "yes"), "yes"), ((1, 2), 2), (("False", "True"), None)],
)
def test_pairs_are_the_average_precision(tmp_path, values, positive):
    path = pairs(tmp_path / "a.jsonl", values=[values[pair[2]] for pair in PAIRS])
    rows = OwnPairs(NoInstruction(), path, positive=positive).evaluate(Letters(), "own_pairs")
    found = {row.metric: row for row in rows}
    assert main_row(OwnPairs(NoInstruction(), path, positive=positive)) == found["max_ap"]
    expected = average_precision_score([pair[2] for pair in PAIRS], cosines())
    assert found["cosine_ap"].value == pytest.approx(expected)
    assert np.mean(list(found["cosine_ap"].per_query.values())) == pytest.approx(expected)


RERANKED = [{"query": "ab", "positive": ["ab", "b"], "negative": ["c"]},
            {"query": "c", "positive": ["d"], "negative": ["cc", "a"]}]  # fmt: skip


def test_reranking_in_both_layouts(tmp_path):
    wide = str(write(tmp_path / "wide.parquet", RERANKED))
    rows = [
        {"q": row["query"], "d": text, "grade": grade}
        for row in RERANKED
        for column, grade in (("positive", 1), ("negative", 0))
        for text in row[column]
    ]
    long = str(write(tmp_path / "long.csv", rows))
    first = main_row(OwnReranking(NoInstruction(), wide))
    assert first.metric == "map_at_1000" and list(first.per_query) == ["1", "2"]
    assert first.per_query["1"] == 1.0 and first.per_query["2"] in (0.5, pytest.approx(1 / 3))
    second = main_row(OwnReranking(NoInstruction(), long, query="q", document="d", label="grade"))
    assert list(second.per_query.values()) == list(first.per_query.values()) and list(second.per_query) == ["1", "4"]


def test_instructions_of_each_evaluation(tmp_path):
    table = InstructionTable({"sts": "Say:", "reranking": "Find:"}, documents="Sum up:")
    encoder = Letters()
    OwnSTS(table, pairs(tmp_path / "a.jsonl", "score", GRADES)).evaluate(encoder, "own_sts")
    assert {instruction for instruction, _ in encoder.asked} == {"Say:"}
    encoder = Letters()
    OwnReranking(table, str(write(tmp_path / "b.jsonl", RERANKED))).evaluate(encoder, "own_reranking")
    assert set(encoder.asked) >= {("Find:", "ab"), ("Sum up:", "ab"), ("Sum up:", "a")}
    with pytest.raises(InputError, match="no instruction for task 'own_clustering' of category 'clustering'"):
        OwnClustering(table, str(write(tmp_path / "c.csv", LABELLED))).check()


def refused(kind, path, message, **settings):
    with pytest.raises(InputError, match=message) as caught:
        kind(NoInstruction(), str(path), **settings).check_data()
    assert "\n" not in str(caught.value)


def test_labels_that_are_no_classes(tmp_path):
    one = write(tmp_path / "a.csv", [row | {"label": "A"} for row in LABELLED])
    each = write(tmp_path / "b.csv", [row | {"label": row["text"]} for row in LABELLED])
    for kind in (OwnClustering, OwnClassification):
        refused(kind, one, "label=label: .*a.csv has one class, 'A'; expected two or more")
        refused(kind, each, "has 30 classes in 30 rows, no more rows than classes")
    few = [row | {"split": "train" if n % 10 == 0 and n < 20 else "test"} for n, row in enumerate(LABELLED)]
    refused(OwnClassification, write(tmp_path / "c.csv", few), "2 rows for 3 classes", split_column="split")
    refused(OwnPairs, pairs(tmp_path / "d.csv", values=[1] * 6), r"has 1 different labels \('1'\); expected two")
    refused(OwnPairs, pairs(tmp_path / "e.csv", values=[0, 1, 2, 0, 1, 2]), "has 3 different labels .*'2'")
    refused(OwnPairs, pairs(tmp_path / "f.csv", values=["x", "y"] * 3), "are 'x' and 'y'; give the one of pairs that")
    refused(OwnPairs, pairs(tmp_path / "f.csv", values=["x", "y"] * 3), "positive=z: the labels", positive="z")


def test_grades_that_are_no_numbers(tmp_path):
    refused(OwnSTS, pairs(tmp_path / "a.csv", "score", [*GRADES[:5], "high"]), ":(6|7): .*'high'; expected a number")
    refused(OwnSTS, pairs(tmp_path / "b.csv", "score", [*GRADES[:5], "nan"]), ":(6|7): .*'nan'; expected a number")
    refused(OwnSTS, pairs(tmp_path / "c.jsonl", "score", [*GRADES[:5], True]), ":(6|7): .*expected a number")
    refused(OwnSTS, pairs(tmp_path / "d.csv", "score", [1] * 6), "6 rows with 1 different grades")


def test_columns_and_cells_that_are_not_there(tmp_path):
    path = write(tmp_path / "a.csv", LABELLED)
    refused(
        OwnClustering, path, "own_clustering.text=body: .* no such column; expected one of text, label", text="body"
    )
    refused(OwnClassification, path, "own_classification.label=topic: .*one of text, label", label="topic")
    refused(OwnClustering, path, "split_column=part: .*expected one of text, label", split_column="part")
    refused(OwnSTS, path, "own_sts.first=sentence1: .*expected one of text, label")
    blank = write(tmp_path / "b.csv", [*LABELLED, {"text": " ", "label": "A"}])
    refused(OwnClustering, blank, "b.csv:32 has nothing in the column 'text'")
    number = write(tmp_path / "c.jsonl", [*LABELLED, {"text": 7, "label": "A"}])
    refused(OwnClustering, number, "c.jsonl:31: the column 'text' holds '7', a int; expected text")


def test_parts_that_are_not_there(tmp_path):
    path = write(tmp_path / "train.csv", [row | {"part": "train"} for row in LABELLED])
    refused(OwnClustering, path, "no row of .* has 'test' in its column 'part'.*train", split_column="part")
    refused(OwnClassification, tmp_path, "there is no test.jsonl")
    refused(OwnClustering, tmp_path, "only a single file is split", split="train", test_fraction=0.5)
    refused(OwnClustering, path, "of the 30 rows of .* is no row", test_fraction=0.001)
    refused(OwnClustering, path, "test_fraction=2: expected a number between 0 and 1", test_fraction=2)
    refused(OwnClassification, path, "train_split=test is the part that is scored too", train_split="test")
    refused(OwnClassification, path, "give split_column, or a test_fraction", test_fraction=None)
    (tmp_path / "empty.csv").write_text("text,label\n")
    refused(OwnClustering, tmp_path / "empty.csv", "has no rows")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"positive": []}, ".jsonl:3: the query 'x' has no relevant document"),
        ({"negative": []}, ".jsonl:3: the query 'x' has no irrelevant document"),
        ({"negative": [" "]}, ".jsonl:3: the query 'x' has no irrelevant document"),
        ({"negative": ["p"]}, ".jsonl:3: the query 'x' has the document 'p' with two grades"),
        ({"negative": 7}, ".jsonl:3: the column 'negative' holds '7'; expected a list of texts"),
        ({"negative": None}, ".jsonl:3 has nothing in the column 'negative'"),
    ],
)
def test_reranking_rows_without_documents(tmp_path, row, message):
    third = {"query": "x", "positive": ["p"], "negative": ["n"]} | row
    refused(OwnReranking, write(tmp_path / "a.jsonl", [*RERANKED, third]), message)


def test_reranking_pairs_without_a_kind(tmp_path):
    rows = [{"query": "x", "document": "a", "label": 1}, {"query": "x", "document": "b", "label": 2}]
    refused(OwnReranking, write(tmp_path / "a.csv", rows), "'x' has no irrelevant document", document="document")
    rows[1]["label"] = "0.5"
    refused(
        OwnReranking, write(tmp_path / "a.csv", rows), "a.csv:3: the label 0.5 is no whole number", document="document"
    )
