"""Tokenizer files are changed as data; what comes out is compared with the tokenizer library's own doing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from llm2vec_gen.checkpoints import tokenizer_files
from llm2vec_gen.errors import InputError
from tests.builders import END, FAMILIES, appending_end, tiny_tokenizer

NAMES = ["<a1>", "<a2>", "<a3>"]
TEXTS = ["the cat sat", "", " x ", "the cat sat on the mat " * 30, "<a1> spelled"]


def files(family: str, tmp_path: Path) -> dict[str, bytes]:
    tiny_tokenizer(family).save_pretrained(tmp_path)
    return {file.name: file.read_bytes() for file in tmp_path.iterdir()}


@pytest.mark.parametrize("family", FAMILIES)
def test_added_tokens_are_those_the_library_would_add(family: str, tmp_path: Path) -> None:
    before = files(family, tmp_path)
    after, ids = tokenizer_files.with_suffix(before, NAMES, 20)
    library = Tokenizer.from_buffer(before["tokenizer.json"])
    size = library.get_vocab_size()
    library.add_special_tokens(NAMES)
    ours = Tokenizer.from_buffer(after["tokenizer.json"])
    assert ids == [size, size + 1, size + 2]
    assert ours.get_vocab() == library.get_vocab()
    library.enable_truncation(20)
    for text in TEXTS:
        assert ours.encode(text + "".join(NAMES)).ids == library.encode(text + "".join(NAMES)).ids
    lengths = {len(item.ids) for item in ours.encode_batch(TEXTS)}
    assert len(lengths) == 1
    again, same_ids = tokenizer_files.with_suffix(after, NAMES, 20)
    assert (again, same_ids) == (after, ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_appending_tokenizer_puts_the_suffix_behind_every_text(family: str, tmp_path: Path) -> None:
    before = files(family, tmp_path)
    after, ids = tokenizer_files.with_appended_suffix(before, NAMES, 20)
    plain, ours = Tokenizer.from_buffer(before["tokenizer.json"]), Tokenizer.from_buffer(after["tokenizer.json"])
    ours.no_padding()
    for text in TEXTS[:-1]:
        assert ours.encode(text).ids == plain.encode(text).ids[:17] + ids


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_them(family: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    after, ids = tokenizer_files.with_appended_suffix(files(family, tmp_path), NAMES, 20)
    folder = tmp_path / "new"
    folder.mkdir()
    for name, content in after.items():
        (folder / name).write_bytes(content)
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert all(row[-3:] == ids for row in batch["input_ids"])
    assert [sum(row) for row in batch["attention_mask"]][1] == (4 if family == "llama" else 3)
    assert batch["attention_mask"][1][0] == 0


def test_half_a_suffix_and_gaps_are_refused(tmp_path: Path) -> None:
    before = files("qwen3", tmp_path)
    once, _ = tokenizer_files.with_suffix(before, NAMES[:1], 20)
    with pytest.raises(InputError, match="some of the suffix tokens already"):
        tokenizer_files.with_suffix(once, NAMES, 20)
    tokenizer = json.loads(before["tokenizer.json"])
    tokenizer["added_tokens"][-1]["id"] += 5
    with pytest.raises(InputError, match="not contiguous"):
        tokenizer_files.with_suffix(before | {"tokenizer.json": json.dumps(tokenizer).encode()}, NAMES, 20)
    config = before | {"tokenizer_config.json": b"{}"}
    with pytest.raises(InputError, match="no pad or end token"):
        tokenizer_files.with_suffix(config, NAMES, 20)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_end_token_of_the_tokenizers_own_stands_around_the_suffix(family: str, tmp_path: Path) -> None:
    plain = files(family, tmp_path)
    appending_end(tmp_path, END[family])
    ending = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    ids = [Tokenizer.from_buffer(written["tokenizer.json"]).encode("a").ids for written in (plain, ending)]
    assert len(ids[1]) == len(ids[0]) + 1
    for write in (tokenizer_files.with_suffix, tokenizer_files.with_appended_suffix):
        expected, found = (
            Tokenizer.from_buffer(write(written, NAMES, 20)[0]["tokenizer.json"]) for written in (plain, ending)
        )
        for text in TEXTS:
            assert found.encode(text).ids == expected.encode(text).ids
