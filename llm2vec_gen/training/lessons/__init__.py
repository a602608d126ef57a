"""What a language model is taught on its way to a text encoder: one lesson per file, an adapter per lesson."""
