from __future__ import annotations

import json
import math

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation
from llm2vec_gen.evaluations.bright import Bright
from llm2vec_gen.evaluations.instructions import InstructionTable

INSTRUCTION = InstructionTable({"reasoning": "Think:"}, documents="Sum up:")
EXAMPLES = [
    {"query": "aaa", "id": "1", "excluded_ids": ["N/A"], "gold_ids": ["d3", "d1"]},
    {"query": "aaa", "id": "2", "excluded_ids": ["d4", "d2"], "gold_ids": ["d3"]},
]
DOCUMENTS = [{"id": f"d{n}", "content": "a" * n} for n in (1, 2, 3, 4)]


class Longer:
    """Ranks longer documents first, whatever the query."""

    embedding_dim = 2

    def __init__(self):
        self.calls = []

    def encode(self, texts, instruction=None):
        self.calls.append(instruction)
        angles = [1 / len(text) if instruction == "Sum up:" else 0.0 for text in texts]
        return torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles])


@pytest.fixture
def folder(tmp_path):
    for name, rows in (("examples", EXAMPLES), ("documents", DOCUMENTS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pony.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_excluded_documents_leave_the_ranking(folder):
    bench, encoder = Bright(INSTRUCTION, str(folder), domains=["pony"]), Longer()
    assert isinstance(bench, Evaluation) and bench.tasks() == ["bright_pony"]
    main, recall = bench.evaluate(encoder, "bright_pony")
    ideal = 1 + 1 / math.log2(3)
    first = (1 / math.log2(3) + 1 / math.log2(5)) / ideal  # order d4 d3 d2 d1, gold d3 and d1
    assert main.per_query == pytest.approx({"1": first, "2": 1.0}), "without d4 and d2, d3 comes first"
    assert (main.metric, main.main, main.subset, main.category) == ("ndcg_at_10", True, "official", "reasoning")
    assert recall.value == 1.0 and not recall.main
    assert set(encoder.calls) == {"Think:", "Sum up:"}
    assert {query.id: query.text for query in bench.queries("bright_pony")} == {"1": "aaa", "2": "aaa"}


def test_all_domains_and_unknown_ones(folder):
    assert len(Bright(INSTRUCTION).tasks()) == 12
    with pytest.raises(InputError, match="psychology"):
        Bright(INSTRUCTION, domains=["psycholgy"])
    with pytest.raises(InputError, match=r"evaluation.bright.path=.*there is no biology.jsonl"):
        Bright(INSTRUCTION, str(folder)).evaluate(Longer(), "bright_biology")


def test_ids_that_are_no_list_or_not_there(folder):
    text = (folder / "examples" / "pony.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    for gold, message in (
        ("d1", "gold_ids is 'd1', expected list"),
        (["d9"], "no gold_ids of bright_pony stand among"),
    ):
        changed = [json.dumps(row | {"gold_ids": gold}) for row in rows]
        (folder / "examples" / "pony.jsonl").write_text("\n".join(changed))
        with pytest.raises(InputError, match=message):
            Bright(INSTRUCTION, str(folder), domains="pony").evaluate(Longer(), "bright_pony")


def test_missing_columns(folder):
    (folder / "documents" / "pony.jsonl").write_text(json.dumps({"id": "d1", "text": "a"}))
    with pytest.raises(InputError, match="jsonl:1 lacks content; it has id, text"):
        Bright(INSTRUCTION, str(folder)).evaluate(Longer(), "bright_pony")
