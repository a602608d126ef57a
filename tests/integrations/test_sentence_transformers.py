"""The same vectors inside sentence-transformers, live and from a folder, and inside mteb."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.checkpoints.prompts import GENERATIVE, prompts
from llm2vec_gen.errors import InputError
from tests.checkpoints.samples import FAMILIES

sentence_transformers = pytest.importorskip("sentence_transformers")
PROMPTS = prompts(GENERATIVE)
TEXTS = ["Where does the cat sit?", "", " the dog ate ", "the cat sat " * 40]
BACKBONE = str(FAMILIES / "qwen2_5" / "backbone")


@pytest.fixture(scope="module")
def model() -> LLM2VecGen:
    return LLM2VecGen.from_pretrained(FAMILIES / "qwen2_5" / "checkpoint", device="cpu", backbone=BACKBONE)


@pytest.fixture(scope="module")
def live(model: LLM2VecGen):
    from llm2vec_gen.integrations.sentence_transformers import to_sentence_transformer

    return to_sentence_transformer(model)


def check(st, model: LLM2VecGen) -> None:
    assert np.abs(st.encode(TEXTS) - model.encode(TEXTS).numpy()).max() < 1e-5
    for prompt, vectors in (
        ("query", st.encode_query(TEXTS)),
        ("document", st.encode_document(TEXTS)),
        ("STS", st.encode(TEXTS, prompt_name="STS")),
    ):
        assert np.abs(vectors - model.encode(TEXTS, instruction=PROMPTS[prompt]).numpy()).max() < 1e-5
    normal = st.encode(TEXTS, normalize_embeddings=True)
    assert np.allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    expected = torch.nn.functional.cosine_similarity(model.encode(TEXTS[:1]), model.encode(TEXTS[1:2]))
    assert torch.allclose(st.similarity(normal[:1], normal[1:2])[0], expected, atol=1e-5)
    assert st.encode("one text").shape == (24,)
    assert (st.get_embedding_dimension(), st.max_seq_length) == (24, 512)


def test_live(live, model: LLM2VecGen) -> None:
    check(live, model)


def test_a_folder_and_its_copy(model: LLM2VecGen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model.save_pretrained(tmp_path / "st", format="sentence_transformers")
    options = {"trust_remote_code": True, "device": "cpu", "model_kwargs": {"backbone": BACKBONE}}
    first = sentence_transformers.SentenceTransformer(str(tmp_path / "st"), **options)
    check(first, model)
    first.save_pretrained(str(tmp_path / "copy"))
    check(sentence_transformers.SentenceTransformer(str(tmp_path / "copy"), **options), model)
    again = LLM2VecGen.from_pretrained(tmp_path / "copy", device="cpu", backbone=BACKBONE)
    assert torch.equal(again.encode(TEXTS), model.encode(TEXTS))
    with pytest.raises(ValueError, match="trust_remote_code"):
        sentence_transformers.SentenceTransformer(str(tmp_path / "st"), device="cpu")


def test_a_pool_of_processes(live, model: LLM2VecGen) -> None:
    vectors = live.encode(TEXTS, device=["cpu", "cpu"], chunk_size=2)
    assert np.abs(vectors - model.encode(TEXTS).numpy()).max() < 1e-5


def test_without_our_package_the_error_names_what_to_install(model: LLM2VecGen, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "st", format="sentence_transformers")
    code = (
        "import sys; sys.modules['llm2vec_gen'] = None\n"
        "from sentence_transformers import SentenceTransformer\n"
        "SentenceTransformer('st', trust_remote_code=True, device='cpu')"
    )
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode != 0
    assert "pip install llm2vec-gen-lightning" in run.stderr.splitlines()[-1]


def test_wrong_input(live) -> None:
    with pytest.raises(InputError, match="text 1 is a int"):
        live[0].preprocess(["a", 3])


def test_the_generative_wording_is_that_of_the_config() -> None:
    table = yaml.safe_load((Path(__file__).parents[2] / "conf" / "instruction" / "generative.yaml").read_text())
    assert {name: value for name, value in table.items() if name != "_target_"} == GENERATIVE


def test_inside_mteb(live, model: LLM2VecGen) -> None:
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset
    from torch.utils.data import DataLoader

    wrapped = mteb.SentenceTransformerEncoderWrapper(live)
    task = mteb.get_task("STS17").metadata
    batches = DataLoader(Dataset.from_dict({"text": TEXTS}), batch_size=2)
    vectors = wrapped.encode(batches, task_metadata=task, hf_split="test", hf_subset="en-en")
    assert np.abs(vectors - model.encode(TEXTS, instruction=PROMPTS["STS17"]).numpy()).max() < 1e-5


def test_mteb_takes_the_documents_prompt_for_documents_of_a_task_that_has_its_own(live) -> None:
    mteb = pytest.importorskip("mteb")
    from mteb.models.abs_encoder import get_prompt_name
    from mteb.types import PromptType

    for name, query in (("ArguAna", "ArguAna"), ("NFCorpus", "Retrieval-query")):  # with and without its own wording
        task = mteb.get_task(name).metadata
        chosen = {side: live.prompts[get_prompt_name(live.prompts, task, side)].strip() for side in PromptType}
        assert chosen[PromptType.query] == PROMPTS[query] and chosen[PromptType.document] == GENERATIVE["documents"]


def test_every_task_type_of_mteb_has_the_instruction_that_evaluations_take() -> None:
    from llm2vec_gen.checkpoints.prompts import CATEGORY_OF
    from llm2vec_gen.evaluations.mteb_encoder import TASK_TYPES

    assert CATEGORY_OF == TASK_TYPES


def test_prompts_that_are_given_are_the_prompts(model: LLM2VecGen) -> None:
    from llm2vec_gen.integrations.sentence_transformers import to_sentence_transformer

    assert not any(to_sentence_transformer(model, {}).prompts.values())
    assert to_sentence_transformer(model, {"query": "ask:", "document": "sum: "}).prompts == {
        "query": "ask: ", "document": "sum: "
    }  # fmt: skip


def test_a_live_one_saves_the_models_own_card(live, tmp_path: Path) -> None:
    live.save_pretrained(str(tmp_path / "st"))
    card = (tmp_path / "st" / "README.md").read_text()
    assert "# Generative embeddings" in card and "## Instructions" in card


@pytest.mark.parametrize("value", ["token_embeddings", "cls_token_embeddings"])
def test_other_outputs_are_refused_in_one_line(live, value: str) -> None:
    with pytest.raises(InputError, match=f"has no {value}: .*sentence_embedding"):
        live.encode(TEXTS, output_value=value)
    assert len(live.encode(TEXTS, output_value=None)) == len(TEXTS)
