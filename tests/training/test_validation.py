"""Validation: which queries are held out, metrics against a plain loop over the rows, states of a validating run."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from llm2vec_gen.config import Plan, check_callbacks, compose
from llm2vec_gen.config.instantiate import take_training_keys
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.callbacks import Stopped
from llm2vec_gen.training.datamodule import CompletionDataModule
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.optimizers import MuonWithAdamW
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.validation import ValidationBatches, compare, held_out_rows
from tests.training.stubs import StubModel, StubRows, StubTargets, stub_losses
from tests.training.test_fit import curve, start, weights, without_clock
from tests.training.worker import Signal, train

VALIDATION: dict[str, Any] = {"rows": 30, "validation": 9, "arguments": {"val_check_interval": 5}}


def texts(number: int) -> list[str]:
    return [f"what is {row}?" for row in range(number)]


# ---- which queries


def chosen(queries: list[str], validation: Any, batch_size: int = 2) -> set[str]:
    return {queries[row] for row in held_out_rows(queries, validation, batch_size)}


@pytest.mark.parametrize("validation", ["auto", 0.02, 0.3])
def test_a_fraction_is_decided_by_each_text_alone(validation: Any) -> None:
    queries = texts(5000)
    held_out = chosen(queries, validation)
    fraction = 0.02 if validation == "auto" else validation
    assert len(held_out) / 5000 == pytest.approx(fraction, rel=0.25)
    assert chosen(queries[::-1], validation) == held_out
    assert chosen([*(f"another {row}" for row in range(3000)), *queries], validation) & set(queries) == held_out
    assert chosen(queries[:2500], validation) == held_out & set(queries[:2500])
    assert chosen([f"  {query.replace(' ', chr(10))} " for query in queries], validation) != held_out  # other objects
    assert [query.split() for query in held_out]


def test_whitespace_and_unicode_form_do_not_matter() -> None:
    queries = [f"café {row} là" for row in range(400)]
    other = [f" cafe\u0301  {row}\nla\u0300 " for row in range(400)]
    assert held_out_rows(queries, 20, 2).tolist() == held_out_rows(other, 20, 2).tolist()


def test_a_count_is_exact_and_more_data_replaces_few() -> None:
    queries = texts(1000)
    before, after = chosen(queries, 50), chosen([*queries, *(f"new {row}" for row in range(100))], 50)
    assert len(before) == len(after) == 50
    assert len(before - after) == sum(query.startswith("new") for query in after) < 15
    assert chosen(queries, 20) < before  # a smaller number takes some of them


def test_auto_is_at_most_a_thousand() -> None:
    assert len(held_out_rows(texts(80_000), "auto", 32)) == 1000
    assert len(held_out_rows(texts(80_000), 0.02, 32)) > 1500


def test_rows_of_one_text_go_together() -> None:
    queries = [f"what is {row // 3}?" for row in range(300)]
    held_out = set(held_out_rows(queries, 10, 2).tolist())
    assert len(held_out) == 30
    assert all(row // 3 * 3 + place in held_out for row in held_out for place in range(3))


@pytest.mark.parametrize("queries", [0, 1, 3, 40, 900])
def test_auto_is_off_for_small_data(queries: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert held_out_rows(texts(queries), "auto", 32).tolist() == []
    assert "no validation" in caplog.text


@pytest.mark.parametrize("validation", [1, 37, 40, 41, 0.99, 0.001])
def test_a_split_that_the_data_do_not_allow_is_refused(validation: Any) -> None:
    with pytest.raises(InputError, match=rf"data.validation={validation} chooses .* of 40 queries and leaves"):
        held_out_rows(texts(40), validation, 4)


@pytest.mark.parametrize("validation", [-1, -0.1, 1.0, 1.5, True, False, "2%", None, float("nan"), float("inf"), [2]])
def test_another_value_is_refused(validation: Any) -> None:
    with pytest.raises(InputError, match=r"data.validation=.*: expected auto, a fraction"):
        held_out_rows(texts(40), validation, 4)


def test_nothing_is_read_without_validation() -> None:
    assert held_out_rows((text for text in [None]), 0, 4).tolist() == []  # type: ignore[misc]


# ---- batches


def data_module(validation: Any = 9, rows: int = 30, batch_size: int = 4) -> CompletionDataModule:
    settings = TrainingSettings(max_steps=17, batch_size=batch_size)
    return CompletionDataModule(StubModel(), StubRows(rows), StubTargets(rows), settings, 3, validation)


def test_validation_rows_are_never_trained_on() -> None:
    data = data_module()
    trained = {name for batch in data.train_dataloader() for name in batch.ids}
    validated = [name for batch in data.val_dataloader() for name in batch.ids]
    assert len(validated) == len(set(validated)) == 9
    assert not trained & set(validated) and len(trained) == 21  # 17 steps of 4 are three epochs of them
    assert not {row.id for row in data.examples(30)} & set(validated)
    for batch in data.val_dataloader():
        for name, target in zip(batch.ids, batch.targets, strict=True):
            assert torch.equal(target, torch.from_numpy(StubTargets(30)[int(name.removeprefix("id"))]))


@pytest.mark.parametrize(("rows", "batch_size", "ranks"), [(9, 4, 2), (33, 32, 32), (2, 4, 2), (1000, 32, 8)])
def test_each_rank_has_a_part_of_each_batch(monkeypatch: Any, rows: int, batch_size: int, ranks: int) -> None:
    from llm2vec_gen.distributed import collectives

    monkeypatch.setattr(collectives, "world_size", lambda: ranks)
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        parts.append(list(ValidationBatches(np.arange(rows), batch_size, list)))  # type: ignore[arg-type]
    assert len({len(part) for part in parts}) == 1 and all(batch for part in parts for batch in part)
    assert sorted(row for part in parts for batch in part for row in batch) == list(range(rows))
    monkeypatch.setattr(collectives, "world_size", lambda: rows + 1)
    with pytest.raises(InputError, match=f"chooses {rows} queries for {rows + 1} processes"):
        ValidationBatches(np.arange(rows), batch_size, list)  # type: ignore[arg-type]


# ---- metrics


def plain_validation(model: StubModel, data: CompletionDataModule) -> dict[str, float]:
    """The same with one row at a time, and lists."""
    rows = []
    for row in data.validation_rows:
        batch = data._batch(np.array([row]))[0]
        with torch.no_grad():
            output = model(batch)
            values = {name: float(loss(model, output, batch)) for name, loss in stub_losses().items()}
        rows.append((values, len(batch.completions[0]), output.embedding[0], batch.targets[0]))
    alignment = sum(values["alignment"] for values, *_ in rows) / len(rows)
    tokens = sum(count for _, count, *_ in rows)
    reconstruction = sum(values["reconstruction"] * count for values, count, *_ in rows) / tokens
    cosine = torch.nn.functional.cosine_similarity
    ranks = []
    for _, _, embedding, own in rows:
        cosines = [float(cosine(embedding, target, dim=0)) for *_, target in rows]
        ranks.append(sorted(cosines, reverse=True).index(float(cosine(embedding, own, dim=0))) + 1)
    return {
        "val/loss": alignment + reconstruction,
        "val/alignment": alignment,
        "val/reconstruction": reconstruction,
        "val/cosine_match": sum(float(cosine(row[2], row[3], dim=0)) for row in rows) / len(rows),
        "val/retrieval": sum(rank == 1 for rank in ranks) / len(rows),
        "val/retrieval_mrr": sum(1 / rank for rank in ranks) / len(rows),
    }


def test_metrics_are_those_of_a_plain_loop_over_the_rows(tmp_path: Path) -> None:
    model, counts = train(tmp_path, max_steps=15, **VALIDATION)
    rows = [row for row in MetricsFile(tmp_path / "metrics.csv").rows() if "val/loss" in row]
    assert [row["step"] for row in rows] == [5, 10, 15]
    expected = plain_validation(model.eval(), data_module())
    assert {name: value for name, value in rows[-1].items() if name != "step"} == pytest.approx(expected, rel=1e-5)
    assert {name: counts[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert counts["validation_queries"] == 9
    assert rows[-1]["val/loss"] < rows[0]["val/loss"]


def test_validation_changes_no_weight(tmp_path: Path) -> None:
    every, _ = train(tmp_path / "a", **VALIDATION | {"arguments": {"val_check_interval": 1, "num_sanity_val_steps": 2}})
    never, counts = train(tmp_path / "b", **VALIDATION | {"arguments": {"limit_val_batches": 0}})
    assert weights(every) == weights(never)
    assert not any(name.startswith("val/") for name in counts)
    steps = [row["step"] for row in MetricsFile(tmp_path / "a/metrics.csv").rows() if "val/loss" in row]
    assert steps == list(range(1, 18))  # the sanity check logs nothing


def test_lightnings_arguments_choose_when_and_how_much(tmp_path: Path) -> None:
    steps = {}
    for name, arguments in (
        ("tenth", {}),
        ("third", {"val_check_interval": 0.34}),
        ("beyond", {"val_check_interval": 99}),
    ):
        train(tmp_path / name, **VALIDATION | {"arguments": arguments})
        rows = MetricsFile(tmp_path / name / "metrics.csv").rows()
        steps[name] = [row["step"] for row in rows if "val/loss" in row]
    assert steps == {"tenth": list(range(1, 18)), "third": [5, 10, 15], "beyond": [17]}
    model, counts = train(
        tmp_path / "one", **VALIDATION | {"arguments": {"limit_val_batches": 1, "val_check_interval": 17}}
    )
    batch = next(iter(data_module().val_dataloader()))
    with torch.no_grad():
        assert counts["val/cosine_match"] == pytest.approx(
            compare(model.eval()(batch).embedding, batch.targets)["cosine_match"]
        )


def test_ties_by_hand() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.0, 1.0]])  # the second and the third are equal
    embeddings = torch.tensor([[1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    found = compare(embeddings, targets)  # ranks 1, 1, 1, 2: the last is nearest to the first target
    assert found["retrieval"] == 0.75 and found["retrieval_mrr"] == pytest.approx((1 + 1 + 1 + 1 / 2) / 4)
    for useless in (torch.zeros(4, 2), torch.full((4, 2), float("nan"))):  # no better than the last
        found = compare(useless, targets)
        assert found["retrieval"] == 0 and found["retrieval_mrr"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 3 + 1 / 4) / 4)


def test_targets_with_the_noise_of_another_batch_are_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    refusal = torch.randn(64, generator=generator)
    targets = refusal * (1 + 1e-6 * torch.randn(20, 64, generator=generator))
    other = torch.randn(20, 64, generator=generator)
    assert compare(torch.cat([targets, other]), torch.cat([targets.flip(0), other]))["retrieval"] == 1.0


def test_many_queries_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(50, 8, generator=generator)
    embeddings = targets + torch.randn(50, 8, generator=generator)
    at_once = compare(embeddings, targets)
    monkeypatch.setattr("llm2vec_gen.training.validation.CHUNK", 7)
    assert compare(embeddings, targets) == pytest.approx(at_once)
    assert 0 < at_once["retrieval"] < at_once["retrieval_mrr"] < 1


# ---- several processes, and states to continue from


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, dict, dict]:
    """Curve, weights and counts of a validating run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    model, counts = train(folder, **VALIDATION)
    return curve(folder), weights(model), without_clock(counts)


class During(lightning.Callback):
    """Sends this process a signal in the middle of the validation after a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM):
        self.step, self.number = step, number

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(self.number)


class Dies(lightning.Callback):
    def __init__(self, step: int, hook: str):
        setattr(self, hook, lambda trainer, *_: self.die(trainer, step))

    def die(self, trainer: Any, step: int) -> None:
        if trainer.global_step == step:
            raise ConnectionError("the machine is gone")


@pytest.mark.parametrize("step", [4, 5, 15])
@pytest.mark.parametrize("kind", [Signal, During])
def test_a_stopped_run_continues_bit_for_bit(whole: tuple, tmp_path: Path, step: int, kind: Any) -> None:
    if kind is During and step % 5:
        pytest.skip("no validation there")
    with pytest.raises(Stopped):
        train(tmp_path, [kind(step, signal.SIGTERM)], **VALIDATION)
    assert torch.load(tmp_path / "resume/last.ckpt", weights_only=True)["global_step"] == step
    model, counts = train(tmp_path, **VALIDATION)
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole


@pytest.mark.parametrize(
    "hook", ["on_train_batch_end", "on_validation_start", "on_validation_end", "on_train_batch_start"]
)
@pytest.mark.parametrize("step", [10])
def test_a_crash_around_a_validation_costs_nothing(whole: tuple, tmp_path: Path, step: int, hook: str) -> None:
    with pytest.raises(ConnectionError):
        train(tmp_path, [Dies(step, hook)], **VALIDATION)
    saved = tmp_path / "resume/last.ckpt"
    reached = torch.load(saved, weights_only=True)["global_step"] if saved.exists() else 0
    assert reached == (step if hook == "on_train_batch_start" else step - 5)
    model, counts = train(tmp_path, **VALIDATION)
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole


def test_a_finished_run_is_not_validated_again(whole: tuple, tmp_path: Path) -> None:
    ends = VALIDATION | {"arguments": {"val_check_interval": 17}}
    train(tmp_path, **ends)
    before = (tmp_path / "metrics.csv").read_bytes()
    _, counts = train(tmp_path, [Dies(17, "on_validation_start"), Dies(17, "on_train_batch_start")], **ends)
    assert (tmp_path / "metrics.csv").read_bytes() == before and counts["val/loss"]


def test_a_killed_process_continues_at_a_validation(whole: tuple, tmp_path: Path) -> None:
    process = start(tmp_path, "10", VALIDATION="9", ROWS="30")
    assert process.wait(timeout=120) == -signal.SIGKILL, process.stderr.read()
    model, counts = train(tmp_path, **VALIDATION)
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole


def test_another_validation_is_another_run(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, [Signal(7, signal.SIGTERM)], **VALIDATION)
    for other in (8, 0):
        with pytest.raises(InputError, match=r"saved with another config \(.*validation queries 9 ->"):
            train(tmp_path, **VALIDATION | {"validation": other})


@pytest.mark.parametrize(
    ("own", "near", "environment"),
    [
        ({"double": True}, 1e-6, {}),
        ({"double": True, "optimizer": MuonWithAdamW}, 1e-6, {"OPTIMIZER": "muon"}),
        ({"arguments": {"precision": "bf16-mixed", "val_check_interval": 5}}, 3e-2, {"PRECISION": "bf16-mixed"}),
    ],
)
def test_two_processes_train_and_validate_as_one(tmp_path: Path, own: Any, near: float, environment: Any) -> None:
    train(tmp_path / "one", **VALIDATION | own)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0",
            "VALIDATION": "9", "ROWS": "30", **environment}  # fmt: skip
    ranks = [start(tmp_path / "two", RANK=str(rank), LOCAL_RANK=str(rank), **both) for rank in range(2)]
    for process in ranks:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    for one, two in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        one.pop("train/cosine_other", None)  # of each rank's own batch
        two.pop("train/cosine_other", None)
        if environment.get("PRECISION"):  # a rank that differs by noise
            one, two = ({name: row[name] for name in row if name.endswith("/loss")} for row in (one, two))
        assert two == pytest.approx(one, rel=near)


# ---- callbacks


def test_early_stopping_and_the_best_checkpoint_by_validation(tmp_path: Path) -> None:
    keeper = ModelCheckpoint(monitor="val/retrieval_mrr", mode="max")
    rule = EarlyStopping(monitor="val/loss", patience=1, min_delta=100.0)
    _, counts = train(tmp_path, [rule, keeper], **VALIDATION)
    assert counts["steps"] == 10  # the validation after step 5 is the best, that after 10 no better
    rows = [row for row in MetricsFile(tmp_path / "metrics.csv").rows() if "val/loss" in row]
    best = max(rows, key=lambda row: row["val/retrieval_mrr"])
    saved = torch.load(keeper.best_model_path, weights_only=True)
    assert saved["global_step"] == best["step"] and not any("frozen" in name for name in saved["state_dict"])
    last = MetricsFile(tmp_path / "metrics.csv").rows()[-1]  # of the steps since the row before
    assert rows[-1]["step"] == last["step"] == 10 and "train/loss" in last


def test_a_rule_on_validation_counts_over_restarts(tmp_path: Path) -> None:
    def rule() -> EarlyStopping:
        return EarlyStopping(monitor="val/loss", patience=2, min_delta=100.0)

    straight, counts = train(tmp_path / "a", [rule()], **VALIDATION)
    assert counts["steps"] == 15
    for step in (5, 12):
        with pytest.raises(Stopped):
            train(tmp_path / "b", [rule(), Signal(step, signal.SIGTERM)], **VALIDATION)
    resumed, recounts = train(tmp_path / "b", [rule()], **VALIDATION)
    assert recounts["steps"] == 15 and weights(resumed) == weights(straight)
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


@pytest.mark.parametrize("callback", [EarlyStopping("val/los"), ModelCheckpoint(monitor="val_loss")])
def test_unknown_metrics_of_a_validation_are_listed(tmp_path: Path, callback: Any) -> None:
    with pytest.raises(InputError, match=r"monitors '.*', which is not logged; expected one of .*val/retrieval_mrr$"):
        train(tmp_path, [callback], **VALIDATION)
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize("off", [{"validation": 0}, {"arguments": {"limit_val_batches": 0}}])
def test_metrics_of_no_validation_need_one(tmp_path: Path, off: Any) -> None:
    with pytest.raises(InputError, match=r"'val/retrieval', which is not logged.*need data.validation over 0"):
        train(tmp_path, [ModelCheckpoint(monitor="val/retrieval", mode="max")], **VALIDATION | off)
    assert not (tmp_path / "metrics.csv").exists()


# ---- the config


def test_only_the_training_counts_the_split(tmp_path: Path) -> None:
    def digests(*overrides: str) -> dict[str, str]:
        plan = compose(f"paths.outputs={tmp_path}", *overrides)
        return {step: plan.artifact(step).digest for step in ("complete", "embed", "train")}

    for overrides in ((), ("+teacher.centre=${data}",)):
        usual = digests(*overrides)
        for validation in ("0", "0.1", "64"):
            other = digests(*overrides, f"data.validation={validation}")
            assert other["complete"] == usual["complete"] and other["embed"] == usual["embed"]
            assert other["train"] != usual["train"]


def test_no_source_is_given_the_setting(tmp_path: Path) -> None:
    for overrides in ((), ("scale=pocket", "experiment=paper/v1/qwen3_4b")):
        plan = compose(f"paths.outputs={tmp_path}", *overrides)
        assert plan.settings["data.validation"] == (0 if overrides else "auto")
        for component in ("data", "interpret.queries"):
            assert plan.build(component).queries()
        assert Plan.from_job(plan.as_job()).settings == plan.settings


def test_data_without_the_key_has_no_validation() -> None:
    settings: dict[str, Any] = {"data": {"path": "a"}, "interpret": {"queries": {"path": "a"}}}
    take_training_keys(settings)
    assert settings.pop("data.validation") == 0 and settings.pop("data.negatives") is None
    assert settings == {"data": {"path": "a"}, "interpret": {"queries": {"path": "a"}}}


def test_published_rows_train_on_all_queries(tmp_path: Path) -> None:
    for experiment in ("pocket", "smoke", "jepa", "paper/v1/qwen3_4b"):
        assert compose(f"paths.outputs={tmp_path}", f"experiment={experiment}").settings["data.validation"] == 0
    with pytest.raises(InputError, match="data.validation=no: expected auto"):
        compose(f"paths.outputs={tmp_path}", "data.validation=no")


def test_a_monitored_validation_that_is_off_is_refused_before_anything(tmp_path: Path) -> None:
    for callback in ("early_stopping", "model_checkpoint"):
        given = compose(f"paths.outputs={tmp_path}", f"callbacks=[{callback}]", "data.validation=0").settings
        with pytest.raises(InputError, match=rf"callbacks.{callback}.monitor=val/.* data.validation=0 turns off"):
            check_callbacks(given)
        check_callbacks(compose(f"paths.outputs={tmp_path}", f"callbacks=[{callback}]").settings)
