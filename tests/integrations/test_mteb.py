"""mteb's registry knows our models, and its own mock runs pass for every kind of text task."""

from __future__ import annotations

import socket
from pathlib import Path

import mteb
import pytest
import torch
from mteb.mocks import MOCK_TASK_TEST_GRID
from mteb.types import PromptType

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.checkpoints.prompts import GENERATIVE
from llm2vec_gen.evaluations.instructions import NoInstruction
from llm2vec_gen.evaluations.mteb_encoder import TASK_TYPES, MtebEncoder
from llm2vec_gen.integrations import mteb as ours
from llm2vec_gen.types import InputError
from tests.checkpoints.samples import FAMILIES

CHECKPOINT, BACKBONE = FAMILIES / "qwen2_5" / "checkpoint", str(FAMILIES / "qwen2_5" / "backbone")
WORDING = {"tasks": {"MockRetrievalTask": "Answer:"}, "categories": {"sts": "Say:"}, "documents": "Sum up:"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def name() -> str:
    return ours.register(CHECKPOINT, backbone=BACKBONE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mtebs_own_mock_runs_pass_for_every_kind_of_text_task(name: str) -> None:
    results = mteb.mock_run(mteb.get_model(name, device="cpu"))
    assert not {task: str(status) for task, status in results.items() if hasattr(status, "exception")}
    ran = {task for task, status in results.items() if status is not None}
    assert ran >= {task.metadata.name for task in MOCK_TASK_TEST_GRID}


def test_every_kind_of_mock_task_has_one_of_our_categories() -> None:
    assert {task.metadata.type for task in MOCK_TASK_TEST_GRID} <= TASK_TYPES.keys()


def test_a_checkpoint_of_our_own_by_name(name: str) -> None:
    assert name == "llm2vec-gen/checkpoint"
    model = mteb.get_model(name, device="cpu")
    assert isinstance(model, MtebEncoder)
    meta = mteb.get_model_meta(name)
    assert (meta.name, meta.embed_dim, meta.max_tokens, meta.adapted_from) == (name, 24, 512, "backbone")
    assert model.mteb_model_meta.revision == meta.revision
    plain = LLM2VecGen.from_pretrained(CHECKPOINT, device="cpu", backbone=BACKBONE)
    assert torch.equal(model.vectors(["a text", ""], "Answer:"), plain.encode(["a text", ""], instruction="Answer:"))


def test_another_checkpoint_has_another_revision(name: str, tmp_path: Path) -> None:
    plain = LLM2VecGen.from_pretrained(CHECKPOINT, device="cpu", backbone=BACKBONE)
    with torch.no_grad():
        plain.suffix += 1
    plain.save_pretrained(tmp_path / "checkpoint")
    first = mteb.get_model_meta(name).revision
    assert ours.register(tmp_path / "checkpoint", backbone=BACKBONE) == name
    assert mteb.get_model_meta(name).revision != first


def test_the_wording_is_the_generative_one_or_what_is_given(name: str) -> None:
    (retrieval,) = (task.metadata for task in MOCK_TASK_TEST_GRID if task.metadata.name == "MockRetrievalTask")
    model = mteb.get_model(name, device="cpu")
    assert model.instruction_for(retrieval, PromptType.query) == GENERATIVE["categories"]["retrieval"]
    assert model.instruction_for(retrieval, PromptType.document) == GENERATIVE["documents"]
    own = mteb.get_model(ours.register(CHECKPOINT, "me/mine", backbone=BACKBONE, instruction=WORDING), device="cpu")
    assert own.instruction_for(retrieval, PromptType.query) == "Answer:"


@pytest.mark.parametrize("published", ours.PUBLISHED)
def test_the_published_checkpoints_are_complete_entries(published: str) -> None:
    meta = mteb.get_model_meta(published)
    assert (meta.name, meta.reference) == (published, f"https://huggingface.co/{published}")
    assert meta.loader is not None and meta.use_instructions and meta.open_weights
    assert meta.similarity_fn_name == "cosine" and meta.languages == ["eng-Latn"] and meta.training_datasets == set()


def test_a_folder_that_is_not_there_lists_the_published_names() -> None:
    with pytest.raises(InputError, match=r"no/such is no folder.*McGill-NLP/LLM2Vec-Gen-Qwen3-4B"):
        ours.register("no/such")


def revision(**arguments: object) -> str | None:
    return mteb.get_model_meta(ours.register(CHECKPOINT, "me/mine", backbone=BACKBONE, **arguments)).revision


def test_whatever_changes_vectors_is_in_the_revision(tmp_path: Path) -> None:
    found = [
        revision(),
        revision(dtype="float32"),
        revision(dtype="bfloat16"),
        revision(instruction=WORDING),
        revision(instruction=WORDING | {"documents": "Another:"}),
        revision(instruction=NoInstruction()),
    ]
    assert len(set(found)) == len(found)
    assert revision() == found[0] and revision(instruction=ours.table(WORDING)) == found[3]


def test_live_encoders_share_results_only_if_all_is_the_same() -> None:
    model = LLM2VecGen.from_pretrained(CHECKPOINT, device="cpu", backbone=BACKBONE)

    def revision_of(encoder: object, wording: dict) -> str | None:
        return MtebEncoder(encoder, ours.table(wording)).mteb_model_meta.revision

    first = revision_of(model, WORDING)
    assert revision_of(LLM2VecGen.from_pretrained(CHECKPOINT, device="cpu", backbone=BACKBONE), WORDING) == first
    assert revision_of(model, WORDING | {"documents": "Another:"}) != first
    with torch.no_grad():
        model.suffix[0, 0] += 1e-3
    assert revision_of(model, WORDING) != first
    plain = type("Plain", (), {"embedding_dim": 3})()  # cannot say what it is
    assert revision_of(plain, WORDING) != revision_of(plain, WORDING)


@pytest.mark.filterwarnings("ignore")
def test_another_instruction_is_another_result(tmp_path: Path) -> None:
    (task,) = (task for task in MOCK_TASK_TEST_GRID if task.metadata.name == "MockRetrievalTask")
    cache = mteb.ResultCache(tmp_path)
    for wording in (WORDING, WORDING | {"tasks": {"MockRetrievalTask": "Say nothing at all but:"}}):
        name = ours.register(CHECKPOINT, "me/mine", backbone=BACKBONE, instruction=wording)
        mteb.evaluate(mteb.get_model(name, device="cpu"), [task], cache=cache, co2_tracker=False)
    assert len({path.parent.name for path in tmp_path.rglob("MockRetrievalTask.json")}) == 2
