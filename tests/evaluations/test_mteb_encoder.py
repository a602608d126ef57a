"""What mteb sees of our encoders: which instruction, which order, which vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mteb.types import PromptType

from llm2vec_gen.evaluations.instructions import InstructionTable
from llm2vec_gen.evaluations.mteb_encoder import MtebEncoder
from llm2vec_gen.evaluations.mteb_tasks import metadata

INSTRUCTION = InstructionTable({"retrieval": "find:", "sts": "compare:"}, documents="read:")
RETRIEVAL = metadata("some retrieval", "Retrieval", "ndcg_at_10")
STS = metadata("some sts", "STS", "cosine_spearman")


class Recorder:
    """Vectors (length of the text, length of the instruction); keeps every call."""

    embedding_dim = 2
    name = "an encoder!"

    def __init__(self):
        self.calls = []

    def encode(self, texts, instruction=None):
        self.calls.append((list(texts), instruction))
        return torch.tensor([[float(len(text)), float(len(instruction or ""))] for text in texts])


def encode(model, texts, task=RETRIEVAL, prompt_type=None):
    batches = [{"text": texts[start : start + 2]} for start in range(0, len(texts), 2)]
    return model.encode(batches, task_metadata=task, hf_split="test", hf_subset="default", prompt_type=prompt_type)


@pytest.mark.parametrize(
    ("task", "prompt_type", "instruction"),
    [
        (RETRIEVAL, PromptType.query, "find:"),
        (RETRIEVAL, PromptType.document, "read:"),
        (RETRIEVAL, None, "find:"),
        (STS, None, "compare:"),
    ],
)
def test_instruction_by_side(task, prompt_type, instruction):
    encoder = Recorder()
    encode(MtebEncoder(encoder, INSTRUCTION), ["a"], task, prompt_type)
    assert encoder.calls == [(["a"], instruction)]


def test_a_category_given_wins_over_mtebs_type():
    encoder = Recorder()
    encode(MtebEncoder(encoder, INSTRUCTION, category="sts"), ["a"], RETRIEVAL, PromptType.query)
    assert encoder.calls == [(["a"], "compare:")]


def test_texts_come_in_one_call_without_repeats_and_go_out_in_order():
    encoder = Recorder()
    vectors = encode(MtebEncoder(encoder, INSTRUCTION), ["bbb", "a", "bbb", "cc", "a"])
    assert encoder.calls == [(["bbb", "a", "cc"], "find:")]
    assert vectors.dtype == np.float32 and vectors[:, 0].tolist() == [3, 1, 3, 2, 1]


def test_memory_keeps_instructions_apart_and_none_forgets():
    memory: dict = {}
    encoder = Recorder()
    model = MtebEncoder(encoder, INSTRUCTION, memory=memory)
    for prompt_type in (PromptType.query, PromptType.document, PromptType.query):
        encode(model, ["a", "bb"], RETRIEVAL, prompt_type)
    assert [instruction for _, instruction in encoder.calls] == ["find:", "read:"]

    forgetful = MtebEncoder(encoder, INSTRUCTION)
    encode(forgetful, ["a"])
    encode(forgetful, ["a"])
    assert len(encoder.calls) == 4


def test_similarity_is_cosine_or_dot():
    one, two = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]])
    cosine, dot = (MtebEncoder(Recorder(), INSTRUCTION, similarity=name) for name in ("cosine", "dot"))
    assert float(cosine.similarity(one, two)) == pytest.approx(1.0)
    assert float(dot.similarity(one, two)) == pytest.approx(50.0)


def test_name_and_revision_for_mteb():
    encoder = Recorder()
    encoder.fingerprint = "abc"
    meta = MtebEncoder(encoder, INSTRUCTION).mteb_model_meta
    assert (meta.name, meta.embed_dim) == ("llm2vec-gen/an_encoder_", 2)
    assert meta.revision == MtebEncoder(encoder, INSTRUCTION).mteb_model_meta.revision
    encoder.fingerprint = "abd"
    assert meta.revision != MtebEncoder(encoder, INSTRUCTION).mteb_model_meta.revision


def test_vectors_that_are_not_finite_are_an_error_that_names_the_text():
    class Broken(Recorder):
        def encode(self, texts, instruction=None):
            return super().encode(texts, instruction) / torch.tensor(
                [[0.0 if "bad" in text else 1.0] for text in texts]
            )

    with pytest.raises(RuntimeError, match="1 of 2 texts.*bad one"):
        encode(MtebEncoder(Broken(), INSTRUCTION), ["good", "bad one"])
