"""Loggers of a job: metrics, scores and readings of its steps, besides the files of every artifact."""
