"""Every yaml of conf/evaluation and conf/instruction builds."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation, by_task
from llm2vec_gen.evaluations.instructions import InstructionTable
from llm2vec_gen.types import CATEGORIES, Instruction

CONF = Path(__file__).resolve().parents[2] / "conf"


def names(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


MUST_BE_CHOSEN = {
    "faithfulness": [
        f"evaluation.faithfulness.queries.path={CONF.parent}/experiments/questions.jsonl",
        "evaluation.faithfulness.queries.query_column=query",
    ],
    "sensitivity": ["evaluation.sensitivity.reference.path=folder"],
    "mteb_task": ["evaluation.mteb_task.selection=[SciFact]"],
    **{
        f"own_{kind}": [f"evaluation.own_{kind}.path=folder"]
        for kind in ("retrieval", "classification", "clustering", "sts", "pairs", "reranking")
    },
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


@pytest.mark.parametrize("name", ["mteb_eng_v2", "mteb_lite", "mteb_lite8", "bright", "bright_mteb", "advbench_ir"])
def test_the_generative_wording_names_every_task_of_the_papers_suites(name):
    instruction = hydra.utils.instantiate(compose("instruction=generative").instruction, _convert_="all")
    (node,) = compose(f"evaluation={name}").evaluation.values()
    suite = hydra.utils.instantiate(node, instruction=instruction, _convert_="all")
    assert not [task for task in suite.tasks() if not instruction.tasks.get(task)]
    assert all(instruction.categories.get(suite.category_of(task)) for task in suite.tasks())
    suite.check(None)


@pytest.mark.parametrize("name", ["mteb_eng_v2", "bright", "bright_mteb", "advbench_ir"])
def test_the_embedding_wording_has_every_category_of_the_papers_suites(name):
    instruction = hydra.utils.instantiate(compose("instruction=embedding").instruction, _convert_="all")
    (node,) = compose(f"evaluation={name}").evaluation.values()
    hydra.utils.instantiate(node, instruction=instruction, _convert_="all").check(None)


def test_a_task_without_instruction_is_refused_before_anything_is_encoded():
    (node,) = compose("evaluation=mteb_lite").evaluation.values()
    instruction = InstructionTable({"retrieval": "find:"}, {"BIOSES": "own:"})
    suite = hydra.utils.instantiate(node, instruction=instruction, _convert_="all")
    with pytest.raises(InputError, match=r"no instruction for task 'AskUbuntuDupQuestions'.*BIOSES.*retrieval.*yaml"):
        suite.check(None)


def test_two_evaluations_with_one_task_are_refused():
    nodes = compose("evaluation=[mteb_lite,mteb_lite8]").evaluation.values()
    suites = [hydra.utils.instantiate(node, instruction=None, _convert_="all") for node in nodes]
    with pytest.raises(InputError, match="'ArguAna' is in two evaluations, mteb_lite and mteb_lite8"):
        by_task(suites)
    assert list(by_task(suites[1:])) == suites[1].tasks()
