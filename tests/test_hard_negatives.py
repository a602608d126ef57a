"""Hard negatives through the steps complete and embed: answered and embedded with their rows, sharded, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen import pipeline
from llm2vec_gen.artifacts import Artifact, Completions, Targets, read_manifest
from llm2vec_gen.config import Plan, compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Query

ROWS = 7
COLUMNS = ["data.negative_query_column=not", "data.negative_answer_column=no"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("log") / "log.jsonl"
    rows = [{"query": f"what is {n}?", "answer": f"it is {n}.", "not": f"what is -{n}?", "no": f"it is -{n}."}
            for n in range(ROWS)]  # fmt: skip
    rows.insert(3, {"query": "without", "answer": "x", "not": "", "no": ""})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def plan_of(log: Path, outputs: Path, *more: str) -> Plan:
    given = ["data=query_log", f"data.path={log}", "data.answer_column=answer", "generator=replay", "shard_size=3"]
    return compose(*given, f"paths.outputs={outputs}", *more)


def of_each_shard(artifact: Artifact) -> list[bytes]:
    return [shard.file.read_bytes() for shard in artifact.shards()]


def test_negatives_are_answered_and_embedded_beside_their_rows(log: Path, tmp_path: Path) -> None:
    plan = plan_of(log, tmp_path, *COLUMNS)
    completions = Completions(pipeline.complete(plan))
    assert [(row.query, row.completion, row.negative_query, row.negative_completion) for row in completions] == [
        (f"what is {n}?", f"it is {n}.", f"what is -{n}?", f"it is -{n}.") for n in range(ROWS)
    ]
    counts = read_manifest(completions.folder)["counts"]
    assert (counts["rows"], counts["without_negative"]) == (ROWS, 1)
    assert counts["generator"]["completions"] == 2 * ROWS

    targets = Targets(pipeline.embed(plan), completions)
    assert targets.negatives is not None
    teacher = plan.build("teacher")
    for vectors, texts in ((targets, completions.column("completion")),
                           (targets.negatives, completions.column("negative_completion"))):  # fmt: skip
        found = torch.from_numpy(np.stack([vectors[row] for row in range(ROWS)]))
        assert torch.allclose(found, teacher.encode(list(texts)), atol=1e-5)

    before = [of_each_shard(plan.artifact(step)) for step in ("complete", "embed")]
    for step in ("complete", "embed"):  # as after a kill in the middle
        artifact = plan.artifact(step)
        for file in (artifact.folder / "manifest.json", artifact.shards()[1].file):
            file.unlink()
        getattr(pipeline, step)(plan)
    assert [of_each_shard(plan.artifact(step)) for step in ("complete", "embed")] == before

    for step in ("complete", "embed"):  # a job array makes the same shards
        given = [*COLUMNS, "executor=range", "executor.of=2"]
        plans = [plan_of(log, tmp_path / "array", *given, f"executor.index={index}") for index in (1, 0)]
        folder = [getattr(pipeline, step)(each) for each in plans][0]
        assert (
            of_each_shard(plans[0].artifact(step)) == before[step == "embed"] and (folder / "manifest.json").is_file()
        )


def test_columns_of_negatives_change_digests_and_their_absence_changes_none(log: Path, tmp_path: Path) -> None:
    plain = plan_of(log, tmp_path).artifact("complete")
    assert not any("negative" in key for key in plain.config["data"]), "artifacts of before keep their names"
    assert plan_of(log, tmp_path, *COLUMNS).artifact("complete").digest != plain.digest
    completions = Completions(pipeline.complete(plan_of(log, tmp_path)))
    assert not completions.has_negatives and len(completions) == ROWS + 1


def test_negatives_without_an_answer_are_completed_by_the_generator_and_replay_refuses_them(
    log: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="negative_answer_column"):
        pipeline.complete(plan_of(log, tmp_path, COLUMNS[0]))
    written = ["generator=transformers", "generator.max_new_tokens=4", "data.limit=2"]
    completions = Completions(pipeline.complete(plan_of(log, tmp_path, COLUMNS[0], *written)))
    generator = plan_of(log, tmp_path, *written).build("generator")
    alone = generator.complete([Query("a", row.negative_query) for row in completions])
    assert [row.completion for row in alone] == [row.negative_completion for row in completions]


@pytest.mark.parametrize("mined", [False, True])
def test_a_run_trains_on_negatives_of_columns_and_on_mined_ones(log: Path, tmp_path: Path, mined: bool) -> None:
    steps = [
        "training.max_steps=2",
        "training.batch_size=2",
        "trainer.log_every_n_steps=1",
    ]
    given = ["loss=[alignment,negative_alignment,margin]", *steps]
    given += ["data.negatives=mined", "mine.top_k=3", "mine.margin=null"] if mined else COLUMNS
    plan = plan_of(log, tmp_path, *given)
    pipeline.complete(plan)
    pipeline.embed(plan)
    if mined:
        with pytest.raises(InputError, match="missing hard negatives .*experiments/mine.py"):
            pipeline.train(plan)
        pipeline.mine(plan)
    counts = read_manifest(pipeline.train(plan))["counts"]
    assert counts["steps"] == 2 and counts["samples"] == 4 and counts["negative_query_tokens"] > 0
    assert counts["margin"] > 0 and counts["negative_alignment"] > 0
    assert ("mine" in plan.artifact("train").upstream) == mined
