"""Processes of one job: launcher, worker, environment, collectives, strategies."""
