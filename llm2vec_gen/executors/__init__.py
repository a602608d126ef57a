"""Executors: where the rows of complete and embed are computed: this process, a shard of a job array, or Ray."""
