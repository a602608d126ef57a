"""The tools over stdio, asked by the SDK's own client, against the same index and model offline."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from mcp import Client, StdioServerParameters

from llm2vec_gen import cli
from llm2vec_gen.index.explain import Explainer
from llm2vec_gen.interpreters.comparison import shared_words
from llm2vec_gen.interpreters.logit_lens import LogitLens
from tests.serving.running import build_index, pocket_model

ROOT = Path(__file__).parents[2]
QUERY = "where does the spider live?"
CALLS = [
    ("search", {"query": QUERY, "top": 4, "where": "year >= 2003"}),
    ("explain", {"query": QUERY, "top": 2, "max_tokens": 6}),
    ("decode", {"ids": ["d7", "d3"], "max_tokens": 6}),
    ("search", {"query": " "}),
    ("search", {"query": "a", "where": "colour = 1"}),
    ("search", {"query": "a", "top": 0}),
    ("search", {"query": "\U0001f600 caf\u00e9", "top": 1}),
    ("decode", {"ids": ["none"]}),
    ("decode", {"ids": []}),
]


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("mcp")
    model.save_pretrained(home / "model")
    return home / "model"


def answers(folder: Path, index) -> tuple[list, list]:
    """The tools, and the answers to CALLS, of one process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["-m", "llm2vec_gen.cli", "mcp", str(folder), "--index", str(index.folder), "--device", "cpu"]

    async def ask():
        command = StdioServerParameters(command=sys.executable, args=arguments, env=environment, cwd=ROOT)
        async with Client(command) as client:
            tools = (await client.list_tools()).tools
            return tools, [await client.call_tool(name, given) for name, given in CALLS]

    return asyncio.run(asyncio.wait_for(ask(), 120))


def test_an_agent_searches_explains_and_decodes(model, index, folder):
    tools, (search, explain, decode, *rest) = answers(folder, index)
    assert [tool.name for tool in tools] == ["search", "explain", "decode"]
    assert all(tool.description and "self" not in tool.input_schema["properties"] for tool in tools)

    vectors = model.encode(QUERY, prompt_name="query").numpy()
    expected = index.search(vectors, top=4, where="year >= 2003")[0]
    hits = search.structured_content["hits"]
    assert [(hit["id"], hit["text"]) for hit in hits] == [(hit.id, hit.text) for hit in expected]
    assert np.allclose([hit["score"] for hit in hits], [hit.score for hit in expected], atol=1e-5)

    wanted = Explainer(model, index, LogitLens(), shared_words, max_new_tokens=6).explain(QUERY, top=2)
    found = explain.structured_content
    assert (found["gist"], found["words"]) == (wanted.gist, wanted.words)
    assert [(hit["id"], hit["gist"], hit["shared"]) for hit in found["hits"]] == [
        (one.hit.id, one.gist, one.shared) for one in wanted.hits
    ]
    texts = model.decode(index.soft_prompts_of(["d7", "d3"]), 6)
    assert [row["text"] for row in decode.structured_content["decoded"]] == texts

    empty, column, number, characters, unknown, none = rest
    assert not characters.is_error and len(characters.structured_content["hits"]) == 1
    for answer, message in (
        (empty, "the query is empty"),
        (column, "the filter names 'colour'"),
        (number, "greater than or equal to 1"),
        (unknown, "has no document 'none'"),
        (none, "at least 1 item"),
    ):
        assert answer.is_error and message in answer.content[0].text


def test_an_index_of_another_checkpoint_is_refused(index, tmp_path, capsys):
    other = pocket_model()
    other.alignment_projection.bias.data += 1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit) as stop:
        cli.main(["mcp", str(tmp_path / "other"), "--index", str(index.folder), "--device", "cpu"])
    assert stop.value.code == 2 and index.header.fingerprint in capsys.readouterr().err


def test_a_missing_index_is_reported(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["mcp", "--index", str(tmp_path)])
    assert stop.value.code == 2 and "is no index" in capsys.readouterr().err


def test_an_index_without_soft_prompts_explains_by_its_texts(model, tmp_path):
    from llm2vec_gen.serving.mcp_server import create_mcp_server

    bare = build_index(model, tmp_path, 5, soft_prompts="none")

    async def ask():
        async with Client(create_mcp_server(model, bare)) as client:
            explained = await client.call_tool("explain", {"query": QUERY, "top": 2, "max_tokens": 4})
            return explained, await client.call_tool("decode", {"ids": ["d1"]})

    explained, decoded = asyncio.run(ask())
    assert len(explained.structured_content["hits"]) == 2
    assert decoded.is_error and "stores no soft prompts" in decoded.content[0].text
