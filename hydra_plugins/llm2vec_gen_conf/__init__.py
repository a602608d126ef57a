"""Hydra plugin: where the configs of this package lie."""
