"""A setting that nobody reads, or that cannot be parsed, is one line with what to write instead; a text is a text."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from llm2vec_gen.config import Plan, compose, quoted
from llm2vec_gen.errors import InputError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=smollm2"], "texts=... is required: data.path is taken from it"),
        (["training.learn_rate=1"], "training.learn_rate is an unknown setting: training takes learning_rate"),
        (["+training.learn_rate=1"], "training.learn_rate is an unknown setting: TrainingSettings takes learning_rate"),
        (["+trainer.precison=16"], "trainer.precison is an unknown setting: lightning.Trainer takes precision"),
        (["trainer.precison=16"], "trainer.precison is an unknown setting: trainer takes precision"),
        (["+trainer.benchmrk=true"], "trainer.benchmrk is an unknown setting: lightning.Trainer takes benchmark"),
        (["+trainer.accumulate_grad_batches=2"], "set training.batch_size and training.max_tokens_per_micro_batch"),
        (["+trainer.gradient_clip_val=1"], "trainer.gradient_clip_val cannot be set: set training.gradient_clip"),
        (["trainer.precision=16-true"], "stay in fp32, and cannot compute on a CPU; set backbone.dtype"),
        (["trainer=gpu", "trainer.precision=bf16-true"], "which stay in fp32; set backbone.dtype"),
        (["trainer.precision=16-mixed"], "set trainer.precision=bf16-mixed"),
        (["trainer.precision=8"], "expected 32-true or bf16-mixed"),
        (["trainer.limit_train_batches=0"], "expected a number of steps from 1"),
        (["trainer.limit_train_batches=1.5"], "expected a number of steps from 1"),
        (
            ["training.log_every_n_steps=2"],
            "is now called trainer.log_every_n_steps; write trainer.log",
        ),
        (["+optimiser._target_=torch.optim.SGD"], "optimiser is an unknown setting: this config takes"),
        (["sed=1"], "sed is an unknown setting: this config takes seed"),
        (["+sed=1"], "sed is an unknown setting: this config takes seed"),
        (["+loss.alignment.wait=1"], "loss.alignment.wait is an unknown setting: AlignmentLoss takes weight"),
        (["loss.alignmnt.weight=1"], "loss.alignmnt is an unknown setting: loss takes alignment"),
        (["+loss.weight=2"], "write loss.alignment.weight, loss.reconstruction.weight"),
        (["+evaluation.limit=2"], "write evaluation.pocket.limit"),
        (["+sweep.skip=true"], "sweep.skip is an unknown setting: sweep takes skip_done"),
        (["+interpret.limits=2"], "interpret.limits is an unknown setting: interpret takes limit"),
        (["+backbone.recommended.learning_rat=1"], "backbone.recommended.learning_rat is an unknown .* learning_rate"),
        (
            ["+backbone.recommended.teacher={pth: x}"],
            "backbone.recommended.teacher.pth is an unknown setting: backbone.recommended.teacher takes path",
        ),
        (["+paths.output=x"], "paths.output is an unknown setting: paths takes outputs"),
        (
            ["+teacher_training.objectives.mntp.rate=1"],
            "teacher_training.objectives.mntp.rate is an unknown setting: MaskedNextTokenPrediction",
        ),
        (["+model.embedding_dim=8"], "model.embedding_dim is no setting: the step itself sets it"),
        (["+evaluation.pocket.instruction=x"], "evaluation.pocket.instruction is no setting"),
        (["loss=[alignment,contrast]"], "loss=contrast is unknown; expected one of contrastive"),
        (["backbone=pockets"], "backbone=pockets is unknown; expected one of pocket"),
        (["data.path=x.jsonl"], "data.path is an unknown .* data=echo_hard_negatives or hub or query_log has path"),
        (["~loss.contrast"], "~loss.contrast: this config has no loss.contrast to remove"),
        (["hydra.jobs=1"], "hydra.jobs is an unknown setting: hydra takes job"),
        (["loss.alignment._target_=llm2vec_gen.losses.alignment.Alignment"], "closest: .*AlignmentLoss"),
        (["teacher=llm2vec"], "comes from backbone.recommended.teacher.path, which backbone=pocket does not have; "),
        (["data.split=${nowhere}"], r"data.split refers to \$\{nowhere\}, which this config does not have"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_unknown_setting_is_one_line_with_the_closest_known_ones(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        compose(*overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["+tag=x", "name=run-${tag}"],
        ["+paths.scratch=/tmp", "embedding_cache=${paths.scratch}"],
        ["experiment=pocket", "interpret.queries=${data}"],  # nothing refers to `heldout` any more
        ["experiment=paper/pocket_large", "backbone=qwen3_4b"],
        ["+baseline.old=null"],
    ],
)
def test_what_something_refers_to_may_be_added(overrides: list[str]) -> None:
    compose(*overrides)


# ---- texts with characters that mean something to Hydra, OmegaConf or the shell

TEXTS = [
    "a b", "a=b", "a,b", "a#b", "a@b", "${seed}", "x ${name} y", r"\${seed}", r"C:\data\new.jsonl", "C:/data/x.jsonl",
    "run[1]", "a::b", "a$HOME", "it's", 'say "x"', """both ' and \"""", "{a}", "(a)", "a&b;c|d", "ü/é.jsonl", "a*?b",
    "\\",
    "end\\", "\\'", "null", "1", "true", "~", "", "[1,2]", "Price: ${seed}, or 'more'\\", "two\nlines", "???x",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_quoted_text_is_exactly_that_text(text: str) -> None:
    assert compose(f"name={quoted(text)}").settings["name"] == text


@pytest.mark.parametrize("text", ["a b=c.jsonl", "a,b", "a#b", "run[1]", "it's", "{a}", "a&b", "ü ${x}", "(x)"])
def test_what_cannot_be_parsed_says_how_to_quote_it(text: str) -> None:
    with pytest.raises(InputError) as caught:
        compose(f"name={text}")
    command = str(caught.value).partition("to give it as a text write ")[2].removesuffix("; with -m it is a sweep")
    (override,) = shlex.split(command)
    assert compose(override).settings["name"] == text


def built(plan: Plan) -> list[Any]:
    return [
        plan.build("instruction").documents,
        plan.build("instruction").query("ArguAna", "retrieval"),
        plan.build("interpret.queries").columns[0],
        plan.recipe("data")().columns[0],
    ]


def test_a_literal_stays_literal_everywhere(tmp_path: Path) -> None:
    """In the settings, in what is built, in a plan that travels to ranks, in what another node refers to."""
    (tmp_path / "log.jsonl").write_text(json.dumps({"${name}": "text"}))
    plan = compose(
        "instruction=generative", r"instruction.documents='Price \${seed}:'", r"instruction.tasks.ArguAna='\${name}'",
        "data=query_log", "data.path=log.jsonl", r"data.query_column='\${name}'",
        r"teacher.instruction='Costs \${oc.env:HOME}'", "seed=7",
    )  # fmt: skip
    expected = ["Price ${seed}:", "${name}", "${name}", "${name}"]
    assert built(plan) == expected
    assert plan.settings["teacher"]["instruction"] == "Costs ${oc.env:HOME}"
    assert plan.settings["interpret"]["queries"]["query_column"] == "${name}"
    travelled = Plan.from_job(json.loads(json.dumps(plan.as_job())))
    assert built(travelled) == expected
    assert travelled.settings == plan.settings
    for step in ("complete", "train", "evaluate", "interpret"):
        assert travelled.artifact(step).digest == plan.artifact(step).digest
    assert travelled.job("run").id == plan.job("run").id
    assert list(plan.recipe("data")().queries())[0].text == "text"
