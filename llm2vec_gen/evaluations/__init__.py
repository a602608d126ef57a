"""Benchmark -> scores: one file per suite, all run by mteb's own tasks and metrics where mteb has them."""
