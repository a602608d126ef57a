from __future__ import annotations

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.instructions import InstructionTable, NoInstruction, Paraphrases, PocketInstruction
from llm2vec_gen.types import Instruction

TABLE = InstructionTable({"sts": "compare:", "retrieval": ""}, {"STS17": "own:"}, documents="read:")


def test_a_tasks_own_wording_wins_over_its_category():
    assert TABLE.query("STS17", "sts") == "own:"
    assert TABLE.query("STS12", "sts") == "compare:"
    assert TABLE.query("anything", "retrieval") is None
    assert TABLE.document("anything", "whatever") == "read:"


def test_unknown_task_lists_what_is_known():
    with pytest.raises(InputError, match=r"STS16.*STS17.*sts, retrieval"):
        TABLE.query("STS16", "clustering")


def test_none():
    assert NoInstruction().query("a", "b") is None and NoInstruction().document("a", "b") is None


def test_pocket_covers_every_category_of_its_tasks():
    from llm2vec_gen.types import CATEGORIES

    instruction = PocketInstruction()
    assert all(instruction.query(category, category) for category in CATEGORIES)
    assert instruction.document("retrieval", "retrieval")


@pytest.mark.parametrize("instruction", [TABLE, NoInstruction()])
def test_contract(instruction):
    assert isinstance(instruction, Instruction)


def test_the_pocket_can_leave_documents_bare():
    bare, usual = PocketInstruction(with_documents=False), PocketInstruction()
    assert bare.document("a", "retrieval") is None and usual.document("a", "retrieval")
    assert bare.query("a", "retrieval") == usual.query("a", "retrieval")


def test_one_of_several_wordings():
    wordings = {"sts": ["a:", "b:"], "retrieval": ["c:", "d:"]}
    table = Paraphrases(wordings, ["e:", "f:"], variant=2)
    assert (table.query("t", "sts"), table.query("t", "retrieval"), table.document("t", "sts")) == ("b:", "d:", "f:")
    assert table.wording()["categories"] == {"sts": "b:", "retrieval": "d:"}
    for variant, documents in ((3, ["e:", "f:", "g:"]), (2, ["e:"]), (1, "e:")):
        with pytest.raises(InputError, match=rf"instruction.variant={variant}: .*fewer wordings"):
            Paraphrases(wordings, documents, variant=variant)
    with pytest.raises(InputError, match="instruction.variant"):
        Paraphrases(wordings, ["e:", "f:"], variant=0)
