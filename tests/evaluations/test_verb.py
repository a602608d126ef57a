"""The evaluate verb around the benchmarks: what it keeps on disk, what it does not do twice, what a failure leaves."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llm2vec_gen import artifacts, pipeline
from llm2vec_gen.config import Plan, compose
from llm2vec_gen.types import InputError
from tests.evaluations.test_own_retrieval import CORPUS, QRELS, QUERIES

ROOT = Path(__file__).parents[2]
OWN = "llm2vec_gen.evaluations.own_retrieval.OwnRetrieval"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, QUERIES)))
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, CORPUS)))
    (folder / "qrels" / "test.tsv").write_text(QRELS)
    (folder / "qrels" / "dev.tsv").write_text(QRELS.replace("q2", "q3"))
    return folder


def overrides(tmp_path: Path, *more: str) -> list[str]:
    return [f"paths.outputs={tmp_path}/outputs", "logger=none", "instruction=none", "encoder=letters", "baseline=[]",
            "+baseline.letters._target_=tests.evaluations.stand_ins.Letters",
            f"+baseline.letters.cache={tmp_path}/notes", *more]  # fmt: skip


def two_tasks(data: Path) -> list[str]:
    return ["evaluation=own_retrieval", f"evaluation.own_retrieval.path={data}", "evaluation.own_retrieval.task=one",
            f"+evaluation.other={{_target_: {OWN}, path: {data}, task: two, split: dev}}"]  # fmt: skip


def moody(tmp_path: Path, **moods: str) -> list[str]:
    (tmp_path / "moods").mkdir(exist_ok=True)
    for task, mood in moods.items():
        (tmp_path / "moods" / task).write_text(mood)
    target = "tests.evaluations.stand_ins.Moody"
    return ["evaluation=[]", f"+evaluation.moody={{_target_: {target}, cache: {tmp_path}/moods}}"]


def notes(tmp_path: Path) -> list[str]:
    file = tmp_path / "notes"
    return file.read_text().splitlines() if file.is_file() else []


def script(verb: str, settings: list[str]) -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / f"{verb}.py"), *settings]


# ---- embeddings are kept


def test_tasks_with_one_corpus_encode_it_once(tmp_path: Path, data: Path) -> None:
    settings = overrides(tmp_path, *two_tasks(data))
    folder = pipeline.evaluate(compose(*settings))
    assert sorted(notes(tmp_path)) == ["|a b", "|ab", "|bb", "|cc", "|ccc", "|never judged"]
    values = {(row.task, row.metric): row.value for row in artifacts.read_scores(folder)}
    plain = pipeline.evaluate(compose(*settings, f"paths.outputs={tmp_path}/plain", "embedding_cache=false"))
    assert {(row.task, row.metric): row.value for row in artifacts.read_scores(plain)} == values
    assert len(notes(tmp_path)) == 6 + 10
    pipeline.evaluate(compose(*settings, "evaluation.own_retrieval.similarity=dot"))  # another artifact
    assert len(notes(tmp_path)) == 6 + 10
    pipeline.evaluate(compose(*settings, "+baseline.letters.prompt=other"))  # another encoder
    assert len(notes(tmp_path)) == 6 + 10 + 6


@pytest.mark.slow
def test_a_killed_run_is_continued_without_encoding_anything_twice(tmp_path: Path, data: Path) -> None:
    settings = overrides(tmp_path, *two_tasks(data), "+baseline.letters.seconds=0.4")
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(script("evaluate", settings), stderr=log)
    end = time.monotonic() + 120
    while len(notes(tmp_path)) < 4:  # the corpus is kept, the queries of the first task are on their way
        assert time.monotonic() < end
        assert job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    job.kill()
    job.wait()
    pipeline.evaluate(compose(*settings))
    corpus = [note for note in notes(tmp_path) if note in ("|a b", "|bb", "|ccc")]
    assert len(corpus) == 3
    assert len(notes(tmp_path)) <= 6 + 2  # a kill costs the batch that is being encoded


CHANGES = {  # each changes the vectors, or what stands before the texts, of the encoder that it names
    "echo": ["baseline.echo.template='{text} and {text}'", "baseline.echo.pooling=last", "backbone.dtype=bfloat16"],
    "hyde": ["baseline.hyde.n=3", "baseline.hyde.generator.seed=1", "baseline.hyde.generator.sampling.temperature=1.0",
             "baseline.hyde.prompts.categories.sts=other", "baseline.hyde.generator.max_new_tokens=9",
             "baseline.hyde.encode_query=false"],
    "input_mean": ["+baseline.input_mean.layer=1", "+baseline.input_mean.use_instruction=true"],
    "last_token": ["baseline.last_token.append_end=true"],
    "teacher": ["teacher=pocket", "teacher.whiten=0.5"],
    "openai_endpoint": ["baseline.openai_endpoint.url=http://b/v1", "baseline.openai_endpoint.model=other",
                        "baseline.openai_endpoint.dimensions=8"],
}  # fmt: skip
SAME = {
    "echo": ["backbone.device=cuda", "seed=1", "instruction=embedding"],
    "hyde": ["baseline.hyde.cache=null", "baseline.hyde.generator.max_texts_per_batch=3"],
    "openai_endpoint": ["baseline.openai_endpoint.concurrency=9"],
}


def plan(encoder: str, *more: str) -> Plan:
    endpoint = ["baseline.openai_endpoint.url=http://a/v1", "baseline.openai_endpoint.model=m"]
    group = [] if encoder == "teacher" else [f"baseline=[{encoder}]"]
    return compose(*group, *(endpoint if encoder == "openai_endpoint" else []), *more)


@pytest.mark.parametrize("encoder", CHANGES)
def test_whatever_changes_an_encoders_vectors_gives_it_another_folder(encoder: str) -> None:
    prints = [plan(encoder, *more).fingerprint(encoder) for more in [[], *([change] for change in CHANGES[encoder])]]
    assert len(set(prints)) == len(prints)
    assert all(plan(encoder, same).fingerprint(encoder) == prints[0] for same in SAME.get(encoder, []))


def test_the_trained_models_fingerprint_is_that_of_its_weights(tmp_path: Path) -> None:
    def trained(weights: str, *more: str) -> str:
        found = compose(f"paths.outputs={tmp_path}/{weights}", *more)
        artifact = found.artifact("train")
        artifact.write_text("model.safetensors", weights)
        artifact.finish()
        return found.fingerprint()

    first = trained("a")
    assert trained("b") != first  # the same config, trained on another machine
    assert trained("a", "evaluation=bright", "instruction=generative") == first
    assert trained("a", "model.max_length=99") != first


def test_the_own_queries_are_interpreted_too(tmp_path: Path, data: Path) -> None:
    settings = ["experiment=smoke", f"paths.outputs={tmp_path}", *two_tasks(data)]
    ((source, instruction, queries),) = pipeline._scored_queries(compose(*settings))
    assert [(query.id, query.text) for query in queries] == [("q1", "ab"), ("q2", "cc")]  # those that are scored
    assert source == "own_retrieval"
    evaluation = compose(*settings).build(
        "evaluation.own_retrieval", instruction=compose(*settings).build("instruction")
    )
    assert instruction == evaluation.instruction.query("own_retrieval", "retrieval") is not None
    before = compose(*settings).artifact("interpret").digest
    assert compose(*settings, "instruction=embedding").artifact("interpret").digest != before
    (data / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "another"}))
    assert compose(*settings).artifact("interpret").digest != before


def test_an_evaluation_without_queries_of_its_own_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="evaluation 'pocket' has no queries that interpret could read"):
        pipeline._scored_queries(compose(f"paths.outputs={tmp_path}", "interpret.evaluations=[pocket]"))


# ---- failures


def failing(tmp_path: Path, **moods: str) -> dict[str, Any]:
    """The errors that the artifact keeps after an evaluation that fails."""
    found = compose(*overrides(tmp_path, *moody(tmp_path, **moods)))
    with contextlib.suppress(artifacts.TasksFailed, artifacts.TasksRefused):
        pipeline.evaluate(found)
    folder = found.artifact("evaluate", "letters").folder / "errors"
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}


def test_the_error_is_kept_in_a_row_until_the_task_succeeds(tmp_path: Path) -> None:
    errors = failing(tmp_path, a="broken", b="well", c="wrong")
    assert sorted(errors) == ["a", "c"]
    row = errors["a"]
    assert (row["encoder"], row["evaluation"], row["task"]) == ("letters", "moody", "a")
    assert (row["error"], row["wrong_input"]) == ("ZeroDivisionError: division by zero", False)
    assert row["run"].startswith("letters-") and row["when"]
    assert sorted(failing(tmp_path, a="well")) == ["c"]
    assert failing(tmp_path, c="well") == {}
    assert len(artifacts.read_scores(pipeline.evaluate(compose(*overrides(tmp_path, *moody(tmp_path)))))) == 3


@pytest.mark.slow
def test_the_exit_status_comes_at_the_end_with_the_list_and_run_tabulates_the_others(tmp_path: Path) -> None:
    second = ["+baseline.second._target_=tests.evaluations.stand_ins.Letters", f"+baseline.second.notes={tmp_path}/s"]
    for moods, code, said in (
        ({"a": "broken", "b": "wrong", "c": "well"}, 1, "a: ZeroDivisionError: division by zero; b: the data of b is"),
        ({"a": "well"}, 2, "error: letters: 1 of 3 tasks failed, the same command tries these again: b: the data of b"),
        ({"b": "well"}, 0, "letters: rows 3"),
    ):
        settings = overrides(tmp_path, *moody(tmp_path, **moods), *second)
        done = subprocess.run(script("run", settings), capture_output=True, text=True, timeout=100)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert ("stays a row of holes, tasks failed" in done.stderr) == (code != 0)
