"""LaSER (arXiv 2603.01425): a language model that thinks in K soft tokens before its embedding is read."""

from __future__ import annotations

from llm2vec_gen.encoders.soft_tokens import SoftTokenEncoder


class LaSER(SoftTokenEncoder):
    """z = 1/K sum over i = 0 .. K-1 of h_(N+i): the mean of the states of K thinking steps, of which the first is the
    text's own last state and each other one that of the soft token generated from the step before (softmax over the
    output head times the input vectors, see `soft_token_states`). The latent view of the paper, for queries and
    documents alike; K = 3 in its published models.

    Trained with `teach teacher_training=laser`; for the published models, whose adapters are merged, `adapter` is null.
    num_soft_tokens: K, the number of steps. Other arguments: see `SoftTokenEncoder`.
    """

    name = "laser"
    reads_text = True
