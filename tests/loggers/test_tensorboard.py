"""TensorBoard's event files carry what the job logged."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.loggers.base import Job, job_logging
from llm2vec_gen.loggers.tensorboard import TensorBoard


def test_the_event_file_holds_metrics_tables_and_histograms(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for losses in ([3.0, 2.0], [1.0]):  # a resumed job goes on in its folder
        logger = TensorBoard(str(tmp_path))
        with job_logging([logger], lambda: Job("abc-seed1", "run", "student", {}, tmp_path)):
            for loss in losses:
                logger.log_metrics({"train/loss": loss}, int(10 - loss))
            logger.log_table("train/examples", ["query", "decoded"], [["a|b", "c\nd"]], 8)
            logger.log_histogram("train/suffix_norms", [1.0, 2.0], 8)
            logger.finalize("success")  # Lightning's word at the end of the training
            logger.log_metrics({"evaluate/x": 0.5}, 8)
    events = accumulators.EventAccumulator(str(tmp_path / "student-abc-seed1")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(7, 3.0), (8, 2.0), (9, 1.0)]
    assert [event.value for event in events.Scalars("evaluate/x")] == [0.5, 0.5]
    (tag,) = [tag for tag in events.Tags()["tensors"] if tag.startswith("train/examples")]
    assert "| a\\|b | c d |" in events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert events.Histograms("train/suffix_norms")[0].histogram_value.num == 2


def test_without_its_package_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"llm2vec-gen-lightning\[tensorboard\]"):
        TensorBoard(str(tmp_path))
