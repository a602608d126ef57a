"""The only Lightning code: module, data module, callbacks and `fit`, which puts them together."""
