"""The evaluate step around the benchmarks: what it keeps on disk, what it does not do twice, what a failure leaves."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from llm2vec_gen import artifacts, pipeline
from llm2vec_gen.config import Plan, compose, evaluations
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Score
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


def script(step: str, settings: list[str]) -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / f"{step}.py"), *settings]


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
        artifact.write_file("model.safetensors", weights)
        artifact.finish()
        return found.fingerprint()

    first = trained("a")
    assert trained("b") != first  # the same config, trained on another machine
    assert trained("a", "evaluation=bright", "instruction=generative") == first
    assert trained("a", "model.max_length=99") != first


class Repeat:
    """A model that decodes an embedding to the instruction and the text it was made of."""

    device = "cpu"

    def __init__(self, *arguments: object) -> None:
        self.texts: list[str] = []

    def states(self, texts: list[str], instruction: str | None = None) -> torch.Tensor:
        first = len(self.texts)
        self.texts += [f"{instruction} {text}" for text in texts]
        return torch.arange(first, len(self.texts), dtype=torch.float32)[:, None, None]  # (N, 1, 1)

    def project(self, states: torch.Tensor) -> torch.Tensor:
        return states

    def encode(self, texts: list[str], instruction: str | None = None) -> torch.Tensor:
        return torch.ones(len(texts), 2)

    def decode(self, prompts: torch.Tensor, max_new_tokens: int, **settings: object) -> list[str]:
        return [self.texts[int(number)] for number in prompts.flatten()]


def interpreted(plan: Plan) -> list[tuple[str, str, str, str]]:
    """(source, task, id, decoded text) of each reading."""
    plan.build_encoder = Repeat  # type: ignore[method-assign]
    readings = artifacts.read_readings(pipeline.interpret(plan))
    return [(reading.source, reading.task, reading.id, reading.text) for reading in readings]


def reading_settings(tmp_path: Path, data: Path, *more: str) -> list[str]:
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"id": "q1", "query": "a row of the log"}))
    queries = f"{{_target_: llm2vec_gen.data.query_log.QueryLog, path: {log}, id_column: id}}"
    return [f"paths.outputs={tmp_path}/outputs", "instruction=generative", "interpreter=[decoding]", *two_tasks(data),
            f"interpret.queries={queries}", *more]  # fmt: skip


def test_queries_of_evaluations_are_read_as_they_were_scored(tmp_path: Path, data: Path) -> None:
    """Ids meet in three places: each reading keeps its own, and its own instruction."""
    more = ["interpret.evaluations=[own_retrieval,other]", "+instruction.tasks.two=Second:"]
    found = interpreted(compose(*reading_settings(tmp_path, data, *more)))
    passage = "Write a short passage that answers this:"
    assert found == [
        ("queries", "", "q1", "None a row of the log"),
        ("own_retrieval", "one", "q1", f"{passage} ab"),
        ("own_retrieval", "one", "q2", f"{passage} cc"),
        ("own_retrieval", "two", "q1", "Second: ab"),
        ("own_retrieval", "two", "q3", "Second: never judged"),
    ]


def test_readings_depend_on_the_evaluations_that_are_read(tmp_path: Path, data: Path) -> None:
    settings = reading_settings(tmp_path, data)
    before = compose(*settings).artifact("interpret").digest
    assert compose(*settings, "instruction=embedding").artifact("interpret").digest != before
    assert compose(*settings, "evaluation.other.split=test").artifact("interpret").digest == before, "it is not read"
    (data / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "another"}))
    assert compose(*settings).artifact("interpret").digest != before


def test_decoding_is_read_without_an_instruction_and_the_pocket_by_task(tmp_path: Path) -> None:
    settings = [f"paths.outputs={tmp_path}", "interpret.evaluations=[decoding,pocket]", "evaluation.decoding.limit=2"]
    found = evaluations.scored_queries(compose(*settings))
    tasks = [origin["task"] for origin, _ in found]
    assert tasks == ["decode_exact", "retrieval", "reranking", "harmful_retrieval", "benign_retrieval", "reasoning"]
    (first, queries), second = found[0], found[1][0]
    assert first["instruction"] is None and len(queries) == 2
    assert second["instruction"] == compose(*settings).build("instruction").query("retrieval", "retrieval")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[own]", "interpret.evaluations has 'own', but the evaluations of this config are pocket, decoding"),
        ("pocket", "interpret.evaluations=pocket: expected a list"),
        ("null", "interpret.evaluations=None: expected a list"),
        ("[moody]", "interpret.evaluations has 'moody', which scores no query by itself"),
    ],
)
def test_evaluations_that_cannot_be_read_are_refused(tmp_path: Path, given: str, message: str) -> None:
    moody = "+evaluation.moody={_target_: tests.evaluations.stand_ins.Moody, cache: .}" if "moody" in given else ""
    with pytest.raises(InputError, match=message):
        pipeline.interpret(
            compose(f"paths.outputs={tmp_path}", f"interpret.evaluations={given}", *filter(None, [moody]))
        )


def test_where_do_i_lose_shows_the_decoding_of_its_own_query_and_model(tmp_path: Path, data: Path) -> None:
    settings = reading_settings(tmp_path, data, "table=own_retrieval", "baseline=[]", "~evaluation.other")
    plan = compose(*settings)
    assert ("own_retrieval", "one", "q2", "Write a short passage that answers this: cc") in interpreted(plan)
    for name, values in (("llm2vec_gen", {"q1": 0.0, "q2": 1.0}), ("teacher", {"q1": 1.0, "q2": 1.0})):
        artifact = plan.artifact("evaluate", name)
        facts = {"encoder": name, "evaluation": "own_retrieval", "task": "one", "run": artifact.folder.name}
        row = Score(**facts, category="retrieval", subset="default", split="test", metric="ndcg_at_10", value=0.5,
                    main=True, n=2, data_revision="x", per_query=values)  # fmt: skip
        artifact.write_records("one", [row])
        artifact.finish()
    table = (pipeline.tabulate(plan) / "table.md").read_text()
    assert "q1: ab" in table and "Write a short passage that answers this: ab" in table and "log" not in table
    others = tmp_path / "others.jsonl"
    rows = (pipeline.tabulate(plan) / "scores.jsonl").read_text()
    others.write_text(rows.replace(plan.artifact("evaluate").folder.name, "another-run"))
    table = (pipeline.tabulate(compose(*settings, f"scores=[{others}]")) / "table.md").read_text()
    assert "q1: ab" in table and "Write a short passage" not in table, "readings are of another model than the scores"


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
    second = ["+baseline.second._target_=tests.evaluations.stand_ins.Letters", f"+baseline.second.cache={tmp_path}/s"]
    for moods, code, expected in (
        ({"a": "broken", "b": "wrong", "c": "well"}, 1, "a: ZeroDivisionError: division by zero; b: the data of b is"),
        ({"a": "well"}, 2, "error: letters: 1 of 3 tasks failed, the same command tries these again: b: the data of b"),
        ({"b": "well"}, 0, "letters: rows 3"),
    ):
        settings = overrides(tmp_path, *moody(tmp_path, **moods), *second)
        done = subprocess.run(script("run", settings), capture_output=True, text=True, timeout=100)
        assert done.returncode == code, done.stderr
        assert expected in done.stderr
        assert ("stays empty, tasks failed" in done.stderr) == (code != 0)
