"""Our model inside other people's software."""
