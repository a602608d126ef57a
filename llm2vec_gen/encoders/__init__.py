"""Frozen text -> vector: one file per encoder, all with the contract of base.py. A teacher is an encoder in a role."""
