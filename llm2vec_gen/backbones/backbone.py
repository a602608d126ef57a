"""The frozen language model with its tokenizer: everything the rest of the package may ask of it.

A family differs by values (end token, chat template arguments), never by a substring of its name. The two ways of
running it, packed and padded, live in packed.py and padded.py and give the same results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from llm2vec_gen.backbones import generation, loading, token_loss
from llm2vec_gen.backbones.batching import inverse, micro_batches
from llm2vec_gen.backbones.compilation import compile_parts
from llm2vec_gen.backbones.end_of_turn import closing_id, stop_ids
from llm2vec_gen.backbones.execution.cpu_kernels import check_mode, freeze_linears
from llm2vec_gen.backbones.execution.rope import renewed
from llm2vec_gen.backbones.execution.select import choose_runner
from llm2vec_gen.backbones.head import adjustment
from llm2vec_gen.backbones.inputs import input_scale
from llm2vec_gen.backbones.kv_prefix import Prefix
from llm2vec_gen.backbones.sharding import Shards
from llm2vec_gen.devices import usable
from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.rotary import rows_apart
from llm2vec_gen.tokenization import Tokenization
from llm2vec_gen.weights import check_finite, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Backbone:
    """A frozen causal language model and its tokenizer. No weight of it ever receives a gradient.

    Args:
        lm: the causal language model; it is put into `eval()` and frozen in place.
        tokenizer: its fast tokenizer; without one (None) only ids and vectors can be run.
        path, revision, quantization: where the model comes from, as checkpoints record it.
        end_token: closes completions; by default what ends a turn of the chat template, else the tokenizer's end token.
        chat_template_arguments: given to every chat prompt; by default thinking is off.
        recommended: the family's training defaults, for other config groups to read.
        max_tokens_per_micro_batch: bound of every pass; None is the device's default.
        gradient_checkpointing: recompute activations in the backward of the reconstruction pass (of no other).
        compile: run the norms and feed-forward parts through torch.compile.
        cpu_kernels: "auto" or "none"; see execution/cpu_kernels.py.

    Example:
        backbone = Backbone.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
        states = backbone.states(backbone.tokenize(["a text", "another one"]))  # [(L_1, D), (L_2, D)]
    """

    def __init__(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, path: str = "", *,
                 revision: str = "main", quantization: str = "none", end_token: str | None = None,
                 chat_template_arguments: Mapping[str, Any] | None = None,
                 recommended: Mapping[str, Any] | None = None, max_tokens_per_micro_batch: int | None = None,
                 gradient_checkpointing: bool = False, compile: bool = False, cpu_kernels: str = "auto"):  # fmt: skip
        if not isinstance(lm, nn.Module):
            raise InputError(
                f"Backbone got {lm!r} as its language model; expected a loaded transformers model. To load one from a "
                "folder or hub id, call Backbone.from_pretrained"
            )
        check_mode(cpu_kernels)
        self.lm = lm.eval().requires_grad_(False)
        self.path, self.revision, self.quantization = path, revision, quantization
        check_finite(lm, f"backbone {path!r}")
        config = lm.config.get_text_config()
        self.hidden_size, self.vocab_size = int(config.hidden_size), int(config.vocab_size)
        if tokenizer is not None and len(tokenizer) > self.vocab_size:
            raise InputError(
                f"backbone {path!r}: its tokenizer has {len(tokenizer)} tokens, its embedding only "
                f"{self.vocab_size} rows; tokenizer and weights do not belong together"
            )
        self.tokenizer: Any = tokenizer  # not Optional: texts need one anyway
        self.chat_template_arguments = dict(chat_template_arguments or {"enable_thinking": False})
        self.recommended = dict(recommended or {})
        self.end_id = closing_id(tokenizer, end_token, self.chat_template_arguments, path)
        self.stop_ids = stop_ids(lm, tokenizer, self.end_id)
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        self.gradient_checkpointing = gradient_checkpointing
        self.shards: Shards | None = None
        if cpu_kernels == "auto":
            freeze_linears(lm)
        rows_apart(lm)  # before the first pass: dynamic NTK remembers the longest text
        self.input_scale = input_scale(lm)
        self.runner = choose_runner(lm, self.input_scale)
        self.runner.fast_decoding = cpu_kernels == "auto"
        self.adjust_logits = adjustment(lm)
        if compile:
            compile_parts(lm)

    @classmethod
    def from_pretrained(cls, path: PathOrId, revision: str = "main", dtype: str | torch.dtype | None = "auto",
                        device: str | torch.device | None = None, quantization: str = "none",
                        end_token: str | None = None, chat_template_arguments: Mapping[str, Any] | None = None,
                        recommended: Mapping[str, Any] | None = None, trust_remote_code: bool = False,
                        max_tokens_per_micro_batch: int | None = None, gradient_checkpointing: bool = False,
                        compile: bool = False, cpu_kernels: str = "auto") -> Backbone:  # fmt: skip
        """Load the language model and its tokenizer from a local folder, a hub id, or "package://package/folder".

        Args:
            dtype: "auto" is the files' own.
            device: None is the first GPU, else the CPU.
            quantization: none, int8, nf4 or fp8; see quantization.py.

        Everything else as in the constructor. Raises InputError where files are missing, damaged or do not fit.
        """
        place, folder = usable(device, "backbone.device"), loading.resolve(str(path))
        tokenizer = loading.load_tokenizer(folder, revision, trust_remote_code)
        lm = loading.load_lm(folder, revision, loading.parse_dtype(dtype), place, quantization, trust_remote_code)
        return cls(
            lm, tokenizer, loading.recorded(str(path)), revision=revision, quantization=quantization,
            end_token=end_token, chat_template_arguments=chat_template_arguments, recommended=recommended,
            max_tokens_per_micro_batch=max_tokens_per_micro_batch, gradient_checkpointing=gradient_checkpointing,
            compile=compile, cpu_kernels=cpu_kernels,
        )  # fmt: skip

    @property
    def device(self) -> torch.device:
        """Where the weights are now."""
        return self.lm.get_input_embeddings().weight.device  # type: ignore[return-value,union-attr]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which states travel through the model."""
        return self.lm.get_input_embeddings().weight.dtype  # type: ignore[return-value,union-attr]

    @property
    def max_positions(self) -> int | None:
        """How many positions the model was made for, RoPE scaling included; None where its config names no limit."""
        return loading.max_positions(self.lm.config.get_text_config())

    @cached_property
    def fingerprint(self) -> str:
        """Which weights and vocabulary these are (16 hex digits), the same for bf16 and fp32 copies."""
        return fingerprint(self.lm, self.tokenizer)

    @property
    def max_tokens_per_micro_batch(self) -> int:
        """The token budget of one pass; set it to None for the device's default."""
        return self._budget or (8192 if self.device.type == "cuda" else 1024)

    @max_tokens_per_micro_batch.setter
    def max_tokens_per_micro_batch(self, budget: int | None) -> None:
        if budget is not None and budget < 1:
            raise InputError(f"max_tokens_per_micro_batch is {budget}; expected a positive number of tokens")
        self._budget = budget

    # Text -> ids

    @cached_property
    def tokenization(self) -> Tokenization:
        """The tokenizer for texts: none of them can spell a special token."""
        return Tokenization(self.tokenizer)

    @cached_property
    def chat_tokenization(self) -> Tokenization:
        """The tokenizer for a user's turn, which cannot spell what the chat template is made of either."""
        return Tokenization(self.tokenizer, template=True)

    def chat_prompt(self, query: str) -> str:
        """The query in the chat template, ready for the model's answer, thinking off; `chat_ids` tokenises it."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(
                f"the tokenizer of backbone {self.path!r} has no chat template, which writing completions needs; "
                "use an instruction-tuned backbone, let it continue the bare queries (generator.chat_template=none), "
                "or replay completions that exist (generator=replay)"
            )
        messages, arguments = [{"role": "user", "content": query}], self.chat_template_arguments
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
        except Exception as error:  # templates are programs of the model's authors: they raise what they like
            raise InputError(
                f"the chat template of backbone {self.path!r} fails with backbone.chat_template_arguments={arguments} "
                f"({one_line(error)}); correct the arguments, or set generator.chat_template=none"
            ) from error

    def chat_ids(self, query: str) -> Tensor:
        """Ids of the chat prompt of a query; control tokens that the query spells are ordinary text in it."""
        return torch.tensor(self.chat_tokenization.chat(query, self.chat_prompt), dtype=torch.long)

    def tokenize(
        self, texts: Sequence[str], max_length: int | None = None, special_tokens: bool = True
    ) -> list[Tensor]:
        """Ids of each text, its first `max_length` at most; `special_tokens`: the tokenizer's own beginning token.

        No text has an end token, neither one that it spells nor one that the tokenizer would append.
        """
        beginning = self.tokenization.beginning if special_tokens and texts else []
        rows = ([*beginning, *ids] for ids in self.tokenization.ids(texts))
        return [torch.tensor(ids[:max_length], dtype=torch.long) for ids in rows]

    def completion_ids(self, texts: Sequence[str], max_length: int = 512, marker: str | None = None) -> list[Tensor]:
        """Ids of each stripped text and one end token, cut at `max_length` (a cut completion has no end).

        `marker` takes the end token's place, a string that the tokenizer reads together with the text.
        """
        texts = [text.strip() for text in texts]
        if marker is None:
            end = torch.tensor([self.end_id])
            return [torch.cat([ids, end])[:max_length] for ids in self.tokenize(texts)]
        rows = (self.tokenization.read(self.tokenization.hide(text) + marker)[0] for text in texts)
        return [torch.tensor([*self.tokenization.beginning, *ids][:max_length]) for ids in rows]

    # Ids -> vectors -> states

    def embed(self, ids: Tensor) -> Tensor:
        """Ids (n,) -> input vectors (n, D)."""
        vectors = self.lm.get_input_embeddings()(ids.to(self.device))
        return vectors if self.input_scale == 1.0 else vectors * self.input_scale

    def vectors(self, row: Tensor) -> Tensor:
        """Ids (n,) or input vectors (n, D) -> input vectors on the device, in the model's dtype."""
        return row.to(self.device, self.dtype) if row.is_floating_point() else self.embed(row)

    @torch.no_grad()
    def prefix_pass(self, rows: Sequence[Tensor], shared: Prefix | None = None) -> Prefix:
        """Keys and values of rows of ids or input vectors, in order. `shared`: one row that stands before each."""
        lengths = [len(row) for row in rows]
        batches = self.micro_batches(lengths)
        parts = []
        for micro_batch in batches:
            query_lengths = [lengths[row] for row in micro_batch]
            before = (
                None if shared is None else renewed(self.runner, shared.rows([0] * len(micro_batch)), query_lengths)
            )
            packed = torch.cat([self.vectors(rows[row]) for row in micro_batch])  # (T, D)
            with record_function("prefix"):
                found = self.runner.prefill(packed, query_lengths, before)
            parts.append(found if before is None else Prefix.extend(before, found))
        if len(parts) == 1 and batches[0] == list(range(len(rows))):
            return parts[0]
        return Prefix.concatenate(parts).rows(inverse([row for micro_batch in batches for row in micro_batch]))

    def suffix_pass(self, prefix: Prefix, suffix_vectors: Tensor) -> Tensor:
        """Suffix vectors (B, S, D), each row after its own prefix -> last states (B, S, D); the only gradient path."""
        rows, length, _ = suffix_vectors.shape
        packed = suffix_vectors.to(self.device, self.dtype).flatten(0, 1)  # (B * S, D)
        with record_function("suffix"):
            return self.runner.run(packed, [length] * rows, prefix).view(rows, length, -1)

    def full_pass(self, queries: Sequence[Tensor], suffix_vectors: Tensor) -> Tensor:
        """The same states with gradient through the queries too, for adapters inside the model and chained hops."""
        suffix = suffix_vectors.to(self.device, self.dtype)
        pieces = [piece for query, tail in zip(queries, suffix, strict=True) for piece in (self.vectors(query), tail)]
        lengths = [len(query) + suffix.shape[1] for query in queries]
        states = self.runner.run(torch.cat(pieces), lengths)
        return torch.stack([row[len(row) - suffix.shape[1] :] for row in states.split(lengths)])

    def reconstruction_loss(self, soft_prompts: Tensor, completions: Sequence[Tensor]) -> tuple[Tensor, int]:
        """(sum of -log p over completion tokens, their number) given soft prompts (B, K, D); see token_loss.py."""
        return token_loss.reconstruction_loss(self, soft_prompts, completions)

    @torch.no_grad()
    def states(self, ids: Sequence[Tensor]) -> list[Tensor]:
        """Last states after the final norm, (L_i, D) per row, in order; no gradient."""
        lengths = [len(row) for row in ids]
        found: list[Tensor] = [torch.empty(0)] * len(ids)
        for micro_batch in micro_batches(lengths, self.max_tokens_per_micro_batch):
            packed = torch.cat([self.vectors(ids[row]) for row in micro_batch])
            states = self.runner.run(packed, [lengths[row] for row in micro_batch])
            for row, part in zip(micro_batch, states.split([lengths[row] for row in micro_batch]), strict=True):
                found[row] = part.clone()
        return found

    def micro_batches(self, lengths: Sequence[int], strict: bool = False) -> list[list[int]]:
        """Row numbers of each micro-batch; over a backbone spread on ranks, as many on each of them."""
        found = micro_batches(lengths, self.max_tokens_per_micro_batch, strict)
        return found if self.shards is None else self.shards.even(found)

    # States -> words

    def head(self) -> Any:
        """The output head, states (..., D) -> logits (..., V) before `adjust_logits`, its weight complete."""
        head = self.lm.get_output_embeddings()
        return head if self.shards is None else self.shards.head(head)

    def logits(self, states: Tensor) -> Tensor:
        """States after the final norm (..., D) -> logits (..., V)."""
        logits = self.head()(states.to(self.device, self.dtype))
        return logits if self.adjust_logits is None else self.adjust_logits(logits)

    def token_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Sum of -log p(targets (n,)) given states (n, D), without holding all logits."""
        return token_loss.token_loss(states, targets, self.head(), self.adjust_logits)

    def generate(self, prompts: Sequence[Tensor], max_new_tokens: int, sampling: Mapping[str, Any] | None = None,
                 seed: int | Sequence[int] | None = None, stop: bool = True) -> list[tuple[Tensor, str]]:  # fmt: skip
        """(new ids without the stop id, "stop" or "length") per prompt, ids or input vectors (P_i, D), in order.

        Greedy unless `sampling` is given (do_sample, temperature, top_p, top_k, repetition_penalty); with
        `stop` False rows run to `max_new_tokens` whatever they contain.
        """
        return generation.generate(self, prompts, max_new_tokens, sampling, seed, stop)
