"""A pickled model in processes that have loaded nothing else: fresh interpreters, spawned workers, pools."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from tests.backbones.tiny import backbone, other_lm, rows
from tests.builders import tiny_backbone_folder

TEXTS = ["Where does the cat sit?", "the dog ate", "how many legs does a spider have"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("lm"))
    return LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 12, 2, 3, max_length=64).eval()


def in_a_fresh_process(code: str, folder: Path) -> torch.Tensor:
    """Run code that leaves its result in `found`, with as many threads: other sums differ in the last bit."""
    code = f"import torch\ntorch.set_num_threads({torch.get_num_threads()})\n{code}\ntorch.save(found, 'found.pt')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return torch.load(folder / "found.pt")


def test_a_model_in_a_fresh_process(model, tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    code = f"import pickle, torch\nfound = pickle.load(open('model.pkl', 'rb')).encode({TEXTS!r})"
    assert torch.equal(in_a_fresh_process(code, tmp_path), model.encode(TEXTS))


def test_the_language_model_alone_in_a_fresh_process(tmp_path):
    """Nothing in it is of our classes in bf16, but the name of its attention."""
    frozen = backbone(dtype=torch.bfloat16)
    torch.save(frozen.lm, tmp_path / "lm.pkl")
    code = "import torch\nlm = torch.load('lm.pkl', weights_only=False)\nfound = lm(torch.tensor([[5, 6, 7]])).logits"
    assert torch.equal(in_a_fresh_process(code, tmp_path), frozen.lm(torch.tensor([[5, 6, 7]])).logits)


@pytest.mark.filterwarnings("ignore:.*padded batches")
def test_backbones_of_other_families(tmp_path):
    """Gemma 2 caps its logits, Granite scales them, Falcon-H1 has no plain cache, one has RoPE of its own length."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    frozen = [Backbone(other_lm(family), None) for family in ("gemma2", "granite", "falcon_h1")]
    frozen.append(backbone(dtype=torch.float32, max_position_embeddings=6, rope_parameters=rope))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps((frozen, rows(4, 9))))
    code = """import pickle, torch
frozen, ids = pickle.load(open('b.pkl', 'rb'))
found = torch.stack([one.logits(one.states(ids)[1]) for one in frozen])"""
    expected = torch.stack([one.logits(one.states(rows(4, 9))[1]) for one in frozen])
    assert torch.equal(in_a_fresh_process(code, tmp_path), expected)


def test_a_copy_is_a_model_of_its_own(model):
    other = copy.deepcopy(model)
    assert torch.equal(other.encode(TEXTS), model.encode(TEXTS))
    with torch.no_grad():
        other.suffix.add_(1.0)
    assert not torch.allclose(other.encode(TEXTS), model.encode(TEXTS))


def test_spawned_workers_of_a_data_loader(model):
    loader: DataLoader = DataLoader(
        TEXTS, batch_size=2, num_workers=1, collate_fn=model.encode, multiprocessing_context="spawn"
    )
    assert torch.allclose(torch.cat(list(loader)), model.encode(TEXTS), atol=1e-5)
