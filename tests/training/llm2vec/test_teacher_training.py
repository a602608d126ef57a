from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from safetensors.torch import load_file

from llm2vec_gen.errors import InputError
from llm2vec_gen.training.callbacks import EndedEarly, Stopped
from llm2vec_gen.training.llm2vec.teacher_training import LLM2VecTraining
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.settings import TrainingSettings
from tests.training.llm2vec.teaching_worker import RANKED, SETTINGS, as_rank, completions, recipe, teach
from tests.training.worker import Signal, Stop

CONF = Path(__file__).parents[3] / "conf"
WORKER = Path(__file__).with_name("teaching_worker.py")
CLOCK = ("train/seconds_per_step", "train/tokens_per_second")
FILES = ("adapter_config.json", "adapter_model.safetensors", "objective.json")


def left(folder: Path, objectives: tuple[str, ...] = ("mntp", "simcse")) -> dict[str, Any]:
    """Adapters byte for byte, and the curves without what a clock said."""
    found: dict[str, Any] = {}
    for objective in objectives:
        found |= {f"{objective}/{name}": (folder / objective / name).read_bytes() for name in FILES}
        rows = MetricsFile(folder / objective / "metrics.csv").rows()
        found[objective] = [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    teach(folder)
    return left(folder)


def test_a_run_leaves_two_adapters_and_two_curves(whole: dict[str, Any], tmp_path: Path) -> None:
    counts = teach(tmp_path)
    assert left(tmp_path) == whole, "the same seed gives the same bits"
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert files == sorted([*recipe().files(), "mntp/metrics.csv", "simcse/metrics.csv"])
    assert (counts["mntp_samples"], counts["simcse_samples"], counts["mntp_texts_cut"]) == (28, 28, 0)
    assert counts["mntp_loss"] == whole["mntp"][-1]["train/loss"]
    assert [row["step"] for row in whole["simcse"]] == [2, 4, 6, 7]
    assert {"train/accuracy", "train/cosine_match", "train/cosine_other"} <= set(whole["simcse"][0])
    tensors = load_file(tmp_path / "simcse/adapter_model.safetensors")
    assert any(bool(tensor.abs().max() > 0) for name, tensor in tensors.items() if "lora_B" in name), "it was trained"
    before = (tmp_path / "mntp/adapter_model.safetensors").stat().st_mtime_ns
    again = teach(tmp_path)
    assert (tmp_path / "mntp/adapter_model.safetensors").stat().st_mtime_ns == before, "nothing is trained twice"
    assert again["simcse_loss"] == counts["simcse_loss"]


def test_another_seed_gives_other_adapters(whole: dict[str, Any], tmp_path: Path) -> None:
    teach(tmp_path, seed=4, max_steps=1)
    assert (tmp_path / "mntp" / FILES[1]).read_bytes() != whole[f"mntp/{FILES[1]}"]


@pytest.mark.parametrize("step", [2, 6])
@pytest.mark.parametrize("objective", ["mntp", "simcse"])
def test_a_stopped_run_continues_bit_for_bit(whole: dict[str, Any], tmp_path: Path, step: int, objective: str) -> None:
    class In(Signal):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            if module.name == objective:
                super().on_train_batch_end(trainer, module, *rest)

    with pytest.raises(Stopped):
        teach(tmp_path, [In(step, signal.SIGTERM)])
    assert (tmp_path / "mntp" / FILES[1]).exists() == (objective == "simcse")
    assert torch.load(tmp_path / objective / "resume/last.ckpt", weights_only=True)["global_step"] == step
    teach(tmp_path)
    assert left(tmp_path) == whole


def test_callbacks_begin_anew_with_each_lesson(tmp_path: Path) -> None:
    rule = EarlyStopping("train/loss", patience=1, min_delta=100.0)
    counts = teach(tmp_path, [rule, ModelCheckpoint(monitor="train/loss", every_n_train_steps=2)])
    for objective in ("mntp", "simcse"):
        rows = MetricsFile(tmp_path / objective / "metrics.csv").rows()
        assert [row["step"] for row in rows] == [2, 4], (
            "the first row is the best of its objective, the second no better"
        )
        assert counts[f"{objective}_step"] == 4
        assert [file.suffix for file in (tmp_path / objective / "checkpoints").iterdir()] == [".ckpt"]


def test_a_lesson_that_ends_early_otherwise_is_not_taught(whole: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EndedEarly, match="after step 3 of 7"):
        teach(tmp_path, [Stop(3)])
    assert not (tmp_path / "mntp" / FILES[1]).exists()
    teach(tmp_path)
    assert left(tmp_path) == whole


def test_a_killed_run_continues_bit_for_bit(whole: dict[str, Any], tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, str(WORKER), str(tmp_path), "5"], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    teach(tmp_path)
    assert left(tmp_path) == whole


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `one` and `two`: every recipe trained by one process, and by two ranks."""
    folder = tmp_path_factory.mktemp("ranked")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2"}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **place, **meeting}
        command = [sys.executable, str(WORKER), str(folder / "two")]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    errors = [process.communicate(timeout=240)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    as_rank(folder / "one", 1)
    return folder


@pytest.mark.parametrize("objective", RANKED)
def test_two_ranks_equal_one_process(ranked: Path, objective: str) -> None:
    places = [ranked / ranks / RANKED[objective] / objective for ranks in ("one", "two")]
    one, two = (load_file(place / FILES[1]) for place in places)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-7), name
    rows = [MetricsFile(place / "metrics.csv").rows() for place in places]
    for ours, theirs in zip(*rows, strict=True):
        for key in ours.keys() - {*CLOCK, "train/masked_tokens", "train/answer_tokens"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-7), key


# ------------------------------------------------------------------ presets


RIVALS = ("inbedder", "gircse", "laser")
PRESETS = sorted(file.stem for file in (CONF / "teacher_training").glob("*.yaml"))


@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.endswith(RIVALS)])
def test_presets_are_the_published_recipe(preset: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        overrides = [
            f"+teacher_training={preset}",
            "teacher_training.objectives.mntp.training.max_steps=7",
            "+backbone=pocket",
            "+trainer=cpu",
        ]
        config = hydra.compose(overrides=overrides).teacher_training
    objectives = {name: hydra.utils.instantiate(node, _convert_="all") for name, node in config.objectives.items()}
    LLM2VecTraining(objectives, config.lora, None, config.fields)
    assert objectives["mntp"].training.max_steps == 7
    if preset.startswith("pocket"):
        return
    second = "simcse" if preset in ("llm2vec", "llm2vec_mistral") else "supervised"
    assert list(objectives) == ["mntp", second]
    masking, contrast = objectives.values()
    mistral = preset == "llm2vec_mistral"
    assert (masking.mask_token, masking.probability) == ("_", 0.8 if mistral else 0.2)
    assert masking.replacement == ("mask" if mistral else "bert")
    assert (masking.max_length, masking.training.batch_size) == (512, 32)
    assert (config.lora.rank, config.lora.alpha, config.lora.target_modules) == (16, 32, "all-linear")
    assert contrast.temperature == 1 / 20
    settings = contrast.training
    found = (settings.learning_rate, settings.batch_size, settings.warmup_steps, settings.max_steps)
    assert found == ((3e-5, 128, 0, 1000) if second == "simcse" else (2e-4, 64, 300, 1000))
    if second == "simcse":
        assert (contrast.max_length, contrast.attention_dropout) == (128, 0.3)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.endswith(RIVALS)])
def test_presets_of_baselines_train_one_adapter_with_causal_attention(preset: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        config = hydra.compose(overrides=[f"+teacher_training={preset}", "+backbone=pocket", "+trainer=cpu"])
    (node,) = config.teacher_training.objectives.values()
    (name,) = config.teacher_training.objectives
    assert name == preset.removeprefix("pocket_")
    recipe = LLM2VecTraining({name: hydra.utils.instantiate(node, _convert_="all")}, config.teacher_training.lora)
    assert recipe.causal and recipe.files()[0] == f"{name}/adapter_config.json"


# ------------------------------------------------------------------ bad input


def test_a_corpus_smaller_than_a_batch_is_refused_before_any_training(tmp_path: Path) -> None:
    message = "the corpus has 2 texts, fewer than one batch of teacher_training.objectives.mntp.training.batch_size=4"
    with pytest.raises(InputError, match=message):
        teach(tmp_path, rows=completions(1))
    objectives = recipe(supervised=True).objectives
    small = TrainingSettings(**{**SETTINGS, "batch_size": 2})
    objectives["mntp"].training = small
    with pytest.raises(
        InputError, match="the corpus has 3 pairs, fewer than one batch of teacher_training.objectives.supervised"
    ):
        LLM2VecTraining(objectives).teach(_backbone(), completions(3), _trainer(), tmp_path, 0)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_mask_token_and_modules_that_are_not_there(tmp_path: Path) -> None:
    teacher_training = recipe()
    teacher_training.objectives["mntp"].mask_token = "<blank>"  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="mask_token='<blank>' is no token of the tokenizer of backbone.path=tiny"):
        teacher_training.teach(_backbone(), completions(), _trainer(), tmp_path, 0)
    backbone = _backbone()
    for module in backbone.lm.modules():
        module.__dict__.pop("attention_dropout", None)
    with pytest.raises(InputError, match="attention_dropout=0.3: the attention layers .* have no dropout to set"):
        recipe().teach(backbone, completions(), _trainer(), tmp_path / "none", 0)
    assert not list((tmp_path / "none").rglob("adapter_model.safetensors"))
    with pytest.raises(InputError, match=r"teacher_training.lora.target_modules=\['c_attn'\]: .* has no layer c_attn"):
        teach(tmp_path, lora={"target_modules": ["c_attn"]})


def test_an_adapter_of_another_training_is_not_taken(tmp_path: Path) -> None:
    teach(tmp_path, max_steps=1)
    with pytest.raises(InputError, match=r"mntp holds an adapter of another training .*learning_rate 0.01 -> 0.02"):
        teach(tmp_path, max_steps=1, learning_rate=0.02)


def test_a_damaged_adapter_is_named(tmp_path: Path) -> None:
    teach(tmp_path, max_steps=1)
    (tmp_path / "mntp" / FILES[1]).write_bytes(b"\x10" * 100)
    with pytest.raises(InputError, match=r"the adapter .*mntp cannot be used"):
        teach(tmp_path, max_steps=1)


def test_a_state_of_another_training_is_not_continued(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        teach(tmp_path, [Signal(4, signal.SIGTERM)])
    with pytest.raises(InputError, match=r"last.ckpt was saved with another config .*number of rows"):
        teach(tmp_path, rows=completions(12))


def test_recipes_are_checked() -> None:
    objectives = recipe().objectives
    for wrong, message in [
        ({"objectives": {}}, "teacher_training.objectives are none"),
        (
            {"objectives": dict.fromkeys("abc", objectives["mntp"])},
            "objectives are a, b, c; an encoder stacks one or two",
        ),
        (
            {"objectives": objectives, "fields": ["answer"]},
            r"teacher_training.fields=\['answer'\]: expected some of query",
        ),
        ({"objectives": objectives, "fields": []}, r"teacher_training.fields=\[\]"),
        ({"objectives": objectives, "corpus": "a.jsonl"}, "teacher_training.corpus=a.jsonl: expected a source of rows"),
    ]:
        with pytest.raises(InputError, match=message):
            LLM2VecTraining(**wrong)


def _backbone() -> Any:
    from tests.training.llm2vec.teaching_worker import backbone

    return backbone()


def _trainer() -> Any:
    from llm2vec_gen.training.trainer_settings import TrainerSettings

    return TrainerSettings()
