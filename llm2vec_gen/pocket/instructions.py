"""The instructions of the pocket: skills the language model was trained on. A text follows after one space."""

from __future__ import annotations

QUESTION = ("answer the question:", "reply in one sentence:", "give a short answer:")
EMOTION = ("name the emotion:", "which emotion does the writer feel?", "what is the feeling in this text:")
INTENT = ("name the request:", "what does the user want?", "say what the user asks for:")
PARAPHRASE = ("say it in plain words:", "rewrite it in simple words:", "put it simply:")
SUMMARY = ("summarize the passage:", "what does the passage say?", "give the main point:")

DOCUMENT = SUMMARY[0]
# task name or category -> instruction of its queries
QUERY = {
    "retrieval": QUESTION[0],
    "reranking": QUESTION[0],
    "reasoning": QUESTION[0],
    "harmful_retrieval": QUESTION[0],
    "benign_retrieval": QUESTION[0],
    "clustering": INTENT[0],
    "classification": EMOTION[0],
    "pair_classification": PARAPHRASE[0],
    "sts": PARAPHRASE[0],
    "summarization": SUMMARY[0],
}


def join(instruction: str | None, text: str) -> str:
    """The text with its instruction in front, each stripped, one space between them."""
    return f"{instruction.strip()} {text.strip()}" if instruction else text
