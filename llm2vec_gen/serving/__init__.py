"""One process for chat, embeddings, decoding and lens over one frozen language model, by OpenAI's HTTP interface."""
