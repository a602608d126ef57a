"""The generative embedder: trained suffix vectors and two projections over a frozen language model."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.beam_search import beam_search
from llm2vec_gen.backbones.kv_prefix import Prefix
from llm2vec_gen.checkpoints import hub, prompts
from llm2vec_gen.errors import InputError
from llm2vec_gen.models import arguments, identity, initialization, storage
from llm2vec_gen.models.hops import hop_states
from llm2vec_gen.models.lora import QueryLora, check_settings
from llm2vec_gen.models.query_pass import QueryPass
from llm2vec_gen.models.readouts.base import MEAN_LINEAR, Readout, check_decodable
from llm2vec_gen.models.readouts.mean_linear import MeanLinear
from llm2vec_gen.models.suffix_tokenization import SuffixTokenization
from llm2vec_gen.types import Batch, EncoderOutput, TargetMoments

log = logging.getLogger(__name__)


class LLM2VecGen(nn.Module):
    """Query -> K soft prompts -> embedding (equations 1 and 2 of arXiv 2603.10913).

    The suffix, `num_thought_tokens` rows of scratch buffer and then `num_compression_tokens` rows, is appended to the
    embedded query; the last states of the compression rows pass the reconstruction projection (soft prompts, K x D) and
    the alignment projection (mean over K: the embedding, E). Trained are `suffix` and the two projections, in fp32; the
    language model is frozen and stays in eval(). `full_gradient` sends gradients through the query positions too.
    `lora` (rank, alpha, dropout, target_modules) adds low-rank terms to the query pass alone, which implies it.
    `readout` is how the embedding is read (readouts/base.py; default: the mean).

    With `num_hops` k > 1 (latent chaining) hop i + 1 reads [query, soft prompts of hop i, a suffix of its own]; hops
    share the projections, and the last one's are the model's. `hop_loss`: losses are of the "last" hop, or the mean
    over "all".
    """

    digest_defaults: ClassVar[Mapping[str, Any]] = {
        "readout": {"_target_": MEAN_LINEAR}, "num_hops": 1, "hop_loss": "last", "full_gradient": False, "lora": None,
    }  # fmt: skip

    def __init__(self, backbone: Backbone, embedding_dim: int, num_thought_tokens: int = 10,
                 num_compression_tokens: int = 10, max_length: int = 512, projection_init: str = "default",
                 full_gradient: bool = False, lora: Mapping[str, Any] | None = None,
                 readout: Readout | None = None, num_hops: int = 1, hop_loss: str = "last"):  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.lm = backbone.lm
        self.readout = readout or MeanLinear()
        if not self.readout.reads_suffix:
            num_thought_tokens = num_compression_tokens = 0
        arguments.check_flags(full_gradient=full_gradient)
        arguments.check_sizes(embedding_dim, num_thought_tokens, num_compression_tokens, max_length, self.readout)
        arguments.check_hops(num_hops, hop_loss, self.readout)
        if lora is not None:
            check_settings(lora)
        self.embedding_dim, self.num_hops, self.hop_loss = int(embedding_dim), int(num_hops), hop_loss
        self.num_thought_tokens, self.num_compression_tokens = int(num_thought_tokens), int(num_compression_tokens)
        self.max_length, self.full_gradient = int(max_length), full_gradient
        self.max_query_tokens(None)
        hidden, device, self.projection_init = backbone.hidden_size, backbone.device, projection_init
        suffix = initialization.suffix(backbone, self.num_suffix_tokens)
        self.suffix = nn.Parameter(suffix, requires_grad=self.readout.reads_suffix)
        self.reconstruction_projection = initialization.projection(hidden, hidden, projection_init).to(device)
        sizes = self.num_compression_tokens, hidden, self.embedding_dim
        self.alignment_projection = self.readout.projection(*sizes, projection_init).to(device)
        later = [initialization.suffix(backbone, self.num_suffix_tokens) for _ in range(1, self.num_hops)]
        self.hop_suffixes = nn.Parameter(torch.stack(later)) if later else None  # (hops - 1, S, D), after the first
        self.lora = QueryLora.fresh(self.lm, **lora).to(device) if lora is not None else None
        self.suffix_tokenization = SuffixTokenization(backbone)
        self.matryoshka_dims: tuple[int, ...] = ()  # prefixes of the embedding that were trained, in rising order
        self.end_marker: str | None = None  # published checkpoints: the literal text that ends a decoded completion
        self.card: dict[str, Any] = {}  # facts for the model card
        self.instructions: Mapping[str, Any] | None = None  # categories, tasks, documents; None: none recorded
        self._named_wording = False

    # What it is

    @property
    def num_suffix_tokens(self) -> int:
        """S = thought + compression tokens."""
        return self.num_thought_tokens + self.num_compression_tokens

    @property
    def tail_length(self) -> int:
        """Tokens that stand behind a query in its longest pass: the suffix, and soft prompts that are fed back."""
        return self.num_suffix_tokens + (self.num_compression_tokens if self.num_hops > 1 else 0)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that texts go through."""
        return self.suffix_tokenization.tokenizer

    @property
    def variant(self) -> dict[str, Any]:
        """Return the settings in which this differs from the paper's model: readout and hops; empty for that one."""
        hops = {} if self.num_hops == 1 else {"num_hops": self.num_hops, "hop_loss": self.hop_loss}
        return storage.variant(self) | hops

    def trainables(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by their names in this module."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def train(self, mode: bool = True) -> LLM2VecGen:
        """As usual, but the frozen language model never leaves eval()."""
        super().train(mode)
        self.lm.eval()
        return self

    @property
    def prompts(self) -> dict[str, str]:
        """Prompt name ("query", "document", mteb's categories and tasks) -> instruction.

        The checkpoint's own, which its scores were measured with; without any (published ones) our generative wording,
        with a line in the log.
        """
        if self.instructions is None and not self._named_wording:
            self._named_wording = True
            log.warning("%s; prompts are in this package's generative wording", prompts.NONE_RECORDED)
        return prompts.prompts(prompts.instructions_of({"instructions": self.instructions}))

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with whatever changes embeddings: trained tensors, backbone, dtype, max_length."""
        return identity.of_model(self)

    @property
    def device(self) -> torch.device:
        """Where the language model and the trained tensors are."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the language model; embeddings are float32 whatever it is."""
        return self.backbone.dtype

    def max_query_tokens(self, max_length: int | None) -> int:
        """Return how many query tokens fit beside the suffix; InputError where none does."""
        length = arguments.check_max_length(max_length, self.max_length, self.tail_length, self.backbone.max_positions)
        return length - self.tail_length

    # Training

    def initialize_from(self, texts: Sequence[str], moments: TargetMoments) -> None:
        """Start the alignment projection at the targets' mean and spread, where projection_init is "targets"."""
        if self.projection_init == "targets":
            initialization.match_targets(self, texts, moments)

    def forward(self, batch: Batch) -> EncoderOutput:
        """Soft prompts (B, K, D) and embedding (B, E) of the batch's queries (ids without suffix), with gradients."""
        *earlier, last = self.hop_states(batch.queries)
        return self._output(last, tuple(map(self._output, earlier if self.hop_loss == "all" else ())))

    def _output(self, states: Tensor, earlier: tuple[EncoderOutput, ...] = ()) -> EncoderOutput:
        soft_prompts = self.project(states)
        return EncoderOutput(soft_prompts[:, : self.num_compression_tokens], self.align(soft_prompts), earlier)

    @property
    def needs_full_pass(self) -> bool:
        """Whether gradients go through the queries too: LoRA or `full_gradient`, unless this only encodes."""
        return (self.full_gradient or self.lora is not None) and (self.training or torch.is_grad_enabled())

    def compression_states(self, queries: Sequence[Tensor], shared: Prefix | None = None, hop: int | None = None
                           ) -> Tensor:  # fmt: skip
        """Queries (ids without suffix) -> last states h of the compression tokens (B, K, D) at a hop (the last).

        `shared`: keys and values of the tokens that all queries begin with. A readout without suffix has the mean of
        the query's states instead (B, 1, D).
        """
        return self.hop_states(queries, shared, hop)[-1]

    def hop_states(self, queries: Sequence[Tensor], shared: Prefix | None = None, hops: int | None = None
                   ) -> list[Tensor]:  # fmt: skip
        """Return the states (B, K, D) of each hop, of the first `hops` (all): the one query pass (hops.py)."""
        before, suffix = self.suffix_tokenization.split(queries, self.suffix)  # ids (L_i,) and vectors (B, S, D)
        return hop_states(self, before, suffix, shared, hops, self.needs_full_pass)

    def adapted(self) -> AbstractContextManager[None]:
        """Within, the language model is the query pass's own (with LoRA, where there is one); outside it is plain."""
        return nullcontext() if self.lora is None else self.lora.active(self.lm)

    def project(self, states: Tensor) -> Tensor:
        """Last states of the compression tokens (B, K, D) -> soft prompts (B, K, D), p_i = W_recon h_i + b."""
        return self.reconstruction_projection(states.to(self.reconstruction_projection.weight.dtype))

    def align(self, soft_prompts: Tensor) -> Tensor:
        """Soft prompts (B, K, D) -> embedding (B, E): W_align f(p) + b, f the readout's features (their mean)."""
        return self.alignment_projection(self.readout.features(soft_prompts))

    def embed_states(self, states: Tensor) -> Tensor:
        """Last states of the compression tokens (B, K, D) -> embedding (B, E), in the readout's cheapest way."""
        return self.alignment_projection(self.readout.features_of_states(states, self.project))

    def tokenize_queries(
        self, texts: Sequence[str], max_length: int | None = None, strip: bool = False
    ) -> list[Tensor]:
        """Ids of the queries; `max_length` tokens include the suffix, so a long query keeps its first ones."""
        return self.tokenize_and_count(texts, max_length, strip)[0]

    def tokenize_and_count(
        self, texts: Sequence[str], max_length: int | None = None, strip: bool = False
    ) -> tuple[list[Tensor], int]:
        """Ids as `tokenize_queries` gives them, and how many of the texts were cut."""
        length = self.max_query_tokens(max_length) + self.num_suffix_tokens
        rows = [text.strip() for text in texts] if strip else list(texts)
        return self.suffix_tokenization.ids(rows, length, self.num_suffix_tokens)

    def completion_ids(self, texts: Sequence[str], max_length: int = 512) -> list[Tensor]:
        """Ids of each stripped completion and its end (the end token, or the literal marker), cut at `max_length`."""
        return self.backbone.completion_ids(texts, max_length, self.end_marker)

    # Use

    @torch.no_grad()
    def encode(self, texts: str | Sequence[str], instruction: str | None = None, batch_size: int = 32,
               max_length: int | None = None, normalize: bool = False, show_progress: bool = False,
               prompt_name: str | None = None, dimensions: int | None = None) -> Tensor:  # fmt: skip
        """Return the embeddings of the texts, float32 (N, E) on the CPU, in the order given; a string gives (1, E).

        With an instruction, instruction and text are stripped and joined by one space; `prompt_name` takes it from
        `prompts` ("query", "document", ...). At most `batch_size` rows and
        the backbone's token budget run together; neither changes the result. `max_length` counts the suffix too; a
        longer text keeps its first tokens, with one warning that counts such texts. `dimensions` keeps the first ones
        of each embedding, before it is normalised: one of `matryoshka_dims`. Raises InputError for arguments of another
        kind (see arguments.py).
        """
        arguments.check_flags(normalize=normalize)
        arguments.check_dimensions(dimensions, self.embedding_dim, self.matryoshka_dims)
        if prompt_name is not None:
            instruction = arguments.named_instruction(self.prompts, prompt_name, instruction)
        query_pass = QueryPass.of(self, texts, instruction, batch_size, max_length, show_progress)
        embeddings = query_pass.collect(self.embed_states, (self.embedding_dim,))[:, :dimensions]
        return unit_length(embeddings, dim=1) if normalize else embeddings

    @torch.no_grad()
    def states(self, texts: str | Sequence[str], instruction: str | None = None, batch_size: int = 32,
               max_length: int | None = None, show_progress: bool = False, hop: int | None = None
               ) -> Tensor:  # fmt: skip
        """Return the last states h_1..h_K of the compression tokens, float32 (N, K, D) on the CPU, in order.

        They are taken after the final norm and before any projection: what the logit lens reads. `hop`: 1 to
        `num_hops`, the last one by default. Other arguments as in `encode`.
        """
        return self._collect(lambda states: states, hop, texts, instruction, batch_size, max_length, show_progress)

    def forward_tokens(self, texts: str | Sequence[str], instruction: str | None = None) -> list[int]:
        """Return how many tokens go forward through the language model to embed each text (`QueryPass`)."""
        return QueryPass.of(self, texts, instruction, 32, None, False).forward_tokens()

    @torch.no_grad()
    def soft_prompts(self, texts: str | Sequence[str], instruction: str | None = None, batch_size: int = 32,
                     max_length: int | None = None, show_progress: bool = False, hop: int | None = None
                     ) -> Tensor:  # fmt: skip
        """Return the soft prompts p_i = W_recon h_i + b, float32 (N, K, D) on the CPU: what decoding starts from.

        `hop` as in `states`.
        """
        return self._collect(self.project, hop, texts, instruction, batch_size, max_length, show_progress)

    def _collect(self, project: Callable[[Tensor], Tensor], hop: int | None, *query: Any) -> Tensor:
        check_decodable(self)
        arguments.check_hop(hop, self.num_hops)
        shape = (self.num_compression_tokens, self.backbone.hidden_size)
        return QueryPass.of(self, *query).collect(project, shape, hop)

    @torch.no_grad()
    def decode(self, inputs: Tensor | np.ndarray | str | Sequence[str], max_new_tokens: int | None = None,
               instruction: str | None = None, sampling: Mapping[str, Any] | None = None,
               seed: int | Sequence[int] | None = None, num_beams: int = 1) -> list[str]:  # fmt: skip
        """Return the text that the language model continues each soft prompt with.

        `inputs` are soft prompts (N, K, D), as a tensor or a numpy array, or texts, which are embedded first.
        `max_new_tokens` None is 512, or what the model's positions leave. Greedy unless `sampling` is given.
        `seed`: one for all rows, or one per row. `num_beams` above 1 is beam search, without
        sampling. Raises InputError for pooled embeddings, another shape, and values that are not finite.
        """
        check_decodable(self)
        tokens, size = self.num_compression_tokens, self.backbone.hidden_size
        limit = arguments.check_new_tokens(max_new_tokens, tokens, self.backbone.max_positions)
        prompts = arguments.given_soft_prompts(inputs)
        if prompts is None:
            prompts = self.soft_prompts(inputs, instruction)  # type: ignore[arg-type]
        elif instruction is not None:
            raise InputError(
                f"decode was given soft prompts and instruction={instruction!r:.40}; an instruction changes how texts "
                "are embedded: pass it to soft_prompts(texts, instruction=...)"
            )
        prompts = arguments.check_soft_prompts(prompts, tokens, size, self.embedding_dim)
        arguments.check_seed(seed, len(prompts))
        arguments.check_beams(num_beams, sampling)
        if num_beams > 1:
            found = beam_search(self.backbone, prompts, limit, num_beams)
        else:
            found = [ids for ids, _ in self.backbone.generate(list(prompts), limit, sampling, seed)]
        texts = [self.tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in found]
        return texts if self.end_marker is None else [text.split(self.end_marker)[0] for text in texts]

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path, device: str | torch.device | None = None,
                        dtype: str | torch.dtype | None = None, backbone: str | Backbone | None = None,
                        revision: str | None = None) -> LLM2VecGen:  # fmt: skip
        """Load a folder or hub id of any known format. `backbone` replaces the recorded path (or is one, built)."""
        return storage.load(cls, path_or_hub_id, device, dtype, backbone, revision)

    def save_pretrained(self, folder: str | Path, format: str = "native") -> None:
        """Write the trained tensors and how to find the backbone again; never its weights (except format merged)."""
        storage.save(self, folder, format)

    def push_to_hub(self, repo_id: str, format: str = "native", **arguments: Any) -> str:
        """Save and upload, `arguments` (revision, private, message, token) as in checkpoints/hub.py -> the address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, format)
            return hub.push(folder, repo_id, **arguments)
