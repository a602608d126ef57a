"""Hydra plugins: how a multirun lists its jobs (sweepers) and where they run (launchers)."""
