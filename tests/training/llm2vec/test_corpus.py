from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm2vec_gen.data.query_log import QueryLog
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.llm2vec.corpus import Triplets, check_third, examples, warn_of_negatives, write_rows
from llm2vec_gen.training.llm2vec.objectives.laser import LatentReasoning
from llm2vec_gen.training.llm2vec.objectives.simcse import SimCSE
from llm2vec_gen.training.llm2vec.objectives.supervised_contrastive import SupervisedContrastive
from llm2vec_gen.training.llm2vec.teacher_training import LLM2VecTraining
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.types import Completion

ROWS = [
    Completion("a", " why? ", "because.", "stop"),
    Completion("b", "who?", "because.", "stop"),
    Completion("c", "why?", "  ", "stop"),
    Completion("d", "who?", "the cat \u2603", "stop"),
    Completion("e", "who?", "the cat \u2603 ", "stop"),
]


def rows(file: Path, source, reads: str, fields=("query", "completion")) -> list[tuple]:
    found = write_rows(file, source, reads, fields)
    return [(found.id(place), *found[place]) for place in range(len(found))]


def test_each_text_is_read_once(tmp_path: Path) -> None:
    expected = [
        ("a:query", "why?"),
        ("a:completion", "because."),
        ("b:query", "who?"),
        ("d:completion", "the cat \u2603"),
    ]
    assert rows(tmp_path / "deep/rows.arrow", ROWS, "texts") == expected
    assert rows(tmp_path / "rows.arrow", ROWS, "texts", ["completion"]) == [expected[1], expected[3]]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["deep", "rows.arrow"], "no temporary file is left"


def test_pairs_keep_query_and_completion_together(tmp_path: Path) -> None:
    expected = [("a", "why?", "because."), ("b", "who?", "because."), ("d", "who?", "the cat \u2603")]
    assert rows(tmp_path / "rows.arrow", ROWS, "pairs") == expected


def test_hard_negatives_are_not_read_and_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"query": "why?", "answer": "because.", "other": "who?"}\n')
    plain, contrasted = (
        QueryLog(str(log), answer_column="answer", negative_query_column=column) for column in (None, "other")
    )
    assert [(example.query, example.negative) for example in examples(contrasted)] == [("why?", None)]
    warn_of_negatives(plain)
    warn_of_negatives(ROWS)
    assert not caplog.records
    warn_of_negatives(contrasted)
    assert len(caplog.records) == 1 and "llm2vec_hard_negatives" in caplog.text


def test_many_rows_are_written_in_parts(tmp_path: Path) -> None:
    many = [Completion(str(i), f"q{i}", f"a{i}", "stop") for i in range(2500)]
    found = write_rows(tmp_path / "rows.arrow", many, "pairs", ())
    assert len(found) == 2500
    assert [found[i] for i in (0, 999, 1000, 2499)] == [(f"q{i}", f"a{i}") for i in (0, 999, 1000, 2499)]
    with pytest.raises(IndexError):
        found[2500]


def test_a_query_source_is_a_corpus(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"query": f"q{i % 3}", "answer": f"a{i}"}) + "\n" for i in range(4)))
    found = rows(tmp_path / "rows.arrow", QueryLog(str(log), answer_column="answer"), "pairs")
    assert found == [("0", "q0", "a0"), ("1", "q1", "a1"), ("2", "q2", "a2")]
    without = QueryLog(str(log))
    assert [text for _, text in rows(tmp_path / "rows.arrow", without, "texts")] == ["q0", "q1", "q2"]
    with pytest.raises(InputError, match="the corpus has no pairs to train on"):
        rows(tmp_path / "rows.arrow", without, "pairs")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_triplets(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    table = pandas.DataFrame(
        {
            "query": ["q0", "q1", "q2"],
            "completion": ["a0", " ", "a2"],
            "negative": ["n0", "n1", "n2"],
            "other": [1, 2, 3],
        }
    )
    file = tmp_path / f"triplets.{suffix}"
    if suffix == "jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_csv(file, index=False) if suffix == "csv" else table.to_parquet(file)
    source = Triplets(str(file))
    assert rows(tmp_path / "rows.arrow", source, "pairs") == [("0", "q0", "a0", "n0"), ("2", "q2", "a2", "n2")]
    assert source.report == {"read": 3, "incomplete": 1}
    texts = [text for _, text in rows(tmp_path / "rows.arrow", source, "texts", ("query", "negative"))]
    assert texts == ["q0", "n0", "q2", "n2"]
    pairs = Triplets(str(file), negative_column=None, completion_column="negative", limit=2)
    assert [(one.query, one.completion, one.negative) for one in examples(pairs)] == [
        ("q0", "n0", None),
        ("q1", "n1", None),
    ]
    with pytest.raises(InputError, match="has no column wrong; its columns: query, completion, negative, other"):
        Triplets(str(file), negative_column="wrong")


def test_wrong_triplet_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no such thing"))
    )
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="ends in .txt; expected one of .jsonl"):
        Triplets(str(tmp_path / "a.txt"))
    with pytest.raises(InputError, match="corpus.path=no/such cannot be read: no such thing"):
        Triplets("no/such")


@pytest.mark.parametrize("content", [b"", b"{broken", b'{"query": "\xe9"}'])
def test_a_damaged_triplet_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"teacher_training.corpus.path=.*a.jsonl"):
        Triplets(str(tmp_path / "a.jsonl"))


def test_triplets_are_what_stands_in_the_file(tmp_path: Path) -> None:
    """The same rows as every other component reads: "NA" is a text, gz and tsv are read, nested columns too."""
    (tmp_path / "a.tsv").write_text('query\tcompletion\tnegative\nNA\t"null\t007\n\t x\ty\n')
    source = Triplets(str(tmp_path / "a.tsv"))
    for _ in range(2):
        assert [(row.query, row.completion, row.negative) for row in source.examples()] == [("NA", '"null', "007")]
        assert source.report == {"read": 2, "incomplete": 1}
    (tmp_path / "b.json").write_text('[{"q": {"text": "a"}, "completion": "b"}]')
    (row,) = Triplets(str(tmp_path / "b.json"), query_column="q.text", negative_column=None).examples()
    assert (row.query, row.completion) == ("a", "b")


@pytest.mark.parametrize("limit", [0, -1, 2.5, "ten", True])
def test_a_limit_that_is_no_count_of_rows(tmp_path, limit):
    with pytest.raises(InputError, match=f"teacher_training.corpus.limit={limit}: expected a whole number"):
        Triplets(str(tmp_path / "pairs.jsonl"), limit=limit)


def test_a_passage_is_no_negative_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"query": "q", "completion": "c", "negative": "n", "passage": "p"}\n')
    passages = Triplets(str(tmp_path / "a.jsonl"), negative_column=None, passage_column="passage")
    assert rows(tmp_path / "rows.arrow", passages, "pairs") == [("0", "q", "c", "p")]
    negatives = Triplets(str(tmp_path / "a.jsonl"))
    laser, contrastive = LatentReasoning(TrainingSettings()), SupervisedContrastive(TrainingSettings())
    check_third("laser", laser, passages)
    check_third("supervised", contrastive, negatives)
    check_third("laser", laser, [])
    with pytest.raises(InputError, match="negative_column=negative: laser reads a passage there; name its column with"):
        check_third("laser", laser, negatives)
    with pytest.raises(InputError, match="passage_column=passage: supervised reads a negative there"):
        check_third("supervised", contrastive, passages)
    check_third("simcse", SimCSE(TrainingSettings()), negatives)
    with pytest.raises(InputError, match="passage_column=passage: simcse reads none; set passage_column=null"):
        LLM2VecTraining({"simcse": SimCSE(TrainingSettings())}, corpus=passages)
    with pytest.raises(InputError, match="no objective reads both"):
        Triplets(str(tmp_path / "a.jsonl"), passage_column="passage")
