"""The steps from data with hard negatives to a checkpoint, with every supervised loss at once."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback
from safetensors.torch import load_file

from llm2vec_gen import LLM2VecGen, pipeline
from llm2vec_gen.artifacts import read_manifest
from llm2vec_gen.config import compose
from tests.builders import tiny_backbone_folder

LOSSES = (
    "alignment", "reconstruction", "negative_alignment", "negative_reconstruction", "document_alignment", "margin",
    "supervised_contrastive",
)  # fmt: skip
SMALL = [
    f"loss=[{','.join(LOSSES)}]", "data.limit=24", "data.answers=true", "data.validation=4", "generator=replay",
    "training.max_steps=2", "training.schedule_steps=2", "training.warmup_steps=0", "training.batch_size=4",
    "training.query_chunk_size=6", "trainer.log_every_n_steps=1", "model.lora={rank: 2, alpha: 4}",
    "loss.supervised_contrastive.hardness=1",
]  # fmt: skip


@pytest.mark.parametrize(
    "negatives", [["data.hard_negatives=true"], ["data.negatives=mined", "mine.top_k=5", "mine.margin=null"]],
    ids=["paired", "mined"],
)  # fmt: skip
def test_a_run_trains_on_negatives_and_documents(tmp_path: Path, negatives: list[str]) -> None:
    plan = compose(f"paths.outputs={tmp_path}", *SMALL, *negatives)
    steps = [pipeline.complete, pipeline.embed, *([] if plan.mining is None else [pipeline.mine]), pipeline.train]
    folder = [step(plan) for step in steps][-1]
    counts = read_manifest(folder)["counts"]
    assert counts["samples"] == 8 and counts["validation_queries"] == 4
    assert min(counts[f"{side}_tokens"] for side in ("document", "negative_query", "negative_document")) > 0
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    for name in (*LOSSES, "cosine_negative"):
        assert math.isfinite(float(rows[0][header.index(f"train/{name}")])), name
    assert {f"val/{name}" for name in LOSSES} <= set(header)
    width = read_manifest(plan.require("embed"))["counts"]["embedding_dim"]
    assert LLM2VecGen.from_pretrained(folder).encode(["what is the money of japan?"]).shape == (1, width)


class Crash(Callback):
    """Ends the training before its fourth step."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise ConnectionError("the machine is gone")


def test_a_crashed_run_on_mined_negatives_continues_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = [*SMALL, "data.negatives=mined", "mine.top_k=5", "mine.margin=null", "training.max_steps=6",
           "training.schedule_steps=6", "training.checkpoint_every_n_steps=2"]  # fmt: skip
    plan = compose(f"paths.outputs={tmp_path / 'straight'}", *job)
    for step in (pipeline.complete, pipeline.embed, pipeline.mine):
        step(plan)
    shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    straight = pipeline.train(plan)
    cut = compose(f"paths.outputs={tmp_path / 'cut'}", *job)
    with monkeypatch.context() as broken, pytest.raises(ConnectionError):
        broken.setattr(type(cut), "callbacks", lambda self: [Crash()])
        pipeline.train(cut)
    assert [*cut.outputs.glob("train/*/resume/last.ckpt")]  # of step 2: it does not start anew
    continued = pipeline.train(cut)
    assert continued.relative_to(cut.outputs) == straight.relative_to(plan.outputs)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (continued, straight))
    assert set(ours) == set(theirs) and all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.parametrize(("vocabulary", "logged"), [(400, False), (360, True)])
def test_a_teacher_with_another_tokenizer_is_logged_once(
    tmp_path: Path, vocabulary: int, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = tiny_backbone_folder(tmp_path)
    teacher = tiny_backbone_folder(tmp_path, seed=1, vocab_size=vocabulary, name="teacher")
    plan = compose(
        f"paths.outputs={tmp_path}", f"backbone.path={backbone}", "teacher=llm2vec", f"teacher.path={teacher}",
        "teacher.adapter=null", "teacher.second_adapter=null", "teacher.dtype=float32", "data.limit=12",
        "data.answers=true", "generator=replay", "loss=[alignment]", "training.max_steps=1", "training.batch_size=4",
        "training.warmup_steps=0", "training.schedule_steps=1", "instruction=none",
    )  # fmt: skip
    caplog.set_level("INFO")
    for step in (pipeline.complete, pipeline.embed, pipeline.train):
        step(plan)
    assert sum("different tokenizers" in record.message for record in caplog.records) == logged
