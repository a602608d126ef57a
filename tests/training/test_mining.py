"""Mined hard negatives against a plain loop over all pairs, whatever the blocks, the shards and the restarts."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from llm2vec_gen import pipeline
from llm2vec_gen.artifacts import Artifact, Completions, read_manifest, read_negatives
from llm2vec_gen.config import Plan, compose
from llm2vec_gen.config.checks import has_negatives
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.mining import Miner, MiningSettings, PairEncoder
from llm2vec_gen.types import Completion

ROWS, DIM = 60, 8


class Vectors:
    """Known vectors of texts, near to one another so that margins matter; an instruction turns them."""

    embedding_dim = DIM

    def encode(self, texts: list[str], instruction: str | None = None) -> torch.Tensor:
        rows = [np.random.default_rng([*text.encode()]).normal(1, 0.7, DIM) for text in texts]
        return torch.tensor(np.array(rows)).float() * (-3 if instruction else 5)


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> Completions:
    """60 rows; every fifth completion is the same text, and so is a query of other whitespace."""
    artifact = Artifact(tmp_path_factory.mktemp("rows"), "complete", "rows", {}, {})
    rows = [Completion(f"id{n}", f"query {n}", "yes." if n % 5 == 0 else f"answer {n}", "stop") for n in range(ROWS)]
    rows[7] = Completion("id7", "query   8 ", "answer 7", "stop")
    artifact.write_completions(0, rows)
    artifact.finish()
    return Completions(artifact.folder)


def vectors_of(completions: Completions, folder: Path, shard: int = 7, encoder: Any = None) -> Path:
    artifact = Artifact(folder, "mine", "vectors", {}, {})
    encode = encoder or PairEncoder(Vectors())
    for start in range(0, ROWS, shard):
        queries, answers = encode.embed(completions[start : start + shard])
        artifact.write_tensors(start, {"queries": queries, "completions": answers})
    return artifact.folder


def candidates_of(completions: Completions, top_k: int, margin: float | None) -> list[set[int]]:
    """What may be drawn for each row, by the definition."""
    queries, answers = (
        normalize(Vectors().encode(list(completions.column(name))).double(), dim=1).half().double()
        for name in ("query", "completion")
    )
    texts = [(" ".join(row.query.split()), row.completion) for row in completions]
    first = {row: number for number, (_, row) in reversed([*enumerate(texts)])}.values()
    found = []
    for i in range(ROWS):
        cosines = {j: float(queries[i] @ answers[j]) for j in range(ROWS)}
        others = [j for j in cosines if texts[j][0] != texts[i][0] and texts[j][1] != texts[i][1] and j in first]
        nearest = sorted(others, key=lambda j: -cosines[j])[:top_k]
        found.append({j for j in nearest if margin is None or cosines[j] <= cosines[i] - margin})
    return found


@pytest.mark.parametrize("top_k", [1, 6, ROWS - 1])
@pytest.mark.parametrize("margin", [None, 0.0, 0.1])
def test_negatives_are_those_of_the_definition(
    completions: Completions, tmp_path: Path, top_k: int, margin: float | None
) -> None:
    expected = candidates_of(completions, top_k, margin)
    ids, folder = list(completions.column("id")), vectors_of(completions, tmp_path)
    drawn: list[set[int]] = [set() for _ in range(ROWS)]
    for seed in range(40):
        settings = MiningSettings(top_k=top_k, margin=margin, seed=seed, device="cpu")
        found = Miner(settings, completions, folder).mine(0, ids).tolist()
        for row, negative in enumerate(found):
            assert negative in expected[row] or (negative == -1 and not expected[row]), (row, negative)
            drawn[row] |= {negative} - {-1}
    few = [row for row in range(ROWS) if len(expected[row]) <= 6]
    assert few or top_k > 6
    assert all(drawn[row] == expected[row] for row in few), "each candidate is drawn by some seed"
    assert (-1 in found) == (not all(expected))


def test_neither_blocks_nor_shards_nor_the_order_of_blocks_change_a_draw(
    completions: Completions, tmp_path: Path
) -> None:
    settings, ids = MiningSettings(top_k=9, margin=None, seed=3, device="cpu"), list(completions.column("id"))
    first = Miner(settings, completions, vectors_of(completions, tmp_path / "7")).mine(0, ids)
    assert len({*first.tolist()}) > 5
    for shard, block in ((60, 1), (3, 11), (25, 59)):
        miner = Miner(settings, completions, vectors_of(completions, tmp_path / str(shard), shard))
        blocks = [miner.mine(start, ids[start : start + block]) for start in reversed(range(0, ROWS, block))]
        assert torch.equal(torch.cat(blocks[::-1]), first)


def test_pairs_are_unit_vectors_behind_their_instructions(completions: Completions) -> None:
    plain, instructed = (
        PairEncoder(Vectors(), *given).embed(completions[:5]) for given in ((None, None), ("find it:", None))
    )
    assert plain.shape == (2, 5, DIM) and plain.dtype == torch.float16
    assert torch.allclose(plain.float().norm(dim=2), torch.ones(2, 5), atol=1e-3)
    assert torch.equal(instructed[0], -plain[0]) and torch.equal(instructed[1], plain[1])

    class Broken(Vectors):
        def encode(self, texts: list[str], instruction: str | None = None) -> torch.Tensor:
            return super().encode(texts) * math.inf

    with pytest.raises(InputError, match="not finite; use a wider dtype"):
        PairEncoder(Broken()).embed(completions[:1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"margin": -0.1}, "mine.margin=-0.1: expected a difference of cosines from 0 to 2"),
        ({"margin": 2.1}, "mine.margin=2.1"),
        ({"margin": math.nan}, "mine.margin=nan"),
        ({"margin": True}, "mine.margin=True"),
        ({"margin": "5%"}, "mine.margin=5%"),
        ({"top_k": 0}, "mine.top_k=0"),
        ({"top_k": 2.5}, "mine.top_k=2.5"),
        ({"seed": -1}, "mine.seed=-1"),
        ({"block_size": 0}, "mine.block_size=0"),
        ({"query_instruction": 3}, "mine.query_instruction=3: expected a text"),
    ],
)
def test_settings_that_cannot_work(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MiningSettings(**given)


# ---- the step


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("log") / "log.jsonl"
    rows = [{"query": f"what is {n} and {n * 7 % 13}?", "answer": f"it is {n * n % 97}."} for n in range(50)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def plan_of(log: Path, outputs: Path, *more: str) -> Plan:
    given = ["data=query_log", f"data.path={log}", "data.answer_column=answer", "generator=replay", "shard_size=16"]
    return compose(*given, "data.negatives=mined", "mine.margin=null", f"paths.outputs={outputs}", *more)


def test_the_step_continues_shares_vectors_and_counts(log: Path, tmp_path: Path) -> None:
    plan = plan_of(log, tmp_path, "mine.block_size=20", "mine.top_k=5")
    with pytest.raises(InputError, match="missing completions"):
        pipeline.mine(plan)
    completions = Completions(pipeline.complete(plan))
    folder = pipeline.mine(plan)
    negatives = read_negatives(folder, completions)
    encode = PairEncoder(plan.build("teacher"))
    miner = Miner(MiningSettings(top_k=5, margin=None), completions, plan.mining_vectors().folder)
    queries, answers = encode.embed(completions[:])
    nearest = (queries.double() @ answers.double().T).argsort(dim=1, descending=True)
    assert all(negative in nearest[row, :8] and negative != row for row, negative in enumerate(negatives.tolist()))
    assert negatives.tolist() == miner.mine(0, list(completions.column("id"))).tolist()
    assert read_manifest(folder)["counts"] == {"rows": 50, "without_negative": 0}
    assert read_manifest(plan.mining_vectors().folder)["counts"] == {"rows": 50, "embedding_dim": queries.shape[1]}

    artifact, vectors = plan.artifact("mine"), plan.mining_vectors()
    assert [shard.rows for shard in artifact.shards()] == [20, 20, 10]
    for each, lost in ((artifact, 1), (vectors, 2)):  # as after a kill in the middle
        for file in (each.folder / "manifest.json", each.shards()[lost].file):
            file.unlink()
    kept = {shard.file: shard.file.stat().st_mtime_ns for each in (artifact, vectors) for shard in each.shards()}
    assert read_negatives(pipeline.mine(plan), completions).tolist() == negatives.tolist()
    assert all(file.stat().st_mtime_ns == before for file, before in kept.items())

    other = plan_of(log, tmp_path, "mine.seed=1", "mine.margin=0.2")
    assert other.mining_vectors().is_complete and other.artifact("mine").digest != artifact.digest
    same = plan_of(log, tmp_path, "mine.block_size=7", "mine.top_k=5", "mine.device=null")
    assert same.artifact("mine").digest == artifact.digest
    with pytest.raises(InputError, match="hard negatives of the completions"):
        read_negatives(folder, Completions(pipeline.complete(plan_of(log, tmp_path, "data.limit=40"))))
    with pytest.raises(InputError, match="mine.margin=2: none of the 30 nearest"):
        pipeline.mine(plan_of(log, tmp_path, "mine.margin=2"))


def test_a_job_array_encodes_together_and_its_last_process_mines(log: Path, tmp_path: Path) -> None:
    alone = plan_of(log, tmp_path / "alone")
    arrays = [plan_of(log, tmp_path / "array", "executor=range", "executor.of=2", f"executor.index={index}")
              for index in (0, 1)]  # fmt: skip
    for plan in (alone, *arrays):
        pipeline.complete(plan)
    expected = read_negatives(pipeline.mine(alone), Completions(alone.require("complete")))
    worker = pickle.loads(pickle.dumps(arrays[0].pair_encoder()))()  # as Ray sends it
    assert worker.embed(Completions(arrays[0].require("complete"))[:2]).shape == (2, 2, worker.embedding_dim)
    pipeline.mine(arrays[0])
    assert not arrays[0].artifact("mine").is_complete and arrays[0].mining_vectors().rows == 32
    found = read_negatives(pipeline.mine(arrays[1]), Completions(arrays[1].require("complete")))
    assert found.tolist() == expected.tolist()


def test_training_reads_what_is_mined_and_nothing_else_changes_its_name() -> None:
    plain, mined = compose(), compose("data.negatives=mined")
    assert "mine" not in plain.artifact("train").upstream and "mine" in mined.artifact("train").upstream
    for step in ("complete", "embed"):
        assert plain.artifact(step).digest == mined.artifact(step).digest
    assert plain.artifact("train").digest == compose("mine.seed=5").artifact("train").digest
    assert mined.artifact("train").digest != compose("data.negatives=mined", "mine.seed=5").artifact("train").digest
    by_name = compose("data.negatives=mined", "mine.encoder=input_mean").artifact("mine")
    assert by_name.digest != mined.artifact("mine").digest and by_name.name == "pocket-transformers-input_mean"
    assert has_negatives(mined.settings) and not has_negatives(plain.settings)
    again = Plan.from_job(mined.as_job())
    assert again.artifact("train").digest == mined.artifact("train").digest


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["loss=[alignment,margin]"], "loss.margin needs hard negatives, which the data has not; name its columns"),
        (["data.negatives=yes"], "data.negatives=yes: expected mined, or null"),
        (["data.negatives=true"], "data.negatives=True: expected mined, or null"),
        (["data.negatives=mine"], "data.negatives=mine: expected mined"),
        (["data.negatives=mined", "mine.encoder=llm2vec_gen"], "mine.encoder=llm2vec_gen is unknown; expected teacher"),
        (["data.negatives=mined", "mine.encoder=null"], "mine.encoder=None is unknown"),
        (["data.negatives=mined", "data.limit=30"], "mine.top_k=30: the data has 30 rows"),
        (["data.negatives=mined", "mine.margin=3"], "mine.margin=3"),
        (["data.negatives=mined", "+mine.topk=3"], "mine.topk is an unknown setting"),
        (
            ["data.negatives=mined", "baseline=[sentence_transformer]", "baseline.sentence_transformer.path=./nowhere",
             "mine.encoder=sentence_transformer"],
            "baseline.sentence_transformer.path=./nowhere does not exist",
        ),
        (
            ["data=tulu_hard_negatives", "data.negatives=mined", "generator=replay", "backbone=qwen3_8b"],
            "the data has hard negatives of its own",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_mined_is_refused_before_any_work(given: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(*given)


def test_a_step_without_use_and_too_little_data_are_refused(
    log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match="mine needs data.negatives=mined"):
        pipeline.mine(plan_of(log, tmp_path, "data.negatives=null"))
    for losses, warned in (("[alignment,margin]", False), ("[alignment]", True)):
        caplog.clear()
        with pytest.raises(InputError, match="missing completions"):
            pipeline.mine(plan_of(log, tmp_path, f"loss={losses}"))
        assert ("no loss of this config reads hard negatives" in caplog.text) == warned
    with pytest.raises(InputError, match="mine.top_k=50: the data has 50 rows"):
        pipeline.complete(plan_of(log, tmp_path, "mine.top_k=50"))
    assert not list(tmp_path.glob("complete/*/rows-*"))
