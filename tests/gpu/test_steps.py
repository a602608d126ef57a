"""The steps on a GPU against the same on the CPU: the pocket, a few training steps, fp32."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm2vec_gen import LLM2VecGen, pipeline
from llm2vec_gen.artifacts import Completions, Targets
from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

ROOT = Path(__file__).parents[2]
STEPS = (
    "experiment=smoke", "evaluation=[]", "interpreter=[]", "logger=csv", "data.limit=200", "training.max_steps=6",
    "training.schedule_steps=6", "training.warmup_steps=2", "trainer.log_every_n_steps=1",
)  # fmt: skip
Folders = dict[str, Path]


def made(outputs: Path, *overrides: str, last: str = "train") -> Folders:
    """The folder of each step up to the last."""
    plan = compose(f"paths.outputs={outputs}", *STEPS, *overrides)
    steps = ("complete", "embed", "train", "interpret")
    return {step: getattr(pipeline, step)(plan) for step in steps[: steps.index(last) + 1]}


def script(step: str, outputs: Path, *overrides: str) -> Path:
    """The folder that a step made in processes of its own."""
    command = [sys.executable, str(ROOT / "experiments" / f"{step}.py"), f"paths.outputs={outputs}", *STEPS, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def metrics(folder: Path) -> dict[str, np.ndarray]:
    """Columns of metrics.csv without the durations."""
    with (folder / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    names = [name for name in lines[0] if "second" not in name and any(line[name] for line in lines)]
    return {name: np.array([float(line[name]) for line in lines if line[name]]) for name in names}


def near(found: Path, truth: Path, rtol: float = 2e-3, names: tuple[str, ...] = ()) -> None:
    got, wanted = metrics(found), metrics(truth)
    assert {"train/alignment", "train/reconstruction"} <= got.keys() & wanted.keys()
    for name in names or got.keys() & wanted.keys():
        assert np.allclose(got[name], wanted[name], rtol=rtol, atol=1e-4), (name, got[name], wanted[name])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def on_gpu(outputs: Path) -> Folders:
    return made(outputs, "trainer=gpu")


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return made(tmp_path_factory.mktemp("cpu"), "trainer=cpu")


def test_completions_and_targets_are_those_of_the_cpu(on_gpu: Folders, on_cpu: Folders) -> None:
    one, other = ([row.completion for row in Completions(made["complete"])] for made in (on_gpu, on_cpu))
    assert len(one) > 100 and one == other
    found, expected = (Targets(made["embed"]) for made in (on_gpu, on_cpu))
    for row in range(len(one)):
        assert np.abs(found[row] - expected[row]).max() < 1e-3


def test_training_is_that_of_the_cpu(on_gpu: Folders, on_cpu: Folders) -> None:
    near(on_gpu["train"], on_cpu["train"])
    found, expected = (load_file(made["train"] / "model.safetensors") for made in (on_gpu, on_cpu))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-3), name


def test_deterministic_trainings_are_equal_to_the_bit(outputs: Path) -> None:
    overrides = ("trainer=gpu", "trainer.deterministic=true", "backbone.dtype=bfloat16")
    found = []
    for _ in range(2):
        folder = made(outputs, *overrides)["train"]
        found.append(load_file(folder / "model.safetensors"))
        shutil.rmtree(folder)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_processes_of_their_own_train_the_same(on_gpu: Folders, tmp_path: Path, strategy: str) -> None:
    """In outputs of their own: how a step is computed is in no digest, so they would find what `on_gpu` made."""
    made(tmp_path, "trainer=gpu", last="embed")
    folder = script("train", tmp_path, f"trainer={strategy}", "trainer.devices=1")
    assert folder.name == on_gpu["train"].name
    near(folder, on_gpu["train"])


def test_micro_batches_train_the_same(on_gpu: Folders, tmp_path: Path) -> None:
    folder = made(tmp_path, "trainer=gpu", "training.max_tokens_per_micro_batch=300")["train"]
    assert folder.name == on_gpu["train"].name
    near(folder, on_gpu["train"])


@pytest.mark.parametrize(
    "overrides",
    [
        ("backbone.dtype=bfloat16",),
        ("backbone.dtype=float16",),
        ("trainer.precision=bf16-mixed",),
        ("backbone.dtype=bfloat16", "backbone.quantization=int8"),
        ("backbone.dtype=bfloat16", "backbone.quantization=nf4"),
        ("optimizer=adamw_8bit",),
    ],
    ids=lambda overrides: "-".join(overrides),
)
def test_variants_stay_near_fp32(outputs: Path, on_gpu: Folders, overrides: tuple[str, ...]) -> None:
    if "int8" in overrides[-1]:
        pytest.importorskip("torchao")
    if "nf4" in overrides[-1] or "8bit" in overrides[0]:
        pytest.importorskip("bitsandbytes")
    found = made(outputs, "trainer=gpu", *overrides)["train"]
    near(found, on_gpu["train"], 0.1, ("train/alignment", "train/reconstruction"))


def test_fp8_is_refused_for_a_training(outputs: Path, on_gpu: Folders) -> None:
    pytest.importorskip("torchao")
    with pytest.raises(InputError, match="fp8 computes without gradients"):
        made(outputs, "trainer=gpu", "backbone.dtype=bfloat16", "backbone.quantization=fp8")


def test_more_gpus_than_there_are_are_refused(outputs: Path, on_gpu: Folders) -> None:
    found = torch.cuda.device_count()
    with pytest.raises(InputError, match=f"needs as many GPUs, but this machine shows {found}"):
        made(outputs, "trainer=ddp", f"trainer.devices={found + 1}", "seed=5")


def test_a_teacher_with_two_objectives_is_trained(outputs: Path, on_gpu: Folders) -> None:
    folder = pipeline.teach(compose(f"paths.outputs={outputs}", *STEPS, "trainer=gpu"))
    assert len(list(folder.rglob("adapter_model.safetensors"))) == 2


def test_a_trained_model_is_read(outputs: Path, on_gpu: Folders) -> None:
    folder = made(outputs, "trainer=gpu", "interpreter=[decoding,logit_lens]", last="interpret")["interpret"]
    names = {file.name for file in folder.iterdir()}
    assert {"decoding.jsonl", "logit_lens.jsonl"} <= names, names


def test_a_trained_model_encodes_as_on_the_cpu(on_gpu: Folders) -> None:
    texts = ["name an animal.", "what is the famous sight of france?"]
    found, expected = (
        torch.as_tensor(LLM2VecGen.from_pretrained(on_gpu["train"], device=device).encode(texts))
        for device in ("cuda", "cpu")
    )
    assert (found - expected).abs().max() < 1e-3
