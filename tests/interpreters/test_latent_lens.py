"""The latent lens against brute force over transformers' hidden states; an index that is stopped, cut or foreign."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters import latent_index
from llm2vec_gen.interpreters.latent_index import LatentIndex
from llm2vec_gen.interpreters.latent_lens import LatentLens
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from tests.builders import CORPUS, tiny_backbone_folder

QUERIES = ["the moon", "how many legs does a dog have?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("backbone"))
    return LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 8, 2, 3, max_length=64)


def hidden_states(model: LLM2VecGen, vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    model.lm.set_attn_implementation("sdpa")
    found = model.lm(inputs_embeds=vectors[None], output_hidden_states=True).hidden_states
    model.lm.set_attn_implementation("llm2vec_gen_packed")
    return tuple(states[0] for states in found)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_words_are_those_of_brute_force(model, layer, tmp_path):
    LatentIndex.build(model.backbone, CORPUS, tmp_path / "index", [layer], per_token=None)
    readings = LatentLens(tmp_path / "index", top=3).interpret(model, QUERIES)
    tokens, vectors = [], []
    for ids in model.backbone.tokenize(CORPUS):
        tokens += ids.tolist()
        vectors.append(hidden_states(model, model.backbone.embed(ids))[layer])
    corpus = normalize(torch.cat(vectors), dim=1)
    for query, reading in zip(QUERIES, readings, strict=True):
        (ids,) = model.tokenize_queries([query])
        states = hidden_states(model, torch.cat([model.backbone.embed(ids), model.suffix]))[layer][-3:]
        similarities = normalize(states, dim=1) @ corpus.T
        assert reading.layer == (None if layer == 2 else layer) and len(reading.words) == 3
        for position in range(3):
            expected: dict[str, float] = {}
            for place in similarities[position].argsort(descending=True).tolist():
                word = model.tokenizer.decode([tokens[place]]).strip()
                if word and "\ufffd" not in word and len(expected) < 3:
                    expected.setdefault(word.casefold(), similarities[position, place].item())
            assert reading.weights[position] == pytest.approx(list(expected.values()), abs=2e-3)  # float16
            best = reading.contexts[position][0]
            assert f"«{best.split('«')[1].split('»')[0]}»" in best
            assert any(best.replace("«", "").replace("»", "").strip() in text for text in CORPUS)


def test_stored_states_are_read_at_the_last_layer_alone(model, tmp_path):
    lens = LatentLens(tmp_path / "index", corpus=_corpus(tmp_path), top=2, batch_size=1)
    expected = lens.interpret(model, QUERIES)
    for stored in ({"states": model.states(QUERIES)}, {"soft_prompts": model.soft_prompts(QUERIES)}):
        assert [row.words for row in lens.interpret(model, QUERIES, **stored)] == [row.words for row in expected]
    both = LatentLens(tmp_path / "both", corpus=_corpus(tmp_path), layers=[1, 2], top=2)
    readings = both.interpret(model, QUERIES)
    assert [(row.id, row.layer) for row in readings] == [("0", 1), ("0", None), ("1", 1), ("1", None)]
    with pytest.raises(InputError, match=r"last layer \(2\) alone, but layers \[1, 2\]"):
        both.interpret(model, states=model.states(QUERIES))


def _corpus(folder: Path) -> Path:
    file = folder / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in (*CORPUS, "", None)))
    return file


@pytest.mark.parametrize("per_token", [None, 2])
def test_a_build_that_is_stopped_continues_to_the_same_files(model, per_token, tmp_path, monkeypatch):
    monkeypatch.setattr(latent_index, "TEXTS_AT_A_TIME", 2)
    LatentIndex.build(model.backbone, CORPUS, tmp_path / "straight", [1, 2], per_token)

    def stopping():
        yield from CORPUS[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LatentIndex.build(model.backbone, stopping(), tmp_path / "stopped", [1, 2], per_token)
    with pytest.raises(InputError, match="has 4 texts so far, its build was stopped"):
        LatentIndex(tmp_path / "stopped")
    with (tmp_path / "stopped" / "layer-1.f16").open("ab") as file:
        file.write(b"half a batch")
    index = LatentIndex.build(model.backbone, CORPUS, tmp_path / "stopped", [1, 2], per_token)
    for file in sorted((tmp_path / "straight").iterdir()):
        assert file.read_bytes() == (tmp_path / "stopped" / file.name).read_bytes(), file.name
    if per_token:
        assert np.bincount(index.tokens).max() == per_token
    assert isinstance(index.vectors(1), np.memmap)
    assert np.allclose(np.linalg.norm(index.vectors(2).astype(np.float32), axis=1), 1, atol=2e-3)


def test_wrong_folders_texts_and_models_are_refused(model, tmp_path):
    folder = tmp_path / "index"
    build = LatentIndex.build
    build(model.backbone, CORPUS, folder, [2])
    with pytest.raises(InputError, match="begun with other texts"):
        build(model.backbone, ["another", *CORPUS[1:]], folder, [2])
    with pytest.raises(InputError, match="is complete with 5 texts, but there are more"):
        build(model.backbone, [*CORPUS, "more"], folder, [2])
    with pytest.raises(InputError, match=r"was built with layers=\[2\], now it is \[1\]"):
        build(model.backbone, CORPUS, folder, [1])
    with pytest.raises(InputError, match="has no text"):
        build(model.backbone, [], tmp_path / "empty")
    with pytest.raises(InputError, match="has layers 2, not 1"):
        LatentIndex(folder).vectors(1)
    with pytest.raises(InputError, match=r"queries have shape \(1, 5\); expected \(N, 32\)"):
        LatentIndex(folder).nearest(np.zeros((1, 5), np.float32), 2, 1)
    with pytest.raises(InputError, match=r"has no index\.json"):
        LatentIndex(tmp_path)
    other = tiny_backbone_folder(tmp_path, seed=5, name="other")
    foreign = LLM2VecGen(Backbone.from_pretrained(str(other), device="cpu"), 8, 2, 3)
    with pytest.raises(InputError, match=r"built with the backbone \w{16}, but this model's is \w{16}"):
        LatentLens(folder).interpret(foreign, QUERIES)
    with pytest.raises(InputError, match="index is not set"):
        LatentLens().interpret(model, QUERIES)
    with pytest.raises(InputError, match="there is no file"):
        LatentLens(tmp_path / "new", corpus=tmp_path / "nothing.txt").interpret(model, QUERIES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("layer-2.f16", b"short", "is missing or cut"),
        ("index.json", b"{", "cannot be read"),
        ("index.json", b'{"format": 99}', "has index format 99, this version reads 1"),
    ],
)
def test_a_damaged_index_is_refused(model, name, content, message, tmp_path):
    LatentIndex.build(model.backbone, CORPUS, tmp_path, [2])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        LatentIndex(tmp_path)
        LatentIndex(tmp_path).vectors(2)


def test_a_text_file_is_read_line_by_line_and_a_missing_column_is_named(model, tmp_path):
    lines = tmp_path / "corpus.txt"
    lines.write_text("\n".join(CORPUS) + "\n\n")
    readings = LatentLens(tmp_path / "index", corpus=lines, limit=3, top=1).interpret(model, QUERIES)
    assert len(readings) == 2 and LatentIndex(tmp_path / "index").manifest["texts"] == 3
    with pytest.raises(InputError, match=r"corpus.jsonl:1 has no column 'body'; it has text"):
        LatentLens(tmp_path / "two", corpus=_corpus(tmp_path), column="body").interpret(model, QUERIES)
