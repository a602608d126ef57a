"""Clients that others wrote, against the real server while other clients ask; and the curl lines of the docs."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import threading
from pathlib import Path

import mteb
import openai
import pytest
import tiktoken
import torch
from mteb.models import OpenAIAPIEncodeWrapper

from llm2vec_gen.serving.served_index import ServedIndex
from tests.serving.running import NAME, TEXTS, documents, running

DOCS = Path(__file__).parents[2] / "docs/serving.md"


@pytest.fixture
def busy(server):
    """The server while two other clients embed and decode without a pause."""
    stop, failed = threading.Event(), []

    def ask(path: str) -> None:
        row = 0
        while not stop.is_set():
            row += 1
            answer = server.post(path, input=[f"{path} {row}"] * (row % 7 + 1))
            if answer.status_code != 200:
                failed.append(answer.text)

    threads = [threading.Thread(target=ask, args=(path,)) for path in ("embeddings", "decode")]
    for thread in threads:
        thread.start()
    yield server
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed


def same(found, server, **encode) -> None:
    expected = server.model.encode(TEXTS, **encode)
    assert torch.allclose(torch.as_tensor(found, dtype=torch.float32), expected, atol=1e-5)


def test_openai_async(busy):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{busy.url}/v1", api_key="none", max_retries=0) as client:
            asked = [client.embeddings.create(model=NAME, input=text) for text in TEXTS]
            stream = await client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": "a cat"}], max_tokens=8, temperature=0, stream=True
            )
            text = "".join([part.choices[0].delta.content or "" async for part in stream])
            return [answer.data[0].embedding for answer in await asyncio.gather(*asked)], text

    vectors, text = asyncio.run(ask())
    same(vectors, busy)
    ((ids, _),) = busy.model.backbone.generate([busy.model.backbone.chat_ids("a cat")], 8)
    assert text == busy.model.tokenizer.decode(ids, skip_special_tokens=True)


def langchain_embeddings(server, **options):
    from langchain_openai import OpenAIEmbeddings

    return OpenAIEmbeddings(model=NAME, base_url=f"{server.url}/v1", api_key="none", max_retries=0, **options)


def test_langchain_embeds_texts(busy):
    client = langchain_embeddings(busy, check_embedding_ctx_length=False)
    same(client.embed_documents(TEXTS), busy)
    same([client.embed_query(text) for text in TEXTS], busy)
    same(asyncio.run(client.aembed_documents(TEXTS)), busy)
    with_prompt = langchain_embeddings(
        busy, check_embedding_ctx_length=False, model_kwargs={"extra_body": {"input_type": "query"}}
    )
    same(with_prompt.embed_documents(TEXTS), busy, prompt_name="query")


def test_langchain_embeds_texts_that_it_cut_with_the_models_own_tokenizer(server, tmp_path):
    server.model.tokenizer.save_pretrained(tmp_path)
    client = langchain_embeddings(server, tiktoken_enabled=False, tiktoken_model_name=str(tmp_path))
    same(client.embed_documents(TEXTS), server)


def test_langchain_with_ids_of_another_tokenizer_is_told_what_to_do(server, monkeypatch):
    ranks = {bytes([byte]): 50_000 + byte for byte in range(256)}  # stands for OpenAI's, which needs a download
    other = tiktoken.Encoding("other", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: other)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        langchain_embeddings(server).embed_documents(TEXTS)


def test_langchain_chats(busy):
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model=NAME, base_url=f"{busy.url}/v1", api_key="none", temperature=0, max_tokens=8, max_retries=0)
    ((ids, _),) = busy.model.backbone.generate([busy.model.backbone.chat_ids("a cat")], 8)
    expected = busy.model.tokenizer.decode(ids, skip_special_tokens=True)
    answer = chat.invoke("a cat")
    assert answer.content == expected and answer.usage_metadata["output_tokens"] == len(ids)
    assert "".join(part.content for part in chat.stream("a cat")) == expected
    assert asyncio.run(chat.ainvoke("a cat")).content == expected


def test_llama_index_embeds(busy):
    from llama_index.embeddings.openai import OpenAIEmbedding

    client = OpenAIEmbedding(model_name=NAME, api_base=f"{busy.url}/v1", api_key="none", max_retries=0)
    same(client.get_text_embedding_batch(TEXTS), busy)
    same([client.get_query_embedding(text) for text in TEXTS], busy)
    same(asyncio.run(client.aget_text_embedding_batch(TEXTS)), busy)


def test_haystack_embeds(busy):
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    options = {"model": NAME, "api_base_url": f"{busy.url}/v1", "api_key": Secret.from_token("none"), "max_retries": 0}
    found = OpenAIDocumentEmbedder(**options, progress_bar=False, batch_size=2).run(
        [Document(content=t) for t in TEXTS]
    )
    same([document.embedding for document in found["documents"]], busy)
    same([OpenAITextEmbedder(**options).run(text)["embedding"] for text in TEXTS], busy)


def test_mteb_embeds(busy):
    wrapper = OpenAIAPIEncodeWrapper(busy.url, NAME, modalities=["text"], use_chat_template=False, max_retries=1)
    task = mteb.get_task("STS12")
    batches = [{"text": TEXTS[:3]}, {"text": TEXTS[3:]}]
    options = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "show_progress_bar": False}
    same(wrapper.encode(batches, **options), busy)


def curl_lines() -> list[list[str]]:
    text = DOCS.read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^curl .*$", text, re.MULTILINE)]


def test_the_curl_lines_of_the_docs(model, index):
    lines = curl_lines()
    assert len(lines) >= 8
    with running(model, name="my-model", index=ServedIndex(index, model)) as server:
        known = [row["id"] for row in documents(2)]
        for line in lines:
            body = json.loads(line[line.index("-d") + 1])
            if "ids" in body:  # of the reader's own index
                body["ids"] = known
            line = [word.replace("http://127.0.0.1:8000", server.url) for word in line]
            line[line.index("-d") + 1] = json.dumps(body)
            done = subprocess.run([*line, "-sS", "--fail-with-body"], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            if body.get("stream"):
                assert done.stdout.rstrip().endswith("data: [DONE]")
            else:
                answer = json.loads(done.stdout)
                assert answer["model"] == "my-model" and (answer.get("data") or answer.get("choices"))
