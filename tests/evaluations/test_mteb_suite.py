"""mteb's tasks by name: what is selected and refused. Data sets are not fetched; one task is fed by hand."""

from __future__ import annotations

import hashlib

import mteb
import pytest
import torch
from datasets import Dataset, DatasetDict

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations import mteb_suite
from llm2vec_gen.evaluations.instructions import InstructionTable, NoInstruction
from llm2vec_gen.evaluations.mteb_suite import MtebSuite

ENGLISH = "MTEB(eng, v2)"


class Hashed:
    embedding_dim = 16
    name = "hashed"

    def __init__(self):
        self.instructions = set()

    def encode(self, texts, instruction=None):
        self.instructions.add(instruction)
        return torch.stack([self.vector(text) for text in texts])

    def vector(self, text):
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])
        return torch.randn(16, generator=torch.Generator().manual_seed(seed))


def suite(**settings):
    return MtebSuite(NoInstruction(), "some_suite", **settings)


def test_a_benchmark_gives_its_tasks():
    names = suite(benchmark=ENGLISH).tasks()
    assert len(names) == 41 and "ArguAna" in names


def test_a_selection_keeps_its_order_and_the_benchmarks_subsets_and_splits():
    chosen = suite(benchmark=ENGLISH, selection=["STS17", "MTOPDomainClassification"])
    assert chosen.tasks() == ["STS17", "MTOPDomainClassification"]
    assert chosen._tasks["STS17"]().hf_subsets == ["en-en"]
    assert list(chosen._tasks["MTOPDomainClassification"]().eval_splits) == ["test"]
    assert chosen._tasks["STS17"]() is not chosen._tasks["STS17"]()


def test_tasks_by_name_in_the_languages_asked_for():
    assert suite(selection=["SciFact"]).tasks() == ["SciFact"]
    for languages, subsets in ((["eng"], {"en-en"}), (["eng", "fra"], {"en-en", "fr-en"})):
        assert set(suite(selection=["STS17"], languages=languages)._tasks["STS17"]().hf_subsets) == subsets


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"benchmark": "MTEB(eng,v2)"}, r"MTEB\(eng, v2\)"),
        ({"benchmark": ENGLISH, "selection": ["ArguAnna"]}, "ArguAna"),
        ({"selection": ["Scifact"]}, "SciFact"),
    ],
)
def test_unknown_names_suggest_the_closest(settings, hint):
    with pytest.raises(InputError, match=hint):
        suite(**settings).tasks()


def test_neither_benchmark_nor_selection():
    with pytest.raises(InputError, match="some_suite"):
        suite()


def test_a_real_task_on_data_given_by_hand(monkeypatch):
    rows = Dataset.from_dict({
        "sentence1": [f"a {n}" for n in range(8)],
        "sentence2": [f"a {n}" if n % 2 else f"b {n}" for n in range(8)],
        "score": [4.0 if n % 2 else 0.0 for n in range(8)],
    })  # fmt: skip

    def give(task):
        task.dataset, task.data_loaded = DatasetDict(test=rows), True

    monkeypatch.setattr(mteb_suite, "load", give)
    encoder = Hashed()
    instruction = InstructionTable(tasks={"BIOSSES": "compare:"})
    scores = MtebSuite(instruction, "s", benchmark=ENGLISH, selection=["BIOSSES"]).evaluate(encoder, "BIOSSES")
    (main,) = [row for row in scores if row.main]
    assert (main.evaluation, main.task, main.category, main.metric) == ("s", "BIOSSES", "sts", "cosine_spearman")
    assert main.data_revision == mteb.get_task("BIOSSES").metadata.dataset["revision"]
    assert main.value > 0.8 and main.n == 100
    assert encoder.instructions == {"compare:"}


def test_a_data_set_that_cannot_be_read_is_named(monkeypatch):
    def offline(self, *args, **kwargs):
        raise ConnectionError("no route to host")

    task = mteb.get_task("BIOSSES")
    monkeypatch.setattr(type(task), "load_data", offline)
    with pytest.raises(InputError, match=r"BIOSSES.*mteb/biosses-sts.*no route to host.*hf download"):
        suite(selection=["BIOSSES"]).evaluate(Hashed(), "BIOSSES")
