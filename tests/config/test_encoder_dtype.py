"""encoder_dtype: the dtype in which a trained model embeds, whatever it was trained in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm2vec_gen import pipeline
from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError

STEPS = ("complete", "embed", "train", "evaluate", "interpret", "index", "expand")


def test_it_is_part_of_what_reads_the_model_and_of_nothing_before_it() -> None:
    plain, other = compose("corpus=pocket"), compose("corpus=pocket", "encoder_dtype=bfloat16")
    moved = {step for step in STEPS if plain.artifact(step).digest != other.artifact(step).digest}
    assert moved == {"evaluate", "interpret", "index", "expand"}
    for encoder in ("teacher", "input_mean"):  # these have a dtype of their own
        assert plain.artifact("evaluate", encoder).digest == other.artifact("evaluate", encoder).digest


def test_the_model_embeds_in_it(tmp_path: Path) -> None:
    settings = [f"paths.outputs={tmp_path}", "experiment=smoke", "training.max_steps=2"]
    plan = compose(*settings)
    for step in (pipeline.complete, pipeline.embed, pipeline.train):
        step(plan)
    half = compose(*settings, "encoder_dtype=bfloat16")
    assert half.fingerprint() != plan.fingerprint()
    texts = ["What is the capital of Alba?"]
    one, other = plan.build_encoder(), half.build_encoder()
    assert (one.dtype, other.dtype) == (torch.float32, torch.bfloat16)
    ours, theirs = one.encode(texts), other.encode(texts)
    assert not torch.equal(ours, theirs)
    assert torch.cosine_similarity(ours, theirs).item() > 0.99
    document = half.document_encoder()()
    assert document.header.encoder["dtype"] == "bfloat16" and document.encoder.dtype == torch.bfloat16


@pytest.mark.parametrize("given", ["int8", "4", "auto"])
def test_another_word_is_refused_at_once(given: str) -> None:
    with pytest.raises(InputError, match=rf"encoder_dtype={given}: expected float32, bfloat16, float16, or null"):
        compose(f"encoder_dtype={given}")
