"""The complete chain through its scripts, on a small random backbone: wrong order, kills, resumption, sharing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm2vec_gen import pipeline
from llm2vec_gen.artifacts import Completions, Targets, read_manifest
from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Completion
from tests.builders import tiny_backbone_folder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "queries.jsonl"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for a small query log, answered by replay, over a tiny backbone."""
    folder = tmp_path_factory.mktemp("world")
    backbone = tiny_backbone_folder(folder, family="qwen3")
    rows = [{"query": f"what is {n} and {n * 7 % 13}?", "answer": f"it is {n * n % 97}."} for n in range(120)]
    (folder / "log.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, rows[0], {"query": " ", "answer": "x"}])
    )
    return [
        "experiment=smoke", "data=query_log", f"data.path={folder / 'log.jsonl'}", "data.answer_column=answer",
        "generator=replay", f"backbone.path={backbone}", "shard_size=20", "training.max_steps=8",
        "training.schedule_steps=8", "training.checkpoint_every_n_steps=2", "trainer.log_every_n_steps=1",
        "evaluation=[]", "instruction=none",
    ]  # fmt: skip


def command(step: str, outputs: Path, world: list[str], *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / f"{step}.py"), f"paths.outputs={outputs}", *world, *more]


def call(step: str, outputs: Path, world: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(step, outputs, world, *more), capture_output=True, text=True, timeout=300)


def run_step(step: str, outputs: Path, world: list[str], *more: str) -> Path:
    done = call(step, outputs, world, *more)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def complete_run(world: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("complete")
    done = call("run", outputs, world)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.splitlines()[-1]) / "manifest.json").is_file()
    assert "|" not in done.stdout and "nothing was evaluated" in done.stderr  # evaluation=[]: no empty table
    assert "{" not in done.stderr  # no printed mapping in the log
    return outputs


def only(outputs: Path, step: str) -> Path:
    (folder,) = (outputs / step).glob("*/manifest.json")
    return folder.parent


def test_a_wrong_order_is_one_line_and_status_2(tmp_path: Path, world: list[str]) -> None:
    done = call("train", tmp_path, world)
    assert done.returncode == 2
    assert "missing completions" in done.stderr
    assert "experiments/complete.py" in done.stderr


def test_given_scores_are_the_table_or_wrong_input_and_none_leave_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given, expected in ((f"[{tmp_path / 'empty'}]", f"scores=['{tmp_path / 'empty'}'] holds no score"),
                        ("0", "scores=0: expected a .jsonl file of scores")):  # fmt: skip
        done = call("tabulate", tmp_path, [], f"scores={given}")
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1 and expected in done.stderr
    drawn = [run_step("tabulate", tmp_path, [], *more) for more in ((), ("scores=[]",))]
    assert drawn[0] == drawn[1]


def test_the_chain_is_complete_and_counts_what_it_dropped(complete_run: Path) -> None:
    complete = only(complete_run, "complete")
    counts = read_manifest(complete)["counts"]
    assert counts["rows"] == 120
    assert (counts["empty"], counts["duplicate"]) == (1, 1)
    completions = Completions(complete)
    assert completions[3].completion == "it is 9."
    targets = Targets(only(complete_run, "embed"), completions)
    assert len(targets) == 120
    train = only(complete_run, "train")
    assert train.name.startswith("qwen3-"), "named after the backbone's folder"
    assert "learning_rate = 0.003," in (train / "README.md").read_text()  # by the rule for its 32 dimensions
    assert (train / "model.safetensors").stat().st_size < 1_000_000  # no frozen weight
    assert not (train / "resume").exists()
    for name in ("table.md", "report.html", "summary.json"):
        assert (complete_run / "smoke" / name).stat().st_size > 0


def test_running_again_makes_nothing_again(complete_run: Path, world: list[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in complete_run.glob("*/*/rows-*")}
    started = time.time_ns()
    run_step("run", complete_run, world)
    assert {file: file.stat().st_mtime_ns for file in complete_run.glob("*/*/rows-*")} == before
    assert (only(complete_run, "train") / "model.safetensors").stat().st_mtime_ns < started


def test_another_seed_shares_completions_and_targets(complete_run: Path, world: list[str]) -> None:
    run_step("train", complete_run, world, "seed=7")
    assert len(list((complete_run / "complete").glob("*/manifest.json"))) == 1
    assert len(list((complete_run / "embed").glob("*/manifest.json"))) == 1
    assert len(list((complete_run / "train").glob("*/manifest.json"))) == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_kills_at_random_moments_change_nothing(
    complete_run: Path, world: list[str], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        job = subprocess.Popen(
            command("run", tmp_path, world),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(3, 12))
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    run_step("run", tmp_path, world)
    train = "train/*seed42*"
    (ours,), (theirs,) = tmp_path.glob(f"{train}/model.safetensors"), complete_run.glob(f"{train}/model.safetensors")
    assert ours.read_bytes() == theirs.read_bytes()
    for pattern in ("complete/*/rows-*.parquet", "embed/*/rows-*.safetensors"):
        assert [file.name for file in sorted(tmp_path.glob(pattern))] == [
            file.name for file in sorted(complete_run.glob(pattern))
        ]
        assert all(
            mine.read_bytes() == other.read_bytes()
            for mine, other in zip(sorted(tmp_path.glob(pattern)), sorted(complete_run.glob(pattern)), strict=True)
        )


def test_an_altered_shard_stops_the_next_step(complete_run: Path, world: list[str], tmp_path: Path) -> None:
    import shutil

    outputs = tmp_path / "copy"
    shutil.copytree(complete_run, outputs)
    part = sorted(only(outputs, "embed").glob("rows-*.safetensors"))[1]
    part.write_bytes(part.read_bytes()[:-3])
    done = call("train", outputs, world, "seed=11")
    assert done.returncode == 2
    assert part.name in done.stderr


@pytest.mark.skipif(not REAL.is_file(), reason="needs the shared query log")
def test_a_column_that_is_not_there_is_named_before_any_work(tmp_path: Path, world: list[str]) -> None:
    done = call("run", tmp_path, world, f"data.path={REAL}", "data.answer_column=reply")
    assert done.returncode == 2
    assert "reply" in done.stderr
    assert "response" in done.stderr
    assert not list(tmp_path.glob("*/*/rows-*"))


class Silent:
    """A generator that has nothing to say."""

    def __init__(self) -> None:
        self.report: dict[str, int] = {}

    def complete(self, queries: list) -> list[Completion]:
        return [Completion(query.id, query.text, "", "stop") for query in queries]


def test_completions_of_which_most_are_blank_are_no_artifact(tmp_path: Path) -> None:
    plan = compose("experiment=smoke", f"paths.outputs={tmp_path}", "data.limit=6", "shard_size=2")
    plan.settings["generator"] = {"_target_": "tests.test_pipeline.Silent"}
    with pytest.raises(InputError, match="completions are blank; check the chat template"):
        pipeline.complete(plan)
    assert not plan.artifact("complete").is_complete
