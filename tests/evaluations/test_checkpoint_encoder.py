"""Any checkpoint as what is evaluated: encoder=<folder or hub id>, baseline=[checkpoint], and scores on its card."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2vec_gen import LLM2VecGen, artifacts, pipeline
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.checkpoints import native
from llm2vec_gen.config import Plan, compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Score
from tests.builders import tiny_backbone_folder
from tests.checkpoints.samples import FAMILIES
from tests.evaluations.test_own_retrieval import CORPUS, QRELS, QUERIES


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, QUERIES)))
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, CORPUS)))
    (folder / "qrels" / "test.tsv").write_text(QRELS)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = LLM2VecGen(
        Backbone.from_pretrained(str(tiny_backbone_folder(place)), device="cpu"), 12, 0, 3, max_length=64
    )
    model.save_pretrained(place / "moved model")
    return place / "moved model"


def test_any_checkpoint_is_evaluated_by_its_folder_or_as_a_baseline(
    tmp_path: Path, data: Path, checkpoint: Path
) -> None:
    own = [f"paths.outputs={tmp_path}", "evaluation=[own_retrieval]", f"evaluation.own_retrieval.path={data}"]
    own += ["instruction=generative", "table=own_retrieval"]
    by_folder = compose(*own, f"encoder='{checkpoint}'")
    assert by_folder.encoders() == ["moved_model"]
    (score, *_) = artifacts.read_scores(pipeline.evaluate(by_folder))
    model = LLM2VecGen.from_pretrained(checkpoint, device="cpu")
    evaluation = by_folder.build("evaluation.own_retrieval", instruction=by_folder.build("instruction"))
    assert (score.encoder, score.value) == ("moved_model", evaluation.evaluate(model, "own_retrieval")[0].value)
    as_baseline = compose(
        *own, "baseline=[checkpoint]", f"baseline.checkpoint.path='{checkpoint}'", "encoder=checkpoint"
    )
    assert artifacts.read_scores(pipeline.evaluate(as_baseline))[0].value == score.value


def evaluated(tmp_path: Path, folder: Path, *more: str) -> tuple[str, str]:
    """Name and digest of the scores of a checkpoint."""
    found = compose(f"paths.outputs={tmp_path}/outputs", f"encoder='{folder}'", *more)
    (name,) = found.encoders()
    return name, found.artifact("evaluate", name).digest


@pytest.mark.parametrize("name", ["teacher", "llm2vec_gen", "input_mean"])
def test_a_folder_with_the_name_of_another_encoder_is_itself(tmp_path: Path, checkpoint: Path, name: str) -> None:
    place = shutil.copytree(checkpoint, tmp_path / name)
    found = compose(f"paths.outputs={tmp_path}/outputs", f"encoder={place}")
    assert found.encoders() == [f"checkpoint_{name}"]
    model = found.build_encoder(f"checkpoint_{name}")
    assert torch.equal(model.suffix, LLM2VecGen.from_pretrained(checkpoint, device="cpu").suffix)


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "v1.5", "12"])
def test_a_folder_may_have_dots_or_digits_in_its_name(tmp_path: Path, checkpoint: Path, name: str) -> None:
    place = shutil.copytree(checkpoint, tmp_path / name)
    found = compose(f"paths.outputs={tmp_path}/outputs", f"encoder={place}")
    assert found.build_encoder(found.settings["encoder"]).num_compression_tokens == 3


def test_scores_of_a_checkpoint_are_those_of_its_embeddings(tmp_path: Path, checkpoint: Path) -> None:
    place = shutil.copytree(checkpoint, tmp_path / "one" / "model")
    first = evaluated(tmp_path, place)
    native.write_scores(place, [{"name": "a", "value": 1.0}])  # what evaluating leaves there
    (place / "metrics.csv").write_text("step\n")
    assert evaluated(tmp_path, place) == first
    assert evaluated(tmp_path, shutil.copytree(place, tmp_path / "two" / "model")) == first
    model = LLM2VecGen.from_pretrained(checkpoint, device="cpu")
    with torch.no_grad():
        model.suffix += 1
    model.save_pretrained(tmp_path / "three" / "model")
    assert evaluated(tmp_path, tmp_path / "three" / "model") != first
    dtype = [*("baseline=[checkpoint]", "encoder=checkpoint"), f"baseline.checkpoint.path={place}"]
    digests = {compose(*dtype, *more).artifact("evaluate", "checkpoint").digest
               for more in ([], ["baseline.checkpoint.dtype=bfloat16"], ["trainer.device=cuda"])}  # fmt: skip
    assert len(digests) == 2
    by_folder = [compose(f"encoder='{place}'", f"encoder_dtype={dtype}") for dtype in ("null", "bfloat16")]
    assert len({plan.artifact("evaluate", plan.settings["encoder"]).digest for plan in by_folder}) == 2
    assert by_folder[1].build_encoder(by_folder[1].settings["encoder"]).dtype == torch.bfloat16


def test_a_backbone_that_was_edited_gives_other_scores(tmp_path: Path) -> None:
    """Also where the checkpoint records no fingerprint, as published ones do not."""
    family = Path(shutil.copytree(FAMILIES / "qwen2_5", tmp_path / "family"))
    given = ["baseline=[checkpoint]", f"baseline.checkpoint.path={family}/checkpoint", "encoder=checkpoint",
             f"baseline.checkpoint.backbone={family}/backbone"]  # fmt: skip
    before = compose(*given).artifact("evaluate", "checkpoint").digest
    weights = load_file(family / "backbone" / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"] += 0.1
    save_file(weights, family / "backbone" / "model.safetensors", metadata={"format": "pt"})
    assert compose(*given).artifact("evaluate", "checkpoint").digest != before


def test_other_instructions_than_the_checkpoint_records_are_named(
    tmp_path: Path, data: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = LLM2VecGen.from_pretrained(checkpoint, device="cpu")
    model.instructions = compose("instruction=generative").build("instruction").wording()
    model.save_pretrained(tmp_path / "m")
    own = [f"paths.outputs={tmp_path}", f"encoder={tmp_path}/m", "evaluation=own_retrieval",
           f"evaluation.own_retrieval.path={data}"]  # fmt: skip
    for instruction, named in (("generative", False), ("none", True), ("embedding", True)):
        caplog.clear()
        pipeline.evaluate(compose(*own, f"instruction={instruction}"))
        found = f"instruction={instruction} (" in caplog.text and "that the checkpoint records" in caplog.text
        assert found == named


def record(plan: Plan, scores: list[Score]) -> None:
    native.record_scores(plan.require("train"), scores, plan.other_instructions, plan.settings["encoder_dtype"])


def test_the_card_has_the_scores_and_names_those_of_other_instructions(tmp_path: Path, checkpoint: Path) -> None:
    own = [f"paths.outputs={tmp_path}/outputs", "instruction=generative"]
    artifact = compose(*own).artifact("train")
    model = LLM2VecGen.from_pretrained(checkpoint, device="cpu")
    model.instructions = compose(*own).build("instruction").wording()
    model.save_pretrained(artifact.folder)
    artifact.add_file("model.safetensors")
    artifact.finish()
    score = Score("llm2vec_gen", "own", "task", "retrieval", "default", "test", "ndcg_at_10", 0.5, main=True)
    for instruction, value in (("generative", 0.5), ("none", 0.25), ("embedding", 0.125)):
        found = compose(*own, f"instruction={instruction}")
        record(found, [replace(score, value=value), replace(score, metric="map", main=False)])
    rows = [line for line in (artifact.folder / "README.md").read_text().splitlines() if "own / task" in line]
    assert rows[0].startswith("| own / task / ndcg_at_10 | 0.500")
    assert rows[1].startswith("| own / task / ndcg_at_10, instruction=none (")
    assert rows[2].startswith("| own / task / ndcg_at_10, instruction=embedding (") and len(rows) == 3
    record(compose(*own, "encoder_dtype=bfloat16"), [score])
    assert "| own / task / ndcg_at_10, bfloat16 | 0.500" in (artifact.folder / "README.md").read_text()
    assert LLM2VecGen.from_pretrained(artifact.folder, device="cpu").card["scores"][0]["value"] == 0.5


def test_a_card_that_cannot_be_written_costs_no_scores(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = compose(f"paths.outputs={tmp_path}/outputs")
    artifact = found.artifact("train")
    shutil.copytree(checkpoint, artifact.folder)
    artifact.finish()
    (artifact.folder / "scores.json").write_text("damaged")
    record(found, [Score("a", "own", "task", "retrieval", "default", "test", "map", 0.5, main=True)])
    assert "the scores are not in the card" in caplog.text


@pytest.mark.parametrize("name", ["teachr", "no/such/folder", "./nothing"])
def test_an_encoder_that_is_nothing_lists_what_there_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"encoder=.* is unknown; this config has llm2vec_gen, teacher"):
        pipeline.evaluate(compose(f"paths.outputs={tmp_path}", f"encoder={name}"))
