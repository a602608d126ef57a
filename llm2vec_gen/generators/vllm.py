"""Completions by vLLM on GPUs: continuous batching over all queries of a shard, one cache for common prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from llm2vec_gen.errors import InputError
from llm2vec_gen.extras import pip_command
from llm2vec_gen.generators.base import Generator, query_seed
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.tokenization import Tokenization
from llm2vec_gen.types import Completion, Query


class VLLMGenerator(Generator):
    """The language model answers each query in one turn; vLLM orders and batches the work itself.

    max_prompt_tokens: a longer prompt loses the end of its query; the chat template is kept.
    sampling: null is greedy, "model" leaves it to the model's own generation_config, a dict names vLLM's settings.
    Where sampled, each query has a seed of `seed` and its id. engine: further arguments of vLLM's `LLM`. Near-ties
    between two words may fall differently in another batch, because the order of sums depends on it.
    """

    def __init__(
        self,
        path: PathOrId,
        revision: str | None = None,
        dtype: str = "auto",
        max_new_tokens: int = 500,
        max_prompt_tokens: int = 1024,
        sampling: dict[str, Any] | Literal["model"] | None = None,
        seed: int = 0,
        engine: dict[str, Any] | None = None,
    ):
        super().__init__()
        if isinstance(sampling, str) and sampling != "model":
            raise InputError(f"generator.sampling={sampling}; expected null (greedy), model, or a dict of settings")
        vllm = _vllm()
        self.path, self.revision, self.dtype, self.engine = path, revision, dtype, dict(engine or {})
        self.seed, self.max_prompt_tokens, self.max_new_tokens = seed, max_prompt_tokens, max_new_tokens
        self._parameters_of = vllm.SamplingParams
        if isinstance(sampling, dict):  # before a model is loaded
            try:
                vllm.SamplingParams(**sampling)
            except (TypeError, ValueError) as error:
                raise InputError(f"generator.sampling={sampling}: vLLM takes no such settings ({error})") from error
        self._llm = vllm.LLM(
            model=path, revision=revision, dtype=dtype, max_model_len=max_prompt_tokens + max_new_tokens,
            enable_prefix_caching=True, **self.engine,
        )  # fmt: skip
        self._tokenizer = self._llm.get_tokenizer()
        self._tokenization = Tokenization(self._tokenizer, template=True)
        if sampling == "model":
            self.sampling = _settings(self._llm.get_default_sampling_params())
        else:
            self.sampling = dict(sampling or {"temperature": 0.0})
        self._common = {**self.sampling, "max_tokens": max_new_tokens}
        self._drawn = self.sampling.get("temperature", 1.0) != 0

    def complete(self, queries: Sequence[Query]) -> list[Completion]:
        """Return one completion per query, order kept."""
        prompts = [self._prompt(query.text) for query in queries]
        cut = 0
        for row, query in enumerate(queries):
            if len(prompts[row]) > self.max_prompt_tokens:
                prompts[row], cut = self._cut_prompt(query.text), cut + 1
        parameters = [self._parameters(query) for query in queries]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self._llm.generate(inputs, parameters, use_tqdm=False) if inputs else []
        completions = [
            Completion(query.id, query.text, output.outputs[0].text.strip(),
                       "length" if output.outputs[0].finish_reason == "length" else "stop",
                       len(prompt), len(output.outputs[0].token_ids))
            for query, prompt, output in zip(queries, prompts, outputs, strict=True)
        ]  # fmt: skip
        spelled = self._tokenization.count([query.text for query in queries])
        self.count(completions, prompts_cut=cut, control_tokens=spelled)
        return completions

    def _parameters(self, query: Query) -> Any:
        seed = {"seed": query_seed(self.seed, query)} if self._drawn else {}
        return self._parameters_of(**self._common, **seed)

    def _prompt(self, text: str) -> list[int]:
        """Return token ids of the chat template around a query, thinking off, as the backbone spells it."""
        return self._tokenization.chat(text, self._render)

    def _render(self, text: str) -> str:
        message = [{"role": "user", "content": text}]
        return self._tokenizer.apply_chat_template(
            message, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )

    def _cut_prompt(self, text: str) -> list[int]:
        """Return the prompt with as many leading words of the text as fit."""
        words = text.split(" ")
        least, most = 0, len(words)
        while least < most:  # the longest that fits
            middle = (least + most + 1) // 2
            fits = len(self._prompt(" ".join(words[:middle]))) <= self.max_prompt_tokens
            least, most = (middle, most) if fits else (least, middle - 1)
        prompt = self._prompt(" ".join(words[:least]))
        if len(prompt) > self.max_prompt_tokens:
            raise InputError(
                f"generator.max_prompt_tokens={self.max_prompt_tokens} leaves no tokens for a query: the chat template "
                f"alone has {len(prompt)} tokens"
            )
        return prompt


def _settings(parameters: Any) -> dict[str, Any]:
    """Return the settings of a vLLM SamplingParams that a generation_config may name."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {name: getattr(parameters, name) for name in names if hasattr(parameters, name)}


def _vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise InputError(
            f"generator=vllm needs the package vllm and a GPU: {pip_command('vllm')}, or choose generator=transformers"
        ) from error
    return vllm
