"""LangChain: vectors are those of encode, also from many coroutines; its own store finds the right passage."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from llm2vec_gen.errors import InputError
from llm2vec_gen.integrations.langchain import LLM2VecGenEmbeddings
from tests.integrations.frameworks import DOCUMENT, PASSAGES, QUERY, close
from tests.packaging import core_only


@pytest.fixture(scope="module")
def embeddings(folder) -> LLM2VecGenEmbeddings:
    return LLM2VecGenEmbeddings(str(folder))


def test_vectors_are_those_of_encode_after_the_instruction_of_the_side(embeddings, model):
    assert close(embeddings.embed_documents(PASSAGES), model.encode(PASSAGES, instruction=DOCUMENT))
    assert close([embeddings.embed_query(PASSAGES[0])], model.encode(PASSAGES[:1], instruction=QUERY))
    assert embeddings.embed_documents([]) == []


def test_given_instructions_and_options_reach_encode(folder, model):
    given = LLM2VecGenEmbeddings(
        folder, "ask:", "", batch_size=2, max_length=20, normalize=True, dtype="float32", device="cpu"
    )
    options = {"max_length": 20, "normalize": True}
    assert close([given.embed_query("a cat")], model.encode(["a cat"], instruction="ask:", **options))
    assert close(given.embed_documents([" a cat "]), model.encode([" a cat "], **options))


def test_its_own_store_finds_the_passage(folder):
    same = LLM2VecGenEmbeddings(folder, document_instruction=QUERY)  # an untrained model knows a text by itself alone
    store = InMemoryVectorStore.from_texts(PASSAGES, same)
    for passage in PASSAGES:
        assert store.similarity_search(passage, k=1)[0].page_content == passage
    found = asyncio.run(store.asimilarity_search(PASSAGES[4], k=1))
    assert found[0].page_content == PASSAGES[4]


def test_concurrent_calls_get_their_own_vectors_and_leave_the_loop_free(embeddings, model):
    texts = [f"question {number} of many" for number in range(40)]

    async def ask() -> tuple[list, int]:
        turns = 0
        waiting = asyncio.gather(
            *(embeddings.aembed_query(text) for text in texts), embeddings.aembed_documents(PASSAGES)
        )
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0)
        return await waiting, turns

    found, turns = asyncio.run(ask())
    assert turns > 10  # a blocking call would give the loop one turn
    assert close(found[:-1], model.encode(texts, instruction=QUERY))
    assert close(found[-1], model.encode(PASSAGES, instruction=DOCUMENT))


def test_a_cancelled_call_disturbs_no_other(embeddings, model):
    async def ask() -> list[float]:
        calls = [asyncio.ensure_future(embeddings.aembed_query(text)) for text in ("a", "b", "c")]
        await asyncio.sleep(0)
        calls[1].cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return await calls[2]

    assert close([asyncio.run(ask())], model.encode(["c"], instruction=QUERY))


def test_embedders_of_one_folder_share_the_model(folder):
    first, second = LLM2VecGenEmbeddings(folder), LLM2VecGenEmbeddings(folder, query_instruction="")
    assert first.embedder.model is second.embedder.model


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "/no/such/folder"}, "no folder '/no/such/folder'"),
        ({"model": 3}, "model is a int"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_length": 3}, "max_length is 3"),
        ({"normalize": "no"}, "normalize='no'"),
        ({"dimensions": 5}, "dimensions=5"),
        ({"query_instruction": 1}, "query_instruction is a int"),
    ],
)
def test_wrong_arguments_are_one_line(folder, arguments, words):
    with pytest.raises(InputError, match=words) as error:
        LLM2VecGenEmbeddings(**{"model": folder, **arguments})
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint") as error:
        LLM2VecGenEmbeddings(tmp_path)
    assert "\n" not in str(error.value)


def test_no_instruction_is_chosen_silently(bare_folder, model):
    with pytest.raises(InputError, match="query_instruction is not given and the checkpoint records none"):
        LLM2VecGenEmbeddings(bare_folder)
    with pytest.raises(InputError, match="document_instruction is not given"):
        LLM2VecGenEmbeddings(bare_folder, query_instruction="")
    assert close([LLM2VecGenEmbeddings(bare_folder, "", "").embed_query("a")], model.encode(["a"]))


def test_a_loaded_model_is_taken_and_needs_no_device(model):
    assert LLM2VecGenEmbeddings(model).embedder.model is model
    with pytest.raises(InputError, match="device given with a model that is loaded already"):
        LLM2VecGenEmbeddings(model, device="cpu")


def test_anything_but_strings_is_refused_before_it_waits(embeddings):
    with pytest.raises(InputError, match="text 1 is a int"):
        embeddings.embed_documents(["a", 1])
    with pytest.raises(InputError, match="text 0 is a NoneType"):
        asyncio.run(embeddings.aembed_query(None))


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
    ],
)
def test_a_missing_extra_is_one_line(module, package, extra):
    code = f"import llm2vec_gen.integrations.{module}"
    done = subprocess.run([sys.executable, core_only.__file__, code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: this needs the package {package}, which is not installed: "
        f"pip install 'llm2vec-gen-lightning[{extra}]'"
    )
