"""Callbacks: log metrics, show progress, save the state to resume from, decode examples, guard against NaN."""

from llm2vec_gen.training.callbacks.metric_log import MetricLog
from llm2vec_gen.training.callbacks.progress_bar import ProgressBar
from llm2vec_gen.training.callbacks.resume_checkpoint import ResumeCheckpoint
from llm2vec_gen.training.callbacks.stopping import EndedEarly, Stopped, check_monitors, has_ended, stops_training

__all__ = [
    "EndedEarly", "MetricLog", "ProgressBar", "ResumeCheckpoint", "Stopped", "check_monitors", "has_ended",
    "stops_training",
]  # fmt: skip
