"""Select the runner of a model: the first of packed, padded and uncached that is exact on small rows."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_gen.backbones.execution.packed import PackedRunner
from llm2vec_gen.backbones.execution.padded import PaddedRunner
from llm2vec_gen.backbones.execution.uncached import StatefulDecoder, UncachedRunner
from llm2vec_gen.backbones.inputs import embedding_weight
from llm2vec_gen.backbones.kv_prefix import Prefix
from llm2vec_gen.errors import InputError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
COARSE, COARSEST = 0.03, 0.25  # 16 bits and quantised weights: see `_tolerance`

Runner = PackedRunner | PaddedRunner | UncachedRunner


def choose_runner(lm: PreTrainedModel, scale: float = 1.0) -> Runner:
    """Return the packed runner, else the padded one, else the one without a cache; each fallback warns once with its
    reason.

    `scale` is that of inputs.py. InputError where not even the last give the states that the model gives for ids.
    """
    _exact_attention(lm)
    expected = _states_of_ids(lm)
    vectors, tolerance = _vectors(lm, scale), _tolerance(lm, expected)
    before = lm.config._attn_implementation
    reason = _cannot_pack(lm) or _refused("packed", lambda: PackedRunner(lm), vectors, expected, tolerance)
    if reason is None:
        return PackedRunner(lm)
    lm.set_attn_implementation(before)
    name = type(lm).__name__
    unlike = _refused("padded", lambda: PaddedRunner(lm), vectors, expected, tolerance)
    if unlike is None:
        warnings.warn(f"{name} cannot run packed ({reason}); it runs in padded batches", stacklevel=4)
        return PaddedRunner(lm)
    runner = UncachedRunner(lm)
    wrong = _refused("uncached", lambda: runner, vectors, expected, tolerance)
    if wrong is not None:
        raise InputError(
            f"{name} cannot serve as a backbone: run from input vectors, which the suffix consists of, it does not "
            f"give the states of its token ids ({wrong}); take a model that needs nothing but its input embeddings"
        )
    runner.stateful = runner.ropes is None and _decoder_agrees(runner, vectors, tolerance)
    warnings.warn(
        f"{name} has no plain key/value cache ({unlike}); it runs in padded batches that compute the query again in "
        f"every pass{'' if runner.stateful else ', and decodes without a cache'}", stacklevel=4,
    )  # fmt: skip
    return runner


def _exact_attention(lm: PreTrainedModel) -> None:
    """Let eager attention serve where sdpa leaves out the capping of attention scores that the config asks for."""
    capped = getattr(lm.config.get_text_config(), "attn_logit_softcapping", None)
    if capped and lm.config._attn_implementation != "eager":
        lm.set_attn_implementation("eager")


def _cannot_pack(lm: PreTrainedModel) -> str | None:
    """Return why the config rules out packing: attention that cannot be replaced, or layers that do not see
    everything."""
    config = lm.config.get_text_config()
    kinds = sorted(set(getattr(config, "layer_types", None) or ["full_attention"]))
    if not getattr(lm, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if kinds != ["full_attention"]:
        return f"it has layers of kind {', '.join(kind for kind in kinds if kind != 'full_attention')}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "it has sliding windows"
    return None


# Two rows, each a query and what follows it: the ids 1..5 and 9..10, the ids 6..8 and 11..14.
_PAST_LENGTHS, _QUERY_LENGTHS = [5, 3], [2, 4]


def _ids(lm: PreTrainedModel) -> Tensor:
    weight = embedding_weight(lm)
    return torch.arange(1, 15, device=weight.device) % len(weight)


@torch.no_grad()
def _vectors(lm: PreTrainedModel, scale: float) -> Tensor:
    embedded = lm.get_input_embeddings()(_ids(lm))
    return embedded if scale == 1.0 else embedded * scale


@torch.no_grad()
def _states_of_ids(lm: PreTrainedModel) -> Tensor:
    """The states (6, D) of what follows the queries, by the plain model, one row of token ids at a time."""
    ids, found = _ids(lm), []
    try:
        for query, rest in ((ids[:5], ids[8:10]), (ids[5:8], ids[10:])):
            output = lm.base_model(input_ids=torch.cat([query, rest])[None], use_cache=False)
            found.append(output.last_hidden_state[0, len(query) :])
    except Exception as error:  # whatever a model's own code raises
        raise InputError(
            f"{type(lm).__name__} cannot serve as a backbone: its body gives no states of token ids "
            f"({type(error).__name__}: {one_line(error):.200}); expected a causal language model of text"
        ) from error
    states = torch.cat(found)
    if not bool(states.isfinite().all()):
        raise InputError(
            f"{type(lm).__name__} gives states that are not finite (NaN or infinite) in {states.dtype}; its weights "
            "are finite, so they overflow on the way: load it in a wider dtype (backbone.dtype=float32)"
        )
    return states


def _tolerance(lm: PreTrainedModel, expected: Tensor) -> float:
    """How far (relative) the states of a way to run the model may be from `expected`, those of each row alone.

    Passes of other shapes round differently, and layers amplify it: on a GPU states of 28 layers in bf16 differ by 5%.
    So where products are of 16 bits or TF32, the bound is four times what the last bit of the input vectors does to
    the states, from COARSE to COARSEST.
    """
    products = _product_dtype(expected)
    if products in TOLERANCE:
        return TOLERANCE[products]
    bit, generator = torch.finfo(products).eps, torch.Generator().manual_seed(0)

    def other_bit(module: Any, inputs: Any, vectors: Tensor) -> Tensor:
        signs = torch.randint(0, 2, vectors.shape, generator=generator) * 2 - 1
        return vectors * (1 + bit * signs.to(vectors))

    hook = lm.get_input_embeddings().register_forward_hook(other_bit)
    try:
        return min(max(COARSE, *(4 * relative(_states_of_ids(lm), expected) for _ in range(2))), COARSEST)
    except InputError:  # float16 at the edge of its range
        return COARSE
    finally:
        hook.remove()


def _product_dtype(states: Tensor) -> torch.dtype:
    """The dtype whose precision matrix products have: float16 stands for TF32, which has as many bits."""
    precision = torch.get_float32_matmul_precision()
    if states.dtype != torch.float32 or states.device.type != "cuda" or precision == "highest":
        return states.dtype
    return torch.float16 if precision == "high" else torch.bfloat16


@torch.no_grad()
def _refused(way: str, build: Any, vectors: Tensor, expected: Tensor, tolerance: float) -> str | None:
    """Why these passes do not serve, or None: their states of the two rows after recorded prefixes are `expected`."""
    try:
        runner = build()
        prefix = runner.prefill(vectors[:8], _PAST_LENGTHS)
        states = runner.run(vectors[8:], _QUERY_LENGTHS, prefix)
        runner.run((vectors[8:] + vectors[:6]) / 2, _QUERY_LENGTHS, prefix)  # the suffix is no row of the embedding
    except Exception as error:  # whatever a model's own code raises
        return f"{type(error).__name__}: {one_line(error):.200}"
    difference = relative(states, expected)
    if difference <= tolerance:
        return None
    return f"{way} states differ from those of each row alone by {difference:.2g} (relative; allowed: {tolerance:.2g})"


@torch.no_grad()
def _decoder_agrees(runner: UncachedRunner, vectors: Tensor, tolerance: float) -> bool:
    """Whether decoding with the model's own cache gives the states of complete passes, also after rows were dropped."""
    prefix = Prefix([5, 3], [], [], vectors[:8])
    try:
        decoder = StatefulDecoder(runner, prefix)
        first = decoder(vectors[8:10])
        decoder.keep(torch.tensor([1], device=vectors.device))
        second = decoder(vectors[10:11])
    except Exception:  # whatever a model's own code raises
        return False
    rows = [torch.cat([vectors[:5], vectors[8:9]]), torch.cat([vectors[5:8], vectors[9:11]])]
    full = [runner.run(row, [len(row)]) for row in rows]
    expected = torch.stack([full[0][-1], full[1][-2], full[1][-1]])
    return relative(torch.cat([first, second]), expected) <= tolerance


def relative(states: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value expected; infinite where either is not a number."""
    wide, wanted = states.double(), expected.double()
    found = float((wide - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
    return found if found == found else float("inf")
