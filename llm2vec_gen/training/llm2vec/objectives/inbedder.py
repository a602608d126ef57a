"""InBedder's training (arXiv 2402.09642): the language model learns to answer in few words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.distributed import collectives
from llm2vec_gen.encoders.inbedder import TEMPLATE, answer_prompt, check_template
from llm2vec_gen.errors import check_integer
from llm2vec_gen.training.llm2vec.objectives.base import Noise, Objective, ObjectiveBatch, Tokenize
from llm2vec_gen.training.settings import TrainingSettings


class AnswerPrediction(Objective):
    """L = - 1/M sum over all answer tokens of log p(y_t | x, y_<t), the loss of a causal language model on the answers
    alone: the paper's fine-tuning on abstractive question answering with short answers.

    The corpus's queries are the questions and its completions the answers; a hard negative is not read. The mean is
    over the M answer tokens of the effective batch, the end token of each uncut answer among them.

    template: the prompt, as of encoders/inbedder.py, which has to be used with the same one. max_length: tokens of the
    prompt. max_answer_length: tokens of an answer; a longer one loses its end (the paper keeps short answers).
    """

    reads = "pairs"
    causal = True
    observed = ("answer_tokens",)

    def __init__(
        self,
        training: TrainingSettings,
        template: str = TEMPLATE,
        max_length: int = 512,
        max_answer_length: int = 32,
        lora_dropout: float = 0.05,
    ):
        super().__init__(training, max_length, lora_dropout)
        self.template, self.max_answer_length = check_template(template), max_answer_length
        check_integer("an objective's max_answer_length", max_answer_length)
        self._tokens: Any = None
        self._end = -1

    def prepare(self, backbone: Any) -> None:
        """Keep the tokenizer and the end token of an answer."""
        self._tokens, self._end = backbone.tokenization, backbone.end_id

    def batch(self, ids: list[str], rows: list[tuple[str, ...]], tokenize: Tokenize, noise: Noise) -> ObjectiveBatch:
        """Columns: ids of prompt and answer but for its last token; the answer token to predict at each position, -1
        at those of the prompt but the last one."""
        found = [self._row(query, answer) for query, answer, *_ in rows]
        counts = {"tokens": sum(len(inputs) for inputs, _, _ in found), "texts_cut": sum(cut for *_, cut in found)}
        return ObjectiveBatch(ids, [[row[0] for row in found], [row[1] for row in found]], counts=counts)

    def _row(self, query: str, answer: str) -> tuple[Tensor, Tensor, bool]:
        prompt, cut = answer_prompt(self._tokens, self.template, query, None, self.max_length)
        # The answer follows the template on the same line, so that it begins with a space.
        wanted = [*self._tokens.ids([f" {answer.strip()}"])[0], self._end]
        answered = wanted[: self.max_answer_length]
        targets = [-1] * (len(prompt) - 1) + answered
        return torch.tensor([*prompt, *answered[:-1]]), torch.tensor(targets), cut or len(answered) < len(wanted)

    def loss(self, encoder: Any, batch: ObjectiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of -log p over the answer tokens of all ranks."""
        inputs, targets = batch.columns
        own = torch.stack([(row >= 0).sum() for row in targets]).sum()
        scale = collectives.world_size() / collectives.all_reduce_sum(own).clamp_min(1)
        return encoder.causal_token_loss(inputs, targets) * scale, {"answer_tokens": own.float()}
