"""Embeddings, decoding and lens over HTTP against the same model offline."""

from __future__ import annotations

import base64

import numpy as np
import openai
import pytest
import torch

from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import Query
from tests.serving.running import NAME, TEXTS, pocket_model, running


def vectors(answer) -> torch.Tensor:
    data = answer.json()["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    return torch.tensor([row["embedding"] for row in data])


def test_embeddings_are_those_of_encode_in_order(server):
    answer = server.post("embeddings", input=TEXTS)
    assert torch.allclose(vectors(answer), server.model.encode(TEXTS), atol=1e-5)
    usage = sum(map(len, server.model.tokenize_queries(TEXTS)))
    assert answer.json()["usage"] == {"prompt_tokens": usage, "total_tokens": usage}
    assert answer.json()["instruction"] is None and answer.json()["model"] == NAME


def test_a_string_and_base64(server):
    answer = server.post("embeddings", input=TEXTS[0], encoding_format="base64", dimensions=24, user="u")
    found = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), "<f4")
    assert np.allclose(found, server.model.encode(TEXTS[0])[0], atol=1e-5)


def test_instructions_are_applied_where_they_are_asked_for_and_named(server):
    given = server.post("embeddings", input=TEXTS, instruction="Find the answer:")
    assert torch.allclose(vectors(given), server.model.encode(TEXTS, instruction="Find the answer:"), atol=1e-5)
    assert given.json()["instruction"] == "Find the answer:"
    for side in ("query", "document"):
        own = server.post("embeddings", input=TEXTS, input_type=side)
        assert torch.allclose(vectors(own), server.model.encode(TEXTS, prompt_name=side), atol=1e-5)
        assert own.json()["instruction"] == server.model.prompts[side] and own.json()["input_type"] == side


def test_token_ids_give_the_embeddings_of_their_text(server):
    ids = [row.tolist() for row in server.model.backbone.tokenize(TEXTS)]
    assert torch.allclose(vectors(server.post("embeddings", input=ids)), server.model.encode(TEXTS), atol=1e-5)
    one = server.post("embeddings", input=ids[0], instruction="Find the answer:")
    assert torch.allclose(vectors(one), server.model.encode(TEXTS[:1], instruction="Find the answer:"), atol=1e-5)


def test_long_texts_are_refused_or_cut_as_asked(server):
    long = "a cat " * 300
    refused = server.post("embeddings", input=["x", long])
    assert refused.status_code == 400 and "input 1 is longer than the 122 tokens" in refused.json()["error"]["message"]
    with pytest.warns(UserWarning, match="longer"):
        expected = server.model.encode([long])
    assert torch.allclose(vectors(server.post("embeddings", input=long, truncate=True)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": ""}, "input 0 is empty"),
        ({"input": ["a", ""]}, "input 1 is empty"),
        ({"input": []}, "expected a string"),
        ({"input": [[]]}, "none of them empty"),
        ({"input": [["a"]]}, "whole numbers"),
        ({"input": [[[1]]]}, "whole numbers"),
        ({"input": [1, "a"]}, "whole numbers"),
        ({"input": [True]}, "whole numbers"),
        ({"input": [1.5]}, "whole numbers"),
        ({"input": None}, "expected a string"),
        ({"input": {"a": 1}}, "expected a string"),
        ({}, "Field required"),
        ({"input": [5, 99999]}, "input 0 has the token id 99999"),
        ({"input": [[5], [-1]]}, "input 1 has the token id -1"),
        ({"input": [5, 2]}, "control token 2"),
        ({"input": ["a"] * 65}, "65 inputs; expected at most 64"),
        ({"input": "a", "dimensions": 8}, "embeddings of 24 numbers only"),
        ({"input": "a", "encoding_format": "int8"}, "'float' or 'base64'"),
        ({"input": "a", "instruction": "b", "input_type": "query"}, "choose one"),
        ({"input": "a", "input_type": "passage"}, "'query' or 'document'"),
        ({"input": "a", "colour": "red"}, "'colour' is no field"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(server, body, message):
    answer = server.post("embeddings", **body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"] and "\n" not in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_trained_prefixes_are_served_as_encode_gives_them(tmp_path):
    model = pocket_model()
    model.matryoshka_dims = (8, 16)
    model.save_pretrained(tmp_path / "model")
    loaded = LLM2VecGen.from_pretrained(tmp_path / "model", device="cpu")
    with running(loaded) as server:
        for dimensions in (8, 16, 24):
            found = vectors(server.post("embeddings", input=TEXTS, dimensions=dimensions))
            assert found.shape == (len(TEXTS), dimensions)
            assert torch.allclose(found, loaded.encode(TEXTS, dimensions=dimensions), atol=1e-5)
        for dimensions in (7, 0, -1, 25):
            answer = server.post("embeddings", input="a", dimensions=dimensions)
            assert answer.status_code == 400
            assert "24 numbers, or the first 8, 16 of them" in answer.json()["error"]["message"]


def test_the_openai_client_embeds(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model=NAME, input=TEXTS)  # asks for base64
    found = torch.tensor([row.embedding for row in answer.data])
    assert torch.allclose(found, server.model.encode(TEXTS), atol=1e-5)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.embeddings.create(model="gpt", input="a")
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME


def texts(answer) -> list[str]:
    return [row["text"] for row in answer.json()["data"]]


def test_texts_and_soft_prompts_decode_as_offline(server):
    expected = server.model.decode(TEXTS, max_new_tokens=12)
    answer = server.post("decode", input=TEXTS, max_tokens=12)
    assert texts(answer) == expected
    prompts = server.model.soft_prompts(TEXTS)
    assert texts(server.post("decode", soft_prompts=prompts.tolist(), max_tokens=12)) == expected
    coded = [base64.b64encode(one.numpy().tobytes()).decode() for one in prompts]
    assert texts(server.post("decode", soft_prompts=coded, max_tokens=12)) == expected


def test_decoding_with_an_instruction_and_sampling(server):
    prompts = server.model.soft_prompts(TEXTS, instruction="Find:")
    expected = server.model.decode(prompts, 12, sampling={"temperature": 1.5, "top_p": 0.9}, seed=3)
    body = {"temperature": 1.5, "top_p": 0.9, "seed": 3, "max_tokens": 12, "instruction": "Find:"}
    assert texts(server.post("decode", input=TEXTS, **body)) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "either input or soft_prompts or ids"),
        ({"input": "a", "soft_prompts": []}, "one of them alone"),
        ({"soft_prompts": []}, "soft prompt"),
        ({"soft_prompts": [[0.0] * 24]}, "cannot be decoded"),
        ({"soft_prompts": ["AAAA"]}, "expected numbers, 4 x 160"),
        ({"soft_prompts": ["!"]}, "expected numbers"),
        ({"soft_prompts": [{"a": 1}]}, "expected numbers"),
        ({"soft_prompts": [[[1e30] * 160] * 4]}, "values above 10000"),
        ({"soft_prompts": [[[0.0] * 160] * 4], "instruction": "b"}, "belong to texts"),
        ({"input": "a", "max_tokens": 100}, "at most 64 tokens"),
    ],
)
def test_what_cannot_be_decoded_is_refused(server, body, message):
    answer = server.post("decode", **body)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_values_that_are_no_numbers_are_refused(server):
    for value in ("NaN", "Infinity", "1e999"):
        row = f"[[{','.join([value] * 160)}],[{'],['.join([','.join(['0'] * 160)] * 3)}]]"
        answer = server.http.post("/v1/decode", content=f'{{"model": "{NAME}", "soft_prompts": [{row}]}}',
                                  headers={"content-type": "application/json"})  # fmt: skip
        assert answer.status_code == 400 and "not finite" in answer.json()["error"]["message"]


def test_a_model_without_reconstruction_loss_does_not_decode(server, monkeypatch):
    monkeypatch.setattr(server.model, "card", {"losses": {"alignment": 1.0}})
    answer = server.post("decode", input="a")
    assert answer.status_code == 400 and "without reconstruction loss" in answer.json()["error"]["message"]


@pytest.mark.parametrize("space", ["states", "soft_prompts"])
def test_lens_words_are_those_offline(server, space):
    queries = [Query(str(row), text) for row, text in enumerate(TEXTS)]
    expected = [reading.words for reading in LogitLens(top=3, space=space).interpret(server.model, queries, "Find:")]
    answer = server.post("lens", input=TEXTS, top=3, space=space, instruction="Find:")
    assert [row["words"] for row in answer.json()["data"]] == expected
