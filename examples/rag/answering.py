"""What the three examples share: arguments, passages, the answer of the frozen language model, and the log."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.evaluations.records import ID, TEXT, records
from llm2vec_gen.integrations.text_embedder import TextEmbedder

PROMPT = "Answer the question in one sentence, from these passages alone.\n\n{passages}\n\nQuestion: {question}"
Search = Callable[[argparse.Namespace, list[str], list[str]], list[list[str]]]
"""Arguments, passages and questions -> the passages found for each question, the best first."""


def main(search: Search, arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, let the framework search, answer from what it found, and print what everything decodes to."""
    parser = argparse.ArgumentParser(description="Retrieval-augmented answers: one model finds, answers and explains.")
    parser.add_argument("model", help="folder or hub id of a trained model")
    parser.add_argument("--data", required=True, help="folder with corpus.jsonl and queries.jsonl, as in BEIR")
    parser.add_argument("--passages", type=int, default=200, help="how many passages are embedded")
    parser.add_argument("--questions", type=int, default=3, help="how many questions are asked")
    parser.add_argument("--top", type=int, default=2, help="how many passages the language model reads")
    parser.add_argument("--prompt", default=PROMPT, help="what it reads: {passages} and {question} are replaced")
    parser.add_argument("--query-instruction", help="default: the checkpoint's own")
    parser.add_argument("--document-instruction", help="default: the checkpoint's own")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    given = parser.parse_args(arguments)
    try:
        run(search, given)
    except InputError as error:
        parser.exit(2, f"error: {error}\n")


def run(search: Search, given: argparse.Namespace) -> None:
    """Search, answer and print."""
    for name in ("passages", "questions", "top", "max_new_tokens"):
        check_integer(f"--{name.replace('_', '-')}", getattr(given, name))
    passages = read(Path(given.data) / "corpus.jsonl", given.passages)
    questions = read(Path(given.data) / "queries.jsonl", given.questions)
    found = search(given, passages, questions)
    embedder = TextEmbedder(given.model, given.query_instruction, given.document_instruction)  # shares the loaded model
    for question, hits in zip(questions, found, strict=True):
        print(f"\nquestion: {question}")
        print(f"  decodes to: {decoded(embedder.model, question, embedder.query_instruction, given.max_new_tokens)}")
        for hit in hits:
            print(f"  passage: {hit[:400]}")
            gist = decoded(embedder.model, hit, embedder.document_instruction, given.max_new_tokens)
            print(f"    decodes to: {gist}")
        print(f"  answer: {answer(embedder.model, question, hits, given.prompt, given.max_new_tokens)}")


def read(file: Path, count: int) -> list[str]:
    """Return the first texts of a jsonl file, title and text joined."""
    if not file.is_file():
        raise InputError(
            f"there is no {file}; give --data a folder with corpus.jsonl and queries.jsonl (see README.md)"
        )
    rows = records("--data", str(file), {"_id": ID, "text": TEXT})[:count]
    return [" ".join(filter(None, (row.get("title"), row["text"]))) for row in rows]


def decoded(model: LLM2VecGen, text: str, instruction: str, max_new_tokens: int) -> str:
    """Return what the embedding of a text says."""
    return model.decode([text], instruction=instruction, max_new_tokens=max_new_tokens)[0].strip()


def answer(model: LLM2VecGen, question: str, passages: Sequence[str], prompt: str, max_new_tokens: int) -> str:
    """Return the greedy answer of the frozen language model: suffix, projections and LoRA take no part in it."""
    asked = prompt.replace("{passages}", "\n\n".join(passages)).replace("{question}", question)
    ((ids, _),) = model.backbone.generate([model.backbone.chat_ids(asked)], max_new_tokens)
    return model.backbone.tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip()
