"""Embedding -> words: what the K soft prompts of a query say, read with the frozen language model itself."""
