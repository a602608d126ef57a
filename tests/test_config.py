"""Every yaml composes and fits its class; digests cover what a step reads and nothing else; bad input exits with 2."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as raw_compose
from hydra import initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from llm2vec_gen import pipeline
from llm2vec_gen.artifacts import fingerprint
from llm2vec_gen.artifacts.identity import hashed_config
from llm2vec_gen.config import CONF, compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Reading

ROOT = Path(__file__).parents[1]
MANY = {"loss", "evaluation", "interpreter", "baseline"}
PLAIN = {"experiment", "scale", "debug", "hparams_search", "paths", "world"}
INJECTED = {"embedding_dim", "instruction", "self", "params", "optimizer"}  # what a step gives when it builds
CHOICES = sorted(
    (file.relative_to(CONF).parts[0], str(file.relative_to(CONF / file.relative_to(CONF).parts[0]).with_suffix("")))
    for file in CONF.glob("*/**/*.yaml")
    if file.parent.name not in ("objective", "quality")  # parts of conf/teacher_training and conf/data
    and file.relative_to(CONF).parts[0] != "hydra"  # launchers and sweepers: tests/hydra_plugins
)
GIVEN = {  # the pocket names no published teacher; query_mean has nothing to reconstruct from
    "teacher": ["backbone=qwen3_4b"], "baseline": ["backbone=qwen3_4b"], "readout": ["loss=[alignment]"],
    "loss": ["data.negatives=mined"],
}  # fmt: skip


def chosen(*overrides: str, texts: str = "owner/name") -> list[str]:
    """The overrides, and a value for every key that they leave to be chosen; `texts` is a folder on this disk."""
    with initialize_config_dir(str(CONF), version_base=None):
        config = raw_compose("config", list(overrides))
    raw = OmegaConf.to_container(config, resolve=False)
    return [*overrides, *(f"{key}={texts if key == 'texts' else 'owner/name'}" for key in missing(raw))]


def missing(value: Any, key: str = "") -> Iterator[str]:
    """Yield the keys without a value; unlike OmegaConf.missing_keys past interpolations that lead to one."""
    if value == "???":
        yield key
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from missing(item, f"{key}.{name}" if key else name)


def test_members_that_are_null_are_left_out(tmp_path: Path) -> None:
    plan = compose("loss.alignment=null", "baseline.input_mean=null", f"paths.outputs={tmp_path}")
    assert [*plan.settings["loss"]] == ["reconstruction"] and plan.settings["baseline"] == {}
    assert digests("loss.alignment=null") == digests("~loss.alignment")
    read = compose(
        "evaluation=[pocket,own_retrieval]", "evaluation.own_retrieval=null", f"paths.outputs={tmp_path}"
    ).interpreted_evaluations()
    assert "own_retrieval" not in read


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for item in value.values():
            yield from nodes(item)


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=lambda value: str(value))
def test_every_yaml_composes_and_fits_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, name: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    choice = f"{group}=[{name}]" if group in MANY else f"{group}={name}"
    (tmp_path / "queries.jsonl").touch()
    plan = compose(*chosen(choice, f"paths.outputs={tmp_path}", *GIVEN.get(group, []), texts=str(tmp_path)))
    if group == "experiment":
        plan.interpreted_evaluations()  # a row that leaves out an evaluation must not be one that is read
    found = list(nodes(plan.settings if group in PLAIN else plan.settings[group]))
    assert found or (group, name) in {("logger", "csv"), ("logger", "none"), ("callbacks", "none")}
    for node in found:
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = {key for key in node if not key.startswith("_")} - set(parameters)
        assert takes_any or not unknown, f"{node['_target_']} takes no {unknown}"
        needed = {
            key
            for key, parameter in parameters.items()
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        }
        injected = INJECTED | ({"backbone"} if group == "model" or group in PLAIN else set())
        assert needed - set(node) <= injected, f"{node['_target_']} needs {needed - set(node)}"


def digests(*overrides: str) -> dict[str, str]:
    plan = compose(*overrides)
    return {step: plan.artifact(step).digest for step in ("complete", "embed", "train", "evaluate", "interpret")}


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("trainer.device=cuda", {"complete", "embed", "train", "evaluate", "interpret"}),
        ("trainer.log_every_n_steps=3", {"complete", "embed", "train", "evaluate", "interpret"}),
        ("name=other", {"complete", "embed", "train", "evaluate", "interpret"}),
        ("interpret.limit=2", {"complete", "embed", "train", "evaluate"}),
        ("instruction=none", {"complete", "embed", "train", "interpret"}),
        ("seed=7", {"complete", "embed"}),
        ("loss.alignment.weight=0.5", {"complete", "embed"}),
        ("training.max_steps=3", {"complete", "embed"}),
        ("optimizer=muon", {"complete", "embed"}),
        ("scheduler.warmup_steps=3", {"complete", "embed"}),
        ("teacher.layer=1", {"complete"}),
        ("generator.seed=7", set()),
        ("data.limit=7", set()),
    ],
)
def test_a_knob_changes_the_digests_of_those_who_read_it_alone(override: str, kept: set[str]) -> None:
    before, after = digests(), digests(override)
    assert {step for step in before if before[step] == after[step]} == kept


def test_prefixes_of_the_loss_are_encoders_of_their_own() -> None:
    plan = compose("loss.alignment.matryoshka=[8,32]")
    assert plan.encoders() == ["llm2vec_gen", "llm2vec_gen@8", "llm2vec_gen@32", "teacher", "input_mean"]
    found = [plan.artifact("evaluate", name) for name in plan.encoders()]
    assert len({artifact.digest for artifact in found}) == 5
    assert found[1].upstream == found[0].upstream
    assert compose("loss.alignment.matryoshka=[8]", "encoder=llm2vec_gen@8").encoders() == ["llm2vec_gen@8"]
    unused = compose("loss.alignment.matryoshka=[8]", "loss.alignment.weight=0")
    assert unused.encoders() == ["llm2vec_gen", "teacher", "input_mean"], "a loss that is not trained trains no prefix"
    for encoder in ("llm2vec_gen@9", "llm2vec_gen@x"):
        with pytest.raises(InputError, match="this config has llm2vec_gen, llm2vec_gen@8, teacher"):
            compose("loss.alignment.matryoshka=[8]", f"encoder={encoder}")


def test_arguments_that_came_later_change_no_digest_at_their_defaults() -> None:
    plain, lora = compose(), compose("model.lora={rank: 8, alpha: 16}")
    model = {key: value for key, value in plain.settings["model"].items() if key not in ("lora", "full_gradient")}
    assert hashed_config(model) == hashed_config(plain.settings["model"]) != hashed_config(lora.settings["model"])
    node = {"_target_": "llm2vec_gen.losses.alignment.AlignmentLoss", "weight": 1.0, "reduction": "mean"}
    later = {"distance": "squared_error", "matryoshka": None, "schedule": None}
    assert hashed_config({**node, **later}) == hashed_config(node)
    for changed in ({"distance": "cosine"}, {"matryoshka": [8]}, {"schedule": {"end": 5}}):
        assert hashed_config({**node, **later, **changed}) != hashed_config(node)


def test_a_data_file_counts_by_content(tmp_path: Path) -> None:
    one, two = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one.write_text('{"query": "x"}\n')
    two.write_text('{"query": "x"}\n')
    first = digests("data=query_log", f"data.path={one}")
    assert digests("data=query_log", f"data.path={two}") == first
    two.write_text('{"query": "other"}\n')
    assert digests("data=query_log", f"data.path={two}")["complete"] != first["complete"]


def test_a_baseline_is_scored_once_for_all_students(tmp_path: Path) -> None:
    one, two = compose("seed=1"), compose("seed=2")
    for encoder in ("teacher", "input_mean"):
        assert one.artifact("evaluate", encoder).digest == two.artifact("evaluate", encoder).digest
    assert one.artifact("evaluate").digest != two.artifact("evaluate").digest


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["~loss.alignment", "~loss.reconstruction"], "no loss is left"),
        (["model.num_compression_tokens=600"], "leave no tokens"),
        (["model.num_compression_tokens=0"], "model.num_compression_tokens"),
        (["model.readout=first_n"], "model.readout=first_n: expected a node .* choose readout=<name>"),
        (["readout=null"], "a group is set to null or a number"),
        (["loss.alignment.matryoshka=64"], r"matryoshka=64: expected a list, e.g. loss.alignment.matryoshka=\[64\]"),
        (["loss.alignment.matryoshka=[64,null]"], "matryoshka=None: expected a whole number"),
        (["model.lora=true"], "model.lora=True: expected a mapping"),
        (["model.lora={rank: 0, alpha: 16}"], "model.lora.rank=0"),
        (["model.lora={rank: 8, alpha: 16, dropout: 1.5}"], "model.lora.dropout=1.5"),
        (["model.num_thought_tokens=-1"], "model.num_thought_tokens"),
        (["model.max_length=1.5"], "model.max_length"),
        (["data=query_log"], "data.path must be chosen"),
        (["data=query_log", "data.path=nowhere/file.jsonl"], "does not exist"),
        (["loss.alignment.weight=0", "loss.reconstruction.weight=0"], "no loss is left"),
        (["training.max_steps=30000"], "raise training.schedule_steps"),
        (["backbone.path=./nowhere"], "backbone.path=./nowhere does not exist"),
        (["paths.outputs=/dev/null/x"], "cannot be written"),
    ],
)
def test_a_plan_refuses_what_cannot_work(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(*overrides)


def test_a_wrong_order_names_the_script_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing completions .* run experiments/complete.py"):
        compose(f"paths.outputs={tmp_path}").require("complete")


@pytest.mark.parametrize(
    "overrides",
    [
        ["no_such_key=1"],
        ["backbone=no_such_backbone"],
        ["seed=[broken"],
        ["data=query_log", "data.path=no/such/file.jsonl"],
        ["paths.outputs=/dev/null/x"],
    ],
    ids=lambda overrides: overrides[-1],
)
def test_scripts_exit_with_2_and_one_line(tmp_path: Path, overrides: list[str]) -> None:
    command = [sys.executable, str(ROOT / "experiments" / "complete.py"), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


# ---- local files and folders count by content, whatever argument they are for


def moved(plan_of: Any, change: Any, *steps: str) -> bool:
    """Whether a change of a file changes the digest of these artifacts."""
    before = [plan_of().artifact(*step.split(":")).digest for step in steps]
    change()
    after = [plan_of().artifact(*step.split(":")).digest for step in steps]
    assert (before == after) == all(one == two for one, two in zip(before, after, strict=True))
    return all(one != two for one, two in zip(before, after, strict=True))


@pytest.mark.parametrize("key", ["harmful", "benign"])
@pytest.mark.parametrize("relative", [False, True])
def test_an_edited_evaluation_file_changes_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, relative: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "passages" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text('{"ID": 1}\n')
    given = "passages" if relative else str(file)
    overrides = ["evaluation=[advbench_ir]", f"evaluation.advbench_ir.{key}={given}"]
    assert moved(lambda: compose(*overrides), lambda: file.write_text('{"ID": 2}\n'), "evaluate", "evaluate:teacher")


def test_a_baseline_counts_by_content_under_any_key(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"one")
    node = f"{{_target_: llm2vec_gen.models.llm2vec_gen.LLM2VecGen.from_pretrained, path_or_hub_id: {checkpoint}}}"

    def edit() -> None:
        (checkpoint / "model.safetensors").write_bytes(b"two")

    assert moved(lambda: compose(f"+baseline.old={node}"), edit, "evaluate:old")


def test_queries_that_are_interpreted_count_by_content(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"query": "x"}\n')
    node = f"interpret.queries={{_target_: llm2vec_gen.data.query_log.QueryLog, path: {log}}}"
    assert moved(lambda: compose(node), lambda: log.write_text('{"query": "y"}\n'), "interpret")


def test_a_word_that_names_a_folder_of_the_working_directory_is_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compose("data.split=train").artifact("complete").digest
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "rows.jsonl").write_text("{}")
    assert compose("data.split=train").artifact("complete").digest == before


def test_what_hashes_lists_nested_nodes_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "inner" / "a.txt").write_text("one")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real" / "round").symlink_to(tmp_path / "real", target_is_directory=True)  # never ends
    log = {"_target_": "llm2vec_gen.data.query_log.QueryLog", "path": "folder"}
    value = {"files": ["./folder/link/inner/a.txt", "plain"], "corpus": [log], "note": "folder"}
    before = hashed_config(value)
    assert (before["files"][1], before["note"]) == ("plain", "folder")
    (tmp_path / "real" / "inner" / "a.txt").write_text("two")
    after = hashed_config(value)
    assert after["files"][0] != before["files"][0]
    assert after["corpus"][0]["path"] != before["corpus"][0]["path"]
    (tmp_path / "real" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "real" / ".ipynb_checkpoints" / "a.txt").write_text("hidden")
    assert hashed_config(value) == after


def test_what_takes_any_text() -> None:
    for text in ("/", "..", "~", "a/" + "b" * 5000, "x\0/y", "no such file.txt", "", "\ud800/x"):
        assert hashed_config({"text": text}) == {"text": text}


def test_the_middle_of_a_large_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2VEC_GEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("llm2vec_gen.artifacts.digests.LARGE", 1000)
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(3000))
    first = fingerprint(file)
    assert fingerprint(file) == first
    with file.open("r+b") as stream:
        stream.seek(1500)
        stream.write(b"x")
    assert fingerprint(file) != first
    assert len(list((tmp_path / "cache" / "checksums").iterdir())) == 2


def test_whatever_a_page_shows_is_in_its_digest(tmp_path: Path) -> None:
    """Two runs without scores differ by their curves alone, or by their readings alone."""
    folders = []
    for seed, loss, text in [(1, 1.0, "a"), (1, 2.0, "a"), (1, 2.0, "b"), (2, 2.0, "b")]:
        plan = compose(f"paths.outputs={tmp_path}", "evaluation=[]", "baseline=[]", f"seed={seed}")
        trained, read = plan.artifact("train").folder, plan.artifact("interpret")
        trained.mkdir(parents=True, exist_ok=True)
        (trained / "metrics.csv").write_text(f"step,epoch,train/loss\n1,0,{loss}\n")
        read.write_records("decoding", [Reading("1", "query", "decoding", text)])
        read.finish()
        folders.append(pipeline.tabulate(plan))
        assert text in (folders[-1] / "report.html").read_text()
    assert len(set(folders)) == 4


# ---- nothing of the pocket follows another backbone, or other data


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    file = tmp_path / "log.jsonl"
    file.write_text('{"query": "x", "answer": "y"}\n')
    return file


def pocket_values(settings: dict[str, Any]) -> list[str]:
    """Where a config names something of the pocket, its data and its model apart."""
    found = []
    for key in ("instruction", "evaluation", "table", "loss", "training", "model"):
        found += [key] if "pocket" in str(settings.get(key)).lower() else []
    return found + (["learning_rate"] if settings["training"]["learning_rate"] == 3e-3 else [])


FOREIGN = [
    ["backbone.path=owner/Some-LM"],
    ["backbone=custom", "backbone.path=owner/Some-LM"],
    ["experiment=smoke", "backbone.path=owner/Some-LM", "evaluation=[]"],
]


@pytest.mark.parametrize("overrides", FOREIGN, ids=" ".join)
def test_another_model_is_trained_by_what_it_is(tmp_path: Path, overrides: list[str]) -> None:
    plan = compose(*overrides, f"paths.outputs={tmp_path}")
    backbone = plan.settings["backbone"]
    assert (backbone["path"], backbone["dtype"], backbone["end_token"]) == ("owner/Some-LM", "auto", None)
    assert plan.settings["training"]["learning_rate"] is None
    assert plan.settings["loss"]["alignment"]["weight"] == 1.0
    assert pocket_values(plan.settings) == []
    assert not plan.settings.get("evaluation")
    assert plan.artifact("train").folder.name.startswith("Some-LM-")


@pytest.mark.parametrize("foreign", ["backbone=qwen3_0.6b", "data=query_log", "backbone.path=owner/lm"])
def test_other_data_or_another_family_has_no_default_of_the_pocket(
    foreign: str, log_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = [f"data.path={log_file}"] if foreign.startswith("data") else []
    plan = compose(foreign, *more, f"paths.outputs={tmp_path}")
    assert [key for key in pocket_values(plan.settings) if key != "learning_rate"] == []
    assert plan.settings["instruction"]["_target_"].endswith("InstructionTable")
    (line,) = [line for line in caplog.messages if "is not the pocket" in line]
    assert "instruction=generative" in line and "evaluation=[]" in line


def test_the_pocket_keeps_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for overrides in ([], ["experiment=pocket"], [f"backbone.path={CONF.parent}/llm2vec_gen/pocket/lm"]):
        settings = compose(*overrides, f"paths.outputs={tmp_path}").settings
        assert set(settings["evaluation"]) == {"pocket", "decoding"}
        assert settings["training"]["learning_rate"] == 3e-3 and settings["backbone"]["dtype"] == "float32"
    assert not [line for line in caplog.messages if "pocket" in line]


def test_what_is_given_explicitly_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = ["backbone.path=owner/lm", "backbone.dtype=float32", "training.learning_rate=2e-4", "instruction=pocket",
             "evaluation=[decoding]", "evaluation.decoding.limit=3", "loss.alignment.weight=3"]  # fmt: skip
    settings = compose(*given, f"paths.outputs={tmp_path}").settings
    assert settings["backbone"]["dtype"] == "float32" and settings["training"]["learning_rate"] == 2e-4
    assert settings["instruction"]["_target_"].endswith("PocketInstruction")
    assert settings["evaluation"]["decoding"]["limit"] == 3 and settings["loss"]["alignment"]["weight"] == 3
    assert set(compose("backbone.path=owner/lm", "world=pocket", f"paths.outputs={tmp_path}").settings["evaluation"])
    settings = compose("debug=limit", "backbone.path=owner/lm", f"paths.outputs={tmp_path}").settings
    assert set(settings["evaluation"]) == {"pocket", "decoding"}, "a debug names its evaluations itself"


def test_a_search_path_of_the_user_stays_without_the_pockets_defaults(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    node = "mine:\n  _target_: llm2vec_gen.losses.alignment.AlignmentLoss\n"
    (tmp_path / "loss/mine.yaml").write_text(node)
    own = f"hydra.searchpath=[file://{tmp_path}]"
    for backbone in ("pocket", "qwen3_4b"):
        plan = compose(own, "loss=[mine]", f"backbone={backbone}", f"paths.outputs={tmp_path}")
        assert list(plan.settings["loss"]) == ["mine"]


def test_the_pockets_yaml_is_refused_for_another_model() -> None:
    with pytest.raises(InputError, match=r"expected backbone=custom backbone\.path=owner/lm"):
        compose("backbone=pocket", "backbone.path=owner/lm")
    with pytest.raises(InputError, match=r"backbone\.path must be chosen"):
        compose("backbone=custom")
    with pytest.raises(InputError, match=r"evaluation.*choose evaluation="):
        compose("backbone.path=owner/lm", "evaluation.decoding.limit=3")


def test_custom_names_follow_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path, name in (("my models/a=b", "a_b"), ("./lm/", "lm"), (".", tmp_path.name), ("owner/LM-1.5", "LM-1.5")):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        plan = compose("backbone=custom", f"backbone.path='{path}'", f"paths.outputs={tmp_path}/out")
        assert plan.artifact("train").folder.name.startswith(f"{name}-llm2vec_gen-"), path


def test_a_script_trains_over_another_model_in_its_own_outputs(tmp_path: Path) -> None:
    """Settling the config keeps what the script itself has put into it (a temporary folder where keep=false)."""
    command = [sys.executable, str(ROOT / "experiments" / "tabulate.py"), "backbone.path=owner/lm", "keep=false",
               f"paths.outputs={tmp_path / 'never'}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "backbone=custom" in done.stderr and not (tmp_path / "never").exists()
