"""A router against the encoders it routes to, and its signals against plain computation."""

from __future__ import annotations

import json
import math

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.hyde import HyDE
from llm2vec_gen.encoders.mean_pool import MeanPool
from llm2vec_gen.encoders.router import Router, lens_entropy
from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.instructions import InstructionTable, NoInstruction
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import Completion, Encoder
from tests.builders import tiny_backbone_folder

ASK, DOCUMENT = "Write a passage:", "Summarise this:"
INSTRUCTION = InstructionTable({"retrieval": ASK}, documents=DOCUMENT)
QUERIES = ["the cat sat", "how many legs has the cat", "a", "the mat", "why does the cat sit on the mat"]


class Shouting:
    def __init__(self):
        self.report, self.asked = {}, []

    def complete(self, queries):
        self.asked += [query.text for query in queries]
        return [Completion(query.id, query.text, query.text.upper() + " indeed", "stop") for query in queries]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path_factory.mktemp("lm"))), device="cpu")
    torch.manual_seed(0)
    return LLM2VecGen(backbone, backbone.hidden_size, 1, 3)


def routed(model, **settings):
    generator = Shouting()
    return Router(model, HyDE(MeanPool(model.backbone), generator, n=2), INSTRUCTION, **settings), generator


def test_the_entropy_is_that_of_the_plain_lens(model):
    states = model.states(QUERIES, ASK)
    probabilities = torch.softmax(model.backbone.logits(states).double(), dim=-1)
    plain = -(probabilities * probabilities.log()).sum(-1).mean(1)
    assert torch.allclose(lens_entropy(model, states).double(), plain, atol=1e-5)
    router, _ = routed(model)
    assert torch.allclose(router.signals(QUERIES, ASK).double(), plain, atol=1e-4)
    assert router.signals([], ASK).shape == (0,)
    lengths, _ = routed(model, signal="query_length")
    expected = [len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in QUERIES]
    assert lengths.signals([f" {text} " for text in QUERIES], ASK).tolist() == expected


@pytest.mark.parametrize("training", [{"centre_targets": True}, {"whiten_targets": 0.0}])
def test_a_model_of_centred_or_whitened_targets_is_refused(model, training, monkeypatch):
    monkeypatch.setattr(model, "card", {"training": {"centre_targets": False, "whiten_targets": None} | training})
    with pytest.raises(InputError, match="trained towards centred or whitened targets"):
        routed(model)
    monkeypatch.setattr(model, "card", {"training": {"centre_targets": False, "whiten_targets": None}})
    routed(model)


def test_a_model_that_does_not_say_its_targets_is_warned_about(model, monkeypatch, caplog):
    routed(model)
    assert "does not say how its targets were transformed" in caplog.text
    caplog.clear()
    monkeypatch.setattr(model, "card", {"training": {"centre_targets": False, "whiten_targets": None}})
    routed(model)
    assert not caplog.text


def test_scaled_targets_leave_directions_alone(model, monkeypatch):
    plain, _ = routed(model)
    middle = float(plain.signals(QUERIES, ASK).sort().values[2])
    expected = [plain.at(middle).encode(QUERIES, ASK), plain.encode(QUERIES, DOCUMENT)]
    monkeypatch.setattr(model, "card", {"training": {"scale_targets": True}})
    router, _ = routed(model)
    found = [router.at(middle).encode(QUERIES, ASK), router.encode(QUERIES, DOCUMENT)]
    for vectors, same in zip(found, expected, strict=True):
        assert torch.allclose(vectors, same / same.norm(dim=1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("signal", ["lens_entropy", "query_length"])
def test_the_ends_are_the_pure_encoders(model, signal):
    router, generator = routed(model, signal=signal, threshold=math.inf)
    assert isinstance(router, Encoder)
    assert torch.allclose(router.encode(QUERIES, ASK), model.encode(QUERIES, ASK), atol=1e-5)
    assert generator.asked == []
    assert torch.equal(router.at(0).encode(QUERIES, ASK), router.hyde.encode(QUERIES, ASK))
    assert router.encode([], ASK).shape == router.at(0).encode([], ASK).shape == (0, model.embedding_dim)


@pytest.mark.parametrize("signal", ["lens_entropy", "query_length"])
def test_queries_keep_their_order_whichever_way_they_take(model, signal):
    router, generator = routed(model, signal=signal)
    signals = router.signals(QUERIES, ASK)
    middle = float(signals.sort().values[2])
    found = router.at(middle).encode(QUERIES, ASK)
    hard = [query for query, value in zip(QUERIES, signals.tolist(), strict=True) if value >= middle]
    assert 0 < len(hard) < len(QUERIES)
    assert set(generator.asked) == {f"{ASK} {query}" for query in hard}
    for query, vector in zip(QUERIES, found, strict=True):
        way = router.hyde if query in hard else model
        assert torch.allclose(vector, way.encode([query], ASK)[0], atol=1e-5)


def test_documents_take_one_pass(model):
    router, generator = routed(model, threshold=0)
    for instruction in (None, DOCUMENT, f" {DOCUMENT}\n"):
        assert torch.equal(router.encode(QUERIES, instruction), model.encode(QUERIES, instruction))
    assert generator.asked == []


def test_forward_tokens_by_hand(model):
    router, _ = routed(model)
    one_pass, hyde = router.costs(["the cat sat"], ASK)

    def count(text):
        return len(model.tokenizer(text)["input_ids"])

    prompt, answer = f"{ASK} the cat sat", f"{ASK} the cat sat".upper() + " indeed"
    assert one_pass == [count(prompt) + 4]
    written = 2 * (count(prompt) + 2 * count(answer)) + count("the cat sat")  # n = 2 prompts, answers twice, query
    assert hyde == [written + one_pass[0]], "the entropy takes the pass before it is known"
    assert routed(model, signal="query_length")[0].costs(["the cat sat"], ASK) == (one_pass, [written])


@pytest.mark.parametrize("threshold", [-1.0, math.nan, True, [1], "nowhere"])
def test_thresholds_that_are_none(model, threshold):
    with pytest.raises(InputError, match=r"baseline\.router\.threshold="):
        routed(model, threshold=threshold)


def test_a_threshold_is_read_from_the_evaluation_that_chose_it(model, tmp_path):
    router, _ = routed(model)
    rows = [{"metric": "quality", "subset": "chosen", "value": 0.5},
            {"metric": "chosen_threshold", "subset": router.signal_name, "value": 2.5}]  # fmt: skip
    (tmp_path / "routing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for place in (tmp_path, tmp_path / "routing.jsonl", str(tmp_path)):
        assert routed(model, threshold=place)[0].threshold == 2.5
    with pytest.raises(InputError, match="was chosen for lens_entropy of .*, but this router has query_length of"):
        routed(model, signal="query_length", threshold=tmp_path)
    (tmp_path / "routing.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="holds no score rows"):
        routed(model, threshold=tmp_path)


def test_a_router_that_cannot_work(model):
    with pytest.raises(InputError, match=r"threshold is not chosen: evaluate with evaluation=\[routing\]"):
        routed(model)[0].encode(QUERIES, ASK)
    with pytest.raises(InputError, match="signal=words: expected lens_entropy or query_length"):
        routed(model, signal="words")
    with pytest.raises(InputError, match="instruction=none"):
        Router(model, HyDE(MeanPool(model.backbone), Shouting()), NoInstruction())
    hyde = HyDE(MeanPool(model.backbone), Shouting())
    hyde.embedding_dim += 1
    with pytest.raises(InputError, match="different spaces"):
        Router(model, hyde, INSTRUCTION)


def test_further_hops_cost_soft_prompts_and_a_suffix(model):
    hops = LLM2VecGen(model.backbone, model.embedding_dim, 1, 3, num_hops=3)
    once, thrice = (routed(each)[0].costs(QUERIES, ASK)[0] for each in (model, hops))
    assert [more - one for one, more in zip(once, thrice, strict=True)] == [2 * (3 + 4)] * len(QUERIES)


@pytest.mark.parametrize("signal", ["lens_entropy", "query_length"])
def test_forward_tokens_are_those_of_the_way_taken(model, signal):
    router, generator = routed(model, signal=signal)
    one_pass, hyde = router.costs(QUERIES, ASK)
    signals = router.signals(QUERIES, ASK)
    middle = float(signals.sort().values[2])
    taken = zip(signals.tolist(), one_pass, hyde, strict=True)
    assert router.at(middle).forward_tokens(QUERIES, ASK) == [h if value >= middle else o for value, o, h in taken]
    assert router.at(math.inf).forward_tokens(QUERIES, ASK) == one_pass == model.forward_tokens(QUERIES, ASK)
    unseen = [more - less for more, less in zip(hyde, one_pass, strict=True)] if signal == "lens_entropy" else hyde
    assert router.at(0).forward_tokens(QUERIES, ASK) == unseen, "nothing decides where all go to HyDE"
    generator.asked.clear()
    for instruction in (None, DOCUMENT):
        assert router.forward_tokens(QUERIES, instruction) == model.forward_tokens(QUERIES, instruction)
    assert generator.asked == []
    with pytest.raises(InputError, match="threshold is not chosen"):
        router.forward_tokens(QUERIES, ASK)


def test_a_threshold_just_above_every_query_sends_none_to_hyde(model):
    """`evaluation=routing` chooses the next number after the highest signal where no query pays."""
    for signal in ("query_length", "lens_entropy"):
        router, generator = routed(model, signal=signal)
        highest = float(router.signals(QUERIES, ASK).max())
        found = router.at(math.nextafter(highest, math.inf)).encode(QUERIES, ASK)
        assert torch.allclose(found, model.encode(QUERIES, ASK), atol=1e-5)
        assert not generator.asked
        router.at(highest).encode(QUERIES, ASK)
        assert generator.asked
