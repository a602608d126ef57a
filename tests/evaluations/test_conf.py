"""Every yaml of conf/evaluation and conf/instruction builds."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest

from llm2vec_gen.evaluations.base import CATEGORIES
from llm2vec_gen.types import Evaluation, InputError, Instruction

CONF = Path(__file__).resolve().parents[2] / "conf"


def names(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


MUST_BE_CHOSEN = {
    "mteb_task": ["evaluation.mteb_task.selection=[SciFact]"],
    "own_retrieval": ["evaluation.own_retrieval.path=folder"],
}


def compose(override, *more):
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return hydra.compose(overrides=[f"+{override}", *more])


@pytest.mark.parametrize("name", names("instruction"))
def test_instruction(name):
    instruction = hydra.utils.instantiate(compose(f"instruction={name}").instruction, _convert_="all")
    assert isinstance(instruction, Instruction)
    if name == "paper":  # its wordings come from elsewhere: test_paper_instruction.py
        return
    for category in CATEGORIES:
        assert bool(instruction.query("a task", category)) == (name != "none")


@pytest.mark.parametrize("name", names("evaluation"))
def test_evaluation(name):
    (node,) = compose(f"evaluation={name}", *MUST_BE_CHOSEN.get(name, [])).evaluation.values()
    evaluation = hydra.utils.instantiate(node, instruction=None, _convert_="all")
    assert isinstance(evaluation, Evaluation)
    assert evaluation.tasks() and len(set(evaluation.tasks())) == len(evaluation.tasks())
    with pytest.raises(InputError):
        evaluation.evaluate(None, "no such task")


def test_generative_wording_has_every_task_of_mteb_english():
    import mteb

    instruction = hydra.utils.instantiate(compose("instruction=generative").instruction, _convert_="all")
    covered_by_category = {"STS", "Summarization"}
    for task in mteb.get_benchmark("MTEB(eng, v2)").tasks:
        if task.metadata.type not in covered_by_category:
            assert instruction.tasks.get(task.metadata.name), task.metadata.name


@pytest.mark.parametrize("name", ["advbench_ir", "bright"])
@pytest.mark.parametrize("wording", ["generative", "embedding"])
def test_the_safety_and_reasoning_suites_have_instructions(name, wording):
    instruction = hydra.utils.instantiate(compose(f"instruction={wording}").instruction, _convert_="all")
    categories = {"AdvBench-IR": "harmful_retrieval", "AdvBench-IR-benign": "benign_retrieval"}
    (node,) = compose(f"evaluation={name}").evaluation.values()
    for task in hydra.utils.instantiate(node, instruction=instruction, _convert_="all").tasks():
        assert instruction.query(task, categories.get(task, "reasoning"))
