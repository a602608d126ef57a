"""GIRCSE (arXiv 2509.24291): embeddings that a language model generates as soft tokens, each refining the last."""

from __future__ import annotations

from llm2vec_gen.encoders.soft_tokens import SoftTokenEncoder


class GIRCSE(SoftTokenEncoder):
    """z = 1/K sum over i = 1 .. K of g_i, g_i = h_(N+i) the last state at the i-th generated soft token (the form
    of the paper with mean pooling of the generated states alone; `soft_token_states` has how they are generated).

    Trained with `teach teacher_training=gircse` at K = 5; the paper's scores go on rising up to K = 20, which is
    `num_soft_tokens` here. An instruction stands before the text, joined by one space. Other arguments: see
    `SoftTokenEncoder`; max_length: tokens of instruction and text.
    """

    name = "gircse"
    reads_text = False
