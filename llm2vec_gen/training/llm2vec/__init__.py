"""Training an LLM2Vec teacher: its module, corpus and objectives."""
