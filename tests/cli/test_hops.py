"""`llm2vec-gen decode --hop`: what the model's soft prompts of that hop decode to, and hops that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llm2vec_gen import LLM2VecGen, cli
from llm2vec_gen.backbones.backbone import Backbone
from tests.builders import tiny_backbone_folder

TEXTS = ["a cat", "the dog sat"]


def test_a_hop_is_decoded_by_its_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu")
    model = LLM2VecGen(backbone, 12, 2, 3, max_length=40, num_hops=2).eval()
    model.save_pretrained(tmp_path / "model")
    command = ["decode", str(tmp_path / "model"), *TEXTS, "--max-new-tokens", "4", "--device", "cpu", "--output", "-"]
    found = []
    for more in (["--hop", "1"], ["--hop", "2"], []):
        cli.main([*command, *more])
        found.append([json.loads(line)["decoded"] for line in capsys.readouterr().out.splitlines()])
    assert found[0] == model.decode(model.soft_prompts(TEXTS, hop=1), max_new_tokens=4)
    assert found[1] == found[2] == model.decode(TEXTS, max_new_tokens=4) != found[0]
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--hop", "3"])
    assert stop.value.code == 2 and "hop=3: this model has 2" in capsys.readouterr().err
