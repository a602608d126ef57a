"""Every row of the paper composes and builds at scale=pocket too, and differs there from the default row.

(That every row composes at full size and fits its classes, tests/test_config.py checks with all other yamls.)
"""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from llm2vec_gen.config import CONF, compose

PAPER = CONF / "experiment" / "paper"
ROWS = sorted(str(file.relative_to(CONF / "experiment").with_suffix("")) for file in PAPER.glob("*/**/*.yaml"))
RIVALS = ("inbedder", "gircse", "laser")  # baselines that are trained: stand-ins for their adapters
POCKET = CONF.parent / "llm2vec_gen" / "pocket"


@pytest.fixture(scope="module", autouse=True)
def stand_ins(tmp_path_factory):
    """What rows need that is not shipped, with real weights: copies of what is, distinguished by a note."""
    folder = tmp_path_factory.mktemp("stand_ins")
    shutil.copytree(POCKET / "lm", folder / "large")
    for name, second in (("large_teacher", "simcse"), ("supervised", "supervised")):
        shutil.copytree(POCKET / "teacher" / "mntp", folder / name / "mntp")
        shutil.copytree(POCKET / "teacher" / "simcse", folder / name / second)
    for name in RIVALS:
        shutil.copytree(POCKET / "teacher" / "mntp", folder / name / name)
    for place in ("large", "large_teacher/simcse", "supervised/supervised"):
        (folder / place / "NOTE").write_text(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKET_LARGE", str(folder / "large"))
        patch.setenv("POCKET_LARGE_TEACHER", str(folder / "large_teacher"))
        patch.setenv("POCKET_SUPERVISED", str(folder / "supervised"))
        for name in RIVALS:
            patch.setenv(f"POCKET_{name.upper()}", str(folder / name))
        yield folder / "outputs"


BUILT = {}  # what was built, by its settings: rows share most of it


def build(plan, component, **dependencies):
    group, _, name = component.partition(".")
    settings = json.dumps(plan.settings[group][name] if name else plan.settings[group], sort_keys=True)
    if (component, settings, *dependencies) not in BUILT:
        BUILT[component, settings, *dependencies] = plan.build(component, **dependencies)
    return BUILT[component, settings, *dependencies]


def build_encoders(plan):
    for encoder in plan.encoders():
        if encoder == "llm2vec_gen":
            backbone, teacher = build(plan, "backbone"), build(plan, "teacher")
            assert build(plan, "model", backbone=backbone, embedding_dim=teacher.embedding_dim).embedding_dim
        else:
            build(plan, "teacher" if encoder == "teacher" else f"baseline.{encoder}")


@pytest.mark.parametrize("row", ROWS)
def test_every_row_shrinks_to_the_pocket_and_builds(row, stand_ins):
    plan = compose(f"experiment={row}", "scale=pocket", f"paths.outputs={stand_ins}")
    assert plan.settings["backbone"]["path"].startswith("package://")
    assert set(plan.settings["evaluation"]) == {"pocket", "decoding"}
    assert plan.settings["trainer"]["accelerator"] == "cpu" and plan.settings["name"] is None
    for component in ("data", "generator", "instruction", "training"):
        build(plan, component)
    for group in ("loss", "interpreter"):
        assert [build(plan, f"{group}.{name}") for name in plan.settings[group]]
    for name in plan.settings["evaluation"]:
        assert build(plan, f"evaluation.{name}", instruction=build(plan, "instruction")).tasks()
    build_encoders(plan)
    for step in ("complete", "embed", "train", "evaluate", "interpret"):
        assert plan.artifact(step).digest


def test_a_row_is_empty_in_the_pocket_where_its_models_are_missing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("POCKET_LARGE", str(tmp_path / "nowhere"))
    plan = compose("scale=pocket", f"paths.outputs={tmp_path}")
    assert plan.gather(["paper/figure6/completions_4b_teacher_8b:llm2vec_gen"], [42]) == []
    assert "completions_4b_teacher_8b stays empty" in caplog.text and "nowhere does not exist" in caplog.text


def test_a_baseline_that_is_null_is_not_there():
    row = compose("experiment=paper/table1/qwen3_4b", "scale=pocket")
    assert row.encoders() == ["llm2vec_gen", "teacher", "input_mean", "last_token", "echo", "hyde"]
    assert compose("experiment=paper/figure3/qwen3_4b", "scale=pocket").encoders()[-1] == "llm2vec_supervised"


def test_make_reproduce_runs_every_row_and_draws_every_table(tmp_path):
    command = ["make", "--no-print-directory", "-n", "reproduce", f"QUICK={tmp_path / 'quick'}"]
    printed = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, check=True).stdout
    assert printed.split(" experiment=")[1].split()[0].split(",") == ROWS
    tables = sorted(f"paper/{file.stem}" for file in (CONF / "table" / "paper").glob("*.yaml"))
    assert printed.split(" table=")[1].split()[0].split(",") == tables


def digests(row, *overrides):
    plan = compose(f"experiment={row}", *overrides)
    return {step: plan.artifact(step).digest for step in ("complete", "embed", "train", "evaluate")}


def changed(row, default, *overrides):
    one, other = digests(row, *overrides), digests(default, *overrides)
    return [step for step in one if one[step] != other[step]]


ALL = ["complete", "embed", "train", "evaluate"]


@pytest.mark.parametrize(
    ("row", "steps"),
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
def test_an_ablation_changes_its_own_step_and_those_after_it(row, steps, scale):
    assert changed(f"paper/table3/{row}", "paper/table3/both_losses", *scale) == steps


def test_rows_share_what_they_can():
    assert digests("paper/figure3/qwen3_8b")["train"] == digests("paper/table1/qwen3_8b")["train"]
    assert changed("paper/figure5/embedding", "paper/figure5/generative") == ["evaluate"]
    assert changed("paper/figure5/none", "paper/figure5/embedding", "scale=pocket") == ["evaluate"]
    assert changed("paper/figure4/tokens_10", "paper/table3/both_losses") == []
    assert changed("paper/figure4/tokens_20", "paper/figure4/tokens_10", "scale=pocket") == ["train", "evaluate"]
    assert changed("paper/figure6/completions_4b_teacher_4b", "paper/table3/both_losses") == ["evaluate"], "two suites"
    assert changed("paper/table10/qwen3_4b", "paper/table1/qwen3_4b", "scale=pocket") == ALL[1:]
    for scale in ([], ["scale=pocket"]):
        assert changed("paper/table10/qwen3_4b_hard_negatives", "paper/table10/qwen3_4b", *scale) == ALL
        assert changed("paper/table10/qwen3_4b_lora", "paper/table10/qwen3_4b_hard_negatives", *scale) == ALL[2:]
        assert changed("paper/table10/qwen3_4b_echo_data", "paper/table10/qwen3_4b_lora", *scale) == ALL
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
