"""The instructions of a model travel with its checkpoint, and every export puts the same ones before a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from llm2vec_gen import LLM2VecGen, checkpoints
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.checkpoints import native
from llm2vec_gen.checkpoints.prompts import GENERATIVE, prompts
from llm2vec_gen.errors import InputError
from llm2vec_gen.integrations.convert import convert
from tests.builders import tiny_backbone_folder

OWN = {"categories": {"retrieval": "answer:", "sts": "say:"}, "tasks": {"SciFact": "check:"}, "documents": "sum up:"}
NAMES = {
    "query": "answer:", "document": "sum up:", "Retrieval-query": "answer:", "Retrieval-document": "sum up:",
    "InstructionRetrieval-query": "answer:", "InstructionRetrieval-document": "sum up:",
    "STS": "say:", "SciFact": "check:", "SciFact-document": "sum up:",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("backbone"))
    model = LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 12, 0, 3, max_length=64)
    model.instructions = OWN
    return model


def test_prompts_by_name() -> None:
    assert prompts(OWN) == NAMES
    assert prompts({"categories": {}, "tasks": {}, "documents": None}) == {"query": "", "document": ""}
    assert prompts(GENERATIVE)["Clustering"] == "Name the topic of this text:"


@pytest.mark.parametrize("format", ["native", "sentence_transformers", "merged", "reference"])
def test_they_travel_with_every_format(model: LLM2VecGen, tmp_path: Path, format: str) -> None:
    model.save_pretrained(tmp_path / "a", format)
    again = LLM2VecGen.from_pretrained(tmp_path / "a", device="cpu")
    assert again.instructions == OWN and again.prompts == NAMES
    card = (tmp_path / "a" / "README.md").read_text()
    assert "| `query` | answer: |" in card and "records no instructions" not in card
    if format == "sentence_transformers":
        config = json.loads((tmp_path / "a" / "config_sentence_transformers.json").read_text())
        assert config["prompts"]["query"] == "answer: " and config["prompts"]["document"] == "sum up: "
    converted = convert(tmp_path / "a", tmp_path / "b", "sentence_transformers")
    assert LLM2VecGen.from_pretrained(converted, device="cpu").prompts == NAMES


def test_encode_takes_them_by_name(model: LLM2VecGen) -> None:
    for name, text in NAMES.items():
        assert torch.equal(model.encode("a cat", prompt_name=name), model.encode("a cat", instruction=text))
    with pytest.raises(InputError, match="prompt_name='qery' is unknown; expected one of query"):
        model.encode("a cat", prompt_name="qery")
    with pytest.raises(InputError, match="choose one"):
        model.encode("a cat", instruction="say:", prompt_name="query")


def test_a_live_sentence_transformer_has_them(model: LLM2VecGen) -> None:
    from llm2vec_gen.integrations.sentence_transformers import to_sentence_transformer

    live = to_sentence_transformer(model)
    found = torch.from_numpy(live.encode(["a cat"], prompt_name="STS"))
    assert (found - model.encode("a cat", instruction="say:")).abs().max() < 1e-5


def test_without_any_the_card_names_the_wording_as_ours(model: LLM2VecGen, tmp_path: Path) -> None:
    model.instructions = None
    try:
        model.save_pretrained(tmp_path / "a")
    finally:
        model.instructions = OWN
    card = (tmp_path / "a" / "README.md").read_text()
    assert "This checkpoint records no instructions" in card and "Name the topic of this text:" in card
    assert LLM2VecGen.from_pretrained(tmp_path / "a", device="cpu").prompts == prompts(GENERATIVE)


@pytest.mark.parametrize("wrong", ["a text", {"categories": ["x"]}, {"tasks": {"a": 3}}, {"documents": 5}])
def test_instructions_of_another_form_are_refused(model: LLM2VecGen, tmp_path: Path, wrong: object) -> None:
    model.save_pretrained(tmp_path / "a")
    found = checkpoints.read(tmp_path / "a")
    with pytest.raises(InputError, match="instructions are"):
        checkpoints.write(tmp_path / "b", found.settings | {"instructions": wrong}, found.tensors, found.files)


def test_scores_measured_later_are_in_the_card_and_travel(model: LLM2VecGen, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    assert "was not evaluated after it was saved" in (tmp_path / "a" / "README.md").read_text()
    native.write_scores(tmp_path / "a", [{"name": "own / task / ndcg", "value": 0.5}])
    native.write_scores(tmp_path / "a", [{"name": "other / task / map", "value": 0.25}])
    for place in (
        tmp_path / "a",
        convert(tmp_path / "a", tmp_path / "b"),
        convert(tmp_path / "a", tmp_path / "c", "merged"),
    ):
        card = (place / "README.md").read_text()
        assert "| own / task / ndcg | 0.500 |" in card and "| other / task / map | 0.250 |" in card
    assert "This folder holds the whole language model too" in (tmp_path / "c" / "README.md").read_text()
    assert "holds only what was trained" in (tmp_path / "a" / "README.md").read_text()


def test_links_into_the_blobs_of_the_same_cache_are_followed(model: LLM2VecGen, tmp_path: Path) -> None:
    """The hub's cache: snapshots/<commit>/... are links into blobs/, whatever subfolder they stand in."""
    repository = tmp_path / "models--me--mine"
    snapshot = repository / "snapshots" / "abc"
    model.save_pretrained(tmp_path / "m", "merged")
    (repository / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in (tmp_path / "m").rglob("*") if path.is_file())):
        blob = repository / "blobs" / f"blob{number}"
        shutil.copyfile(file, blob)
        link = snapshot / file.relative_to(tmp_path / "m")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    assert torch.equal(LLM2VecGen.from_pretrained(snapshot, device="cpu").encode("a cat"), model.encode("a cat"))
    outside = tmp_path / "outside.json"
    inner = next(path for path in snapshot.rglob("config.json") if path.parent != snapshot)
    shutil.copyfile(inner, outside)
    inner.unlink()
    inner.symlink_to(outside)
    with pytest.raises(InputError, match="symbolic link that leaves the folder"):
        LLM2VecGen.from_pretrained(snapshot, device="cpu")


def test_the_cache_may_be_reached_through_a_link_or_lie_behind_one(model: LLM2VecGen, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m")
    snapshot = tmp_path / "cache" / "models--me--mine" / "snapshots" / "abc"
    (snapshot.parents[1] / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in (tmp_path / "m").iterdir():
        shutil.copyfile(file, snapshot.parents[1] / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    (tmp_path / "my model").symlink_to(snapshot)
    (tmp_path / "disk").symlink_to(tmp_path / "cache")
    for place in (tmp_path / "my model", tmp_path / "disk" / "models--me--mine" / "snapshots" / "abc"):
        assert torch.equal(LLM2VecGen.from_pretrained(place, device="cpu").encode("a cat"), model.encode("a cat"))
    stranger = tmp_path / "cache" / "models--other" / "blobs"
    stranger.mkdir(parents=True)
    (snapshot / "config.json").rename(stranger / "config.json")
    (snapshot / "config.json").symlink_to("../../../models--other/blobs/config.json")
    with pytest.raises(InputError, match="symbolic link that leaves the folder"):  # of another repository
        LLM2VecGen.from_pretrained(snapshot, device="cpu")


def test_of_an_edited_card_only_the_scores_change(model: LLM2VecGen, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    card = tmp_path / "a" / "README.md"
    card.write_text("My words.\n\n## Scores\n\nold\n\n## More of mine\n\nkept \\1\n")
    native.write_scores(tmp_path / "a", [{"name": "a \\1 b", "value": 0.5}])
    text = card.read_text()
    assert text.startswith("My words.\n\n## Scores\n") and text.endswith("## More of mine\n\nkept \\1\n")
    assert "| a \\1 b | 0.500 |" in text and "old" not in text
    card.write_text("Only my words.")
    native.write_scores(tmp_path / "a", [{"name": "c", "value": 0.5}])
    assert card.read_text() == "Only my words."
    assert [row["name"] for row in checkpoints.read(tmp_path / "a").settings["card"]["scores"]] == ["a \\1 b", "c"]


@pytest.mark.parametrize("row", [{"name": "x"}, {"name": 3, "value": 1}, {"name": "x", "value": 1, "low": "0"},
                                 {"name": "x", "value": 1, "low": 0.5}])  # fmt: skip
def test_scores_of_another_form_are_refused(model: LLM2VecGen, tmp_path: Path, row: dict) -> None:
    model.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "scores.json").write_text(json.dumps({"scores": [row]}))
    with pytest.raises(InputError, match=r"scores.json: expected"):
        checkpoints.read(tmp_path / "a")


def test_that_none_are_recorded_is_logged_once(model: LLM2VecGen, caplog: pytest.LogCaptureFixture) -> None:
    model.instructions = None
    try:
        model.encode("a cat", prompt_name="query")
        model.encode("a cat", prompt_name="document")
    finally:
        model.instructions = OWN
    assert caplog.text.count("records no instructions; prompts are in this package's generative wording") == 1


def test_a_frozen_model_is_saved_and_known_by_its_weights(model: LLM2VecGen, tmp_path: Path) -> None:
    before = model.fingerprint
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        assert model.fingerprint == before
        model.suffix[0, 0] += 1
        assert model.fingerprint != before
        model.suffix[0, 0] -= 1
        model.save_pretrained(tmp_path / "a")
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    assert torch.equal(LLM2VecGen.from_pretrained(tmp_path / "a", device="cpu").encode("a cat"), model.encode("a cat"))
