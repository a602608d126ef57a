"""SmolLM2-135M-Instruct and all-MiniLM-L6-v2 (make models) on real text: answers, embeddings, a student."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.sentence_transformer import SentenceTransformerEncoder
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.types import Batch

MODELS = Path(__file__).parents[1] / ".models"
LM, TEACHER = MODELS / "SmolLM2-135M-Instruct", MODELS / "all-MiniLM-L6-v2"
NEW_TOKENS = 12

PROMPTS = [
    "What is the capital of France?",
    "How do I reset the password of my online bank account?",
    "Write one sentence about why leaves change colour in autumn.",
    "List three things to pack for a weekend in the mountains.",
    "Which is heavier, a kilogram of feathers or a kilogram of iron?",
    "Translate 'good morning' into Spanish.",
    "What does the HTTP status code 404 mean?",
    "Sort these numbers from small to large: 17, 3, 204, 58.",
    "My card was charged twice for the same coffee. What should I do?",
    "Explain in simple words what photosynthesis is.",
    "Who wrote the play Romeo and Juliet?",
    "Is the following review positive or negative?\n\nThe soup was cold and nobody came to take our order.",
    "How many minutes are there in 2.5 hours?",
    "Suggest a name for a small bakery near a harbour.",
    "What is the difference between a list and a tuple in Python?",
    "Summarise: The town built a new bridge in 1998. It replaced a ferry that had run for eighty years, and travel "
    "times to the other side fell from an hour to ten minutes.",
    "Can I keep cooked rice in the fridge for a week?",
    "Give me a synonym for 'happy'.",
    "why is my train late again???",
    "Tell me a short fact about octopuses 🐙.",
]


@pytest.fixture(scope="module", autouse=True)
def models() -> None:
    if LM.is_dir() and TEACHER.is_dir():
        return
    if os.environ.get("CI") or MODELS.is_dir():
        pytest.fail(f"{MODELS} lacks the real models; run: make models")
    pytest.skip("no real models on this machine; run: make models")


@pytest.fixture(scope="module")
def backbone(models: None) -> Backbone:
    return Backbone.from_pretrained(str(LM), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def answers(backbone: Backbone) -> list[tuple[torch.Tensor, str]]:
    return backbone.generate([backbone.chat_ids(prompt) for prompt in PROMPTS], NEW_TOKENS)


@pytest.fixture(scope="module")
def student(backbone: Backbone, answers: list[tuple[torch.Tensor, str]]) -> LLM2VecGen:
    """Trained for a few steps on the model's own answers, towards MiniLM's embeddings of them."""
    texts = [backbone.tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in answers]
    teacher = SentenceTransformerEncoder(str(TEACHER), device="cpu")
    targets = torch.as_tensor(teacher.encode(texts))
    assert targets.shape == (len(PROMPTS), 384) and torch.allclose(targets.norm(dim=1), torch.ones(len(PROMPTS)))
    torch.manual_seed(0)
    model = LLM2VecGen(backbone, 384, 2, 4)
    losses = [AlignmentLoss(), ReconstructionLoss()]
    optimizer = torch.optim.AdamW(model.trainables().values(), lr=2e-4, weight_decay=0.0)
    completions = backbone.completion_ids([text or "-" for text in texts])
    rows = range(0, len(PROMPTS), 5)
    batch = Batch(
        [str(row) for row in rows], backbone.tokenize([PROMPTS[row] for row in rows]),
        [completions[row] for row in rows], targets[list(rows)],
    )  # fmt: skip
    history = []
    for _ in range(8):
        output = model(batch)
        values = [loss(model, output, batch) for loss in losses]
        optimizer.zero_grad()
        torch.stack(values).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.trainables().values(), 1.0)
        optimizer.step()
        history.append(values[0].item())
    assert history[-1] < 0.8 * history[0], history  # reconstruction takes more steps than a test has
    return model.eval()


def test_greedy_answers_are_those_of_transformers(backbone: Backbone, answers: list[Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(LM)
    plain = AutoModelForCausalLM.from_pretrained(LM, dtype=torch.float32).eval()
    for prompt, (ids, reason) in zip(PROMPTS, answers, strict=True):
        turns = [{"role": "user", "content": prompt}]
        rendered = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            found = plain.generate(**rendered, max_new_tokens=NEW_TOKENS, do_sample=False)
        expected = found[0, rendered["input_ids"].shape[1] :].tolist()
        ended = expected[-1] == tokenizer.eos_token_id
        assert ids.tolist() == expected[: len(expected) - ended], prompt
        assert reason == ("stop" if ended else "length"), prompt
    assert "Paris" in tokenizer.decode(answers[0][0])


def test_embeddings_do_not_depend_on_the_batch(student: LLM2VecGen) -> None:
    together = student.encode(PROMPTS, batch_size=32)
    assert together.shape == (len(PROMPTS), 384) and together.dtype == torch.float32
    alone = student.encode(PROMPTS, batch_size=1)
    backwards = student.encode(PROMPTS[::-1], batch_size=7).flip(0)
    assert (together - alone).abs().max() < 1e-5 and (together - backwards).abs().max() < 1e-5
    normalized = torch.nn.functional.normalize(together, dim=1)
    assert (normalized @ normalized.T - torch.eye(len(PROMPTS))).max() < 0.9999  # texts have embeddings of their own


def test_a_saved_student_is_bit_equal(student: LLM2VecGen, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path / "student")
    again = LLM2VecGen.from_pretrained(tmp_path / "student", device="cpu")
    assert again.backbone.path == str(LM)
    for name, parameter in student.trainables().items():
        assert torch.equal(again.trainables()[name], parameter), name
    assert torch.equal(again.encode(PROMPTS), student.encode(PROMPTS))
    assert torch.equal(again.soft_prompts(PROMPTS[:4]), student.soft_prompts(PROMPTS[:4]))


def test_trained_soft_prompts_decode_to_text(student: LLM2VecGen) -> None:
    prompts = student.soft_prompts(PROMPTS[:5])
    assert prompts.shape == (5, 4, 576)
    decoded = student.decode(prompts, max_new_tokens=16)
    assert len(decoded) == 5 and all(text.strip() for text in decoded), decoded
