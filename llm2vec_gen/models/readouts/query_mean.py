"""Mean of the query's own states, without any suffix."""

from __future__ import annotations

from llm2vec_gen.models.readouts.base import Pooled


class QueryMean(Pooled):
    """e = W_align (W_recon (1/L sum_t h_t) + b_recon) + b_align, h_t the last states of the query's own L tokens.

    Mean pooling instead of compression tokens, which arXiv 2510.20797 found to be the better compressor where the
    language model is trained. There is no suffix (`num_thought_tokens` and `num_compression_tokens` are 0 whatever the
    config says), no soft prompt and nothing to decode: a reconstruction loss is refused. The language model is frozen,
    so that only the two projections are trained, and LoRA where there is one. A text without tokens has the state 0.
    """

    reads_suffix = False
