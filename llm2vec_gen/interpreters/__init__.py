"""Embedding -> words: the K soft prompts of a query, read with the frozen language model."""
