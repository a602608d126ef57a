"""Every row of the paper composes and names its artifacts at scale=pocket too, and differs there from the default row.

(That every row composes at full size and fits its classes, tests/test_config.py checks with all other yamls.)
"""

from __future__ import annotations

import pytest

from llm2vec_gen.config import CONF, compose

ROWS = sorted(
    str(file.relative_to(CONF / "experiment").with_suffix(""))
    for file in (CONF / "experiment" / "paper").rglob("*.yaml")
)
PIECES = {
    "paper/base",
    "paper/ablation",
    "paper/another_teacher",
    "paper/pocket_large",
    "paper/pocket_large_teacher",
    "paper/pocket_mean_teacher",
}


@pytest.mark.parametrize("row", sorted(set(ROWS) - PIECES))
def test_every_row_shrinks_to_the_pocket(row, tmp_path):
    plan = compose(f"experiment={row}", "scale=pocket", f"paths.outputs={tmp_path}")
    assert plan.settings["backbone"]["path"].startswith("package://")
    assert set(plan.settings["evaluation"]) == {"pocket", "decoding"}
    assert plan.settings["trainer"]["accelerator"] == "cpu" and plan.settings["name"] is None
    for noun in ("data", "generator", "teacher", "instruction", "training", "backbone"):
        plan.build(noun) if noun in ("data", "instruction", "training") else None
        assert plan.settings[noun]["_target_"]
    for verb in ("complete", "embed", "train", "evaluate", "interpret"):
        assert plan.artifact(verb).digest


def digests(row, *overrides):
    plan = compose(f"experiment={row}", *overrides)
    return {verb: plan.artifact(verb).digest for verb in ("complete", "embed", "train", "evaluate")}


def changed(row, default, *overrides):
    one, other = digests(row, *overrides), digests(default, *overrides)
    return [verb for verb in one if one[verb] != other[verb]]


ALL = ["complete", "embed", "train", "evaluate"]


@pytest.mark.parametrize(
    ("row", "verbs"),
    [
        ("reconstruction_only", ALL[2:]),
        ("alignment_only", ALL[2:]),
        ("completions_original", ALL),
        ("completions_qwen3_8b", ALL),
        ("completions_gemini", ALL),
        ("teacher_qwen3_8b", ALL[1:]),
        ("teacher_llama3.1_8b", ALL[1:]),
        ("teacher_bge_m3", ALL[1:]),
        ("lora_r8", ALL[2:]),
        ("lora_r32", ALL[2:]),
    ],
)
@pytest.mark.parametrize("scale", [[], ["scale=pocket"]], ids=["full", "pocket"])
def test_an_ablation_changes_its_own_verb_and_those_after_it(row, verbs, scale):
    assert changed(f"paper/table3/{row}", "paper/table3/both_losses", *scale) == verbs


def test_rows_share_what_they_can():
    assert digests("paper/figure3/qwen3_8b")["train"] == digests("paper/table1/qwen3_8b")["train"]
    assert changed("paper/figure5/embedding", "paper/figure5/generative") == ["evaluate"]
    assert changed("paper/figure5/none", "paper/figure5/embedding", "scale=pocket") == ["evaluate"]
    assert changed("paper/figure4/tokens_10", "paper/table3/both_losses") == []
    assert changed("paper/figure4/tokens_20", "paper/figure4/tokens_10", "scale=pocket") == ["train", "evaluate"]
    assert changed("paper/figure6/completions_4b_teacher_4b", "paper/table3/both_losses") == ["evaluate"], "two suites"
    assert changed("paper/v1/qwen3_4b", "paper/table1/qwen3_4b") == ["train", "evaluate"]
    pocket = [digests(f"paper/figure6/completions_{g}_teacher_{t}", "scale=pocket")["train"]
              for g in ("4b", "8b") for t in ("4b", "8b")]  # fmt: skip
    assert len(set(pocket)) == 4
    assert digests("paper/table1/qwen3_4b", "scale=pocket") == digests("paper/table2/qwen3_8b", "scale=pocket")


def test_a_row_of_one_method_is_that_encoder_of_the_size():
    size, row = compose("experiment=paper/table1/qwen3_1.7b"), compose("experiment=paper/table1/qwen3_1.7b/echo")
    assert row.settings["encoder"] == "echo"
    assert row.artifact("evaluate", "echo").digest == size.artifact("evaluate", "echo").digest
    assert compose("experiment=paper/table1/qwen3_1.7b/llm2vec").settings["encoder"] == "teacher"


def test_teachers_and_completions_of_other_sizes():
    settings = compose("experiment=paper/figure6/completions_0.6b_teacher_8b").settings
    assert settings["backbone"]["path"] == "Qwen/Qwen3-4B" and settings["data"]["split_of"] == "Qwen/Qwen3-0.6B"
    assert settings["teacher"]["path"] == "Qwen/Qwen3-8B"
    assert settings["teacher"]["second_adapter"] == "McGill-NLP/LLM2Vec-Qwen3-8B-mntp-unsup-simcse"
    settings = compose("experiment=paper/table3/teacher_llama3.1_8b").settings
    assert settings["teacher"]["adapter"] == "McGill-NLP/LLM2Vec-Meta-Llama-31-8B-Instruct-mntp"
    assert compose("experiment=paper/table3/teacher_bge_m3").settings["teacher"]["path"] == "BAAI/bge-m3-unsupervised"
