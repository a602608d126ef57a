"""Forward tokens: the model's count against those that really pass, and rows by hand."""

from __future__ import annotations

import pytest

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.cached import CachedEncoder
from llm2vec_gen.encoders.echo import Echo
from llm2vec_gen.encoders.mean_pool import MeanPool
from llm2vec_gen.encoders.truncated import TruncatedEncoder
from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation
from llm2vec_gen.evaluations.cost import Cost
from llm2vec_gen.evaluations.instructions import InstructionTable
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.models.readouts.query_mean import QueryMean
from llm2vec_gen.types import Query
from tests.builders import tiny_backbone_folder

HERE = f"{__name__}.Toy"
ASK = "Reply:"
QUERIES = {"easy": ["the cat sat", "a"], "hard": ["why does the cat sit on the mat"], "bare": []}


class Toy(Evaluation):
    name = "toy"

    def tasks(self):
        return list(QUERIES)

    def category_of(self, task):
        return "retrieval" if task == "easy" else None

    def queries(self, task):
        return [Query(f"{task}{number}", text) for number, text in enumerate(QUERIES[task])]

    def evaluate(self, encoder, task):
        return []


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path_factory.mktemp("lm"))), device="cpu")


class Own(Toy):
    def tasks(self):
        return ["own"]


def cost(**settings):
    return Cost(InstructionTable({"retrieval": ASK}), {"toy": {"_target_": HERE}}, **settings)


@pytest.mark.filterwarnings("ignore:.*are longer than")
@pytest.mark.parametrize("settings", [{}, {"num_hops": 3}, {"num_hops": 2, "max_length": 14}, {"readout": QueryMean()}])
def test_the_count_is_that_of_the_tokens_that_pass(backbone, monkeypatch, settings):
    model = LLM2VecGen(backbone, backbone.hidden_size, 1, 3, **settings)
    passed = []

    def counting(packed, lengths, *rest, run=backbone.runner.run, **more):
        passed.append(sum(lengths))
        return run(packed, lengths, *rest, **more)

    monkeypatch.setattr(backbone.runner, "run", counting)
    real = {name: getattr(backbone, name) for name in ("prefix_pass", "suffix_pass")}

    def prefix_pass(rows, shared=None):
        passed.append(sum(map(len, rows)))
        return real["prefix_pass"](rows, shared)

    def suffix_pass(prefix, suffix):
        passed.append(suffix.shape[0] * suffix.shape[1])
        return real["suffix_pass"](prefix, suffix)

    if not settings.get("readout"):  # these two call the runner themselves
        monkeypatch.setattr(backbone.runner, "run", counting.__kwdefaults__["run"])
        monkeypatch.setattr(backbone, "prefix_pass", prefix_pass)
        monkeypatch.setattr(backbone, "suffix_pass", suffix_pass)
    for text in QUERIES["easy"] + QUERIES["hard"]:
        passed.clear()
        (counted,) = model.forward_tokens([text], ASK)
        model.encode([text], ASK)
        assert counted == sum(passed), text


def test_rows_by_hand(backbone, tmp_path):
    model = LLM2VecGen(backbone, backbone.hidden_size, 1, 3)

    def count(text):
        return len(model.tokenizer(text)["input_ids"])

    easy, hard = cost().evaluate(model, "query_cost")
    assert (easy.subset, hard.subset) == ("easy", "hard") and easy.main and hard.main
    assert easy.per_query == {"easy0": count(f"{ASK} the cat sat") + 4, "easy1": count(f"{ASK} a") + 4}
    assert hard.per_query == {"hard0": count(QUERIES["hard"][0]) + 4}
    assert (easy.metric, easy.category, easy.n) == ("forward_tokens", "cost", 2)
    assert easy.data_revision == hard.data_revision != ""
    wrapped = TruncatedEncoder(CachedEncoder(model, tmp_path / "vectors"), 2)
    assert [row.per_query for row in cost().evaluate(wrapped, "query_cost")] == [easy.per_query, hard.per_query]


def test_pooled_encoders_count_their_rows(backbone):
    text = QUERIES["hard"][0]
    once, twice = (each.forward_tokens([text])[0] for each in (MeanPool(backbone), Echo(backbone)))
    assert once == len(backbone.tokenize([text])[0]) and twice >= 2 * once
    with_instruction = MeanPool(backbone, use_instruction=True).forward_tokens([text], ASK)
    assert with_instruction == [len(backbone.tokenize([f"{ASK} {text}"])[0])]


def test_what_cannot_be_counted(backbone):
    class Plain:
        embedding_dim = 1

    assert cost().evaluate(Plain(), "query_cost") == []
    with pytest.raises(InputError, match="toy's bare has no queries of its own"):
        cost(tasks=["bare"]).evaluate(MeanPool(backbone), "query_cost")
    with pytest.raises(InputError, match="some of the tasks easy, hard, bare"):
        cost(tasks=["other"])
    both = {"toy": {"_target_": HERE}, "own": {"_target_": f"{__name__}.Own"}}
    with pytest.raises(InputError, match="names none of its tasks own; add one"):
        Cost(InstructionTable({}), both, tasks=["easy"])
    with pytest.raises(InputError, match="names none"):
        Cost(InstructionTable({}), {"toy": None})
