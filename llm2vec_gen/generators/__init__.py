"""Generators of completions: one file per variant, all with the contract of base.py."""
