"""Models with another readout or several hops give over HTTP what they give offline."""

from __future__ import annotations

import torch

from llm2vec_gen.models.readouts.query_mean import QueryMean
from tests.serving.running import TEXTS, pocket_model, running


def vectors(answer) -> torch.Tensor:
    assert answer.status_code == 200, answer.text
    return torch.tensor([row["embedding"] for row in answer.json()["data"]])


def test_a_model_without_soft_prompts_embeds_alone() -> None:
    model = pocket_model(readout=QueryMean())
    with running(model) as server:
        assert torch.allclose(vectors(server.post("embeddings", input=TEXTS)), model.encode(TEXTS), atol=1e-5)
        for path in ("decode", "lens"):
            answer = server.post(path, input=TEXTS)
            assert answer.status_code == 400 and "readout=query_mean" in answer.json()["error"]["message"]


def test_several_hops() -> None:
    model = pocket_model(num_hops=2)
    with running(model) as server:
        assert torch.allclose(vectors(server.post("embeddings", input=TEXTS)), model.encode(TEXTS), atol=1e-5)
        answer = server.post("decode", input=TEXTS[:2], max_tokens=5).json()
        assert [row["text"] for row in answer["data"]] == model.decode(TEXTS[:2], max_new_tokens=5)
