"""Training objectives that turn a language model into a text encoder: one per file, one adapter each."""
