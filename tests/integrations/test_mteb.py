"""mteb's registry knows our models, and its own mock runs pass for every kind of text task."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import mteb
import pytest
import torch
from mteb.mocks import MOCK_TASK_TEST_GRID
from mteb.types import PromptType
from safetensors.torch import load_file, save_file

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.checkpoints.prompts import GENERATIVE
from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.instructions import NoInstruction
from llm2vec_gen.evaluations.mteb_encoder import TASK_TYPES, MtebEncoder
from llm2vec_gen.integrations import mteb as ours
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


def test_a_name_that_changes_its_meaning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for arguments, warned in (({}, False), ({}, False), ({"max_length": 64}, True), ({"dtype": "bfloat16"}, True)):
        caplog.clear()
        name = ours.register(CHECKPOINT, "me/renamed", backbone=BACKBONE, **arguments)
        assert ("me/renamed now stands for" in caplog.text) == warned, arguments
    assert mteb.get_model_meta(name).revision == revision(dtype="bfloat16")


@pytest.mark.parametrize("name", ["mine", "a/b/c", "me/", "a b/c", ""])
def test_a_name_that_mteb_would_not_take(name: str) -> None:
    with pytest.raises(InputError, match="mteb expects owner/name"):
        ours.register(CHECKPOINT, name, backbone=BACKBONE)


@pytest.mark.parametrize("length", [0, "32", 3.5, True])
def test_a_length_is_checked_when_it_is_registered(length: object) -> None:
    with pytest.raises(InputError, match="max_length="):
        ours.register(CHECKPOINT, "me/mine", backbone=BACKBONE, max_length=length)


def test_a_folder_that_is_not_there_lists_the_published_names() -> None:
    with pytest.raises(InputError, match=r"no/such is no folder.*McGill-NLP/LLM2Vec-Gen-Qwen3-4B"):
        ours.register("no/such")


def revision(**arguments: object) -> str | None:
    return mteb.get_model_meta(ours.register(CHECKPOINT, "me/mine", backbone=BACKBONE, **arguments)).revision


def test_whatever_changes_vectors_is_in_the_revision(tmp_path: Path) -> None:
    found = [
        revision(),
        revision(dtype="bfloat16"),
        revision(instruction=WORDING),
        revision(instruction=WORDING | {"documents": "Another:"}),
        revision(instruction=NoInstruction()),
    ]
    assert len(set(found)) == len(found)
    assert revision() == revision(dtype="float32") == found[0]  # recorded: float32
    assert revision(instruction=ours.table(WORDING)) == found[2]


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


# ---- mteb.evaluate with a ResultCache: what another would score is never returned

RETRIEVAL = next(task for task in MOCK_TASK_TEST_GRID if task.metadata.name == "MockRetrievalTask")


def counted(model: object, cache: mteb.ResultCache, encoder: object) -> int:
    """Return how many texts were encoded to evaluate the model: none where mteb took a stored result."""
    seen: list[str] = []
    encode = encoder.encode

    def counting(texts: list[str], *arguments: object, **named: object) -> object:
        seen.extend(texts)
        return encode(texts, *arguments, **named)

    encoder.encode = counting
    mteb.evaluate(model, [RETRIEVAL], cache=cache, co2_tracker=False)
    del encoder.encode
    return len(seen)


def registered(cache: mteb.ResultCache, folder: Path = CHECKPOINT, **arguments: object) -> int:
    model = mteb.get_model(ours.register(folder, "me/mine", **{"backbone": BACKBONE, **arguments}), device="cpu")
    return counted(model, cache, model.encoder)


@pytest.mark.filterwarnings("ignore")
def test_stored_results_are_those_of_the_same_registration_alone(tmp_path: Path) -> None:
    cache = mteb.ResultCache(tmp_path / "results")
    other = shutil.copytree(BACKBONE, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"] += 0.1  # a weight that the backbone's fingerprint does not read
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    changes: list[dict] = [
        {}, {"dtype": "bfloat16"}, {"instruction": WORDING}, {"instruction": WORDING | {"documents": "Another:"}},
        {"max_length": 40}, {"backbone": str(other)}, {"instruction": NoInstruction()},
    ]  # fmt: skip
    assert all(registered(cache, **change) > 0 for change in changes)
    assert all(registered(cache, **change) == 0 for change in changes)
    moved = shutil.copytree(CHECKPOINT, tmp_path / "moved")
    (moved / "README.md").write_text("words that change nothing")
    assert registered(cache, moved, backbone=str(shutil.copytree(BACKBONE, tmp_path / "same"))) == 0


@pytest.mark.filterwarnings("ignore")
def test_an_object_without_known_texts_shares_no_results(tmp_path: Path) -> None:
    class Silent:
        def query(self, task: str, category: str) -> str:
            return "Answer:"

        document = query

    cache = mteb.ResultCache(tmp_path)
    assert registered(cache, instruction=Silent()) > 0 and registered(cache, instruction=Silent()) > 0


@pytest.mark.filterwarnings("ignore")
def test_live_sentence_transformers_share_no_results(tmp_path: Path) -> None:
    from llm2vec_gen.integrations.sentence_transformers import to_sentence_transformer

    cache = mteb.ResultCache(tmp_path)

    def evaluated(change: float = 0.0, prompts: dict | None = None, length: int = 512) -> int:
        model = LLM2VecGen.from_pretrained(CHECKPOINT, device="cpu", backbone=BACKBONE).requires_grad_(False)
        model.suffix += change
        live = to_sentence_transformer(model, prompts)
        live.max_seq_length = length
        return counted(live, cache, model)

    for change in ({}, {"change": 1.0}, {"prompts": {"query": "ask:"}}, {"length": 40}):
        assert evaluated(**change) > 0
        assert evaluated(**change) == 0


@pytest.mark.filterwarnings("ignore")
def test_folders_opened_by_sentence_transformers_share_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    cache = mteb.ResultCache(tmp_path / "results")
    for number in range(2):
        model = LLM2VecGen.from_pretrained(CHECKPOINT, device="cpu", backbone=BACKBONE)
        with torch.no_grad():
            model.suffix += number
        model.save_pretrained(tmp_path / f"{number}", format="sentence_transformers")
        options = {"trust_remote_code": True, "device": "cpu", "model_kwargs": {"backbone": BACKBONE}}
        for first in (True, False):
            live = SentenceTransformer(str(tmp_path / f"{number}"), **options)
            assert (counted(live, cache, live[0].model) > 0) == first


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_without_instructions_on_purpose_is_evaluated_without_any(tmp_path: Path) -> None:
    model = LLM2VecGen.from_pretrained(CHECKPOINT, device="cpu", backbone=BACKBONE)
    model.instructions = NoInstruction().wording()
    model.save_pretrained(tmp_path / "bare")
    found = mteb.get_model(ours.register(tmp_path / "bare"), device="cpu")
    assert found.instruction_for(RETRIEVAL.metadata, PromptType.query) is None
    assert mteb.evaluate(found, [RETRIEVAL], cache=None, co2_tracker=False).task_results


def test_a_wording_is_a_table_or_a_yaml_of_the_config() -> None:
    assert ours.table({"_target_": "llm2vec_gen.evaluations.instructions.PocketInstruction"}).query("x", "sts")
    assert isinstance(ours.table({"categories": {}, "documents": None}), NoInstruction)
    with pytest.raises(InputError, match="instruction has no category; expected categories, tasks and documents"):
        ours.table({"category": {"sts": "Say:"}})


def test_a_checkpoint_that_records_no_instructions_is_named_once_loaded(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    mteb.get_model(name, device="cpu")
    assert "records no instructions; its texts get this package's generative wording" in caplog.text
